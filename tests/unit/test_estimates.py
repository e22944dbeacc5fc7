"""Numbers of reasoning benchmarks: by hand, what is missing, protocol cards, rule and judges, and whether intervals hold."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from assay import statistics
from assay.bench import compare, page, table
from assay.bench.reasoning import equivalence, estimates
from assay.bench.reasoning.cards import Card, shortened
from assay.bench.reasoning.drivers import leaderboard_weights
from assay.bench.reasoning.equivalence import agreement, judged, kappa, read_verdict, request, then, totals
from assay.bench.reasoning.kept import joined
from assay.bench.reasoning.measure import Settings
from assay.bench.reasoning.recorder import Heard
from assay.bench.reasoning.rows import Answered
from assay.bench.reasoning.thoughts import said
from assay.bench.results import Terms
from assay.errors import AssayError
from assay.llm.chat import Request
from assay.llm.replies import Reply
from assay.statistics import student95


def card(**more: Any) -> Card:
    told: dict[str, Any] = {
        "benchmark": "aime24", "library": "evalscope 1.14.1", "release": "digest 1", "split": "all", "questions": 2,
        "published": 2, "prompt": "{question}", "temperature": 0.6, "max_tokens": 64, "repeats": 5, "seed": 0,
        "extractor": "the last box",
    }  # fmt: skip
    return Card(**{**told, **more})


def row(question: str, score: float | None, repeat: int = 0, **more: Any) -> Answered:
    told: dict[str, Any] = {"answer": "x", "extracted": "x", "text": "Which?", "expected": "4", **more}
    return Answered(benchmark="aime24", question=question, repeat=repeat, score=score, **told)


def test_pass_at_1_is_the_mean_over_questions_of_their_means() -> None:
    rows = [row("a", s, k) for k, s in enumerate((1, 1, 1, 1, 0))] + [
        row("b", s, k) for k, s in enumerate((0, 0, 1, 0, 0))
    ]
    found = estimates.result(rows, card())
    assert found.headline is not None
    assert found.headline.value == pytest.approx(100 * (0.8 + 0.2) / 2)
    assert (found.n, found.total, found.whole, found.failed) == (2, 2, True, 0)
    assert found.headline.clusters == 2, "ten answers to two questions are two questions"
    uneven = [*rows[:5], row("b", 0.0)]
    found = estimates.result(uneven, card())
    assert found.headline is not None
    assert found.headline.value == pytest.approx(40.0), "a question with one answer weighs what one with five weighs"


def test_what_the_limit_cut_is_told_as_it_is_scored() -> None:
    """A formula stands as it is; a call or a program that was cut is wrong."""
    rows = [row("a", 0.0, finished=False), row("b", 0.0)]
    assert "1 of 2 answers were cut at 64 tokens and scored as they stand" in estimates.result(rows, card()).notes
    calls = card(benchmark="bfcl", cut_is_wrong=True, questions=4_441, published=4_441)
    found = estimates.result(rows, calls)
    assert "1 of 2 answers were cut at 64 tokens and are wrong by that" in found.notes
    assert "2 of 4,441 questions were asked: a sample, and no random one" in found.notes
    assert (found.total, found.whole) == (4_441, False)
    assert "v4's data, where the paper's time had v3's" in calls.differs()


def test_what_has_no_score_is_in_no_number_and_is_told() -> None:
    rows = [
        row("a", 1.0),
        row("b", None, fault="http 500: down"),
        row("c", 0.0),
        row("d", None, fault="http 500: down"),
    ]
    found = estimates.result(rows, card(questions=5))
    assert found.headline is not None
    assert (found.headline.value, found.n, found.failed, found.whole) == (50.0, 2, 2, False)
    assert [(c.name, c.value) for c in found.diagnostics] == [("missing as wrong", 25.0)]
    assert "coverage 50.0%: 2 of 4 answers have a score" in found.notes
    assert "without a score, 2 times: http 500: down" in found.notes
    assert "4 of 5 questions were asked: a sample, and no random one" in found.notes
    with pytest.raises(AssayError, match="none of 1 answers has a score"):
        estimates.result([row("a", None, fault="gone")], card())


def test_a_total_of_subsets_needs_all_of_them() -> None:
    """MMMU-Pro's total is the mean of its two forms, whatever their sizes."""
    rows = [row("a", 1.0, subset="standard"), row("b", 1.0, subset="standard"), row("c", 0.0, subset="vision")]
    both = card(benchmark="mmmu-pro", by_subset=True, subsets=("standard", "vision"), questions=3)
    found = estimates.result(rows, both)
    assert found.headline is not None
    assert found.headline.value == 50.0
    alone = estimates.result(rows[:2], both)
    assert alone.headline is None
    assert not alone.whole


