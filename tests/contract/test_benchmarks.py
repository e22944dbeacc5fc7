"""What every benchmark keeps, on tiny data in the released format, written by hand here."""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from assay.bench import table
from assay.bench.benchmark import BenchmarkResult, Scores, Skipped, conversations, evaluate, run, sample
from assay.bench.best_of_n import Candidates, best_of_n
from assay.bench.reward import BENCHMARKS, find_data, prompts
from assay.bench.reward.pairs import evaluate_pairs
from assay.errors import AssayError
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


WRITERS: dict[str, Callable[[Path], None]] = {"judgebench": _judgebench, "rm-bench": _rm_bench, "rmb": _rmb}


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
    if name == "judgebench" and right == wrong:
        value = 50.0  # its code reads a tie as B>A, which is right for every second pair here
    result = run(BENCHMARKS[name], data, _scorer(right, wrong))
    assert _headline(result) == pytest.approx(value)
    assert isinstance(result, BenchmarkResult)
    assert result.n == result.total > 0
    assert all(c.value == pytest.approx(value) for c in result.slices)
    assert result.protocol


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
    assert benchmark.home in str(skipped)
    (tmp_path / benchmark.folder).mkdir()
    with pytest.raises(AssayError, match=benchmark.home):
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
    assert result.notes == ("6 pairs over 3 prompts",)
    assert evaluate_pairs(_preferences()[::-1], _scorer(right, wrong), "held-out") == result
    with pytest.raises(AssayError, match="no labelled pairs"):
        evaluate_pairs([], _scorer(1, 0))


def test_tables_of_results_without_headline_skips_and_intervals(data: Path) -> None:
    done = run(BENCHMARKS["judgebench"], data, _scorer(1, 0))
    skipped = run(BENCHMARKS["rmb"], data / "absent", _scorer(1, 0))
    assert isinstance(done, BenchmarkResult)
    written = table.markdown([done, skipped])
    assert "| judgebench | all pairs | 8 | 100.00 | 0.00 | 67.6 to 100.0 |" in written
    assert "| rmb | skipped | 0 |" in written
    assert "rmb: skipped" in table.text([done, skipped])
    stored = json.loads(json.dumps(table.as_json(done), allow_nan=False))
    assert stored["cells"][0] == stored["headline"]
    assert {"name", "n", "value", "se", "low", "high"} == set(stored["headline"])
    assert table.as_json(skipped)["cells"] == []


def test_a_negative_limit_is_an_error(data: Path) -> None:
    with pytest.raises(AssayError, match="at least 1"):
        run(BENCHMARKS["rmb"], data, _scorer(1, 0), limit=-1)


def test_notes_of_the_caller_are_kept(data: Path) -> None:
    benchmark = BENCHMARKS["judgebench"]
    items = benchmark.load(data / "judgebench")
    result = evaluate(items, benchmark.report, _scorer(1, 0), notes=("mine",))
    assert result == replace(benchmark.report(items, {c: float(c[-1].content == RIGHT) for c in conversations(items)}),
                             notes=result.notes)  # fmt: skip
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
