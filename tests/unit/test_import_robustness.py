"""Rows of random shape: whatever they hold, a row ends as pairs or as a rejection, a file as a question or as read."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from assay.errors import AssayError
from assay.formats.layouts import LAYOUTS
from assay.formats.pictures import keeper
from assay.formats.preferred import Preferred
from assay.formats.reading import decide, outcomes
from assay.formats.rows import RowError
from assay.formats.texts import Cell, Flaw
from assay.images import ImageStore

FIELDS = (
    "prompt", "chosen", "rejected", "messages", "history", "system", "tools", "response", "response_a", "response_b",
    "label",
    "votes",
    "score_a", "score_b", "responses", "scores", "ranks", "output", "instruction", "input", "completion", "kto_tag",
    "images", "image", "conversations", "fields", "full_conversation", "info", "summaries", "choice", "context", "weight",
    "margin", "answers", "completions", "turn", "conversation_a", "conversation_b", "winner", "helpfulness",
    "rejected_response",
)  # fmt: skip
LEAVES: tuple[Any, ...] = (
    None, "", "x", "y", "a", "b", 1, 0, 2, -1, 0.5, True, False, float("nan"), [], {}, "[1]", "{'role': 'user'}", "tie",
    b"x", '[{"role":"user","content":"q"}]', 10**30, "\ud800", "<image>",
)  # fmt: skip
INSIDE = ("tool_calls", "function_call", "images", "reasoning", "name", "tool_call_id", "tools", "weight", "loss")
KEYS = (
    "type", "text", "image", "messages", "answer", "rank", "score", "value", "name", "arguments", "function", "user",
    "model_side_a", "bytes", "rating", "annotations", "index",
)  # fmt: skip


def value(random: Random, depth: int = 0) -> Any:
    kind = random.random()
    if kind < 0.5 or depth > 3:
        return random.choice(LEAVES)
    if kind < 0.7:
        return [value(random, depth + 1) for _ in range(random.randint(0, 3))]
    if kind < 0.85:
        role = random.choice(("user", "assistant", "tool", "system", "function_call", 3, None))
        more = {random.choice(INSIDE): value(random, depth + 1)} if random.random() < 0.5 else {}
        return {"role": role, "content": value(random, depth + 1), **more}
    return {random.choice(KEYS): value(random, depth + 1) for _ in range(random.randint(0, 3))}


GOOD: tuple[dict[str, Any], ...] = (
    {"prompt": "p", "chosen": "x", "rejected": "y", "system": "s", "history": [["a", "b"]], "margin": 1},
    {"messages": [{"role": "user", "content": "p"}], "chosen": {"role": "assistant", "content": "x"},
     "rejected": {"role": "assistant", "content": "y"}, "tools": [{"name": "f"}], "images": []},
    {"prompt": "p", "response_a": "x", "response_b": "y", "label": "a", "score_a": 2, "score_b": 1},
    {"instruction": "p", "input": "", "completions": [{"response": "x", "score": 1}, {"response": "y", "score": 2}]},
    {"prompt": "p", "answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 2}]},
)  # fmt: skip


def row_of(random: Random) -> dict[str, Any]:
    """Fields at random; or a good row in which one field is anything."""
    if random.random() < 0.5:
        return {name: value(random) for name in random.sample(FIELDS, random.randint(1, 7))}
    good = random.choice(GOOD)
    return {**good, random.choice([*good, *random.sample(FIELDS, 2)]): value(random)}


def test_no_row_stops_an_import(tmp_path: Path) -> None:
    random, keep = Random(0), keeper(ImageStore(tmp_path), None)
    asked = read = 0
    for _ in range(2_000):
        row = row_of(random)

        def rows(row: dict[str, Any] = row) -> Iterator[Cell | Flaw]:
            yield Cell(row=1, value=row)

        try:
            layout = decide(rows, "rows.jsonl")
        except AssayError:
            asked += 1
            continue
        for used, strict in ((layout, False), (random.choice(LAYOUTS), True)):
            made = [m for r in outcomes(rows(), used, strict=strict, keep=keep) for m in r.made]
            assert made
            assert all(isinstance(m, Preferred | RowError) for m in made)
            read += any(isinstance(m, Preferred) for m in made)
    assert asked > 10
    assert read > 200