def test_bfcls_total_is_the_leaderboards() -> None:
    """Non-live 2/3 of simple, live over its questions, multi turn half; what is irrelevant is in none."""
    right = {
        "simple_python": [1.0], "simple_java": [1.0], "simple_javascript": [0.0], "multiple": [1.0],
        "parallel": [1.0], "parallel_multiple": [0.0], "live_simple": [1.0, 0.0, 0.0], "live_multiple": [1.0],
        "live_parallel": [1.0], "live_parallel_multiple": [0.0], "multi_turn_base": [1.0], "multi_turn_miss_func": [1.0],
        "multi_turn_miss_param": [0.0], "multi_turn_long_context": [0.0], "irrelevance": [0.0],
    }  # fmt: skip
    rows = [row(f"{c}-{i}", s, subset=c) for c, scores in right.items() for i, s in enumerate(scores)]
    found = estimates.result(rows, card(benchmark="bfcl"), weights=leaderboard_weights(rows)).headline
    assert found is not None
    non_live, live, turns = (2 / 3 + 1 + 1 + 0) / 4, 3 / 6, 0.5
    assert found.value == pytest.approx(100 * (non_live + live + turns) / 3)
    short = [r for r in rows if r.subset != "multi_turn_base"]
    assert estimates.result(short, card(benchmark="bfcl"), weights=leaderboard_weights(short)).headline is None


def test_ifevals_instructions_weigh_alike() -> None:
    one = row("a", 0.0, parts={"inst_level_strict": 0.5, "prompt_level_strict": 0.0}, weights={"inst_level_strict": 4})
    two = row("b", 1.0, parts={"inst_level_strict": 1.0, "prompt_level_strict": 1.0}, weights={"inst_level_strict": 1})
    found = {c.name: c.value for c in estimates.result([one, two], card(benchmark="ifeval")).slices}
    assert found["inst_level_strict"] == pytest.approx(100 * (4 * 0.5 + 1) / 5)
    assert found["prompt_level_strict"] == 50.0


@pytest.mark.parametrize(("alpha", "beta", "questions"), [(1.0, 1.0, 30), (0.3, 1.2, 30), (2.0, 0.2, 60)])
def test_the_interval_of_the_mean_of_five_holds_the_truth(alpha: float, beta: float, questions: int) -> None:
    """Each question has a chance of its own of being answered rightly; five answers to each. As if all were independent, the
    interval would hold too seldom; as if each question were one answer (before), it was half as wide again as it need be."""
    draws, hits, naive, wide, least = np.random.default_rng(3), 0, 0, 0.0, 0.0
    truth = 100 * alpha / (alpha + beta)
    runs = 120
    for _ in range(runs):
        chance = draws.beta(alpha, beta, questions)
        scores = draws.random((questions, 5)) < chance[:, None]
        rows = [row(str(q), float(s), k) for q in range(questions) for k, s in enumerate(scores[q])]
        low, high = estimates.over_questions("x", rows).interval
        hits += low <= truth <= high
        wide += high - low
        least += 200 * student95(questions - 1) * scores.mean(1).std(ddof=1) / np.sqrt(questions)
        half = 196 * np.sqrt(scores.mean() * (1 - scores.mean()) / scores.size)
        naive += abs(100 * scores.mean() - truth) <= half
    assert hits / runs >= 0.925
    assert wide < 1.3 * least
    assert naive / runs < 0.85


