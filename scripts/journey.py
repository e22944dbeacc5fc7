"""A new user's day, from a wheel in a new environment: every command that the way from files to a served model needs.

    python scripts/journey.py SETS --out /tmp/journey           # SETS: a folder with mt-bench and pandalm, as published
    python scripts/journey.py SETS --out /tmp/journey --environment ENV     # an environment that is there already

Nothing is imported from this repository: the wheel is built of it, installed, and all commands run in OUT. Each is kept in
OUT/journey.md with its exit code, its seconds and what it printed; one that ends otherwise than it should ends the journey.
Sizes are small: the journey shows that the way can be gone, not what it is worth. People's answers are the sets' own.
"""

import argparse
import html
import http.cookiejar
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "tiny,web,serve,policy"
SMALL = shlex.split("""
    --stage1.iterations 1 --stage1.seed-gold 30 --stage1.seed-silver 60 --stage1.per-iteration 10 --evaluation-gold 20
    --train.epochs 1 --train.layers 1 --train.max-tokens 64 --train.lr 4e-4 --train.batch-pairs 16 --presentations 96
    --embedder hash
""")
FILES = """
import csv, json, sys, polars as pl
from pathlib import Path
chosen = []
from assay.formats.human_sets import read_human_sets
for name, many in (("mt-bench", 150), ("pandalm", 254)):
    found = [p for _, p, _ in read_human_sets(Path(sys.argv[1]), (name,)) if p.better and len(p.pair.prompt) == 1][:many]
    rows = [{"prompt": p.pair.prompt[0].content, "chosen": p.pair.response(p.better).text,
             "rejected": next(r.text for r in p.pair.responses if r.id != p.better)} for p in found]
    chosen += [r["chosen"] for r in rows]
    if name == "mt-bench":
        Path("votes.jsonl").write_text("".join(json.dumps(r) + "\\n" for r in rows))
        continue
    with Path("judged.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(("question", "answer_a", "answer_b", "preferred"))
        sides = (((r["chosen"], r["rejected"], "a"), (r["rejected"], r["chosen"], "b"))[n % 2] for n, r in enumerate(rows))
        table.writerows((r["prompt"], *s) for r, s in list(zip(rows, sides))[:100])
    pl.DataFrame(rows[100:194]).write_parquet("more.parquet")
    pl.DataFrame(rows[194:]).write_parquet("held.parquet")
Path("chosen.json").write_text(json.dumps(chosen))
"""
"""The review's three files of the two sets: votes as JSON lines, a table with semicolons, Parquet; one to measure on."""


class Journey:
    """Commands in one folder and one environment, and the file in which all of them stand."""

    def __init__(self, out: Path, environment: Path) -> None:
        self.out, self.bin, self.begun = out, environment / "bin", time.monotonic()
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        self.env |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
        self.log = out / "journey.md"
        self.log.write_text("# A day with Assay, from a wheel\n")

    def part(self, title: str) -> None:
        self.note(f"\n## {title} ({time.monotonic() - self.begun:.0f} s)\n")
        print(title, flush=True)

    def run(self, *argv: str, code: int | tuple[int, ...] = 0, said: str = "", given: str = "") -> str:
        """Do one command. Ends the journey where its exit code is not `code`, or it does not say `said`."""
        begun = time.monotonic()
        done = subprocess.run(
            argv, cwd=self.out, env=self.env, input=given, capture_output=True, text=True, check=False
        )
        told = f"{done.stdout}{done.stderr}"
        line = " ".join(f"'{a}'" if re.search(r"[\s\"'{;|]", a) else a for a in argv)
        self.note(
            f"\n```text\n$ {line}\n{_trimmed(told)}\n```\n\nexit code {done.returncode}, {time.monotonic() - begun:.1f} s\n"
        )
        print(f"  {time.monotonic() - begun:6.1f} s  {line[:110]}", flush=True)
        if done.returncode not in (code if isinstance(code, tuple) else (code,)) or said not in told:
            raise SystemExit(
                f"{line}\n{told}\nexit code {done.returncode}, should be {code} and say {said!r}; {self.log}"
            )
        return told

    @contextmanager
    def beside(self, *argv: str, url: str) -> Iterator[str]:
        """A server, for as long as this lasts; gives what it said before it answered."""
        told = self.out / f"{argv[1]}.said"
        with told.open("w") as file:
            server = subprocess.Popen(argv, cwd=self.out, env=self.env, stdout=file, stderr=subprocess.STDOUT)
            try:
                for _ in range(600):
                    if server.poll() is not None:
                        raise SystemExit(f"{' '.join(argv)}\n{told.read_text()}")
                    try:
                        urllib.request.urlopen(url, timeout=5).close()
                        break
                    except OSError:
                        time.sleep(0.2)
                yield told.read_text()
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)
                self.note(f"\n```text\n$ {' '.join(argv)} &\n{_trimmed(told.read_text())}\n```\n")

    def note(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)


