"""A language model cut to some of its layers, marks that become tokens, linear layers that wait in their kernel's order."""

from pathlib import Path

import pytest
import torch

import tiny_models
from assay import models
from assay.errors import AssayError
from assay.policy.decode import Reordered, can_reorder


def test_first_and_last_layers_are_kept_and_still_decode_with_a_cache() -> None:
    whole = tiny_models.language("qwen3", layers=3, width=64)
    layers = list(whole.model.layers)
    cut = models.keep_layers(whole, 1, 1)
    assert list(cut.model.layers) == [layers[0], layers[2]]
    assert cut.config.num_hidden_layers == 2
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        alone = cut(input_ids=ids, use_cache=False).logits[0, -1]
        first = cut(input_ids=ids[:, :2], use_cache=True)
        cached = cut(input_ids=ids[:, 2:], past_key_values=first.past_key_values).logits[0, -1]
    torch.testing.assert_close(alone, cached, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("first", "last"), [(0, 0), (-1, 2), (5, 5)])
def test_layers_that_are_not_there_cannot_be_kept(first: int, last: int) -> None:
    with pytest.raises(AssayError, match="cannot keep"):
        models.keep_layers(tiny_models.language("qwen3", width=64), first, last)


def test_a_mark_is_one_token_that_begins_as_the_mean_of_its_pieces() -> None:
    model, tokenizer = tiny_models.language("qwen3", width=64), tiny_models.tokenizer()
    marks = ("<<think>>", "<</think>>")
    pieces = [tokenizer(m, add_special_tokens=False)["input_ids"] for m in marks]
    assert all(len(p) > 1 for p in pieces)
    before = model.get_input_embeddings().weight.detach().clone()
    models.add_marks(model, tokenizer, marks)
    for mark, ids in zip(marks, pieces, strict=True):
        assert (
            tokenizer(f"a{mark}b", add_special_tokens=False)["input_ids"].count(tokenizer.convert_tokens_to_ids(mark))
            == 1
        )
        torch.testing.assert_close(
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(mark)], before[ids].mean(0)
        )
    ids = tokenizer(f"a{marks[0]}b", add_special_tokens=False)["input_ids"]
    assert marks[0] in tokenizer.decode(ids, skip_special_tokens=True), "marks are text, not to be skipped"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 8, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_a_reordered_layer_computes_the_same_and_follows_its_weights(rows: int, bias: bool, dtype: torch.dtype) -> None:
    if not can_reorder(dtype):
        pytest.skip(f"no kernels for reordered weights in {dtype} here")
    torch.manual_seed(0)
    plain = torch.nn.Linear(48, 80, bias=bias).to(dtype).requires_grad_(False)
    made = Reordered(plain)
    x = torch.randn(2, rows, 48).to(dtype)
    for _ in range(2):
        made.reorder()
        torch.testing.assert_close(made(x), plain(x))
        plain.weight.mul_(-2)


@pytest.mark.parametrize("inside", ["seed-0/models/final", "models/grpo"])
def test_a_run_is_no_model_and_its_models_are_named(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is a mistyped run a model of a hub, which would be asked for minutes."""
    (tmp_path / "runs/mine" / inside).mkdir(parents=True)
    (tmp_path / "runs/mine" / inside / "config.json").write_text("{}")
    (tmp_path / "runs/mine/config.json").write_text('{"recipe": "tiny"}')
    (tmp_path / "runs/mine/run.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssayError, match=f"'runs/mine' is a run, not a model; its models: runs/mine/{inside}"):
        models.locate("runs/mine")
    with pytest.raises(AssayError, match="'runs/mien': there is no such folder; beside it: mine"):
        models.locate("runs/mien")
    assert models.locate(f"runs/mine/{inside}") == (f"runs/mine/{inside}", {})
    assert models.locate("Qwen/Qwen3-0.6B") == ("Qwen/Qwen3-0.6B", {})
