"""A model's name at another address may be another model: every folder that asks servers keeps where they were, and asks."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from assay.curate.shards import create
from assay.curate.verify import add_judgements
from assay.errors import AssayError
from assay.judges.asking import LocalName
from assay.judges.servers import FILE, Servers
from assay.llm.chat import ChatConfig
from assay.records import Judgement
from field import curation
from in_process import assay
from outage_server import OutageServer

MOVED = "--servers-moved"
FAST = ("--tries", 1, "--concurrency", 4)


@pytest.fixture
def two() -> Iterator[tuple[OutageServer, OutageServer]]:
    with OutageServer() as one, OutageServer() as other:
        yield one, other


@pytest.fixture
def source(tmp_path: Path) -> Path:
    create(tmp_path / "pool", [curation.pair(n) for n in range(60)], [])
    return tmp_path / "pool"


def refused(told: str, *urls: str) -> None:
    (line,) = [x for x in told.splitlines() if x.startswith("error: ")]
    assert "Traceback" not in told
    assert MOVED in line
    assert all(url in line for url in urls), line


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    """All that the tables of a folder hold, but for the seconds that an answer took."""
    files = sorted(folder.glob("tables/*/*.parquet"))
    return {f"{p.parent.name}/{p.name}": pl.read_parquet(p).select(pl.exclude("seconds")) for p in files}


def same(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> bool:
    return one.keys() == other.keys() and all(one[k].equals(other[k]) for k in one)


def line(command: str, source: Path, out: Path, *urls: str) -> list[object]:
    if command == "attributes":
        return [command, source, "--out", out, "--server", *(f"m@{u}" for u in urls), *FAST]
    more = ["--samples", 2, "--embedder", "hash", "--guidance", "none"]
    return [command, source, "--out", out, "--judge", *(f"m@{u}" for u in urls), *more, *FAST]


@pytest.mark.parametrize(("command", "asks"), [("annotate", 120), ("attributes", 60)])
def test_a_folder_asks_when_its_server_is_another(
    command: str, asks: int, source: Path, two: tuple[OutageServer, OutageServer], tmp_path: Path
) -> None:
    """Half of the answers come from one address; the rest come from another one only where the user says it is the same
    model, nothing is asked twice, and the tables are those of one that never moved."""
    one, other = two
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert assay(*line(command, source, whole, one.url))[0] == 0
    one.answered.clear()
    one.fail("503", after=asks // 2)
    assert assay(*line(command, source, out, one.url))[0] == 2
    assert len(one.answered) == asks // 2

    for more in ((), ("--dry-run",)):
        code, _, told = assay(*line(command, source, out, other.url), *more)
        assert code == 2
        refused(told, one.url, other.url, "m answered at")
    assert not other.answered
    code, shown, told = assay(*line(command, source, out, other.url), "--dry-run", MOVED)
    assert code == 0
    assert f"{asks - asks // 2} requests" in shown + told

    assert assay(*line(command, source, out, other.url), MOVED)[0] == 0
    assert len(other.answered) == asks - asks // 2
    assert not other.answered.keys() & one.answered.keys(), "what one answered is not asked again"
    assert same(tables(out), tables(whole))
    assert assay(*line(command, source, out, other.url))[0] == 0, "the new address is kept"
    code, _, told = assay(*line(command, source, out, one.url))
    assert code == 2
    refused(told, one.url, other.url)


def test_a_folder_without_addresses_asks(source: Path, two: tuple[OutageServer, OutageServer], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert assay(*line("annotate", source, out, two[0].url))[0] == 0
    asked = len(two[0].answered)
    (out / FILE).unlink()
    code, _, told = assay(*line("annotate", source, out, two[0].url))
    assert code == 2
    refused(told, "at which addresses")
    assert assay(*line("annotate", source, out, two[0].url), MOVED)[0] == 0
    assert assay(*line("annotate", source, out, two[0].url))[0] == 0
    assert len(two[0].answered) == asked
    (out / FILE).write_text("[3]")
    code, _, told = assay(*line("annotate", source, out, two[0].url))
    assert code == 2
    refused(told, FILE)


def test_one_of_two_servers_of_a_model(source: Path, two: tuple[OutageServer, OutageServer], tmp_path: Path) -> None:
    """They are told apart by their hosts; the one that moves keeps the name that its votes have."""
    one, other = two
    out = tmp_path / "out"
    assert assay(*line("annotate", source, out, one.url, other.url))[0] == 0
    before = tables(out)
    code, _, told = assay(*line("annotate", source, out, one.url))
    assert code == 2
    assert "another config" in told
    with OutageServer() as third:
        code, _, told = assay(*line("annotate", source, out, one.url, third.url))
        assert code == 2
        refused(told, other.url, third.url)
        assert f"{one.url}," not in told, "this one is where it was"
        for flag in (MOVED, "--no-dry-run"):
            code, _, told = assay(*line("annotate", source, out, one.url, third.url), flag)
            assert code == 0, told
        assert not third.answered
    assert same(tables(out), before)


def test_the_arms_of_guidance_share_their_addresses(
    source: Path, two: tuple[OutageServer, OutageServer], tmp_path: Path
) -> None:
    people = [Judgement(pair_id=p.id, better=curation.truth(p), by="ann", kind="human")
              for p in map(curation.pair, range(20))]  # fmt: skip
    add_judgements(tmp_path / "gold.jsonl", people)
    one, other = two
    gold = tmp_path / "gold.jsonl"
    command = ["guidance", source, "--out", tmp_path / "arms", "--gold", gold, "--embedder", "hash", *FAST]
    one.fail("503", after=50)
    code, _, told = assay(*command, "--judge", f"m@{one.url}")
    assert code == 2, told
    assert len(list((tmp_path / "arms").glob("*/config.json"))) == 2, told
    code, _, told = assay(*command, "--judge", f"m@{other.url}")
    assert code == 2
    refused(told, one.url, other.url)
    assert assay(*command, "--judge", f"m@{other.url}", MOVED)[0] == 0
    assert not other.answered.keys() & one.answered.keys()
    assert assay(*command, "--judge", f"m@{other.url}")[0] == 0


def longest(conversations: list[object]) -> np.ndarray:
    return np.array([float(len(str(c))) for c in conversations])


def test_best_of_n(two: tuple[OutageServer, OutageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = two
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    (tmp_path / "questions.jsonl").write_text("".join(f'{{"question": "What is {n}?"}}\n' for n in range(20)))
    command = ["best-of-n", "questions.jsonl", "--reward", f"{__name__}:longest", "--out", "best.jsonl", "-n", 2]
    one.fail("401", after=35)
    assert assay(*command, "--policy", f"m@{one.url}", cwd=tmp_path)[0] == 2
    assert len((tmp_path / "best.jsonl").read_text().splitlines()) == 16
    code, _, told = assay(*command, "--policy", f"m@{other.url}", cwd=tmp_path)
    assert code == 2
    refused(told, one.url, other.url)
    assert assay(*command, "--policy", f"m@{other.url}", MOVED, cwd=tmp_path)[0] == 0
    assert sum(other.answered.values()) == 5
    assert assay(*command, "--policy", f"m@{other.url}", cwd=tmp_path)[0] == 0


def test_a_run_asks_when_its_attributes_or_its_judge_are_elsewhere(
    two: tuple[OutageServer, OutageServer], tmp_path: Path
) -> None:
    """It stops for people; what is asked before is the describing of the pool."""
    one, other = two
    rows = [{"prompt": p.prompt[0].content, "chosen": p.responses[0].text, "rejected": p.responses[1].text}
            for p in map(curation.pair, range(60))]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert assay("pool", "add", "mine.jsonl", "--out", "pool", cwd=tmp_path)[0] == 0

    def run(judge: str, attributes: str, *more: str) -> str:
        servers = ("--judge", f"m@{judge}", "--attributes", f"d@{attributes}", *more)
        small = ("--embedder", "hash", "--stage1.seed-gold", 8)
        code, _, told = assay("run", "pool", "pool", "--out", "run", *small, *servers, cwd=tmp_path)
        assert code == (4 if "answers missing" in told else 2), "people are waited for, or the run is refused"
        return told

    assert "answers missing" in run(one.url, one.url)
    kept = (tmp_path / "run/config.json").read_text()
    described = sum(one.answered.values())
    assert described == 60 + 2, "each model was asked for a word first, before anybody else was asked"
    refused(run(other.url, one.url), "m answered", one.url, other.url)
    told = run(one.url, other.url)
    refused(told, "d answered", one.url, other.url)
    assert not re.search(r"\bm answered", told)
    assert "answers missing" in run(other.url, other.url, MOVED)
    assert "answers missing" in run(other.url, other.url)
    assert not other.answered
    assert sum(one.answered.values()) == described
    assert (tmp_path / "run/config.json").read_text() == kept
    seen = json.loads((tmp_path / "run" / FILE).read_text())
    assert {role: [(r["model"], r["url"], r["first"]) for r in rows] for role, rows in seen.items()} == {
        "judge": [("m", other.url, one.url)], "attributes": [("d", other.url, one.url)]
    }  # fmt: skip


def test_addresses_are_compared_in_one_spelling_and_hold_no_key(tmp_path: Path) -> None:
    def of(url: str) -> list[ChatConfig | LocalName]:
        servers = Servers(tmp_path / FILE, (tmp_path / FILE).exists())
        given: list[ChatConfig | LocalName] = [LocalName(model="l"), ChatConfig(url=url, model="m")]
        found = servers.of("judge", given)
        servers.keep()
        return found

    of("http://Host.example:80/v1/?key=secret")
    found = of("http://host.example/v1/chat/completions")
    assert found[0] == LocalName(model="l")
    assert "secret" not in (tmp_path / FILE).read_text()
    with pytest.raises(
        AssayError, match=r"m answered at http://host\.example/v1, and is now to be asked at https://host"
    ):
        of("https://host.example/v1")
