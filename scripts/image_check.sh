#!/bin/bash
# Builds the Dockerfile's image and tries it as its users would, by docker or podman, whichever works here:
#   scripts/image_check.sh
# BUILD_OPTIONS and RUN_OPTIONS have what a machine needs of its own (a package index, --network host). CPUs alone, gigabytes smaller:
#   BUILD_OPTIONS="--build-arg PIP_EXTRA_INDEX_URL=..." scripts/image_check.sh
# Exit code 77: nothing was checked, as no engine runs here or the base image cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "NOT CHECKED: $1" >&2; exit 77; }
fail() { echo "FAILED: $1" >&2; exit 1; }
passed() { echo "ok: $1"; }

for engine in docker podman none; do "$engine" info > /dev/null 2>&1 && break; done
[ "$engine" != none ] || skip "neither docker nor podman runs here"
base=$(sed -n 's/^FROM //p' Dockerfile)
"$engine" image inspect "$base" > /dev/null 2>&1 || "$engine" pull --quiet "$base" || skip "$engine has no $base and cannot fetch it"

image=assay-check
place=$(mktemp -d)
server=
leave() {
    [ -z "$server" ] || "$engine" rm --force "$server" > /dev/null
    rm -rf "$place"
}
trap leave EXIT
me=4242:4242 # nobody whom the image knows, as most of its users are
chown "$me" "$place" 2> /dev/null || me="$(id -u):$(id -g)"

# shellcheck disable=SC2086 # options are words
run() { "$engine" run --rm ${RUN_OPTIONS-} "$@"; }
mine() { run --user "$me" --volume "$place:/work" "$@"; }

# shellcheck disable=SC2086
"$engine" build ${BUILD_OPTIONS-} --tag "$image" .
passed "it builds"

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' src/assay/__init__.py)
[ "$(run "$image" --version)" = "assay $version" ] || fail "--version is not $version"
[ "$(run --entrypoint id "$image" -u)" = 1000 ] || fail "without --user it does not run as 1000"
run "$image" | grep "usage: assay" > /dev/null || fail "without a command there is no help"
passed "it answers, and not as root"

# What the build had and nobody needs: its context, pip's settings and cache, the machine's proxy or index
run --entrypoint sh "$image" -c '
    for one in /assay/.git /assay/tests /assay/build /root/.cache /root/.config/pip; do
        if [ -e "$one" ]; then echo "$one"; fi
    done
    find / -xdev \( -name "*.egg-info" -path "/assay/*" -o -name "*.whl" -not -path "*/ensurepip/*" \) 2> /dev/null
    env | grep -i -E "^(pip_|[a-z]+_proxy=)" || true' > "$place/left"
[ ! -s "$place/left" ] || fail "the build left: $(tr '\n' ' ' < "$place/left")"
passed "nothing of the build is left"

if said=$(run "$image" run tiny --out runs/tiny 2>&1); then fail "a run without a folder to write to says nothing"; fi
case "$said" in *Traceback*) fail "a folder that cannot be written is a traceback: $said" ;; esac
passed "a folder that cannot be written is told: $said"

small="--stage1.iterations 1 --stage1.seed-gold 30 --stage1.seed-silver 60 --stage1.per-iteration 10 --train.epochs 1
    --train.max-tokens 64 --presentations 64"
# shellcheck disable=SC2086
server=$("$engine" run --detach ${RUN_OPTIONS-} --user "$me" --volume "$place:/work" "$image" run tiny --out runs/tiny $small)
for _ in $(seq 120); do [ ! -e "$place/runs/tiny/session.json" ] || break; sleep 1; done
"$engine" stop --time 60 "$server" > /dev/null
[ "$("$engine" inspect --format '{{.State.ExitCode}}' "$server")" = 130 ] || fail "a run that is stopped: $("$engine" logs "$server" 2>&1)"
"$engine" rm "$server" > /dev/null
server=
passed "a run hears that it is stopped"
# shellcheck disable=SC2086
mine "$image" run tiny --out runs/tiny $small
[ -s "$place/runs/tiny/report.html" ] || fail "there is no report"
others=$(find "$place/runs" ! -uid "${me%:*}" -o ! -readable | head -n 3)
[ -z "$others" ] || fail "not its user's: $others"
mine "$image" runs | grep tiny > /dev/null || fail "the run is not listed"
passed "the main job, its folder written as its user"

# asked TEXT PORT PATH COMMAND...: the server that the command is has TEXT at PATH, and ends when it is told to
asked() {
    local text=$1 port=$2 path=$3
    shift 3
    # shellcheck disable=SC2086
    server=$("$engine" run --detach ${RUN_OPTIONS-} --user "$me" --volume "$place:/work" "$image" "$@" --port "$port")
    for _ in $(seq 120); do
        if "$engine" exec "$server" python -c "
import urllib.request
print(urllib.request.urlopen('http://127.0.0.1:$port$path').read().decode())" 2> /dev/null | grep "$text" > /dev/null; then break; fi
        [ "$("$engine" inspect --format '{{.State.Running}}' "$server")" = true ] || fail "$1: $("$engine" logs "$server" 2>&1)"
        sleep 1
    done
    "$engine" exec "$server" python -c "
import urllib.request
print(urllib.request.urlopen('http://127.0.0.1:$port$path').read().decode())" | grep "$text" > /dev/null || fail "$1 does not answer"
    "$engine" stop --time 60 "$server" > /dev/null
    [ "$("$engine" inspect --format '{{.State.ExitCode}}' "$server")" = 0 ] || fail "$1 was killed: $("$engine" logs "$server" 2>&1)"
    "$engine" rm "$server" > /dev/null
    server=
    passed "$1 answers, and ends when it is told to"
}
asked ready 18431 /health serve runs/tiny/seed-0/models/final --host 0.0.0.0

run --entrypoint python "$image" -c '
import json
for i in range(80):
    pair = {"chosen": f"The sum is {2 * i + 3}.", "rejected": f"I think that it may be {2 * i + 4}, or not."}
    print(json.dumps({"prompt": f"What is {i} and {i + 3}?", **pair}))' > "$place/prefs.jsonl"
mine "$image" pool add prefs.jsonl --out pool
code=0
mine "$image" run pool pool --out runs/mine --embedder hash --stage1.seed-gold 5 --stage1.seed-silver 10 || code=$?
[ "$code" = 4 ] || fail "a run that waits for people ended with $code"
asked "Log in" 18432 /login web runs/mine --host 0.0.0.0
