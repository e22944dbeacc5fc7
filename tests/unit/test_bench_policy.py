"""Our side of `benchmarks/bench_policy.py` runs, and its peers read the same tokens."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import bench_pictures
import bench_policy


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "model"
    bench_policy.make_model(folder)
    bench_pictures.make_model(bench_policy.pictures_of(folder))
    return folder


def test_text_is_read_as_the_tokens_that_it_was_made_of(model: Path) -> None:
    """Words of special tokens were cut out of other words: TRL's prompts were a quarter longer than ours."""
    from transformers import AutoTokenizer

    for folder in (model, bench_policy.pictures_of(model)):
        read = AutoTokenizer.from_pretrained(folder)
        for ids in bench_policy.prompt_ids(512, 2):
            assert read(bench_policy.text(ids))["input_ids"] == ids


def test_our_steps_run(model: Path) -> None:
    assert len(bench_policy.grpo_ours(model, 96, 1, 0)["step"]) == 1
    assert len(bench_pictures.ours(bench_policy.pictures_of(model), bench_pictures.SIDES[0], 1, 0)["step"]) == 1


@pytest.mark.slow
def test_our_comparisons_run(model: Path) -> None:
    assert len(bench_policy.mpo_ours(model, 8, 8, 1)["losses"]) == 2