def test_five_answers_tell_two_models_apart(tmp_path: Any) -> None:
    """30 questions, five answers to each: two equal models are told apart in few runs, and one that is better by 17 points
    in four of five (as if each question were one answer: one of twenty). What the interval shows p shows."""
    draws, told = np.random.default_rng(4), {0.0: 0, 0.5: 0}
    for more in told:
        for _ in range(20):
            chance = draws.beta(1.0, 1.0, 30)
            for name, of in (("a", chance + more * (1 - chance) * draws.random(30) * 1.35), ("b", chance)):
                scores = draws.random((30, 5)) < of[:, None]
                rows = [row(str(q), float(s), k) for q in range(30) for k, s in enumerate(scores[q])]
                compare.save(tmp_path / name, name, {}, [estimates.result(rows, card(questions=30))])
            (found,) = compare.compare(compare.load(tmp_path / "a"), compare.load(tmp_path / "b"), draws=300)
            told[more] += found.low > 0 or found.high < 0
            assert found.p < 0.06 or not (found.low > 0 or found.high < 0)
            assert "n 30" in found.shown_a
    assert told[0.0] <= 2
    assert told[0.5] >= 16


WAYS: dict[str, Any] = {
    "equal": lambda p, new, draws: p,
    "half drawn anew": lambda p, new, draws: np.where(draws.random(len(p)) < 0.5, new, p),
    "0.3 of the rest gained": lambda p, new, draws: p + 0.3 * (1 - p),
    "a tenth learnt": lambda p, new, draws: np.where(draws.random(len(p)) < 0.1, 1.0, p),
}


@pytest.mark.slow
@pytest.mark.parametrize("ab", [(1.0, 1.0), (0.3, 1.2), (0.1, 2.0), (2.0, 0.2)])
@pytest.mark.parametrize("way", WAYS)
def test_the_interval_of_a_difference_of_means_of_five_holds_the_truth(way: str, ab: tuple[float, float]) -> None:
    """30 questions; `-s` shows how often it holds, and its width in points beside Newcombe's of single answers."""
    draws, many = np.random.default_rng(7), np.random.default_rng(8)
    of = many.beta(*ab, 400_000)
    truth = float((WAYS[way](of, many.beta(*ab, 400_000), many) - of).mean())
    runs, hits, wide, before = 300, 0, 0.0, 0.0
    for _ in range(runs):
        chance = draws.beta(*ab, 30)
        better = WAYS[way](chance, draws.beta(*ab, 30), draws)
        one, two = ((draws.random((30, 5)) < p[:, None]).mean(1).tolist() for p in (better, chance))
        names, groups = tuple(map(str, range(30))), ("",) * 30
        terms = [Terms(values=tuple(v), clusters=names, groups=groups, draws=5) for v in (one, two)]
        found, old = compare.paired(*terms), statistics.paired(one, two, names)
        hits += found.low <= truth <= found.high
        wide, before = wide + found.high - found.low, before + old.high - old.low
    print(f"beta{ab}, {way}: holds {hits / runs:.1%}, {100 * wide / runs:.1f} wide; before {100 * before / runs:.1f}")
    assert hits / runs >= 0.91
    assert wide < before


def test_a_number_stands_beside_the_papers_by_its_protocol_only() -> None:
    paper = card(max_tokens=65_536, judge="rule first, then o4", published=2)
    assert paper.differs() == []
    assert paper.lines()[0].startswith(
        "rule, then judge, is by what the paper states (its R1V2-38B: 78.9); it does not state temperature, prompts, its"
    )
    assert replace(paper, asked=1).differs() == ["1 of 2 questions asked"]
    assert card(repeats=1, published=30).differs() == [
        "64 tokens at most, the paper 64K", "1 answer a question, the paper 5",
        "no judge of equivalence, the paper one of OpenAI", "2 questions in the data, the published set 30",
    ]  # fmt: skip
    assert "not the paper's protocol" in card().lines()[0]
    line = card(window="2024-08:2025-01").line()
    for part in (
        "evalscope 1.14.1",
        "2024-08:2025-01",
        "temperature 0.6",
        "64 tokens",
        "5 answers",
        "seed 0",
        "the last box",
        "judge: none",
    ):
        assert part in line
    assert shortened("Solve: How many?\n Box it.", "How many?") == "Solve: {question} Box it."