def _trimmed(text: str, most: int = 24) -> str:
    """The beginning and the end of what a command said."""
    lines = [line[:160] for line in re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r", "\n").strip().splitlines()]
    half = most // 2
    return "\n".join(
        lines if len(lines) <= most else [*lines[:half], f"... ({len(lines) - most} lines)", *lines[-half:]]
    )


class Annotator:
    """Somebody at the page, by its forms alone, as it works without scripts."""

    def __init__(self, url: str, name: str, token: str) -> None:
        self.url, jar = url, http.cookiejar.CookieJar()
        self.open = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar)).open
        self._post("/login", {"name": name, "secret": token})

    def _post(self, path: str, form: dict[str, str]) -> str:
        sent = urllib.request.Request(self.url + path, urllib.parse.urlencode(form).encode(), {"Origin": self.url})
        return str(self.open(sent, timeout=60).read().decode())

    def answer_all(self, chosen: set[str]) -> int:
        """Answer every pair that is shown: better is what the sets' people chose. Returns how many."""
        page, done = str(self.open(f"{self.url}/task", timeout=60).read().decode()), 0
        while (form := dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))).get("submission"):
            texts = [
                _letters(html.unescape(t)) for t in re.findall(r'<pre class="raw"[^>]*>(.*?)</pre>', page, re.DOTALL)
            ]
            answer = "1" if texts[-2] in chosen else "2"
            page, done = self._post("/task", {**form, "answer": answer, "seconds": "20"}), done + 1
        return done


def _letters(text: str) -> str:
    return re.sub(r"\W", "", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a new folder outside the repository")
    parser.add_argument("--environment", type=Path, help="one with the wheel in it (default: a new one in OUT)")
    parser.add_argument("--benchmarks", type=Path, help="a folder of public benchmarks, as of `assay bench --data`")
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    trip = Journey(given.out.resolve(), (given.environment or given.out / "environment").resolve())
    install(trip, fresh=given.environment is None)
    import_files(trip, given.sets.resolve())
    curate(trip)
    use(trip, given.benchmarks)
    mistakes(trip)
    trip.part("done")
    print(trip.log)


def install(trip: Journey, *, fresh: bool) -> None:
    trip.part("Installed from a wheel")
    if fresh:
        build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(trip.out)!r}))"
        wheel = trip.out / subprocess.check_output([sys.executable, "-c", build], cwd=ROOT, text=True).split()[-1]
        venv.create(trip.bin.parent, with_pip=True)
        trip.run(
            "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"assay-rm[{EXTRAS}] @ {wheel.as_uri()}"
        )
    trip.run("assay", "--version")
    trip.run("python", "-m", "assay", "--version")
    trip.run("assay", "--help", said="Curate preferences")
    trip.run("assay", "fetch", "smollm2")


def import_files(trip: Journey, sets: Path) -> None:
    trip.part("Three files become a pool")
    subprocess.run(["python", "-c", FILES, str(sets)], cwd=trip.out, env=trip.env, check=True)
    files = ("votes.jsonl", "judged.csv", "more.parquet")
    trip.run("assay", "pool", "add", *files, "--out", "pool", said="rejected")
    trip.run("assay", "pool", "add", *files, "--out", "pool", said="already in the pool")


def curate(trip: Journey) -> None:
    """A run to its pause, people in the terminal and on the page, to the report."""
    trip.part("A run, to the first pause")
    trip.run("assay", "run", "pool", "pool", "--out", "runs/mine", *SMALL, "--dry-run", said="answers")
    trip.run("assay", "run", "pool", "pool", "--out", "runs/mine", *SMALL, code=4, said="paused")
    trip.run("assay", "runs", said="paused for people")
    trip.run("assay", "verify", "runs/mine", "--annotator", "me", given="1\n2-\nq\n", said="Saved")
    with trip.beside("assay", "watch", "runs", "--port", "8711", url="http://127.0.0.1:8711"):
        trip.run("curl", "-sL", "http://127.0.0.1:8711/", said="answers")
    chosen = {_letters(t) for t in json.loads((trip.out / "chosen.json").read_text())}
    for turn in range(1, 9):
        trip.part(f"People on the page, turn {turn}")
        told = trip.run("assay", "web-user", "runs/mine", f"ann{turn}")
        with trip.beside("assay", "web", "runs/mine", "--port", "8710", url="http://127.0.0.1:8710/login"):
            answered = Annotator("http://127.0.0.1:8710", f"ann{turn}", told.split()[-1]).answer_all(chosen)
        trip.note(f"\n{answered} answers on the page.\n")
        if "paused" not in trip.run("assay", "resume", "runs/mine", code=(0, 4)):
            break
    trip.part("The report")
    trip.run("assay", "runs", said="finished")
    trip.run("assay", "report", "runs/mine", said="report")
    judged = [json.loads(line) for line in (trip.out / "runs/mine/judgements.jsonl").read_text().splitlines()]
    trip.run("assay", "show", "runs/mine", judged[0]["pair_id"], said=judged[0]["by"])


