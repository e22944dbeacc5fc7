"""People judge: the queue out, judgements in (paper A3, section 3.2; A2, D.2).

A terminal annotator shows one pair at a time with its attributes and the protocol that applies to it, in a random order
that is recorded. Each answer is on disk before the next pair is shown. Runs whose pool carries ground truth may use an
*oracle* instead of a person; it is named so in every judgement.
"""

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from assay.curate.annotate import protocol_for, shown_order
from assay.curate.attributes import conversation_text, response_text
from assay.errors import AssayError
from assay.records import Attributes, Case, Judge, Judgement, Pair
from assay.tables import build, check, plain

_ASK = "better: 1 or 2 (1+ much, 1- slightly), t(ie), d(iscard: cannot decide), s(kip), u(ndo), o (protocol), q(uit) > "
_PROBLEMS = {"t": "tie", "d": "cannot decide"}
_GRADES = {"+": (3.0, "much better"), "": (2.0, "better"), "-": (1.0, "slightly better")}
"""The page's six grades: how strong, and in words."""
_WORDS = {"tie": "t", "discard": "d", "skip": "s", "undo": "u", "protocol": "o", "quit": "q"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a session came to: answers given now, by kind, and how many cases this annotator has not answered yet."""

    judged: int
    ties: int
    discarded: int
    skipped: int
    left: int
    seconds: float


def verify(
    cases: Sequence[Case], annotator: str, out: Path, read: Callable[[str], str], console: Console, seed: int = 0,
    elsewhere: Callable[[str], str] = lambda _: "", hold: Callable[[str], None] = lambda _: None,
) -> VerifyReport:  # fmt: skip
    """Ask a person about each case that `annotator` has not answered in `out`, a JSONL file of judgements.

    `read` shows a prompt and returns a line (such as `input`). Every answer is appended and synced at once; Ctrl-C, the
    end of input and q all end the session and lose nothing. A skipped case is asked again in the next session; an undone
    answer is withdrawn by a further line, for nothing in the file is edited. `elsewhere` says why a pair is not to be asked
    about now ("": it is): another person may have answered it meanwhile, or have it before them. `hold` hears which pair is
    shown, and "" at the end.
    """
    _drop_torn_line(out)
    done = {j.pair_id for j in read_judgements(out) if j.by == annotator}
    todo = [c for c in cases if c.pair.id not in done]
    given: dict[int, Judgement] = {}
    at, skipped, seconds, told = 0, set[int](), 0.0, set[str]()
    while at < len(todo):
        case = todo[at]
        if at not in given and (why := elsewhere(case.pair.id)):
            console.print(_safe(f"pair {case.pair.id[:12]} is left out: {why}"))
            at += 1
            continue
        hold(case.pair.id)
        order = shown_order(case.pair, seed, annotator)
        _show(case, order, console, f"{at + 1} of {len(todo)}", told)
        start = time.monotonic()
        while (answer := _answer(read, console)) == "o":
            _protocol(case, console, set())
        spent = time.monotonic() - start
        seconds += spent
        if answer == "q":
            break
        if answer == "u":
            at = max(0, at - 1)
            skipped.discard(at)
            if at in given:
                _append(out, {"withdrawn": given.pop(at).pair_id, "by": annotator})
                console.print("Taken back: here is the pair again.")
            continue
        if answer == "s":
            skipped.add(at)
            console.print("Skipped: it is asked again in the next session. u: back to it")
        else:
            given[at] = _judgement(case.pair, answer, order, annotator, spent)
            _append(out, plain(given[at]))
            console.print(f"Saved: {_said(answer)}. u: undo")
        at += 1
    hold("")
    problems = [j.problem for j in given.values()]
    return VerifyReport(
        judged=len(given), ties=problems.count("tie"), discarded=problems.count("cannot decide"), skipped=len(skipped),
        left=len(todo) - len(given), seconds=round(seconds, 1),
    )  # fmt: skip


def oracle(truth: Mapping[str, str]) -> Judge:
    """An annotator that knows the right answer: `truth` maps pair ids to the id of the better response.

    It stands in for people where a pool carries ground truth, and calls itself "oracle" in kind and name.
    """

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        return [_from_truth(case.pair, truth.get(case.pair.id)) for case in cases]

    return judge


def queue(pairs: Sequence[Pair], attributes: Mapping[str, Attributes]) -> list[Pair]:
    """`pairs` in the order in which people should see them: objective first, then low controversiality (A2, D.2).

    `attributes` maps pair ids; pairs without attributes come last. The order is otherwise kept.
    """
    levels = {"low": 0, "medium": 1, "high": 2}

    def rank(pair: Pair) -> tuple[bool, bool, int]:
        a = attributes.get(pair.id)
        return (
            (True, True, 3) if a is None else (False, a.objectivity != "objective", levels.get(a.controversiality, 3))
        )

    return sorted(pairs, key=rank)


def read_judgements(out: Path, pairs: Mapping[str, Pair] | None = None) -> list[Judgement]:
    """The standing judgements in a file of `verify`: the last one per pair and annotator, withdrawn ones left out.

    Raises AssayError, naming the line, where one is no judgement, or names a response that its pair in `pairs` has not.
    """
    return [j for j in _last_words(out, pairs or {}).values() if j is not None]


def taken_back(out: Path) -> set[str]:
    """The ids of pairs of which every word in a file of `verify` was withdrawn."""
    words: dict[str, bool] = {}
    for (pair_id, _), word in _last_words(out, {}).items():
        words[pair_id] = words.get(pair_id, False) or word is not None
    return {pair_id for pair_id, stands in words.items() if not stands}


def _last_words(out: Path, pairs: Mapping[str, Pair]) -> dict[tuple[str, str], Judgement | None]:
    """By pair and annotator, in the order in which they were said: the last judgement, or None where it was withdrawn."""
    said: dict[tuple[str, str], Judgement | None] = {}
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    lines = text.split("\n")
    if lines and not _whole(lines[-1]):  # torn by a crash: it was never acknowledged
        lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            withdrawn = "withdrawn" in row
            word: Judgement | None = None if withdrawn else build(Judgement, row)
            if word is not None:
                check(Judgement, word)
            key = (row["withdrawn"], row["by"]) if withdrawn else (row["pair_id"], row["by"])
        except (ValueError, KeyError, TypeError) as error:
            raise AssayError(
                f"{out}, line {number}: not a judgement ({error!r}); restore the file or remove the line"
            ) from error
        pair = pairs.get(key[0])
        if (
            word is not None
            and pair is not None
            and not {*word.shown, word.better} <= {None, *(r.id for r in pair.responses)}
        ):
            raise AssayError(
                f"{out}, line {number}: the judgement by {word.by} names a response that pair {pair.id} does not have; "
                "correct or remove the line"
            )
        said.pop(key, None)
        said[key] = word
    return said


def _whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def add_judgements(out: Path, judgements: Sequence[Judgement]) -> int:
    """Append to a file of `verify` what it does not hold yet, and return how many that were.

    A judgement that an annotator gave differently before replaces the older one (which stays in the file).
    """
    _drop_torn_line(out)
    standing = {(j.pair_id, j.by): j for j in read_judgements(out)}
    added = 0
    for judgement in judgements:
        held = standing.get((judgement.pair_id, judgement.by))
        if held is None or (held.better, held.problem) != (judgement.better, judgement.problem):
            standing[judgement.pair_id, judgement.by] = judgement
            _append(out, plain(judgement))
            added += 1
    return added


def withdraw_judgements(out: Path, judgements: Sequence[Judgement]) -> int:
    """Withdraw, by a further line each, those of `judgements` that stand in a file of `verify`; returns how many did."""
    _drop_torn_line(out)
    standing = {(j.pair_id, j.by): j for j in read_judgements(out)}
    stood = [j for j in judgements if standing.get((j.pair_id, j.by)) == j]
    for judgement in stood:
        _append(out, {"withdrawn": judgement.pair_id, "by": judgement.by})
    return len(stood)


def _from_truth(pair: Pair, better: str | None) -> Judgement:
    if better is None:
        return Judgement(pair_id=pair.id, better=None, by="oracle", kind="oracle", problem="no truth")
    assert better in (r.id for r in pair.responses), f"the truth of pair {pair.id} names no response of it"
    return Judgement(pair_id=pair.id, better=better, by="oracle", kind="oracle")


def _judgement(pair: Pair, answer: str, order: tuple[str, str], by: str, seconds: float) -> Judgement:
    side = "12".find(answer[0])
    return Judgement(
        pair_id=pair.id, better=order[side] if side >= 0 else None, by=by, kind="human", shown=order,
        problem=_PROBLEMS.get(answer, ""), seconds=round(seconds, 3),
        strength=_GRADES[answer[1:]][0] if side >= 0 else 0.0,
    )  # fmt: skip


def _said(answer: str) -> str:
    """An answer in words."""
    return _PROBLEMS.get(answer) or f"response {answer[0]} is {_GRADES[answer[1:]][1]}"


def _answer(read: Callable[[str], str], console: Console) -> str:
    """One of 1 1+ 1- 2 2+ 2- t d s u o q; asks until it gets one."""
    while True:
        try:
            line = read(_ASK).strip().lower()
        except (EOFError, KeyboardInterrupt):
            return "q"
        line = _WORDS.get(line, line)
        if line in _WORDS.values() or (line[:1] in ("1", "2") and line[1:] in _GRADES):
            return line
        console.print("Please answer with one of: 1 1+ 1- 2 2+ 2- t d s u o q")


def _show(case: Case, order: tuple[str, str], console: Console, title: str, told: set[str]) -> None:
    """The whole case as text: stacked, not side by side, so that it also reads well aloud. `told` are the sections of the
    protocol that were shown before: each is, once."""
    a = case.attributes
    guessed = "Guessed by rules from a few words of the question; trust your own reading.\n" if a.by == "rules" else ""
    about = (
        f"{a.category}, {a.objectivity}, {a.controversiality} controversiality\n{guessed}"
        f"Desired: {'; '.join(a.desired)}\nGuideline: {a.guideline}"
    )
    _protocol(case, console, told)
    console.print(Panel(_safe(conversation_text(case.pair.prompt)), title=f"Conversation {title}"))
    console.print(Panel(_safe(about), title="Attributes"))
    for number, response_id in enumerate(order, 1):
        console.print(Panel(_safe(response_text(case.pair.response(response_id))), title=f"Response {number}"))


def _protocol(case: Case, console: Console, told: set[str]) -> None:
    """The sections of the protocol for this task that are not in `told`, and put them there; without Markdown's marks."""
    sections = re.split(r"(?=^#+ )", protocol_for(case.attributes, tools=True), flags=re.MULTILINE)
    new = [s for s in (section.strip() for section in sections) if s and s not in told]
    told.update(new)
    if new:
        plainly = re.sub(r"^#+ |\*", "", "\n\n".join(new), flags=re.MULTILINE)
        console.print(Panel(_safe(plainly), title="Protocol (o: show it again)"))


def _safe(text: str) -> Text:
    """Plain text: no markup, and no control character that a response could steer the terminal with."""
    return Text(_CONTROL.sub("\ufffd", text))


def _append(out: Path, row: dict[str, Any]) -> None:
    """Add a line; the page and other terminals may do so at the same time."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _drop_torn_line(out: Path) -> None:
    """Cut a last line that a crash left without its end: it was never acknowledged. One that lacks but its newline stays."""
    if not out.exists():
        return
    with out.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        data = file.read()
        start = data.rfind(b"\n") + 1
        if start == len(data):
            return
        if _whole(data[start:].decode("utf-8", "replace")):
            file.write(b"\n")
        else:
            file.truncate(start)
