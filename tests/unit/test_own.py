"""A user's own questions, pairs and preferences: what is read, what is left out and counted, what stays as it was drawn."""

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

import tiny_models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy.config import AskConfig, FitConfig, PairConfig, PolicyConfig, SamplerConfig
from assay.records import Message, Preference, Response, assistant, user
from assay.rollouts import Prompt
from assay.run import Run
from assay.tables import Table, remove
from assay.tuning import own_pairs, questions
from assay.tuning.exam import COMMON, exam_of, overlap
from assay.tuning.own_pairs import SampledPreference, run_mpo
from assay.tuning.reward_model import RewardModelConfig

PIL = pytest.importorskip("PIL.Image")


def asked(picture: str, answer: str, question: str = "which?") -> Prompt:
    return Prompt(messages=(Message(role="user", content=question, images=(picture,)),), answer=answer)


def test_a_picture_is_swapped_with_that_of_the_same_question_with_another_answer() -> None:
    prompts = [asked("a", "red"), asked("b", "Red."), asked("c", "blue"), asked("d", ""), asked("e", "up", "where?")]
    exam = exam_of([*prompts, Prompt(messages=(user("which?"),), answer="green")])
    assert exam.swapped[:2] == ("c", "c")
    assert exam.swapped[2] in ("a", "b")
    assert exam.swapped[3:] == ("", "", "")
    assert exam.first(3).swapped == exam.swapped[:3]
    often = exam_of([asked(str(i), "red") for i in range(COMMON)] + [asked("e", "up", "where?")])
    assert often.wordings == (*["which?"] * COMMON, "")