def use(trip: Journey, benchmarks: Path | None) -> None:
    """What is done with a run: measured, compared, served, exported, trained on, used."""
    final, raw = "runs/mine/seed-0/models/final", "runs/mine/seed-0/models/raw-more"
    trip.part("Measured, and compared")
    for model, out in ((final, "final.json"), (raw, "raw.json")):
        trip.run("assay", "bench", model, "--data", "held.parquet", "--out", out, said="in the model's card")
    if benchmarks is not None:
        trip.run("assay", "bench", final, "--data", str(benchmarks.resolve()), "--limit", "20", "--max-tokens", "256")
    trip.run("assay", "bench", "compare", "final.json", "raw.json", "--html", "compared.html")
    trip.run("cat", f"{final}/README.md", said="transformers")
    trip.part("Served")
    with trip.beside("assay", "serve", final, "--port", "8712", url="http://127.0.0.1:8712/health"):
        body = {"prompt": [{"role": "user", "content": "Name a fruit."}], "responses": ["An apple.", "A chair."]}
        for where in ("/v1/score", "/v1/rank"):
            trip.run("curl", "-s", "-d", json.dumps(body), f"http://127.0.0.1:8712{where}", said="[")
        trip.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:8712/docs", said="200")
    trip.part("Exported, and read again")
    for form in ("parquet", "jsonl", "trl", "openrlhf", "llamafactory"):
        trip.run("assay", "reward", "export", "runs/mine", "--labels", "filtered", "--to", form, "--out", f"as-{form}")
        trip.run("assay", "pool", "add", f"as-{form}", "--out", f"again-{form}", said=" 0 rejected")
    trip.part("Trained on, used")
    small = ("--epochs", "1", "--max-tokens", "64", "--lr", "4e-4", "--batch-pairs", "16", "--layers", "1")
    trip.run("assay", "reward", "train", "pool", "--out", "models/own", *small, said="steps")
    (trip.out / "questions.jsonl").write_text('{"question": "Name a fruit."}\n{"question": "What is 2 + 3?"}\n')
    trip.run("assay", "best-of-n", "questions.jsonl", "--policy", "smollm2", "--reward", final, "--n", "2",
             "--sampler.max-tokens", "24", "--out", "best.jsonl")  # fmt: skip
    trip.run("assay", "run", "pool", "pool", "--config", "runs/mine/run.toml", "--out", "runs/other", "--dry-run")
    trip.run("assay", "runs", "models")
    trip.run("assay", "delete", "models/own", code=2, said="--yes")
    trip.run("assay", "delete", "models/own", "--yes", said="deleted")


def mistakes(trip: Journey) -> None:
    """What the review ran into."""
    trip.part("Mistakes, and what is said to them")
    trip.run("assay", "run", "pool", "votes.jsonl", "--out", "runs/nope", code=2, said="assay pool add")
    trip.run("assay", "web", "runs/nope", code=2)
    assert not (trip.out / "runs" / "nope").exists(), "a folder that is refused is not made"
    trip.run("assay", "reward", "train", "pool", "--out", "models/x", "--learning-rate", "1e-4", code=2, said="--lr")
    trip.run("bash", "-c", "set -o pipefail; assay guidance --help | head -3", code=(0, 141))
    dead = ("--judge", "m@http://127.0.0.1:1/v1")
    trip.run("assay", "run", "pool", "pool", "--out", "runs/dead", *SMALL, *dead, code=2, said="127.0.0.1:1")
    (trip.out / "odd.jsonl").write_text('{"ask": "Hi?", "win": "Hello.", "lose": "No."}\n')
    trip.run("assay", "pool", "add", "odd.jsonl", "--out", "odd", code=2, said="--map")
    trip.run("assay", "pool", "add", "odd.jsonl", "--out", "odd", "--map", "prompt=ask", "chosen=win", "rejected=lose")


if __name__ == "__main__":
    main()
