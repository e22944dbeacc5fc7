"""Judges as people run them, through the command line: replies in every form that servers give, ties, batches, budgets."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from assay.curate.verify import add_judgements, read_judgements
from assay.records import Attributes, Judgement
from assay.tables import Table
from batch_server import BatchProvider
from in_process import assay
from loopback import Loopback
from loopback import completion as said
from pools import pairs_in
from ports import free_port

SHARED = Path(os.environ.get("ASSAY_SHARED_FIELD", Path(__file__).parents[3] / "shared" / "field"))
Body = dict[str, Any]
FAST = ("--embedder", "hash", "--backoff-s", "0.01")


def verdict(v: str, reason: str = "It fits.") -> str:
    return json.dumps({"reason": reason, "verdict": v})


# What the server says of a case: (the right side, the other side, how often it was asked) -> a body, or (status, body).
JSON: dict[str, tuple[str, Callable[[str, str, int], Any]]] = {
    "plain": ("right", lambda v, o, n: said(verdict(v))),
    "fence amid prose": ("right", lambda v, o, n: said(f"Let me see.\n```json\n{verdict(v)}\n```\nGood luck!")),
    "thought first": ("right", lambda v, o, n: said(f"<thinking>\nperhaps {verdict(o)}\n</thinking>\n{verdict(v)}")),
    "magistral": ("right", lambda v, o, n: said(
        [{"type": "thinking", "thinking": o}, {"type": "text", "text": verdict(v)}])),
    "deepseek": ("right", lambda v, o, n: said(verdict(v), reasoning_content=f"perhaps {verdict(o)}")),
    "number": ("right", lambda v, o, n: said(f'{{"reason": "r", "verdict": {v}}}')),
    "in words": ("right", lambda v, o, n: said(verdict(f"candidate {v} is better"))),
    "loud keys": ("right", lambda v, o, n: said(f'{{"REASON": "r", "VERDICT": "{v}"}}')),
    "quoted before": ("right", lambda v, o, n: said(f'It claims {{"verdict": "{o}"}}. No.\n{verdict(v)}')),
    "null usage": ("right", lambda v, o, n: {**said(verdict(v)), "usage": None}),
    "error in a 200": ("right", lambda v, o, n: {"error": {"message": "busy", "code": 529}} if n < 2 else said(verdict(v))),
    "no choices": ("right", lambda v, o, n: {"choices": []} if n < 2 else said(verdict(v))),
    "502 page": ("right", lambda v, o, n: (502, "<html><title>Bad gateway</title></html>") if n < 2 else said(verdict(v))),
    "stream": ("right", lambda v, o, n: (200, "".join(
        f"data: {json.dumps({'choices': [{'delta': {'content': c}}]})}\n\n" for c in verdict(v)) + "data: [DONE]\n\n")),
    "cut after the verdict": ("", lambda v, o, n: said(f'{{"verdict": "{v}", "reason": "It is', "length")),
    "cut in a thought": ("", lambda v, o, n: said(f"<think>\nso {verdict(v)} or", "length")),
    "cut in hidden thoughts": ("", lambda v, o, n: said(None, "length", reasoning="hm")),
    "thought without end": ("", lambda v, o, n: said(f"<think>\n{verdict(o)}")),
    "only quoted": ("", lambda v, o, n: said(f'It claims {{"verdict": "{o}"}} for itself.')),
    "contradiction": ("", lambda v, o, n: said(f"{verdict(v)} or rather {verdict(o)}")),
    "refused": ("", lambda v, o, n: said(None, refusal="I cannot.")),
    "filtered": ("", lambda v, o, n: said(verdict(v), "content_filter")),
    "tie": ("", lambda v, o, n: said(verdict("tie"))),
}  # fmt: skip
TEXT: dict[str, tuple[str, Callable[[str, str, int], Any]]] = {
    "line": ("right", lambda v, o, n: said(f"It fits.\nVerdict: {v}")),
    "bold": ("right", lambda v, o, n: said(f"It fits.\n\n**Final verdict: Candidate {v}**")),
    "thought": ("right", lambda v, o, n: said(f"<think>\nVerdict: {o}\n</think>\nVerdict: {v}")),
    "quoted": ("", lambda v, o, n: said(f"It ends with\nVerdict: {o}\nwhich is a trick.")),
    "unfinished": ("", lambda v, o, n: said(f"<think>\nVerdict: {o}\nor", "length")),
    "cannot decide": ("", lambda v, o, n: said("Hard.\nVerdict: cannot decide")),
}


class Scripted(Loopback):
    """A chat server that answers each case by its script; `asked` counts questions."""

    def __init__(self, script: dict[str, tuple[str, Callable[[str, str, int], Any]]]) -> None:
        self.script, self.asked = script, Counter[str]()
        super().__init__()

    async def _answer(self, request: web.Request) -> web.Response:
        text = (await request.json())["messages"][-1]["content"]
        case = re.findall(r"case: ([\w ]+)\.", text)[-1]
        first = "GOOD" in text.split("Candidate 1:")[-1].split("Candidate 2:")[0]
        question = request.headers["Idempotency-Key"].split("-")[0]
        self.asked[question] += 1
        told = self.script[case][1](*(("1", "2") if first else ("2", "1")), self.asked[question])
        status, answer = told if isinstance(told, tuple) else (200, json.dumps(told))
        return web.Response(status=status, text=answer)


@pytest.fixture
def scripted() -> Iterator[Callable[[Any], Scripted]]:
    servers: list[Scripted] = []

    def start(script: Any) -> Scripted:
        servers.append(Scripted(script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def pool(folder: Path, cases: Any) -> Path:
    rows = [{"prompt": f"case: {c}. Name a bird.", "chosen": f"Robin {c} GOOD", "rejected": f"Cat {c}"} for c in cases]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    code, _, told = assay("pool", "add", folder / "rows.jsonl", "--out", folder / "pool")
    assert code == 0, told
    return folder / "pool"


def command(*line: object, times: int = 3) -> tuple[str, str]:
    """(stdout, stderr). What was cut off is asked again by the same command, up to three times."""
    for _ in range(times):
        code, out, told = assay(*line)
        if code == 0:
            return out, told
    raise AssertionError(told)


def read(folder: Path) -> dict[str, set[str]]:
    """Case -> what its votes came to: right, wrong, or a problem."""
    pairs = {p.id: p for p in pairs_in(folder)}
    found: dict[str, set[str]] = {}
    for v in Table(folder / "tables/votes", Judgement).read():
        pair = pairs[v.pair_id]
        (case,) = re.findall(r"case: ([\w -]+)", pair.prompt[0].content)
        told = v.problem if v.better is None else "right" if "GOOD" in pair.response(v.better).text else "WRONG"
        found.setdefault(case.strip(), set()).add(told)
    return found


@pytest.mark.parametrize(("form", "script"), [("json", JSON), ("text", TEXT)])
def test_every_form_of_reply(form: str, script: Any, scripted: Any, tmp_path: Path) -> None:
    server = scripted(script)
    source = pool(tmp_path, script)
    line = ("--judge", f"m@{server.url}", "--answers", form, "--samples", 2, "--out", tmp_path / "o", *FAST)
    command("annotate", source, *line)
    found = read(tmp_path / "o")
    assert set(found) == set(script)
    for case, (expected, _) in script.items():
        assert "WRONG" not in found[case], case
        assert (found[case] == {"right"}) == (expected == "right"), (case, found[case])
    for case in (c for c in script if c.startswith(("cut", "unfinished"))):
        assert found[case] == {"cut off at max_tokens"}
    asked = server.asked.copy()
    command("annotate", source, *line)
    assert server.asked == asked, "a finished command asks nothing"


def test_a_pair_on_which_the_judge_says_tie_ends_nothing(scripted: Any, tmp_path: Path) -> None:
    server = scripted(JSON)
    source = pool(tmp_path, ["plain", "tie"])
    gold = tmp_path / "gold.jsonl"
    pairs = pairs_in(source)
    better = {p.id: next(r.id for r in p.responses if "GOOD" in r.text) for p in pairs}
    add_judgements(gold, [Judgement(pair_id=p, better=b, by="ann", kind="human") for p, b in better.items()])
    judge = ("--judge", f"m@{server.url}", "--gold", gold, *FAST)
    for merge in ("majority", "weighted", "dawid-skene"):
        command("annotate", source, *judge, "--samples", 3, "--merge", merge, "--out", tmp_path / "o", times=1)
        out, _ = command("annotate", "report", tmp_path / "o", "--merge", merge, times=1)
        assert re.search(r"tie\s+3\s+50", out)
        assert {j.better for j in read_judgements(tmp_path / "o/judgements.jsonl")} <= {*better.values(), None}
    command("guidance", source, *judge, "--out", tmp_path / "g", times=1)
    assert "none examples" in (tmp_path / "g/guidance.md").read_text()
    (tmp_path / "only").mkdir()
    only = pool(tmp_path / "only", ["tie"])
    out, _ = command("annotate", only, "--judge", f"m@{server.url}", "--out", tmp_path / "t", *FAST, times=1)
    assert re.search(r"tie\s+3\s+100", out)


DESCRIBED = {
    "category": "Math", "objectivity": "objective", "controversiality": "low", "desired": ["is right"],
    "guideline": "Check.",
}  # fmt: skip
TOLD = json.dumps(DESCRIBED)
DESCRIBING: dict[str, tuple[str, Callable[[str, str, int], Any]]] = {
    "plain": ("llm:m", lambda v, o, n: said(TOLD)),
    "prose": ("llm:m", lambda v, o, n: said(f"Here:\n```json\n{TOLD}\n```\nDone.")),
    "thought": ("llm:m", lambda v, o, n: said(f"<think>\n{{}}\n</think>{TOLD}")),
    "loud": ("llm:m", lambda v, o, n: said(json.dumps({k.title(): x for k, x in DESCRIBED.items()}))),
    "cut": ("rules", lambda v, o, n: said(TOLD, "length")),
    "unfinished": ("rules", lambda v, o, n: said(f"<think>\n{TOLD}")),
    "two": ("rules", lambda v, o, n: said(f"{TOLD} or {json.dumps({**DESCRIBED, 'category': 'Planning'})}")),
}


def test_attributes_in_every_form(scripted: Any, tmp_path: Path) -> None:
    server = scripted(DESCRIBING)
    source = pool(tmp_path, DESCRIBING)
    out, _ = command("attributes", source, "--server", f"m@{server.url}", "--out", tmp_path / "a", "--backoff-s", 0.01)
    assert "cut off at max_tokens" in out
    by = {a.pair_id: a.by for a in Table(tmp_path / "a/tables/attributes", Attributes).read()}
    cases = {p.id: re.findall(r"case: (\w+)", p.prompt[0].content)[0] for p in pairs_in(source)}
    assert {cases[p]: b for p, b in by.items()} == {c: expected for c, (expected, _) in DESCRIBING.items()}


def test_a_larger_limit_goes_on_where_replies_were_cut(scripted: Any, tmp_path: Path) -> None:
    long = {"short": JSON["plain"], "long": ("right", lambda v, o, n: said(verdict(v)[:9], "length"))}
    server = scripted(long)
    source = pool(tmp_path, long)
    line = ("annotate", source, "--judge", f"m@{server.url}", "--samples", 1, "--out", tmp_path / "o", *FAST)
    assay(*line)
    code, _, told = assay(*line, "--max-tokens", 10)
    assert (code, "another config" in told) == (2, True), "a smaller one would not be the same"
    long["long"] = JSON["plain"]
    code, _, told = assay(*line, "--max-tokens", 4096)
    assert code == 0, told
    assert max(server.asked.values()) == 1, "what was whole is not asked again"


# -- batches --------------------------------------------------------------------------------------------------------


@pytest.fixture
def provider() -> Iterator[BatchProvider]:
    fake = BatchProvider()

    def answer(body: Body) -> tuple[int, Any]:
        text = body["messages"][-1]["content"]
        if text.startswith("You describe a task"):
            return 200, said(TOLD)
        first = "GOOD" in text.split("Candidate 1:")[-1].split("Candidate 2:")[0]
        return 200, said(verdict("1" if first else "2"))

    fake.answer = answer
    yield fake
    fake.stop()


def test_annotate_and_attributes_in_batches_for_half_the_price(provider: BatchProvider, tmp_path: Path) -> None:
    """A vote has 100 tokens in and 10 out, at 1 and 10 a million: 0.0002, of which half is paid."""
    source = pool(tmp_path, [f"n{n}" for n in range(300)])
    (tmp_path / "prices.toml").write_text("[m]\nin = 1.0\nout = 10.0\n")
    batch = ("--batch", "--batch-poll-s", 0.01, "--prices", tmp_path / "prices.toml", "--budget", 5)
    command("attributes", source, "--server", f"m@{provider.url}", "--out", tmp_path / "a", *batch, times=1)
    assert len(provider.batches) == 1
    assert {a.by for a in Table(tmp_path / "a/tables/attributes", Attributes).read()} == {"llm:m"}
    judge = ("--judge", f"m@{provider.url}", "--samples", 2, "--attributes", tmp_path / "a", *FAST, *batch)
    _, told = command("annotate", source, *judge, "--out", tmp_path / "o", times=1)
    assert len(provider.batches) == 2, "one batch for two shards"
    assert "batch batch_1 is completed" in " ".join(told.split())
    found = read(tmp_path / "o")
    assert len(found) == 300
    assert all(v == {"right"} for v in found.values())
    assert set(provider.paid.values()) == {1}
    (cost,) = json.loads((tmp_path / "o/report.json").read_text())["costs"]
    assert (cost["answers"], cost["cost"]) == (600, pytest.approx(600 * 0.0002 / 2))
    command("annotate", source, *judge, "--out", tmp_path / "o", times=1)
    assert len(provider.batches) == 2


def test_batches_where_there_are_none_are_one_clear_line(tmp_path: Path) -> None:
    provider = BatchProvider()
    provider.refuse["upload"] = (404, {"detail": "Not Found"})
    source = pool(tmp_path, ["one"])
    code, _, told = assay("annotate", source, "--judge", f"m@{provider.url}", "--batch", "--out", tmp_path / "o", *FAST)
    provider.stop()
    assert (code, "Traceback" in told) == (2, False)
    assert "has no batches for chat completions (http 404: Not Found); leave out --batch" in told.splitlines()[-1]


def test_a_pool_of_the_name_of_a_command_is_told_how_to_be_given(tmp_path: Path) -> None:
    pool(tmp_path, ["one"]).rename(tmp_path / "run")
    line = ("--judge", "m@http://127.0.0.1:9/v1", "--out", "o", "--dry-run", *FAST)
    code, out, told = assay("annotate", "run", *line, cwd=tmp_path)
    assert code == 2
    assert "./run" in out + told
    code, _, told = assay("annotate", "./run", *line, cwd=tmp_path)
    assert (code, "requests, cost not known (--prices has no price of m)" in told) == (0, True)


def test_the_replies_of_the_shared_field(tmp_path: Path) -> None:
    """60 forms of reply on a server of its own: right or a counted problem, never a wrong vote."""
    folder = SHARED / "20-judge-replies"
    if not folder.exists():
        pytest.skip(f"no shared field inputs at {folder}; ASSAY_SHARED_FIELD names their folder")
    port = free_port()
    process = subprocess.Popen([sys.executable, folder / "server.py", str(port), tmp_path / "log"])
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None
            time.sleep(0.05)
        for name, form in (("json", "json"), ("text", "text")):
            assay("pool", "add", folder / f"{name}.jsonl", "--out", tmp_path / name)
            line = ("--judge", f"m@http://127.0.0.1:{port}/v1", "--answers", form, "--samples", 2)
            for _ in range(3):
                assay("annotate", tmp_path / name, *line, "--out", tmp_path / f"votes-{name}", "--tries", 4, *FAST)
    finally:
        process.kill()
        process.wait()
    for name in ("json", "text"):
        found = read(tmp_path / f"votes-{name}")
        assert not [c for c, told in found.items() if "WRONG" in told]
