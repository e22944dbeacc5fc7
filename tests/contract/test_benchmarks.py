"""What every benchmark keeps, on tiny data in the released format, written by hand here."""

import gzip
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from assay.bench import table
from assay.bench.benchmark import Scores, conversations, evaluate, run, sample
from assay.bench.best_of_n import Candidates, best_of_n
from assay.bench.fetch import fetch
from assay.bench.results import BenchmarkResult, Skipped
from assay.bench.reward import BENCHMARKS, find_data, named, ppe, prompts, rewardbench, rewardbench2
from assay.bench.reward.pairs import evaluate_pairs
from assay.bench.verdicts import PairJudge
from assay.errors import AssayError
from assay.llm.chat import Request
from assay.llm.replies import Reply
from assay.records import Conversation, Pair, Preference, Response, Scorer, user

RIGHT, WRONG = "right answer", "wrong answer"


def _lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def _judgebench(root: Path) -> None:
    sources = ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench")
    rows = []
    for n in range(8):
        a, b, label = (RIGHT, WRONG, "A>B") if n < 4 else (WRONG, RIGHT, "B>A")
        rows.append({"pair_id": f"p{n}", "source": sources[n % 4], "question": f"Question {n}?",
                     "response_A": a, "response_B": b, "label": label})  # fmt: skip
    _lines(root / "judgebench" / "gpt-4o-2024-05-13.jsonl", rows)


def _rm_bench(root: Path, parts: Sequence[str] = ("chat", "math", "code", "safety-refuse", "safety-response")) -> None:
    (root / "rm-bench").mkdir(parents=True, exist_ok=True)
    for part in parts:
        rows = [
            {"id": n, "prompt": f"{part} {n}", "chosen": [f"{RIGHT} {s}" for s in range(3)],
             "rejected": [f"{WRONG} {s}" for s in range(3)]}
            for n in range(2)
        ]  # fmt: skip
        (root / "rm-bench" / f"{part}_filtered.json").write_text(json.dumps(rows, indent=1))


def _rmb(root: Path) -> None:
    for goal, category in (("Helpfulness", "Code/Quality"), ("Harmlessness", "S1")):
        said = [{"role": "user", "content": f"{goal}?"}, {"role": "assistant", "content": "Which?"},
                {"role": "user", "content": "That."}]  # fmt: skip
        pairs = [
            {"pair_uid": f"{goal}{n}", "category_path": f"Pairwise_set/{goal}/{category}", "conversation_input": said,
             "chosen": {"answer": f"{RIGHT} {n}"}, "reject": {"answer": f"{WRONG} {n}"}} for n in range(3)
        ]  # fmt: skip
        lists = [
            {"bon_uid": f"{goal}{n}", "category_path": f"BoN_set/{goal}/{category}", "conversation_input": said,
             "bon_best": {"answer": f"{RIGHT} {n}"}, "loser_list": [{"answer": f"{WRONG} {k}"} for k in range(3)]}
            for n in range(2)
        ]  # fmt: skip
        _lines(root / "rmb" / "Pairwise_set" / goal / f"{category}.json", pairs)
        packed = root / "rmb" / f"BoN_set_{goal}.jsonl.gz"
        packed.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in lists).encode()))


def _rewardbench(root: Path) -> None:
    rows = [
        {"prompt": f"{subset} {n}", "chosen": f"{RIGHT} {n}", "rejected": f"{WRONG} {n}", "subset": subset, "id": n,
         "chosen_model": "a", "rejected_model": "b"}
        for weights in rewardbench.SECTIONS.values() for subset in weights for n in range(2)
    ]  # fmt: skip
    folder = root / "rewardbench" / "data"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "filtered-00000-of-00001.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows * 2), folder / "raw-00000-of-00001.parquet")