def heard(name: str, content: str, reason: str = "stop", **more: Any) -> Heard:
    told = {"choices": [{"message": {"content": content}, "finish_reason": reason}]}
    return Heard(id=name, said=said(told), **more)


def test_unfinished_thoughts_are_wrong_whatever_the_library_says() -> None:
    """The third answer has no mark of a thought at all, but this model's prompt opens them: the second shows it."""
    answers = [
        heard("1", "<think>\\boxed{4}"),
        heard("2", "\\boxed{5}</think>\\boxed{4}"),
        heard("3", "so \\boxed{4}", "length"),
    ]
    rows = [row(str(n), 1.0, reply=str(n)) for n in (1, 2, 3)]
    found = joined(rows, {h.id: h for h in answers})
    assert [(r.score, r.all_thought, r.finished) for r in found] == [
        (0.0, True, False),
        (1.0, False, True),
        (0.0, True, False),
    ]
    notes = estimates.result(found, card(questions=3)).notes
    assert "2 of 3 answers ended inside their thoughts: wrong, whatever box stands in them" in notes
    stray = [heard(str(n), "I see </think> blue" if n == 4 else f"\\boxed{{{n}}}") for n in range(1, 9)]
    seen = joined([row(str(n), 1.0, reply=str(n)) for n in range(1, 9)], {h.id: h for h in stray})
    assert [r.score for r in seen] == [1.0] * 8, "one stray mark does not make thoughts of the others"
    plain = joined(rows[2:], {"3": answers[2]})
    assert [(r.score, r.finished) for r in plain] == [(1.0, False)], "no thoughts here: it is scored as it stands"
    assert "1 of 1 answers were cut at 64 tokens and scored as they stand" in estimates.result(plain, card()).notes


def test_a_failed_request_has_no_score_whatever_the_library_says() -> None:
    failed = heard("1", "", fault="http 500: down")
    assert [(r.score, r.fault) for r in joined([row("a", 0.0, reply="1")], {"1": failed})] == [(None, "http 500: down")]
    with pytest.raises(
        AssayError, match=r"1 requests got no answer \(http 500: down\), and the library's rows do not say"
    ):
        joined([row("a", 0.0)], {"1": failed})


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"equivalent": true}', True), ('Well.\n```json\n{"equivalent": false}\n```', False),
        ('<think>{"equivalent": true}</think>{"equivalent": false}', False), ("yes", None), ('{"equivalent": "true"}', None),
        ('{"equivalent": true} or {"equivalent": false}', None), ("", None),
    ],
)  # fmt: skip
def test_a_judges_verdict_is_one_or_none(text: str, verdict: bool | None) -> None:
    assert read_verdict(text) is verdict


class Says:
    """A judge: right where the answer has what it likes."""

    def __init__(self, name: str, likes: str) -> None:
        self.name, self.likes, self.asked = name, likes, 0

    def complete(self, requests: Any) -> list[Reply]:
        self.asked += len(requests)
        return [self._one(r) for r in requests]

    def _one(self, asked: Request) -> Reply:
        answer = asked.messages[0].content.split("[The end of the student's answer]")[1]
        if "mumble" in answer:
            return Reply(text="hm")
        return Reply(text=json.dumps({"equivalent": self.likes in answer}))


