"""Lines that are read by the block make exactly what they make one by one."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from test_plain_rows import ODD, PLAIN, TALKS, row, turn, word

from assay import native
from assay.curate.segments import KINDS, Note, Segments
from assay.curate.spill import Piece, spill
from assay.formats import blocks, lines, sources
from assay.formats.reading import Fields
from assay.store import Place

LAYOUTS = (
    "chosen-rejected", "chosen-rejected:shared-start", "labelled", "labelled:0/1", "labelled:1/5", "voted", "voted:1/2/0",
    "scored-pair", "scored-pair:low",
)  # fmt: skip
FILES = 24
LONG = (
    "a response of some length ",
    "日本語の答え ",
    'quoted "text" \\ with\nlines\t\x7f ',
    "\u2028 é ",
    "  \x1f",
    "😀 and so on ",
)
TWOS = {
    "chosen-rejected": (("chosen", "rejected"), ("chosen", "rejected"), ("preferred", "rejected"), ("y_w", "y_l")),
    "": (("response_a", "response_b"), ("conversation_a", "conversation_b"), ("answer_0", "answer_1"), ("A", "B")),
}
BESIDE: tuple[tuple[str, Callable[[Random], Any]], ...] = (
    ("id", lambda r: r.randrange(10**6)),
    ("meta", lambda r: r.choice((None, True, 0.5, -1e-7, "x", [1], {"a": 1}, 10**400))),
    ("source", lambda r: said(r)), ("score_chosen", lambda r: r.choice((5, 8.5, "7", None, 2))),
    ("score_rejected", lambda r: r.choice((5, 1, 2.25))), ("margin", lambda r: r.choice((1, 0.5, -1, None))),
    ("model_a", lambda r: r.choice(("m", "b", None))), ("annotator_1", lambda r: r.choice(("A", "b"))),
    ("turn", lambda r: 1),
    ("system", lambda r: "s"), ("images", lambda r: []), ("tools", lambda r: None), ("history", lambda r: None),
    ("message", lambda r: {"role": "user", "content": "q"}), ("ключ", lambda r: "v"), ("name", lambda r: ""),
)  # fmt: skip


def said(random: Random) -> Any:
    kind = random.random()
    if kind < 0.01:
        return "x" * random.choice((250, 251))
    if kind < 0.75:
        return random.choice(LONG) * random.randint(1, 3) + str(random.randrange(50))
    return random.choice(PLAIN if kind < 0.94 else TALKS if kind < 0.96 else ODD)


def messages(random: Random) -> list[Any]:
    made = [
        {"role": r, "content": random.choice(PLAIN)}
        for r in random.choice((("user",), ("system", "user"), ("human", "gpt", "user")))
    ]
    return made if random.random() < 0.9 else [*made, turn(random)]


GAPS = ("\n\n", "\n\n", "\n\n", "\n \n", "\n\n\n", "\n\u2003\n", " \n\t\x1f\n", "\n", "\n\n ", "\u3000\n\n", "\n\u2028")
MARKS = (
    "Human:",
    "Human: ",
    "Assistant:",
    "Assistant: ",
    "User:",
    "System: ",
    "## Human: ",
    "#Assistant:",
    "##  User:",
    "Bot: ",
)


def talk(random: Random, asked: str) -> str:
    """A transcript that begins with `asked`, in the usual form or nearly so."""
    usual = random.random() < 0.8
    text = asked + ("\n\nAssistant: " if usual else random.choice(GAPS) + random.choice(MARKS)) + str(said(random))
    while random.random() < 0.4:
        text += "\n\nHuman: more\n\nAssistant: " if usual else random.choice(GAPS) + random.choice(MARKS)
        text += str(said(random))
    return text + (random.choice(GAPS) if random.random() < 0.2 else "")


def like(random: Random, form: dict[str, Any], base: str) -> dict[str, Any]:
    """A row in the form of a file, now and then with something else in it."""
    made: dict[str, Any] = {}
    asked = messages(random)
    begun = (
        random.choice(("", "\n\n", "\n", " ", "\u2003"))
        + random.choice(("Human: ", random.choice(MARKS)))
        + "what is it"
        + random.choice("?!é")
    )
    a, b = form["two"]
    if form["prompt"] and (form["kind"] != "talk" or random.random() < 0.1):
        made[form["prompt"]] = asked if form["listed"] else said(random)
    for name in (a, b):
        answer = said(random)
        reply = {"from": "gpt", "value": answer} if random.random() < 0.1 else {"role": "assistant", "content": answer}
        kind = form["kind"]
        if kind == "talk":
            made[name] = talk(random, begun)
            continue
        made[name] = answer if kind == "text" else [*asked, reply] if kind == "whole" else [reply]
    if random.random() < 0.04:
        made[b] = made[a]
    if base == "labelled":
        made["winner"] = random.choice((word(random), "A", "B", "A", "B", made[a]))
    elif base == "voted":
        made["votes"] = [random.choice(("a", "b", "tie")) for _ in range(random.randint(1, 3))]
    elif base == "scored-pair":
        made |= {"score_a": random.choice((1, 2, "3", 4.5, None)), "score_b": random.choice((1, 2))}
    for name, value in form["beside"]:
        if random.random() < 0.95:
            made[name] = value(random)
    if random.random() < 0.05:
        made[random.choice([*made, "more", "rejected", "prompt", "system"])] = random.choice(
            (None, said(random), messages(random), 3)
        )
    return made


def line(random: Random, value: dict[str, Any]) -> bytes:
    """A row as text, now and then spoilt, or written as few would write it."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.5, separators=random.choice(((",", ":"), (", ", ": "))))
    kind = random.random()
    if kind < 0.85:
        return text.encode("utf-8", "surrogatepass")
    at = random.randrange(len(text) + 1)
    spoilt = (
        text[:at], text + ",", text + text, text + " \t\r", " " + text, text[:-1] + ',"prompt":"again"}',
        text[:at] + "\0" + text[at:],
        text[:at] + "\x01" + text[at:], text[:at] + "\\" + text[at:], text[:at] + "\\ud83d\\ude00" + text[at:], "", "null",
        text[:at] + "\\ud83d" + text[at:], text.replace('": ', '" :  '), text[:-1] + ',"id":NaN}', text[:-1] + ',"id":01}',
        text[:-1] + ',"id":123456789012345678901}', text[:-1] + ",}", "{" + text[1:].replace('"', "'"), "\ufeff" + text,
        text[:-1] + ',"id":1.5e+10}', text[:-1] + ',"id":-}', text[:-1] + ',"id":"\\/\\b\\u0041"}',
        text[:at] + text[at + 1 :], "[]",
        text.replace("role", "\\u0072ole"), text[:at] + "\u2029" + text[at:], text[:at] + "\r" + text[at:],
    )  # fmt: skip
    made = random.choice(spoilt).encode("utf-8", "surrogatepass")
    where = random.randrange(len(made) + 1)
    broken = (b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x80")
    return made if random.random() < 0.8 else made[:where] + random.choice(broken) + made[where:]


def file_of(random: Random, layout: str) -> bytes:
    base = layout.partition(":")[0]
    prompt = random.choice(("prompt", "prompt", "instruction", "question", "context", "messages", "info", None))
    form = {
        "two": random.choice(TWOS.get(base, TWOS[""])), "prompt": prompt, "listed": random.random() < 0.4,
        "kind": random.choice(("text", "text", "whole", "alone", "talk")),
        "beside": random.sample(BESIDE, random.choice((0, 1, 1, 2, 4))),
    }  # fmt: skip
    rows = [like(random, form, base) if random.random() < 0.9 else row(random, layout) for _ in range(60)]
    return random.choice((b"\n", b"\n", b"\r\n")).join(line(random, r) for r in rows) + random.choice(
        (b"", b"\n", b"\n\n")
    )


def made(folder: Path, path: Path, layout: str) -> Any:
    """All that a piece leaves: the note, and the rows of every kind."""
    spill(Place.of(folder), Piece(
        name="x", source="s", file="f", rows=partial(sources.rows, path), lines=True, layout=layout, strict=True,
        fields=Fields(), parts=2, buckets=1, max_field_chars=250, folder=None, images=None,
    ))  # fmt: skip
    note = Note.read(Place.of(folder), "x")
    told = {k: getattr(note, k) for k in ("rows", "pairs", "ties", "rejected")}
    rows = {
        (kind, part): [t.to_pylist() for t in some.read(Place.of(folder))]
        for kind in KINDS
        for part, some in Segments.by_part(kind, [note]).items()
    }
    return told, rows


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_of_lines_makes_what_its_lines_make(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native.library(blocks._SOURCE) is None:
        pytest.skip("no compiler")
    random, taken, all_ = Random(layout), 0, 0
    real = blocks.Blocks.take

    def counted(self: blocks.Blocks, some: lines.Lines) -> Sequence[int]:
        nonlocal taken, all_
        left = real(self, some)
        if blocks.ENOUGH == 0:
            taken, all_ = taken + len(some) - len(left), all_ + len(some)
        else:
            assert len(left) == len(some)
        return left

    monkeypatch.setattr(blocks.Blocks, "take", counted)
    monkeypatch.setattr(native, "built", lambda _: False)
    monkeypatch.setattr(blocks, "_VAIN", 1000)
    for n in range(FILES):
        path = tmp_path / f"{n}.jsonl"
        path.write_bytes(file_of(random, layout))
        found = []
        for enough in (1 << 60, 0):
            monkeypatch.setattr(blocks, "ENOUGH", enough)
            monkeypatch.setattr(lines, "HELD", random.choice((1000, 4000, 1 << 22)))
            found.append(made(tmp_path / f"{n}-{enough}", path, layout))
        assert found[0] == found[1], path
    assert taken > 48 or layout.endswith("shared-start"), (taken, all_)


def test_the_frequent_shapes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    if native.library(blocks._SOURCE) is None:
        pytest.skip("no compiler")
    from assay.formats.columns import Columns
    from assay.formats.layouts import named

    monkeypatch.setattr(blocks, "ENOUGH", 0)
    q, a, b = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "a"), ("assistant", "b")))
    for layout, one in (
        ("chosen-rejected", {"prompt": "q", "chosen": "a", "rejected": "b", "id": 3, "meta": None}),
        ("chosen-rejected", {"prompt": "q", "chosen": [q, a], "rejected": [q, b], "score_chosen": 8.5, "score_rejected": 2}),
        ("chosen-rejected", {"chosen": [q, a, q, b], "rejected": [q, b]}),
        ("chosen-rejected", {"prompt": [q], "chosen": [a], "rejected": [b]}),
        ("chosen-rejected", {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}),
        ("chosen-rejected", {"prompt": "Human: q\n\nAssistant:", "chosen": "a", "rejected": "b"}),
        ("labelled", {"conversation_a": [q, a], "conversation_b": [q, b], "winner": "model_a", "language": "en"}),
        ("labelled", {"prompt": "q", "response_a": "one that is long", "response_b": "two that is long", "label": "tie"}),
        ("voted", {"prompt": "q", "response_a": "a" * 30, "response_b": "b" * 30, "votes": ["a", "a", "b"]}),
        ("scored-pair", {"question": "q", "answer_0": "a" * 9, "answer_1": "b" * 9, "score_0": 1, "score_1": -1.0}),
    ):  # fmt: skip
        columns = Columns()
        rows = [json.dumps(one).encode(), json.dumps({**one, "prompt": None}).encode(), json.dumps(one).encode()]
        left = blocks.Blocks(columns, named(layout), 40).take(lines.Lines.of(b"\n".join(rows), 5))
        assert left == [1], one
        assert sorted(columns.taken()["row"].to_pylist()) == [5, 7]