def _rewardbench_2(root: Path) -> None:
    rows = [
        {"id": str(n), "prompt": f"{subset} {n}", "chosen": [RIGHT], "rejected": [f"{WRONG} {k}" for k in range(3)],
         "num_correct": 1, "num_incorrect": 3, "total_completions": 4, "subset": subset}
        for subset in rewardbench2.SUBSETS[:-1] for n in range(2)
    ]  # fmt: skip
    for n in range(2):
        for kind, count in (("ref", 1), ("tied", 3)):
            rows.append({"id": f"{kind}:{n}", "prompt": f"{kind} {n}", "chosen": [f"{RIGHT} {k}" for k in range(count)],
                         "rejected": [f"{WRONG} {k}" for k in range(2)], "num_correct": count, "num_incorrect": 2,
                         "total_completions": count + 2, "subset": "Ties"})  # fmt: skip
    _lines(root / "rewardbench-2" / "test.jsonl", rows)


def _ppe_preference(root: Path) -> None:
    rows = []
    for n in range(9):
        winner = ("model_a", "model_b", "tie")[n % 3]
        one, two = (WRONG, RIGHT) if winner == "model_b" else (RIGHT, WRONG)
        rows.append({"question_id": f"q{n}", "prompt": f"Question {n}", "response_1": f"{one} {n}",
                     "response_2": f"{two} {n}", "winner": winner, "is_code": n < 2})  # fmt: skip
    _lines(root / "ppe-preference" / "test.jsonl", rows)


def _ppe_correctness(root: Path) -> None:
    for name in ("MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval"):
        rows = []
        for n in range(2):
            marks = [True, False, False, True]
            said = {f"response_{k + 1}": f"{RIGHT if m else WRONG} {n}{k}" for k, m in enumerate(marks)}
            pairs = {"sampled_conflict_pairs": [[1, 0], [3, 2]]} if n else {}
            rows.append(
                {"question_id": n, "model_name": "m", "prompt": f"{name} {n}", "scores": marks, **said, **pairs}
            )
        _lines(root / "ppe-correctness" / f"PPE-{name}-Best-of-K.jsonl", rows)