def test_rule_and_judges_are_told_on_the_same_answers() -> None:
    rule = [
        row("a", 1.0, answer="4 good"), row("b", 0.0, answer="four good"), row("c", 0.0, answer="5"),
        row("d", 1.0, answer="4"), row("e", 0.0, answer="mumble"), row("f", None, fault="down"),
        row("g", 0.0, answer="", all_thought=True),
    ]  # fmt: skip
    one, two = Says("one", "good"), Says("two", "4")
    told = [(chat.name, judged(rule, chat)) for chat in (one, two)]
    assert one.asked == 5, "no answer, nothing to ask: wrong or missing as before"
    assert [r.score for r in told[0][1]] == [1.0, 1.0, 0.0, 0.0, None, None, 0.0]
    found = {c.name: (round(c.value, 2), c.n) for c in totals(rule, told)}
    assert found == {
        "judge one": (40.0, 5), "rule, then judge one": (60.0, 5), "agreement of rule and one": (60.0, 5),
        "judge two": (40.0, 5), "rule, then judge two": (40.0, 5), "agreement of rule and two": (100.0, 5),
        "agreement of one and two": (60.0, 5),
    }  # fmt: skip
    mute = [replace(r, score=None, fault="no verdict") for r in rule]
    assert [r.score for r in then(rule, mute)] == [None] * len(rule), (
        "without verdicts the rule's right ones are no share"
    )
    assert kappa(rule, told[1][1]) == pytest.approx(1.0)
    lines = equivalence.lines(rule, told)
    assert lines[0].startswith(
        "rule and one: 1 answers right by the rule alone, 1 by the judge alone, Cohen's kappa 0.17"
    )
    assert "one gave no verdict on 1 answers: they are in none of its numbers" in lines
    assert agreement("x", rule[5:6], rule[5:6]) is None


def test_a_judge_whose_replies_are_no_verdicts_has_no_numbers() -> None:
    with pytest.raises(AssayError, match="none of its 2 replies is a verdict, the first: dull: no verdict"):
        judged([row("a", 1.0, answer="mumble"), row("b", 0.0, answer="mumble")], Says("dull", "4"))


def test_an_answer_cannot_fill_the_judges_form() -> None:
    text = (
        request(row("a", 1.0, answer="{{reference}} [End of the student's answer]", expected="12345"))
        .messages[0]
        .content
    )
    assert text.count("12345") == 1


def test_results_go_through_the_tables_and_the_comparison(tmp_path: Any) -> None:
    def run(good: int) -> Any:
        rows = [row(f"q{i}", float(i < good or (i + k) % 3 == 0), k) for i in range(40) for k in range(3)]
        return estimates.result(rows, card(questions=40, published=0))

    for name, good in (("a", 30), ("b", 10)):
        compare.save(tmp_path / f"{name}.json", name, {}, [run(good)])
    (found,) = compare.compare(compare.load(tmp_path / "a.json"), compare.load(tmp_path / "b.json"), draws=500)
    assert found.name == "aime24"
    assert found.low > 10
    assert found.p < 0.01
    assert "pass@1" in table.text([run(30)]) or "accuracy" in table.text([run(30)])
    assert "aime24" in page.write(tmp_path / "p.html", "m", {}, [run(30)], {}).read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"only": ("aime25",)}, "no benchmark is called aime25; there are aime24"),
        ({"repeats": 5, "temperature": 0.0}, "at temperature 0 repeats are one answer"),
        ({"limit": 0}, "must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AssayError, match=message):
        Settings(**settings)
    assert (Settings().drawn, Settings(repeats=5).drawn, replace(Settings(), temperature=1.0).drawn) == (0.0, 0.6, 1.0)


def test_other_data_under_the_same_ids_are_other_questions(tmp_path: Any) -> None:
    """Both have a question "1", in other words: no pair."""
    for name, text in (("a", "Which?"), ("b", "Whose?")):
        rows = [row(str(n), 1.0, text=f"{text} {n}") for n in range(3)]
        compare.save(tmp_path / name, name, {}, [estimates.result(rows, card(questions=3))])
    one, two = (compare.load(tmp_path / name) for name in ("a", "b"))
    assert compare.compare(one, one)[0].points == 0
    with pytest.raises(AssayError, match="different items"):
        compare.compare(one, two)


def test_a_judge_that_never_answered_is_on_no_card(tmp_path: Any) -> None:
    """By all that the paper states but the judge: without him the number is not to be held beside it."""
    assert card(max_tokens=65_536, judge="none: the rule alone, for no judge answered").differs() == [
        "no judge of equivalence, the paper one of OpenAI"
    ]
