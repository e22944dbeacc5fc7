"""People: the queue, the terminal session, and the file in which nothing is lost."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from assay.curate.rules import rule_attributes
from assay.curate.verify import VerifyReport, add_judgements, oracle, queue, read_judgements, verify
from assay.errors import AssayError
from assay.records import Case, Judgement, Pair, Response, user
from assay.tables import build, plain


def pair(n: int, prompt: str = "Is water wet?") -> Pair:
    return Pair.of((user(f"{prompt} {n}"),), Response.of(f"yes {n}"), Response.of(f"no {n}"))


def case(p: Pair) -> Case:
    return Case(pair=p, attributes=rule_attributes(p))


CASES = [case(pair(n)) for n in range(4)]


def typing(text: str) -> Callable[[str], str]:
    """A reader that answers with the words of `text`, then with the end of input; "^C" is Ctrl-C."""
    words = iter(text.split())

    def read(prompt: str) -> str:
        word = next(words, None)
        if word is None:
            raise EOFError
        if word == "^C":
            raise KeyboardInterrupt
        return word

    return read


def session(out: Path, keys: str, annotator: str = "ann") -> tuple[VerifyReport, str]:
    screen = io.StringIO()
    report = verify(CASES, annotator, out, typing(keys), Console(file=screen, width=100), seed=1)
    return report, screen.getvalue()


def test_answers_name_the_response_that_was_shown(tmp_path: Path) -> None:
    report, screen = session(tmp_path / "j.jsonl", "1 2 t d")
    one, two, tie, discard = read_judgements(tmp_path / "j.jsonl")
    assert (one.better, two.better) == (one.shown[0], two.shown[1])
    assert (tie.problem, discard.problem) == ("tie", "cannot decide")
    assert {(j.by, j.kind) for j in (one, two, tie, discard)} == {("ann", "human")}
    assert (report.judged, report.ties, report.discarded, report.skipped, report.left) == (4, 1, 1, 0, 0)
    first = CASES[0].pair.response(one.shown[0]).text
    shown = screen.split("Response 1")[1].split("Response 2")[0]
    assert first in shown
    for text in ("Is water wet?", "Guideline:", "Protocol", "search engine"):
        assert text in screen


def test_the_order_is_random_per_pair_and_annotator(tmp_path: Path) -> None:
    cases = [case(pair(n)) for n in range(100)]
    for name in ("a", "b"):
        verify(cases, name, tmp_path / name, lambda _: "1", Console(file=io.StringIO()), seed=0)
    a, b = read_judgements(tmp_path / "a"), read_judgements(tmp_path / "b")
    assert 30 < sum(j.shown == tuple(r.id for r in c.pair.responses) for j, c in zip(a, cases, strict=True)) < 70
    assert 30 < sum(x.shown == y.shown for x, y in zip(a, b, strict=True)) < 70


def test_the_next_session_goes_on_where_this_one_ended(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "j.jsonl"
    assert session(out, "1 s ^C")[0].left == 3
    assert len(read_judgements(out)) == 1
    report, screen = session(out, "2 2 q")
    assert (report.judged, report.left) == (2, 1)
    assert "1 of 3" in screen
    assert "yes 0" not in screen
    assert session(out, "1")[0].left == 0
    assert session(out, "")[0] == VerifyReport(judged=0, ties=0, discarded=0, skipped=0, left=0, seconds=0.0)
    assert len(out.read_text().splitlines()) == 4


def test_undo_withdraws_the_answer_and_asks_again(tmp_path: Path) -> None:
    out = tmp_path / "j.jsonl"
    session(out, "1 u 2 q")
    (j,) = read_judgements(out)
    assert j.better == j.shown[1]
    assert len(out.read_text().splitlines()) == 3
    session(out, "1 u q")
    assert len(read_judgements(out)) == 1
    report, _ = session(out, "u s u 1 q")
    assert (report.judged, report.skipped) == (1, 0)


def test_annotators_do_not_see_or_stop_each_other(tmp_path: Path) -> None:
    out = tmp_path / "j.jsonl"
    session(out, "1 1 1 1", "ann")
    assert session(out, "2 2 2 2", "bob")[0].judged == 4
    assert len(read_judgements(out)) == 8


def test_the_protocol_is_shown_once_and_on_request(tmp_path: Path) -> None:
    _, screen = session(tmp_path / "j.jsonl", "1 1 1 1")
    assert screen.count("Read both responses to the end") == 1
    assert screen.count("Conversation 4 of 4") == 1
    assert "## " not in screen
    _, screen = session(tmp_path / "other.jsonl", "1 o 1 q")
    assert screen.count("Read both responses to the end") == 2


def test_another_kind_of_task_brings_its_section_of_the_protocol(tmp_path: Path) -> None:
    code = case(pair(9, "Write a Python function that adds two numbers."))
    assert code.attributes.category != CASES[0].attributes.category
    screen = io.StringIO()
    verify([CASES[0], code], "a", tmp_path / "j", typing("1 1"), Console(file=screen, width=100))
    assert screen.getvalue().count("Category: Coding & Debugging") == 1
    assert screen.getvalue().count("Read both responses to the end") == 1


def test_the_six_grades_of_the_page(tmp_path: Path) -> None:
    for keys, side, strength in (
        ("1+", 0, 3.0),
        ("1", 0, 2.0),
        ("1-", 0, 1.0),
        ("2-", 1, 1.0),
        ("2", 1, 2.0),
        ("2+", 1, 3.0),
    ):
        out = tmp_path / f"{keys}.jsonl"
        _, screen = session(out, f"{keys} q")
        (said,) = read_judgements(out)
        assert (said.better, said.strength) == (said.shown[side], strength)
        assert f"Saved: response {side + 1} is" in screen


def test_each_action_is_told(tmp_path: Path) -> None:
    _, screen = session(tmp_path / "j.jsonl", "2+ u t s q")
    for text in ("Saved: response 2 is much better. u: undo", "Taken back", "Saved: tie", "Skipped"):
        assert text in screen


def test_attributes_that_rules_guessed_say_so_and_order_no_search(tmp_path: Path) -> None:
    _, screen = session(tmp_path / "j.jsonl", "q")
    assert CASES[0].attributes.by == "rules"
    assert "Guessed by rules" in screen
    assert "This is required" not in screen


def test_a_wrong_key_is_asked_again(tmp_path: Path) -> None:
    report, screen = session(tmp_path / "j.jsonl", "x 3 12 tie q")
    assert screen.count("Please answer") == 3
    assert (report.judged, report.ties) == (1, 1)


def test_a_line_torn_by_a_crash_is_dropped_and_asked_again(tmp_path: Path) -> None:
    out = tmp_path / "j.jsonl"
    session(out, "1 1 q")
    out.write_bytes(out.read_bytes()[:-20])
    assert len(read_judgements(out)) == 1
    assert session(out, "2 2 2")[0].judged == 3
    assert len(read_judgements(out)) == 4


def test_a_broken_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text("{}\n")
    with pytest.raises(AssayError, match="line 1: not a judgement"):
        read_judgements(tmp_path / "j.jsonl")


def test_a_response_cannot_steer_the_terminal(tmp_path: Path) -> None:
    evil = Pair.of((user("hi"),), Response.of("\x1b[2J[red]gone[/red]"), Response.of("b"))
    screen = io.StringIO()
    verify([case(evil)], "a", tmp_path / "j", typing("1"), Console(file=screen, force_terminal=False))
    assert "\x1b" not in screen.getvalue()
    assert "[red]gone[/red]" in screen.getvalue()


def test_the_oracle_says_the_truth_and_its_name() -> None:
    truth = {c.pair.id: c.pair.responses[1].id for c in CASES[:3]}
    judgements = oracle(truth)(CASES)
    assert [j.better for j in judgements] == [*truth.values(), None]
    assert judgements[3].problem == "no truth"
    assert {(j.by, j.kind) for j in judgements} == {("oracle", "oracle")}


def test_the_queue_has_objective_and_uncontroversial_pairs_first() -> None:
    prompts = ["Write a poem.", "Why is abortion debated?", "Is water wet?", "Should I invest?", "What is a law?", "?!"]
    pairs = [pair(n, p) for n, p in enumerate(prompts)]
    attributes = {p.id: rule_attributes(p) for p in pairs[:5]}
    assert [pairs.index(p) for p in queue(pairs, attributes)] == [2, 4, 1, 0, 3, 5]
    assert queue([], {}) == []


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


def said(p: Pair, better: object, by: str = "ann", **more: object) -> dict[str, object]:
    return {**plain(Judgement(pair_id=p.id, better="x", by=by, kind="human")), "better": better, **more}


def test_a_judgement_that_names_a_foreign_response_is_refused_with_its_line(tmp_path: Path) -> None:
    out, p = tmp_path / "j.jsonl", pair(0)
    right = p.responses[0].id
    foreign = pair(1).responses[0].id
    out.write_text(lines(said(p, right), said(p, foreign, by="bob")))
    assert len(read_judgements(out)) == 2, "nothing is known of the pair here"
    with pytest.raises(AssayError, match=rf"j\.jsonl, line 2: the judgement by bob names a response that pair {p.id}"):
        read_judgements(out, {p.id: p})
    out.write_text(lines(said(p, right, shown=[right, foreign])))
    with pytest.raises(AssayError, match="line 1"):
        read_judgements(out, {p.id: p})


@pytest.mark.parametrize(
    "change", [{"better": 5}, {"kind": "wizard"}, {"seconds": "long"}, {"by": None}, {"shown": [1]}]
)
def test_a_line_of_another_type_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    out = tmp_path / "j.jsonl"
    out.write_text(lines(said(pair(0), pair(0).responses[0].id), {**said(pair(0), "x"), **change}))
    with pytest.raises(AssayError, match=r"j\.jsonl, line 2: not a judgement"):
        read_judgements(out)


def test_a_last_line_without_its_newline_counts_and_a_torn_one_does_not(tmp_path: Path) -> None:
    """Other tools (and people) leave the newline out; only what a crash cut is dropped."""
    out = tmp_path / "j.jsonl"
    text = lines(*(said(pair(n), pair(n).responses[0].id) for n in range(2)))
    out.write_text(text[:-1])
    assert len(read_judgements(out)) == 2
    add_judgements(out, [build(Judgement, said(pair(2), pair(2).responses[0].id))])
    assert {j.pair_id for j in read_judgements(out)} == {pair(n).id for n in range(3)}
    out.write_text(text[:-9])
    assert len(read_judgements(out)) == 1
    add_judgements(out, [build(Judgement, said(pair(2), pair(2).responses[0].id))])
    assert {j.pair_id for j in read_judgements(out)} == {pair(0).id, pair(2).id}