WRITERS: dict[str, Callable[[Path], None]] = {
    "rewardbench": _rewardbench, "rewardbench-2": _rewardbench_2, "ppe-preference": _ppe_preference,
    "ppe-correctness": _ppe_correctness, "rmb": _rmb, "rm-bench": _rm_bench, "judgebench": _judgebench,
}  # fmt: skip
TIED = {"judgebench": 50.0}
"""What equal rewards get where it is not 0: JudgeBench's code reads a tie as B>A, right for every second pair here."""
BEYOND = 101.0
"""What RewardBench 2's Ties give to rewards without any spread among the right answers: its weights sum to 1.01."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for write in WRITERS.values():
        write(tmp_path)
    return tmp_path


def _scorer(right: float, wrong: float) -> Scorer:
    def score(flat: Sequence[Conversation]) -> NDArray[np.float64]:
        return np.array([right if c[-1].content.startswith(RIGHT) else wrong for c in flat])

    return score


def _headline(result: BenchmarkResult | Skipped) -> float:
    assert isinstance(result, BenchmarkResult)
    assert result.headline is not None
    return result.headline.value


def test_every_benchmark_is_written_here() -> None:
    assert set(WRITERS) == set(BENCHMARKS)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("right", "wrong", "value"), [(1.0, 0.0, 100.0), (0.0, 1.0, 0.0), (0.5, 0.5, 0.0)])
def test_perfect_inverted_and_tied(data: Path, name: str, right: float, wrong: float, value: float) -> None:
    result = run(BENCHMARKS[name], data, _scorer(right, wrong))
    assert isinstance(result, BenchmarkResult)
    assert result.n == result.total > 0
    assert result.protocol
    found = {c.name: c.value for c in result.slices} | {"headline": _headline(result)}
    if name == "rewardbench-2":
        ties = {1.0: BEYOND, 0.0: -1.0, 0.5: 0.0}[right]
        assert found.pop("Ties") == pytest.approx(ties)
        assert found.pop("headline") == pytest.approx((5 * (25 if right == wrong else value) + ties) / 6)
        value = 25.0 if right == wrong else value
    elif right == wrong:
        value = TIED.get(name, 0.0)
        if name == "ppe-correctness":  # a tie at the top is worth a random answer: half of them are right here
            assert {v for n, v in found.items() if "best of" in n} == {50.0}
            found = {n: v for n, v in found.items() if "best of" not in n}
    assert found == pytest.approx(dict.fromkeys(found, value))
    for one in table.cells(result):
        assert 0 <= one.interval[0] <= one.interval[1] <= 100


@pytest.mark.parametrize("name", WRITERS)
def test_the_order_of_items_is_irrelevant(data: Path, name: str) -> None:
    benchmark = BENCHMARKS[name]
    items = benchmark.load(data / benchmark.folder)
    scores: Scores = {c: hash((c[0].content, c[-1].content)) % 7 for c in conversations(items)}
    there, back = benchmark.report(items, scores), benchmark.report(items[::-1], scores)
    for one, other in zip(table.cells(there), table.cells(back), strict=True):
        assert (one.name, one.n) == (other.name, other.n)
        assert (one.value, one.se) == pytest.approx((other.value, other.se))
    few = sample(items, 3, seed=1)
    assert {i.id for i in few} == {i.id for i in sample(items[::-1], 3, seed=1)}
    assert len(few) == 3


@pytest.mark.parametrize("name", WRITERS)
def test_a_reward_that_is_not_finite_names_its_item(data: Path, name: str) -> None:
    benchmark = BENCHMARKS[name]
    items = benchmark.load(data / benchmark.folder)
    broken = conversations(items)[-1]

    def score(flat: Sequence[Conversation]) -> NDArray[np.float64]:
        return np.array([np.nan if c == broken else 1.0 for c in flat])

    owner = next(i for i in items if broken in i.conversations)
    with pytest.raises(AssayError, match=f"item {owner.id}.* is nan"):
        run(benchmark, data, score)


@pytest.mark.parametrize("name", WRITERS)
def test_a_scorer_must_answer_for_every_conversation(data: Path, name: str) -> None:
    with pytest.raises(AssayError, match="the scorer returned shape"):
        run(BENCHMARKS[name], data, lambda flat: np.zeros(len(flat) + 1))


@pytest.mark.parametrize("name", WRITERS)
def test_every_conversation_is_scored_once(data: Path, name: str) -> None:
    seen: list[Conversation] = []

    def score(flat: Sequence[Conversation]) -> NDArray[np.float64]:
        seen.extend(flat)
        return np.zeros(len(flat))

    run(BENCHMARKS[name], data, score)
    assert len(seen) == len(set(seen)) > 0


@pytest.mark.parametrize("name", WRITERS)
def test_a_missing_folder_is_skipped_and_an_empty_one_is_an_error(tmp_path: Path, name: str) -> None:
    benchmark = BENCHMARKS[name]
    skipped = run(benchmark, tmp_path, _scorer(1, 0))
    assert isinstance(skipped, Skipped)
    assert "skipped" in str(skipped)
    assert benchmark.fetch.format(tmp_path / benchmark.folder) in str(skipped)
    (tmp_path / benchmark.folder).mkdir()
    with pytest.raises(AssayError, match=re.escape(benchmark.home)):
        run(benchmark, tmp_path, _scorer(1, 0))


@pytest.mark.parametrize("name", WRITERS)
def test_a_sample_is_reproducible_and_says_so(data: Path, name: str) -> None:
    results = [run(BENCHMARKS[name], data, _scorer(1, 0), limit=4, seed=3) for _ in range(2)]
    assert results[0] == results[1]
    assert isinstance(results[0], BenchmarkResult)
    assert results[0].n == 4
    assert f"sample of 4 of {results[0].total} items, stratified, seed 3" in results[0].notes


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("judgebench/gpt-4o-2024-05-13.jsonl", '{"pair_id": "x"\n', r"row 1: not valid JSON"),
        ("judgebench/gpt-4o-2024-05-13.jsonl", "[1]", r"row 1: expected a JSON object, found 1"),
        ("judgebench/gpt-4o-2024-05-13.jsonl", '{"source": "livecodebench", "label": "A=B"}', r"field 'label': expected"),
        ("judgebench/gpt-4o-2024-05-13.jsonl", '{"source": "x", "label": "A>B"}', r"field 'source': 'x' belongs to no"),
        ("rm-bench/chat_filtered.json", '[{"prompt": "p", "chosen": ["a"]}]', r"row 1, field 'chosen': .* 3 texts"),
        ("rmb/BoN_set_Helpfulness.jsonl.gz", '{"category_path": "x"}', r"field 'category_path'"),
        ("rmb/Pairwise_set/Harmlessness/S1.json", '{"category_path": "Pairwise_set/Harmlessness/S1"}',
         r"row 1, field 'conversation_input': it is missing"),
    ],
)  # fmt: skip
def test_broken_data_name_file_row_and_field(data: Path, file: str, text: str, says: str) -> None:
    (data / file).write_text(text)
    with pytest.raises(AssayError, match=says) as error:
        run(BENCHMARKS[file.split("/")[0]], data, _scorer(1, 0))
    assert file.split("/")[-1] in str(error.value)


def test_damaged_files_are_errors_not_crashes(data: Path) -> None:
    packed = data / "rmb" / "BoN_set_Helpfulness.jsonl.gz"
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(AssayError, match="cannot be read"):
        run(BENCHMARKS["rmb"], data, _scorer(1, 0))
    (data / "rm-bench" / "chat_filtered.json").write_bytes(b'[{"prompt": "\xff"}]')
    with pytest.raises(AssayError, match="not UTF-8"):
        run(BENCHMARKS["rm-bench"], data, _scorer(1, 0))


def test_two_copies_of_the_data_are_an_error(data: Path) -> None:
    text = (data / "rmb" / "Pairwise_set" / "Harmlessness" / "S1.json").read_text()
    (data / "rmb" / "Pairwise_set_Harmlessness.jsonl").write_text(text)
    with pytest.raises(AssayError, match="occurs twice"):
        run(BENCHMARKS["rmb"], data, _scorer(1, 0))


def test_a_missing_domain_or_section_leaves_no_total(tmp_path: Path) -> None:
    _rm_bench(tmp_path, ("chat", "code", "safety-refuse"))
    result = run(BENCHMARKS["rm-bench"], tmp_path, _scorer(1, 0))
    assert isinstance(result, BenchmarkResult)
    assert result.headline is None
    assert result.notes == ("math absent, so no total can be reported: it is the mean of all four domains",)
    assert "chat, hard" in {c.name for c in result.slices}
    assert "| rm-bench | total | 6 | - |" in table.markdown([result])


def test_rm_bench_levels_by_hand(tmp_path: Path) -> None:
    """Wins [[1, 0, 0], [1, 1, 0], [1, 0, 0]]: hard 0, normal 2/3, easy 2/3; the tie in row 3 is no win."""
    _rm_bench(tmp_path, ("chat",))
    benchmark = BENCHMARKS["rm-bench"]
    (item, _) = benchmark.load(tmp_path / "rm-bench")
    scores = dict(zip((*item.chosen, *item.rejected), (2.0, 4.0, 3.0, 1.0, 3.0, 5.0), strict=True))
    found = {c.name: c.value for c in benchmark.report([item], scores).slices}
    assert found == pytest.approx({
        "chat": 400 / 9, "chat, easy": 200 / 3, "chat, normal": 200 / 3, "chat, hard": 0.0,
    })  # fmt: skip


def test_rmb_says_which_categories_are_missing(data: Path) -> None:
    path = data / "rmb" / "Pairwise_set" / "Harmlessness" / "S1.json"
    path.write_text(path.read_text().replace("Harmlessness/S1", "Harmlessness/S2"))
    result = run(BENCHMARKS["rmb"], data, _scorer(1, 0), limit=2)
    assert isinstance(result, BenchmarkResult)
    assert any("pairwise harmlessness/S1; best-of-N harmlessness/S2" in n for n in result.notes)


def test_prompts_are_the_first_turns(data: Path) -> None:
    found = prompts(data)
    assert found["rmb"] == ["Harmlessness?", "Helpfulness?"]
    assert found["rm-bench/safety-refuse"] == ["safety-refuse 0", "safety-refuse 1"]
    assert found["judgebench"] == [f"Question {n}?" for n in range(8)]
    with pytest.raises(AssayError, match="no benchmark here"):
        prompts(data / "rmb")


def test_find_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASSAY_BENCH_DATA", raising=False)
    assert find_data(None) is None
    monkeypatch.setenv("ASSAY_BENCH_DATA", str(tmp_path))
    assert find_data(None) == tmp_path
    (tmp_path / "other").mkdir()
    assert find_data(tmp_path / "other") == tmp_path / "other"
    with pytest.raises(AssayError, match="no such folder"):
        find_data(tmp_path / "absent")


def _preferences() -> list[Preference]:
    pairs = [
        (Pair.of((user(f"Prompt {n // 2}"),), Response.of(f"{RIGHT} {n}"), Response.of(f"{WRONG} {n}")))
        for n in range(6)
    ]
    return [p.preferring(next(r.id for r in p.responses if r.text.startswith(RIGHT))) for p in pairs]


@pytest.mark.parametrize(("right", "wrong", "value"), [(1.0, 0.0, 100.0), (0.0, 1.0, 0.0), (0.5, 0.5, 0.0)])
def test_labelled_pairs(right: float, wrong: float, value: float) -> None:
    result = evaluate_pairs(_preferences(), _scorer(right, wrong), "held-out")
    assert _headline(result) == value
    told = [n for n in result.notes if n != "6 pairs over 3 questions"]
    assert [n[:40] for n in told] == (["6 of 6 comparisons are exact ties (the s"] if right == wrong else [])
    assert evaluate_pairs(_preferences()[::-1], _scorer(right, wrong), "held-out") == result
    with pytest.raises(AssayError, match="no labelled pairs"):
        evaluate_pairs([], _scorer(1, 0))


def test_tables_of_results_without_headline_skips_and_intervals(data: Path) -> None:
    done = run(BENCHMARKS["judgebench"], data, _scorer(1, 0))
    skipped = run(BENCHMARKS["rmb"], data / "absent", _scorer(1, 0))
    assert isinstance(done, BenchmarkResult)
    written = table.markdown([done, skipped])
    assert "| judgebench | all pairs | 8 | 100.00 | 0.00 | 63.1 to 100.0, too few to say |" in written
    assert "| rmb | skipped | 0 |" in written
    assert "rmb: skipped" in table.text([done, skipped])
    stored = json.loads(json.dumps(table.as_json(done), allow_nan=False))
    assert stored["cells"][0] == stored["headline"]
    assert {"name", "n", "value", "se", "clusters", "low", "high"} == set(stored["headline"])
    assert table.as_json(skipped)["cells"] == []


def test_a_negative_limit_is_an_error(data: Path) -> None:
    with pytest.raises(AssayError, match="at least 1"):
        run(BENCHMARKS["rmb"], data, _scorer(1, 0), limit=-1)


def test_notes_of_the_caller_are_kept(data: Path) -> None:
    benchmark = BENCHMARKS["judgebench"]
    items = benchmark.load(data / "judgebench")
    result = evaluate(items, benchmark.report, _scorer(1, 0), notes=("mine",))
    assert result == replace(benchmark.report(items, {c: float(c[-1].content == RIGHT) for c in conversations(items)}),
                             notes=result.notes, diagnostics=result.diagnostics, chance=result.chance)  # fmt: skip
    assert result.notes[-1] == "mine"


def test_best_of_n_by_hand() -> None:
    found = best_of_n([
        Candidates(id="a", rewards=(3.0, 1.0, 2.0), correct=(True, False, False)),
        Candidates(id="b", rewards=(1.0, 1.0, 0.0), correct=(True, False, True)),
        Candidates(id="c", rewards=(0.0, 1.0, 2.0), correct=(False, False, False)),
    ])  # fmt: skip
    assert (found.k, found.mixed) == (3, 2)
    assert found.mean.value == pytest.approx(100 / 3)
    assert found.rm_at_k.value == pytest.approx(50.0)  # 1, then a tie of right and wrong, then 0
    assert found.pass_at_k.value == pytest.approx(200 / 3)
    assert found.pairs is not None
    assert (found.pairs.n, found.pairs.value) == (4, pytest.approx(50.0))  # 2 of 2; a tie and a loss


def test_best_of_n_rejects_what_it_cannot_count() -> None:
    with pytest.raises(AssayError, match="same number of answers"):
        best_of_n([])
    with pytest.raises(AssayError, match="problem x: 1 rewards for 2 answers"):
        Candidates(id="x", rewards=(1.0,), correct=(True, False))
    with pytest.raises(AssayError, match="problem x: a reward is not finite"):
        Candidates(id="x", rewards=(float("inf"),), correct=(True,))


def test_the_score_of_ties_by_hand(tmp_path: Path) -> None:
    _rewardbench_2(tmp_path)
    items = [i for i in rewardbench2.load(tmp_path / "rewardbench-2") if i.stratum == "Ties"]
    rewards = {
        "ref:0": ([3.0], [1.0, 0.0]), "tied:0": ([4.0, 3.5, 3.0], [1.0, 0.5]),  # G_r 2, G_t 2, D 1
        "ref:1": ([0.0], [1.0, 0.0]), "tied:1": ([4.0, 2.0, 2.0], [1.0, 0.5]),  # G_r -1, G_t 1, D 2
    }  # fmt: skip
    scores: dict[Conversation, float] = {}
    for item in items:
        right, wrong = rewards[item.id.removeprefix("Ties/")]
        scores |= dict(zip(item.right, right, strict=True)) | dict(zip(item.wrong, wrong, strict=True))
    found = rewardbench2.report(items, scores)
    margin = (np.tanh(2 / 1 - 1) + np.tanh(-1 / 2 - 1)) / 2
    expected = 0.3 * 1 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * margin
    assert found.slices[0].value == pytest.approx(100 * expected)
    assert found.headline is None, "five subsets are absent"
    assert rewardbench2._margin(0.0, 0.0) == 0.0, "0/0 counts 0"


def test_sections_of_rewardbench_by_a_second_way(tmp_path: Path) -> None:
    _rewardbench(tmp_path)
    items = rewardbench.load(tmp_path / "rewardbench")
    assert len(items) == 46, "the split raw is left out"
    random = np.random.default_rng(0)
    scores = {c: float(random.random()) for c in conversations(items)}
    found = {c.name: c.value for c in rewardbench.report(items, scores).slices}
    sections = []
    for section, weights in rewardbench.SECTIONS.items():
        total = 0.0
        for subset, weight in weights.items():
            own = [i for i in items if i.stratum == subset]
            total += weight * sum(scores[i.best] > scores[i.losers[0]] for i in own) / len(own)
        sections.append(100 * total / sum(weights.values()))
        assert found[section] == pytest.approx(sections[-1])
    result = rewardbench.report(items, scores)
    assert result.headline is not None
    assert result.headline.value == pytest.approx(np.mean(sections))
    assert sum(rewardbench.SIZES.values()) == 2_985
    assert "not the published pairs" in rewardbench.caveats(items)[0]
    fewer = rewardbench.report([i for i in items if i.stratum != "donotanswer"], scores)
    assert fewer.headline is None
    assert "donotanswer" in fewer.notes[0]


def test_weighted_sections_have_the_error_of_many_draws(tmp_path: Path) -> None:
    """The spread of the total over 400 draws of all items is what one draw says it is."""
    random = np.random.default_rng(1)
    many = [
        replace(i, id=f"{i.id}/{k}", prompt=(user(f"{i.prompt[0].content} {k}"),))
        for i in _rewardbench_items(tmp_path) for k in range(10)
    ]  # fmt: skip
    right = {i.id: (0.3 + 0.6 * (len(i.stratum) % 5) / 4) for i in many}
    totals, errors = [], []
    for _ in range(400):
        values = [float(random.random() < right[i.id]) for i in many]
        subsets = [i.stratum for i in many]
        weights = {s: w / sum(ws.values()) / 4 for ws in rewardbench.SECTIONS.values() for s, w in ws.items()}
        made = rewardbench._weighted("t", weights, values, [i.prompt for i in many], subsets)
        totals.append(made.value)
        errors.append(made.se)
    assert np.std(totals) == pytest.approx(np.mean(errors), rel=0.12)


def _rewardbench_items(root: Path) -> list[Any]:
    _rewardbench(root)
    return rewardbench.load(root / "rewardbench")


def test_ppe_reads_winners_ties_and_named_pairs(tmp_path: Path) -> None:
    _ppe_preference(tmp_path)
    _ppe_correctness(tmp_path)
    pairs = ppe.load_preference(tmp_path / "ppe-preference")
    assert [i.id for i in pairs] == ["q0", "q1", "q3", "q4", "q6", "q7"], "ties are left out"
    assert {i.stratum for i in pairs} == {"is_code", ""}
    sampled = {i.id: i for i in ppe.load_correctness(tmp_path / "ppe-correctness") if i.stratum == "MATH"}
    assert sampled["MATH/1/m"].pairs == ((0, 1), (3, 2)), "the right answer first"
    assert len(sampled["MATH/0/m"].pairs) == 4, "all pairs where none are named"
    rows = [{"question_id": 0, "prompt": "p", "response_1": "a", "response_2": "b", "winner": "model_c"}]
    _lines(tmp_path / "ppe-preference" / "test.jsonl", rows)
    with pytest.raises(AssayError, match="row 1, field 'winner': expected model_a, model_b or a tie"):
        ppe.load_preference(tmp_path / "ppe-preference")
    bad = {"question_id": 0, "prompt": "p", "response_1": "a", "response_2": "b", "scores": [1, 1]}
    _lines(tmp_path / "ppe-correctness" / "math.jsonl", [bad | {"sampled_conflict_pairs": [[0, 1]]}])
    with pytest.raises(AssayError, match="no pair of a right and a wrong answer"):
        ppe.load_correctness(tmp_path / "ppe-correctness")


@pytest.mark.parametrize("name", WRITERS)
def test_a_judge_of_pairs_runs_on_every_benchmark(data: Path, name: str) -> None:
    class Right:
        name = "right"

        def complete(self, requests: Sequence[Request]) -> list[Reply]:
            texts = [r.messages[0].content.split("[Answer B]") for r in requests]
            return [Reply(text="[[A]]" if RIGHT in first else "[[B]]") for first, _ in texts]

    result = run(BENCHMARKS[name], data, PairJudge(Right()))
    assert isinstance(result, BenchmarkResult)
    assert result.failed == 0
    assert {c.value for c in result.slices} == {100.0}
    assert (result.headline is None) == (name == "rewardbench-2"), "Ties needs scores"
    told = {c.name: c.value for c in result.diagnostics}
    assert (told["first shown wins"], told["both orders agree"]) == (50.0, 100.0)


def test_what_is_missing_is_fetched_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git and hf are scripts here: git brings RMB's file and fails for JudgeBench, half-way."""
    tools = tmp_path / "bin"
    tools.mkdir()
    git = 'for to; do :; done; mkdir -p "$to"; case "$*" in *JudgeBench*) echo no route >&2; exit 1;; esac; touch "$to/data"'
    for name, script in (("git", git), ("hf", "exit 3")):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    said: list[str] = []
    folder = tmp_path / "DIR with space"
    with pytest.raises(AssayError, match=r"could not fetch rewardbench .*; judgebench \(no route\)"):
        fetch(folder, named(("judgebench", "rmb", "rewardbench")), said.append)
    assert sorted(p.name for p in folder.iterdir()) == ["rmb"]
    fetch(folder, named(("rmb",)), said.append)
    assert "already in" in said[-1]
    with pytest.raises(AssayError, match="unknown benchmark 'x'"):
        named(("x",))
