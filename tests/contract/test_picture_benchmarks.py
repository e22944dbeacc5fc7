"""The two benchmarks for reward models that see, on tiny data in the released formats, written by hand here."""

import base64
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from assay.bench.benchmark import BLIND, conversations, run
from assay.bench.results import BenchmarkResult, Skipped
from assay.bench.reward import BENCHMARKS, EVERY, WITH_PICTURES, multimodal, named, prompts, vlrewardbench
from assay.bench.verdicts import PairJudge, Verdicts
from assay.errors import AssayError
from assay.images import ImageStore
from assay.llm.chat import ChatConfig, Request
from assay.llm.client import Server
from assay.llm.replies import Reply
from assay.records import Conversation, Scorer, user
from assay.reward.remote import NO_PICTURES, RemoteConfig, RemoteScorer
from judge_server import Judged

Image = pytest.importorskip("PIL.Image")
RIGHT, WRONG = "right answer", "wrong answer"
VL, MM = "vl-rewardbench", "multimodal-rewardbench"


def picture(n: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (n * 20 % 256, 90, 200)).save(file, "PNG")
    return file.getvalue()


IDS = (
    ("LRVInstruction-000000007746", "vlfeedback"), ("wildvision-battle-3", "wildvision-battle"),
    ("hallucination_pair-12", "povid"), ("RLHF-V-7", "rlhf-v"), ("RLAIF-V-14", "rlaif-v"),
    ("mathverse_3544", "reasoning_tasks"), ("mmmu_pro_validation_Accounting_3", "reasoning_tasks"),
)  # fmt: skip


def vl_rows() -> list[dict[str, Any]]:
    rows = []
    for n, (name, _) in enumerate(IDS):
        first = n % 2 == 0
        said = [f"{RIGHT} {n}", f"{WRONG} {n}"]
        rows.append({
            "id": name, "query": f"<image>\nWhat is in picture {n}?", "response": said if first else said[::-1],
            "human_ranking": [0, 1] if first else [1, 0], "models": ["a", "b"], "judge": "human", "rationale": "r",
            "query_source": "COCO", "meta": "{}", "human_error_analysis": ["counting"], "ground_truth": None,
        })  # fmt: skip
    return rows


def vl_hub(root: Path) -> None:
    """As `datasets` writes it to the hub: the picture inside."""
    rows = [{**r, "image": {"bytes": picture(n), "path": f"{n}.png"}} for n, r in enumerate(vl_rows())]
    folder = root / VL / "data"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")


