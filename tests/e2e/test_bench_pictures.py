"""`assay bench` on questions about pictures: a reward model with eyes, one without, a judge behind a server, a function."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import tiny_models
import vlm_models
from assay.bench.reasoning.serving import served
from assay.bench.score_file import read
from contract.test_picture_benchmarks import RIGHT, VL, WRONG, marked, mm_files, picture, vl_files, vl_hub
from in_process import assay_here
from judge_server import Judged


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A visual reward model in the layout of Skywork-VL Reward: the whole model, and a value head beside it."""
    folder = vlm_models.make("qwen2.5-vl", tmp_path_factory.mktemp("seeing"))
    head = torch.nn.Linear(32, 1)
    save_file({f"v_head.summary.{n}": x for n, x in head.state_dict().items()}, folder / "value_head.safetensors")
    return folder


def test_a_reward_model_with_eyes(seeing: Path, tmp_path: Path) -> None:
    """Both benchmarks, text and pictures; another picture is another reward; the second run scores nothing again."""
    vl_hub(tmp_path)
    mm_files(tmp_path)
    scores = tmp_path / "scores.jsonl"
    asked = ("bench", seeing, "--data", tmp_path, "--only", VL, "multimodal-rewardbench")
    done = assay_here(*asked, "--scores", scores, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"vl-rewardbench +macro +7 ", done.stdout)
    assert re.search(r"multimodal-rewardbench +safety, bias +1 ", done.stdout)
    assert "not the 1,250 pairs of the paper" in done.stdout
    kept = read(scores)
    assert len(kept) == 30
    again = assay_here(*asked, "--scores", scores, cwd=tmp_path)
    assert again.stdout == done.stdout
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "multimodal-rewardbench", other / "multimodal-rewardbench")
    for n, file in enumerate(sorted((other / "multimodal-rewardbench").rglob("*.png"))):
        file.write_bytes(picture(n + 50))
    seen = tmp_path / "seen.jsonl"
    assert assay_here("bench", seeing, "--data", other, "--scores", seen, cwd=tmp_path).returncode == 0
    told = read(seen)
    assert len(told) == 16
    assert not set(told) & set(kept)
    assert not set(told.values()) & set(kept.values())


def test_one_without_eyes_says_so(tmp_path: Path) -> None:
    vl_files(tmp_path)
    blind = tiny_models.reward(tmp_path / "blind")
    done = assay_here("bench", blind, "--data", tmp_path, cwd=tmp_path)
    assert done.returncode == 0
    assert "vl-rewardbench: skipped: its questions are about pictures, and this model is shown none" in done.stdout
    assert not (tmp_path / "images").exists()
    named = assay_here("bench", blind, "--data", tmp_path, "--only", VL, cwd=tmp_path)
    assert named.returncode == 2
    assert "--only vl-rewardbench: its questions are about pictures" in named.stderr
    often = assay_here("bench", blind, "--data", tmp_path, "--judgements", "3", cwd=tmp_path)
    assert often.returncode == 2
    assert "--judgements" in often.stderr


def test_a_judge_behind_a_server(tmp_path: Path) -> None:
    """Both benchmarks, three judgements in each order, each shown its picture; the second run asks nothing."""
    vl_files(tmp_path)
    mm_files(tmp_path)
    with Judged(lambda text: marked(text.index(RIGHT) < text.index(WRONG))) as server:
        asked = ("bench", f"m@{server.url}", "--data", tmp_path, "--judgements", 3)
        done = assay_here(*asked, cwd=tmp_path)
        assert assay_here(*asked, cwd=tmp_path).stdout == done.stdout
    assert done.returncode == 0, done.stderr
    assert re.search(r"vl-rewardbench +overall +7 +100.00", done.stdout)
    assert re.search(r"\(published rule, majority of 3\) +7 +100.00", done.stdout)
    assert re.search(r"multimodal-rewardbench +overall +8 +100.00", done.stdout)
    assert re.search(r"\(published rule, unread at random\) +8 +100.00", done.stdout)
    assert len(server.asked) == (7 + 8) * 2 * 3
    shown = [
        [p["image_url"]["url"] for p in b["messages"][-1]["content"] if p["type"] == "image_url"] for b in server.asked
    ]
    assert all(len(urls) == 1 and urls[0].startswith("data:image/") for urls in shown)
    assert len({urls[0] for urls in shown}) == len({*map(picture, range(8))})
    even = assay_here("bench", f"m@{server.url}", "--data", tmp_path, "--judgements", 2, cwd=tmp_path)
    assert even.returncode == 2
    assert "1, 3, 5" in even.stderr


@pytest.mark.slow
def test_a_model_with_eyes_as_judge(tmp_path: Path) -> None:
    """A real model behind a real server, its weights random: it is shown the pictures and comes to no end, which is no
    verdict and no number, and told."""
    vl_hub(tmp_path)
    vlm_models.make("qwen2.5-vl", tmp_path / "vlm")
    with served(str(tmp_path / "vlm"), tmp_path / "log", "decoder", say=lambda _: None) as end:
        judge = f"{end.model}@{end.url}"
        done = assay_here(
            "bench", judge, "--data", tmp_path, "--only", VL, "--reply-tokens", 12, "--limit", 2, cwd=tmp_path
        )
    assert done.returncode == 2
    assert "answered none of 4 requests (cut off at max_tokens)" in done.stderr, done.stderr


SEES = """
from pathlib import Path

from PIL import Image


def score(conversations):
    shown = [Image.open(Path("DATA/images") / f"{c[0].images[0]}.png").getpixel((0, 0))[1] for c in conversations]
    assert set(shown) == {90}
    return [float(c[-1].content.startswith("right")) for c in conversations]
"""


def test_a_function_finds_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vl_hub(tmp_path)
    (tmp_path / "looker.py").write_text(SEES.replace("DATA", str(tmp_path)))
    monkeypatch.syspath_prepend(str(tmp_path))
    done = assay_here("bench", "looker:score", "--data", tmp_path, "--only", VL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"vl-rewardbench +macro +7 +100.00", done.stdout)


def test_pictures_of_two_folders_are_asked_about(tmp_path: Path) -> None:
    """Own pairs with pictures of their own, beside a benchmark that brings its: one folder must have both."""
    vl_hub(tmp_path / "public")
    own = tmp_path / "own"
    (own / "images").mkdir(parents=True)
    row = {"prompt": "Which?", "chosen": "this one", "rejected": "that one"}
    (own / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    asked = ("bench", "m@http://127.0.0.1:9/v1", "--data", tmp_path / "public", own)
    both = assay_here(*asked, cwd=tmp_path)
    assert both.returncode == 2
    assert "lie in different folders: measure one at a time (--only), or give --images DIR" in both.stderr
