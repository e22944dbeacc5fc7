"""`assay annotate` and `assay attributes` against a server that fails on purpose: nothing lost, nothing twice."""

import json
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from commands import Done, assay_line, environment

from assay.curate.shards import create
from assay.curate.verify import add_judgements, read_judgements
from assay.llm.replies import ledger
from assay.records import Attributes, Judgement, Pair, Response, user
from assay.tables import Table
from fault_server import FaultServer
from in_process import assay_here

PAIRS, GOLD = 250, 60
RIGHT = [Response.of(f"GOOD {n}").id for n in range(PAIRS)]
FAST = ("--tries", "40", "--timeout-s", "300", "--backoff-s", "0.002", "--concurrency", "16", "--embedder", "hash")
STALLED = ("--timeout-s", "0.5")
"""Where a server stalls: without that, no answer may come too late, however crowded the machine is."""
TOLD = ("429", "500", "cut", "malformed")
"""Faults without a stall."""


def pair(n: int) -> Pair:
    return Pair.of(
        (user(f"Question {n}: tell me about topic {n % 7}."),), Response.of(f"GOOD {n}"), Response.of(f"BAD {n}")
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 250 pairs in which GOOD is better than BAD, and a file in which people said so of 60."""
    folder = tmp_path_factory.mktemp("judges")
    pairs = [pair(n) for n in range(PAIRS)]
    create(folder / "pool", pairs, [], parts=2)
    said = [Judgement(pair_id=p.id, better=RIGHT[n], by="ann", kind="human") for n, p in enumerate(pairs[:GOLD])]
    add_judgements(folder / "gold.jsonl", said)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def line(place: Path, out: Path, *judges: str, samples: int = 4) -> list[str]:
    return [
        "annotate", str(place / "pool"), "--judge", *judges, "--gold", str(place / "gold.jsonl"), "--samples", str(samples),
        "--out", str(out), *FAST,
    ]  # fmt: skip


def votes(out: Path) -> list[Judgement]:
    return Table(out / "tables" / "votes", Judgement).read()


def assert_all_there(out: Path, judges: int = 2, samples: int = 4) -> None:
    """Every vote once, every one readable, and the merged judgements all right."""
    found = votes(out)
    assert len(found) == PAIRS * judges * samples
    assert Counter(Counter((v.pair_id, v.by) for v in found).values()) == {samples: PAIRS * judges}
    assert not [v.problem for v in found if v.problem]
    merged = read_judgements(out / "judgements.jsonl")
    better = {pair(n).id: RIGHT[n] for n in range(PAIRS)}
    assert {j.pair_id: j.better for j in merged} == better


def test_2000_judgements_from_a_failing_server(place: Path, out: Path) -> None:
    with FaultServer(faults=0.1) as server:
        done = assay_here(*line(place, out, f"m@{server.url}", f"n@{server.url}"), *STALLED)
        assert done.returncode == 0, done.stderr
        told = server.stats()
    assert all(told["outcomes"][kind] > 200 for kind in ("429", "500", "stall", "cut", "malformed")), told["outcomes"]
    assert len(told["delivered"]) == 2_000
    assert told["most_open"] <= 2 * 16 + 400, "stalled requests stay open at the server"
    assert_all_there(out)
    costs = {row["model"]: row for row in ledger(out / "replies.sqlite")}
    lost = sum(told["outcomes"][kind] for kind in ("stall", "cut", "malformed"))
    untold = sum(row["untold"] for row in costs.values())
    late = untold - lost  # a crowded machine lets a good reply come too late, too
    assert 0 <= sum(told["delivered"].values()) - 2_000 <= late, "nothing else is asked for again"
    assert sum(row["answers"] for row in costs.values()) == 2_000 + untold
    report = json.loads((out / "report.json").read_text())
    assert [(j["judge"], j["agreement"]["value"], j["agreement"]["n"]) for j in report["judges"][:3]] == [
        ("llm:m", 1.0, GOLD), ("llm:n", 1.0, GOLD), ("merged: majority", 1.0, GOLD)
    ]  # fmt: skip
    assert "Agreement with gold" in done.stdout
    assert "<table>" in (out / "report.html").read_text()


def killed(place: Path, out: Path, server: FaultServer) -> int:
    """Run until about half is answered, then `kill -9`; returns the questions that had been answered."""
    with subprocess.Popen(
        assay_line(*line(place, out, f"m@{server.url}", f"n@{server.url}", samples=2)),
        env=environment(),
        stderr=subprocess.DEVNULL,
    ) as victim:
        while len(server.stats()["delivered"]) < 400:
            assert victim.poll() is None
            time.sleep(0.02)
        victim.kill()
        victim.wait()
    answered = len(server.stats()["delivered"])
    server.release()
    return answered


def test_a_kill_repeats_only_what_was_in_flight(place: Path, out: Path) -> None:
    with FaultServer(faults=0.1, kinds=TOLD, hold=400) as server:
        assert 400 <= killed(place, out, server) < 1_000
        done = assay_here(*line(place, out, f"m@{server.url}", f"n@{server.url}", samples=2))
        assert done.returncode == 0, done.stderr
        delivered = Counter(server.stats()["delivered"].values())
    assert set(delivered) <= {1, 2}
    assert sum(delivered.values()) == 1_000
    assert delivered[2] <= 2 * 16, "at most what both models had in flight"
    assert_all_there(out, samples=2)


def test_a_kill_repeats_nothing_where_the_server_honours_the_key(place: Path, out: Path) -> None:
    with FaultServer(faults=0.1, kinds=TOLD, honour=True, hold=400) as server:
        killed(place, out, server)
        done = assay_here(*line(place, out, f"m@{server.url}", f"n@{server.url}", samples=2))
        assert done.returncode == 0, done.stderr
        assert Counter(server.stats()["generated"].values()) == {1: 1_000}, "no answer was produced twice"
    assert_all_there(out, samples=2)


def test_a_finished_folder_asks_nothing(place: Path, out: Path) -> None:
    with FaultServer(faults=0.0) as server:
        assert assay_here(*line(place, out, f"m@{server.url}", samples=1)).returncode == 0
        asked = sum(server.stats()["outcomes"].values())
        again = assay_here(*line(place, out, f"m@{server.url}", samples=1))
        assert (again.returncode, sum(server.stats()["outcomes"].values())) == (0, asked)
    for merge in ("majority", "weighted", "dawid-skene"):
        told = assay_here("annotate", "report", out, "--merge", merge)
        assert told.returncode == 0, told.stderr
        assert f"merged: {merge}" in told.stdout
        assert json.loads((out / "report.json").read_text())["merge"] == merge
        assert {j.better for j in read_judgements(out / "judgements.jsonl")} == {
            Response.of(f"GOOD {n}").id for n in range(PAIRS)
        }
    changed = assay_here(*line(place, out, f"m@{server.url}", samples=2))
    assert_one_line(changed, 2, "holds a run with another config")


def test_the_budget_stops_and_a_larger_one_goes_on(place: Path, out: Path) -> None:
    """A vote costs 100 tokens in and 10 out: 0.0002 at these prices; 250 cost 0.05."""
    prices = place / "prices.toml"
    prices.write_text("[m]\nin = 1.0\nout = 10.0\n")
    with FaultServer(faults=0.0) as server:
        command = [*line(place, out, f"m@{server.url}", samples=1), "--prices", str(prices), "--max-tokens", "10"]
        dry = assay_here(*command, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "250 requests, cost at most" in dry.stderr
        assert not out.exists()
        assert not sum(server.stats()["outcomes"].values())
        stopped = assay_here(*command, "--budget", "0.02")
        assert stopped.returncode == 3
        assert stopped.stderr.splitlines()[-1].startswith(
            "stopped: m: the budget of 0.02 does not allow the next request"
        )
        asked = sum(server.stats()["outcomes"].values())
        assert 60 < asked <= 100, "no more than the budget pays for"
        again = assay_here(*command, "--budget", "0.02")
        assert (again.returncode, sum(server.stats()["outcomes"].values())) == (3, asked)
        done = assay_here(*command, "--budget", "2")
        assert done.returncode == 0, done.stderr
        assert Counter(server.stats()["generated"].values()) == {1: PAIRS}
    (row,) = json.loads((out / "report.json").read_text())["costs"]
    assert row["cost"] == pytest.approx(PAIRS * 0.0002)
    assert row["cost_per_correct"] == pytest.approx(0.0002)


def test_a_judge_that_is_always_wrong_is_seen_and_outweighed(place: Path, out: Path) -> None:
    with FaultServer(faults=0.0) as server:
        judges = (f"liar@{server.url}", f"m@{server.url}")
        done = assay_here(*line(place, out, *judges, samples=2), "--merge", "weighted")
        assert done.returncode == 0, done.stderr
    report = json.loads((out / "report.json").read_text())
    agreement = {j["judge"]: j["agreement"]["value"] for j in report["judges"]}
    assert (agreement["llm:liar"], agreement["llm:m"], agreement["merged: weighted"]) == (0.0, 1.0, 1.0)
    assert report["between"][0]["value"] == pytest.approx(-1.0, abs=0.1)
    plain = assay_here("annotate", "report", out, "--merge", "majority")
    assert "tie" not in plain.stderr
    assert {j.problem for j in read_judgements(out / "judgements.jsonl")} == {"tie"}


def test_a_dead_server_keeps_nothing_and_says_so(place: Path, out: Path) -> None:
    dead = assay_here(*line(place, out, "m@http://127.0.0.1:9/v1", samples=1), "--tries", "1")
    assert_one_line(dead, 2, "answered none of 250 requests (connection")
    assert not votes(out)


def test_attributes_come_from_servers_and_where_they_fail_from_rules(place: Path, out: Path) -> None:
    with FaultServer(faults=0.05, kinds=TOLD) as server:
        fast = FAST[:-2]
        command = ["attributes", str(place / "pool"), "--out", str(out), *fast, "--server"]
        dry = assay_here(*command, f"m@{server.url}", f"vague@{server.url}", "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "250 requests" in dry.stdout
        done = assay_here(*command, f"m@{server.url}", f"vague@{server.url}")
        assert done.returncode == 0, done.stderr
        dealt = Counter(int(p.id[:8], 16) % 2 for p in map(pair, range(PAIRS)))
        assert f"250 pairs: 250 by llm:m -> {out}/tables/attributes" in done.stdout
        assert f"failed: {dealt[1]} times: llm:vague: unparsable" in done.stdout
        rows = Table(out / "tables" / "attributes", Attributes).read()
        assert {(a.category, a.desired, a.by) for a in rows} == {("Math", ("is right",), "llm:m")}
        asked = sum(server.stats()["outcomes"].values())
        assert assay_here(*command, f"m@{server.url}", f"vague@{server.url}").returncode == 0
        assert sum(server.stats()["outcomes"].values()) == asked
        alone = assay_here(
            "attributes", place / "pool", "--out", out / "rules", *fast, "--server", f"vague@{server.url}"
        )
        assert "250 pairs: 250 by rules" in alone.stdout
        judged = assay_here(
            *line(place, out / "judged", f"m@{server.url}", samples=1), "--attributes", out, "--limit", "50"
        )
        assert judged.returncode == 0, judged.stderr
    assert "category: Math" in judged.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--judge", "m"), "--judge m: write MODEL@URL"),
        (("--judge", "m@http://x/v1", "m@http://x/v1"), "the same server is named twice"),
        (
            ("--judge", "m@http://x/v1", "--budget", "1"),
            "--budget needs the price of every model; --prices has none of m",
        ),
        (("--judge", "m@http://x/v1", "--prices", "nowhere.toml"), "--prices nowhere.toml:"),
        (("--judge", "m@http://x/v1", "--examples", "9"), "examples 0 to 8"),
        (("--judge", "m@http://x/v1", "--gold", "nowhere"), "nowhere: no pairs here"),
        (("--judge", "m@http://x/v1", "--sets", "wat"), "unknown set 'wat'"),
        (("--judge", "m@http://x/v1", "--attributes", "nowhere"), "--attributes nowhere: no attributes here"),
        (("--judge", "m@http://x/v1", "--pairs", "gold"), "no pairs to judge"),
    ],
)
def test_mistakes_are_one_line(place: Path, out: Path, options: tuple[str, ...], message: str) -> None:
    done = assay_here("annotate", place / "pool", "--out", out, *options)
    assert_one_line(done, 2, message)
    assert not out.exists()


def assert_one_line(done: Done, code: int, message: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]


def test_guidance_compares_the_arms_pair_by_pair(place: Path, out: Path) -> None:
    with FaultServer(faults=0.0) as server:
        line = ["guidance", str(place / "pool"), "--gold", str(place / "gold.jsonl"), "--out", str(out), *FAST]
        done = assay_here(*line, "--judge", f"m@{server.url}", "--seeds", "0", "1", "--limit", "40")
        assert done.returncode == 0, done.stderr
        asked = sum(server.stats()["outcomes"].values())
        # Two seeds of two orders; unguided ones of both seeds ask the same questions, so half of them are in the cache.
        assert 40 * 2 * 5 <= asked <= 40 * 2 * 6
        assert assay_here(*line, "--judge", f"m@{server.url}", "--seeds", "0", "1", "--limit", "40").returncode == 0
        assert sum(server.stats()["outcomes"].values()) == asked
    found = json.loads((out / "guidance.json").read_text())
    assert {a["arm"]: a["right"]["value"] for a in found["arms"] if a["arm"] in ("none", "random", "nearest")} == {
        "none": 1.0, "random": 1.0, "nearest": 1.0
    }  # fmt: skip
    assert [(d["one"], d["other"], d["value"]) for d in found["differences"]][:3] == [
        ("random", "none", 0.0), ("nearest", "none", 0.0), ("nearest", "random", 0.0)
    ]  # fmt: skip
    assert (found["pairs"], found["seeds"]) == (40, [0, 1])
    assert "nearest examples" in done.stdout