def vl_files(root: Path) -> None:
    """As it lies in the repository: JSON lines, and pictures beside them."""
    folder = root / VL / "data"
    lines = []
    for n, (row, (name, kind)) in enumerate(zip(vl_rows(), IDS, strict=True)):
        path = Path("images") / kind / f"{name}.png"
        (folder / path.parent).mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(picture(n))
        lines.append(json.dumps({**row, "image_path": str(path), "meta": {"note": ""}}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")


CATEGORIES = {
    "nocaps_1": "open_generation/correctness_task", "visitbench_2": "open_generation/preference_task",
    "mmmu-v_3": "knowledge", "mathvista_4": "reasoning", "EMMA-Coding_5": "reasoning", "pairs_6": "safety",
    "SEED-Bench_7": "vqa", "RealworldQA_8": "vqa",
}  # fmt: skip


def mm_rows() -> list[dict[str, Any]]:
    rows = []
    for n, (name, category) in enumerate(CATEGORIES.items()):
        one, two = (RIGHT, WRONG) if n % 2 == 0 else (WRONG, RIGHT)
        rows.append({
            "ID": name, "Text": f"Question {n}?", "Image": f"images/{name.split('_')[0]}/{n}.png",
            "Output1": f"{one} {n}", "Output2": f"{two} {n}", "Better": "Output1" if n % 2 == 0 else "Output2",
            "Category": category,
        })  # fmt: skip
    return rows


def mm_files(root: Path) -> None:
    """As the benchmark's own script leaves it."""
    folder = root / MM / "data"
    for n, row in enumerate(mm_rows()):
        (folder / row["Image"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / row["Image"]).write_bytes(picture(n))
    (folder / "all_data.json").write_text(json.dumps(mm_rows(), indent=2))
    (folder / "all_data_release.json").write_text(json.dumps([{**r, "Text": ""} for r in mm_rows()]))


def mm_hub(root: Path) -> None:
    rows = [{**r, "Image": {"bytes": picture(n), "path": "x.png"}} for n, r in enumerate(mm_rows())]
    folder = root / MM / "data"
    folder.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")


WRITERS: dict[str, Callable[[Path], None]] = {
    "vl, hub": vl_hub, "vl, files": vl_files, "mm, files": mm_files, "mm, hub": mm_hub
}  # fmt: skip


def scorer(right: float, wrong: float) -> Scorer:
    def score(flat: Sequence[Conversation]) -> NDArray[np.float64]:
        return np.array([right if c[-1].content.startswith(RIGHT) else wrong for c in flat])

    return score


def measured(root: Path, kind: str, asked: Any) -> BenchmarkResult:
    name = VL if kind.startswith("vl") else MM
    result = run(EVERY[name], root, asked, images=ImageStore(root / "images"))
    assert isinstance(result, BenchmarkResult)
    return result


def told(result: BenchmarkResult) -> dict[str, float]:
    return {c.name: c.value for c in (*([result.headline] if result.headline else []), *result.slices)}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(("right", "wrong", "value"), [(1.0, 0.0, 100.0), (0.0, 1.0, 0.0), (0.5, 0.5, 0.0)])
def test_always_right_always_wrong_and_tied(
    tmp_path: Path, kind: str, right: float, wrong: float, value: float
) -> None:
    WRITERS[kind](tmp_path)
    result = measured(tmp_path, kind, scorer(right, wrong))
    found = told(result)
    assert result.n == result.total == (7 if kind.startswith("vl") else 8)
    assert found == pytest.approx(dict.fromkeys(found, value))
    names = {"overall", "macro", "general", "hallucination", "reasoning"}
    if kind.startswith("mm"):
        names = {"overall", *multimodal.PARTS} - {"safety, toxicity"}
    assert set(found) == names
    assert any("exact ties" in n for n in result.notes) == (right == wrong)
    assert not result.whole


@pytest.mark.parametrize("kind", WRITERS)
def test_every_answer_is_about_its_picture(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path)
    store = ImageStore(tmp_path / "images")
    seen: list[Conversation] = []

    def look(flat: Sequence[Conversation]) -> NDArray[np.float64]:
        seen.extend(flat)
        return np.zeros(len(flat))

    result = measured(tmp_path, kind, look)
    assert len(seen) == 2 * result.n
    for n in range(result.n):
        own = [c for c in seen if c[-1].content.endswith(f" {n}")]
        assert len(own) == 2
        (name,) = {i for c in own for i in c[0].images}
        assert store.open(name).getpixel((0, 0)) == (n * 20 % 256, 90, 200)
        assert "<image>" not in own[0][0].content


def test_the_two_forms_of_the_data_are_the_same_pairs(tmp_path: Path) -> None:
    for name, writers in ((VL, (vl_hub, vl_files)), (MM, (mm_hub, mm_files))):
        forms = []
        for writer in writers:
            root = tmp_path / writer.__name__
            writer(root)
            shown = WITH_PICTURES[name].shown
            assert shown is not None
            forms.append(shown(root / name, ImageStore(root / "images")))
        assert forms[0] == forms[1]


def test_who_sees_nothing_is_not_measured(tmp_path: Path) -> None:
    vl_hub(tmp_path)
    result = run(EVERY[VL], tmp_path, scorer(1, 0))
    assert result == Skipped(name=VL, reason=BLIND)
    assert prompts(tmp_path)[VL][0] == "What is in picture 0?"
    assert not (tmp_path / "images").exists()


def test_a_reward_server_is_sent_no_question_without_its_picture(tmp_path: Path) -> None:
    vl_hub(tmp_path)
    remote = RemoteScorer(RemoteConfig(url="http://127.0.0.1:9"))
    with pytest.raises(AssayError, match="no item of"):
        measured(tmp_path, "vl", remote)
    assert remote.problems == {NO_PICTURES: 14}


class Judge:
    """Says which answer is right, or what is asked of him for a question's number; keeps what he was asked."""

    name = "m"

    def __init__(self, says: Callable[[int, Request, bool], str]) -> None:
        self.says, self.asked = says, list[Request]()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += requests
        return [Reply(text=self._answer(r)) for r in requests]

    def _answer(self, request: Request) -> str:
        text = request.messages[-1].content
        right_first = text.index(RIGHT) < text.index(WRONG)
        number = int(text.split(RIGHT)[1].split()[0])
        return self.says(number, request, right_first)


def marked(right_first: bool, right: bool = True) -> str:
    return "Reason. [[A]]" if right_first == right else "Reason. [[B]]"


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("right", [True, False])
def test_a_judge_who_is_always_right_or_wrong(tmp_path: Path, kind: str, right: bool) -> None:
    WRITERS[kind](tmp_path)
    judge = Judge(lambda _, __, first: marked(first, right))
    result = measured(tmp_path, kind, PairJudge(judge, 3))
    found = told(result) | {c.name: c.value for c in result.diagnostics if c.name.startswith("published")}
    assert set(found.values()) == {100.0 * right}
    assert len(judge.asked) == 6 * result.n
    assert all(len(r.messages[-1].images) == 1 for r in judge.asked)
    assert {r.sample for r in judge.asked} == {0, 1, 2}
    if kind.startswith("vl"):
        assert {"published rule, majority of 3", "published rule, majority of 3, macro"} <= set(found)


def test_the_majority_of_three_and_what_cannot_be_read(tmp_path: Path) -> None:
    """Pair 0: two of three draws right; pair 1: one of three; pair 2: one draw unread, the others right; pair 3: two unread:
    a failure; the others right. Ours: 5 of 6 right; the published rule leaves out 2 and 3: 4 of 5."""
    vl_hub(tmp_path)

    def says(number: int, request: Request, first: bool) -> str:
        draw = request.sample
        if (number, draw) in ((2, 0), (3, 0), (3, 1)):
            return "I cannot say."
        return marked(first, not ((number == 0 and draw == 2) or (number == 1 and draw > 0)))

    judge = PairJudge(Judge(says), 3)
    result = measured(tmp_path, "vl", judge)
    assert result.headline is not None
    assert (result.headline.n, result.failed) == (6, 1)
    assert result.headline.value == pytest.approx(100 * 5 / 6)
    assert judge.problems == {"no verdict": 6}
    assert any(n.startswith("coverage 85.7%") for n in result.notes)
    published = {c.name: c for c in result.diagnostics if c.name.startswith("published")}
    assert published["published rule, majority of 3"].n == 5
    assert published["published rule, majority of 3"].value == pytest.approx(80.0)


def test_what_multimodal_rewardbench_cannot_read_is_a_coin_of_its_own(tmp_path: Path) -> None:
    """Each second verdict cannot be read where Output1 is A: the coins are Python's, seed 123, in the file's order."""
    mm_files(tmp_path)
    rows = mm_rows()

    def says(number: int, _: Request, first: bool) -> str:
        own = first == (rows[number]["Better"] == "Output1")
        return "Both are fine." if own and number % 2 else marked(first)

    result = measured(tmp_path, "mm", PairJudge(Judge(says)))
    coin = random.Random(123)
    expected = [
        True if n % 2 == 0 else (coin.random() < 0.5) == (r["Better"] == "Output1") for n, r in enumerate(rows)
    ]  # fmt: skip
    cells = {c.name: c.value for c in result.diagnostics}
    assert cells["published rule, unread at random"] == pytest.approx(100 * np.mean(expected))
    assert cells["no verdict with Output1 as A"] == pytest.approx(50.0)
    assert result.failed == 4
    assert result.headline is None  # mathematics and others are absent among what could be read
    assert any(n.startswith("coverage 50.0%") for n in result.notes)


@pytest.mark.parametrize("draws", [0, 2, -1])
def test_an_even_number_of_judgements_has_no_majority(draws: int) -> None:
    with pytest.raises(AssayError, match="1, 3, 5"):
        PairJudge(Judge(lambda *_: ""), draws)


def test_a_judge_on_a_server_is_sent_the_picture(tmp_path: Path) -> None:
    vl_files(tmp_path)
    with Judged(lambda text: marked(text.index(RIGHT) < text.index(WRONG))) as server:
        config = ChatConfig(url=server.url, model="m", images=tmp_path / "images")
        for _ in range(2):  # the second time from the kept replies
            judge = PairJudge(Server(config, tmp_path / "replies.sqlite"))
            result = measured(tmp_path, "vl", judge)
            assert told(result) == pytest.approx(dict.fromkeys(told(result), 100.0))
    assert len(server.asked) == 14
    urls = {
        p["image_url"]["url"] for b in server.asked for p in b["messages"][-1]["content"] if p["type"] == "image_url"
    }
    assert urls == {f"data:image/png;base64,{base64.b64encode(picture(n)).decode()}" for n in range(7)}


@pytest.mark.parametrize(
    ("writer", "file", "change", "says"),
    [
        (vl_files, f"{VL}/data/data.jsonl", {"human_ranking": [0, 0]}, r"row 1, field 'human_ranking': expected \[0, 1\]"),
        (vl_files, f"{VL}/data/data.jsonl", {"response": ["one"]}, "field 'response': expected a list of 2 texts"),
        (vl_files, f"{VL}/data/data.jsonl", {"image_path": "images/other/x.png"}, "no folder of a known set"),
        (vl_files, f"{VL}/data/data.jsonl", {"image_path": "images/povid/gone.png"}, "no picture images/povid/gone.png"),
        (vl_files, f"{VL}/data/data.jsonl", {"image_path": "../povid/x.png"}, "must lead on from the benchmark's folder"),
        (mm_files, f"{MM}/data/all_data.json", {"Better": "A"}, "row 1, field 'Better': expected 'Output1'"),
        (mm_files, f"{MM}/data/all_data.json", {"Category": "wat"}, "field 'Category': unknown category 'wat'"),
        (mm_files, f"{MM}/data/all_data.json", {"Text": None}, "field 'Text': expected a text"),
    ],
)  # fmt: skip
def test_broken_data_name_file_row_and_field(
    tmp_path: Path, writer: Callable[[Path], None], file: str, change: dict[str, Any], says: str
) -> None:
    writer(tmp_path)
    path = tmp_path / file
    rows = json.loads(path.read_text()) if path.suffix == ".json" else [
        json.loads(line) for line in path.read_text().splitlines()
    ]  # fmt: skip
    rows[0] |= change
    path.write_text(json.dumps(rows))
    with pytest.raises(AssayError, match=says) as error:
        measured(tmp_path, "vl" if writer is vl_files else "mm", scorer(1, 0))
    assert path.name in str(error.value)


def test_a_picture_that_is_none_is_an_error(tmp_path: Path) -> None:
    vl_files(tmp_path)
    next((tmp_path / VL).rglob("*.png")).write_bytes(b"no picture")
    with pytest.raises(AssayError, match="cannot be decoded"):
        measured(tmp_path, "vl", scorer(1, 0))


def test_data_that_are_not_there_say_where_they_are_from(tmp_path: Path) -> None:
    for name in (VL, MM):
        (tmp_path / name).mkdir()
        with pytest.raises(AssayError, match=WITH_PICTURES[name].home):
            run(WITH_PICTURES[name], tmp_path, scorer(1, 0), images=ImageStore(tmp_path / "images"))


def test_a_row_that_is_there_twice_counts_once_and_two_copies_are_an_error(tmp_path: Path) -> None:
    """The benchmark's code puts equal (id, question, answers) together; the first release had some."""
    vl_files(tmp_path)
    path = tmp_path / VL / "data" / "data.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    assert measured(tmp_path, "vl", scorer(1, 0)).n == 7
    first = json.loads(path.read_text().splitlines()[0])
    (tmp_path / "turned" / VL).mkdir(parents=True)
    for n, turned in enumerate((first, {**first, "human_ranking": first["human_ranking"][::-1]})):
        with (tmp_path / "turned" / VL / "data.jsonl").open("a") as file:
            file.write(json.dumps(turned) + "\n")
        assert n or EVERY[VL].load(tmp_path / "turned" / VL)
    with pytest.raises(AssayError, match="row 2, field 'human_ranking': the same pair stands before, with the other"):
        EVERY[VL].load(tmp_path / "turned" / VL)
    (path.parent / "copy.jsonl").write_text(path.read_text())
    with pytest.raises(AssayError, match="occurs twice"):
        measured(tmp_path, "vl", scorer(1, 0))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    mm_files(tmp_path)
    path = tmp_path / MM / "data" / "all_data.json"
    path.write_text(json.dumps([r for r in mm_rows() if r["Category"] != "vqa"]))
    result = measured(tmp_path, "mm", scorer(1, 0))
    assert result.headline is None
    assert "no total: vqa absent" in result.notes
    items = WITH_PICTURES[MM].load(tmp_path / MM)
    whole = [i for i in items for _ in range(multimodal.PUBLISHED[i.stratum])]
    vqa = [i for i in items[:1] for _ in range(1)]
    assert "not the published pairs" in multimodal.caveats(whole + vqa)[0]


def test_the_seven_are_seven() -> None:
    """Without pictures nothing changed: what is fetched, and what the mean is over."""
    assert [b.name for b in named(())] == list(BENCHMARKS)
    assert len(BENCHMARKS) == 7
    assert [b.name for b in named((MM,))] == [MM]


def test_conversations_of_two_pictures_are_two(tmp_path: Path) -> None:
    """One question with the same answers about two pictures is scored twice."""
    vl_files(tmp_path)
    path = tmp_path / VL / "data" / "data.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1] |= {k: rows[0][k] for k in ("query", "response", "human_ranking")}
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    shown = WITH_PICTURES[VL].shown
    assert shown is not None
    items = shown(tmp_path / VL, ImageStore(tmp_path / "images"))
    assert len(conversations(items)) == 14
    assert user("x").images == ()


def test_the_published_rule_of_no_readable_pair_is_no_number(tmp_path: Path) -> None:
    vl_hub(tmp_path)
    items = WITH_PICTURES[VL].load(tmp_path / VL)
    none = Verdicts({}, {i.duels[0]: ((None, None),) for i in items})
    assert vlrewardbench.judged(items, none) == ()


LEADERBOARD = (
    ("Claude 3.5 Sonnet", 0.720, 0.626, 0.678, 0.739, 0.668, 0.687, 0.856),
    ("Gemini 1.5 Pro", 0.720, 0.635, 0.677, 0.663, 0.618, 0.765, 0.872),
    ("GPT-4o", 0.715, 0.626, 0.690, 0.720, 0.647, 0.669, 0.872),
    ("Llama-3.2-90B-Vision", 0.624, 0.600, 0.684, 0.612, 0.546, 0.519, 0.771),
    ("Aria", 0.573, 0.595, 0.635, 0.555, 0.524, 0.502, 0.642),
    ("Molmo-7B-D", 0.543, 0.568, 0.594, 0.546, 0.521, 0.442, 0.603),
    ("Llama-3.2-11B-Vision", 0.524, 0.578, 0.658, 0.555, 0.512, 0.355, 0.558),
    ("Llava-1.5-13B", 0.489, 0.533, 0.552, 0.505, 0.513, 0.349, 0.518),
)  # fmt: skip
"""Multimodal RewardBench's README: overall, then correctness, preference, knowledge, reasoning, safety, VQA."""


@pytest.mark.parametrize("row", LEADERBOARD, ids=lambda r: r[0])
def test_the_counts_of_multimodal_rewardbench_give_its_leaderboard(row: tuple[object, ...]) -> None:
    """Of each model the published total is that of its published categories, by our counts, to the last digit shown."""
    names = ("general correctness", "general preference", "knowledge", "reasoning", "safety", "vqa")
    sizes = [sum(multimodal.PUBLISHED[s] for s in multimodal.PARTS[n]) for n in names]
    overall, *shares = row[1:]
    assert sum(sizes) == 5_211
    total = sum(n * s for n, s in zip(sizes, shares, strict=True)) / sum(sizes)  # type: ignore[operator]
    assert total == pytest.approx(overall, abs=0.001)


@pytest.mark.parametrize(
    ("shares", "overall", "macro"), [((66.0, 80.0, 61.0), 73.1, 69.0)], ids=["Skywork-VL Reward"]
)  # fmt: skip
def test_the_counts_of_vl_rewardbench_give_paper_b(shares: tuple[float, ...], overall: float, macro: float) -> None:
    """Paper B's reward model: overall over all pairs, macro over the three groups."""
    sizes = list(vlrewardbench.PUBLISHED.values())
    assert sum(sizes) == 1_250
    assert sum(n * s for n, s in zip(sizes, shares, strict=True)) / sum(sizes) == pytest.approx(overall, abs=0.05)
    assert sum(shares) / 3 == pytest.approx(macro, abs=0.05)