def test_an_exam_compares_no_two_questions_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with each, 2,000 questions of one wording took hours, where answers are formulas."""
    asked_for = []
    monkeypatch.setattr("assay.tuning.exam.same", lambda *given: asked_for.append(given) or given[0] == given[1])  # type: ignore[func-returns-value]
    prompts = [replace(asked(str(i), f"x + {i % 7}"), kind="math") for i in range(500)]
    exam = exam_of(prompts)
    assert len(asked_for) <= 500
    answers = {p.images[0]: p.answer for p in prompts}
    assert all(s and answers[s] != p.answer for p, s in zip(prompts, exam.swapped, strict=True))
    assert len(set(exam.swapped)) > 100, "not always the same picture"
    rare = exam_of([*(asked(str(i), "red") for i in range(300)), asked("blue one", "blue")])
    assert set(rare.swapped[:300]) == {"blue one"}


def test_what_two_sets_share_is_told_and_named() -> None:
    mine = [asked("a", "red", f"which {i}?") for i in range(8)]
    theirs = [*mine[1:8], asked("b", "red", "which 1?"), asked("a", "red", "another?")]
    first, *named = overlap({"trained on": mine, "watched": theirs, "gold": []})
    assert first == (
        "of 9 questions that are watched, 7 are trained on as well; 8 have a text and 8 a picture of these"
    )
    assert named == [f"  both trained on and watched: 'which {i}?'" for i in range(1, 6)] + ["  ... and 2 more"]
    assert overlap({"trained on": mine, "watched": [asked("c", "red", "else?")]}) == []
    (text,) = overlap({"trained on": mine, "gold": [asked("c", "red", "which 1?")]})
    assert "0 are trained on as well; 1 have a text and 0 a picture" in text


def test_the_instruction_ends_a_question_and_the_system_prompt_begins_it() -> None:
    ask = AskConfig(instruction="box it.", system="be short")
    own = Message(role="system", content="mine")
    tool = Message(role="user", content="2?", tools="[]")
    prompts = [asked("a", "red"), Prompt(messages=(own, user("1?")), answer="1"), Prompt(messages=(tool,))]
    plain, other, called = questions.asked_so(prompts, ask)
    assert [(m.role, m.content, m.images) for m in plain.messages] == [
        ("system", "be short", ()), ("user", "which?\n\nbox it.", ("a",)),
    ]  # fmt: skip
    assert (plain.answer, other.messages) == ("red", (own, user("1?\n\nbox it.")))
    assert [m.tools for m in called.messages] == ["[]", ""], "on the first message"
    assert questions.asked_so(prompts, AskConfig()) == prompts


def test_facts_absent_and_conversations_of_own_questions(tmp_path: Path) -> None:
    PIL.new("RGB", (8, 8), "red").save(tmp_path / "1.png")
    rows = [
        {"question": "which?", "facts": ["red", "red"], "absent": ["blue"], "image": "1.png"},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q", "images": ["1.png"]}]},
        {"messages": [{"role": "user", "content": "gone", "images": ["2.png"]}]},
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    store = ImageStore(tmp_path / "store")
    prompts, rejected = questions.read(path, store)
    assert (prompts[0].facts, prompts[0].absent) == (("red",), ("blue",))
    assert [m.role for m in prompts[1].messages] == ["system", "user"]
    assert prompts[1].images == prompts[0].images
    assert [r.row for r in rejected] == [3]
    told, _ = questions.captions(_file(tmp_path, {"image": "1.png", "caption": "a red one"}), store, "say it")
    assert [(p.messages[0].content, p.images, c) for p, c in told] == [("say it", prompts[0].images, "a red one")]


def _file(folder: Path, row: object) -> Path:
    path = folder / "one.jsonl"
    path.write_text(json.dumps(row))
    return path


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "a", "facts": "red"}, "field 'facts': is not a list of words"),
        ({"question": "a", "absent": [" "]}, "field 'absent': is not a list of words"),
        ({"question": "a", "facts": ["red"], "absent": ["red"]}, "field 'absent': 'red' is among the facts too"),
        ({"messages": []}, "field 'messages': is not a list"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "that ends with the user"),
        ({"messages": [{"role": "judge", "content": "a"}]}, "field 'messages[0].role': is not a known role (judge)"),
        ({"messages": [{"role": "user"}]}, "field 'messages[0].content': is missing"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(tmp_path: Path, row: object, said: str) -> None:
    with pytest.raises(AssayError, match="row 1") as caught:
        questions.read(_file(tmp_path, row))
    assert said in str(caught.value)


def test_captions_need_a_picture(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="row 1, field 'image': is missing"):
        questions.captions(_file(tmp_path, {"caption": "a"}), ImageStore(tmp_path), "say it")


def sampled(name: str, **changes: object) -> SampledPreference:
    """ "abcd", cut off before its end, against "x"."""
    pair = SampledPreference(
        pair_id=name, prompt=(user("say"),), chosen=Response.of("<abcd"), rejected=Response.of("<x"), start="<",
        chosen_ids=(6, 7, 8, 9), rejected_ids=(29, 1),
    )  # fmt: skip
    return replace(pair, **changes)  # type: ignore[arg-type]


def test_sampled_tokens_are_trained_on_as_they_were_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_models.save_language(tmp_path / "lm")
    rows = [
        sampled("0"), sampled("1", chosen_ids=(5, 5)), sampled("2", chosen=Response.of("< ")),
        sampled("3", prompt=(user("y" * 600),)), sampled("4", rejected=Response.of("<abcd"), rejected_ids=(6, 7, 8, 9)),
        sampled("5", chosen=Response(messages=(assistant("<a"), user("b"), assistant("<c")))),
    ]  # fmt: skip
    Table(tmp_path / "pairs", SampledPreference).write("pairs", rows)
    seen = []
    result = SimpleNamespace(examples=0, steps=0, loss=0.0)
    monkeypatch.setattr("assay.policy.mpo.fit", lambda *given, **_: seen.append(given[3]) or result)  # type: ignore[func-returns-value]
    run_mpo(str(model), tmp_path / "pairs", tmp_path / "out", FitConfig(), PolicyConfig(), None, ())
    (first, other), said = seen[0], capsys.readouterr().out
    prompt = tiny_models.tokenizer()("[u]say[a]<", add_special_tokens=False)["input_ids"]
    assert list(first.prompt) == list(other.prompt) == prompt
    assert [first.chosen.tolist(), first.rejected.tolist()] == [[6, 7, 8, 9], [29, 1]], "what was cut off gets no end"
    assert other.chosen.tolist() == [6, 7, 8, 9, 1], "ids that mean another text here are not used"
    for reason in ("the chosen answer is empty", "longer than 512 tokens", "the same answer twice", "several turns"):
        assert f"1 pairs left out: {reason}" in said.replace("answers of several", "several")


def test_preferences_of_others_have_no_sampled_tokens(tmp_path: Path) -> None:
    pair = Preference(pair_id="0", prompt=(user("a"),), chosen=Response.of("b"), rejected=Response.of("c"))
    Table(tmp_path / "a", Preference).write("part", [pair])
    (read,) = own_pairs._read(tmp_path / "a", 0)
    assert (read.prompt, read.chosen, read.start, read.chosen_ids) == (pair.prompt, pair.chosen, "", ())
    pl.read_parquet(tmp_path / "a/part.parquet").drop("margin").write_parquet(tmp_path / "a/part.parquet")
    assert own_pairs._read(tmp_path / "a", 0) == [read]


def test_a_mistake_at_the_first_try_leaves_nothing_that_refuses_the_second(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path, out = tmp_path / "q.jsonl", tmp_path / "pairs"
    model = str(tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3"))
    path.write_text("")
    rest = (PairConfig(), PolicyConfig(), SamplerConfig(), RewardModelConfig(), "", 1, 0)
    with pytest.raises(AssayError, match="no questions"):
        own_pairs.run_pairs(model, path, out, *rest)
    path.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    with pytest.raises(AssayError, match="cannot load the model"):
        own_pairs.run_pairs("nowhere", path, out, *rest)
    assert [p.name for p in tmp_path.iterdir()] == ["q.jsonl"]


def test_a_process_that_is_late_reads_nothing_that_the_lead_has_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs on two processes: the lead moves them to their place when all are there, and the other may stand still then."""
    with closing(Run(tmp_path / "pairs.partial", {"x": 1})) as lead:

        class Other:
            lead = False

            def __init__(self, *_: object) -> None:
                pass

            def lead_says(self, _: object) -> Any:
                return "", lead.place, True

        def work(self: Any, *_: object) -> dict[str, Any]:
            remove(self.run.folder)
            return {"counts": {"pairs": 2}, "told_by": {"rules": 2}}

        monkeypatch.setattr("assay.step.Engine", Other)
        monkeypatch.setattr(own_pairs._Making, "work", work)
        rest = (PairConfig(), PolicyConfig(), SamplerConfig(), RewardModelConfig(), "", 1, 0)
        said = own_pairs.run_pairs("model", tmp_path / "q.jsonl", tmp_path / "pairs", *rest)
    assert said.startswith("2 pairs (2 by rules)")
