"""Packing: exactly what padded single sequences compute, for every shape; and bins that hold their budget."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

import tiny_models
from assay import attention, attention_cpu, attention_flex, packing
from assay.losses import bradley_terry
from assay.pack import Group, bins, pack, pad, padded_bins, share

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "num_labels": 1, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES)),
    "qwen3": lambda: Qwen3ForSequenceClassification(Qwen3Config(**SIZES, head_dim=16)),
    "qwen2": lambda: Qwen2ForSequenceClassification(Qwen2Config(**SIZES)),
}


def model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = FAMILIES[family]()
    return made


PACKED = {family: model(family) for family in FAMILIES}
PLAIN = {family: model(family) for family in FAMILIES}
for _each in PACKED.values():
    assert packing.use_packing(_each) == ""

tokens = st.integers(1, 63)
groups = st.lists(
    st.tuples(st.lists(tokens, max_size=12), st.lists(st.lists(tokens, min_size=1, max_size=9), min_size=1, max_size=4)),
    min_size=1, max_size=4,
).map(lambda parts: [share([prefix + answer for answer in answers]) for prefix, answers in parts])  # fmt: skip


def alone(model: PreTrainedModel, parts: Sequence[Group]) -> torch.Tensor:
    """The rewards by the model's own forward pass, one unpadded sequence at a time."""
    rows = [np.concatenate([g.prefix, a]).astype(np.int64) for g in parts for a in g.answers]
    return torch.cat([model(input_ids=torch.from_numpy(r)[None]).logits[:, 0] for r in rows])


def packed(model: PreTrainedModel, parts: Sequence[Group]) -> torch.Tensor:
    return model.score(packing.packed_hidden(model, pack(parts)))[:, 0]


@pytest.mark.parametrize("family", FAMILIES)
@given(parts=groups)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_packed_equals_single_sequences_in_loss_and_gradients(family: str, parts: list[Group]) -> None:
    results = []
    for each, run in ((PACKED[family], packed), (PLAIN[family], alone)):
        each.zero_grad()
        rewards = run(each, parts)
        loss = bradley_terry(rewards - rewards.flip(0).detach() * 0.5) + rewards.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        results.append((loss, rewards, [p.grad for p in each.parameters()]))
    (loss, rewards, grads), (loss_1, rewards_1, grads_1) = results
    torch.testing.assert_close(rewards, rewards_1, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss, loss_1, atol=1e-5, rtol=1e-5)
    for one, other in zip(grads, grads_1, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_segments_longer_than_a_block_are_exact_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    first, second, prefix = (rng.integers(1, 64, n).tolist() for n in (37, 20, 23))
    parts = [share([prefix + first, prefix + second])]
    clear = (attention._future.cache_clear, attention._past.cache_clear)
    [forget() for forget in clear]
    monkeypatch.setattr(attention, "BLOCK", 8)
    monkeypatch.setattr(attention, "TILE", 4)
    grads = []
    for each, run in ((PACKED["qwen3"], packed), (PLAIN["qwen3"], alone)):
        each.zero_grad()
        run(each, parts).diff().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in each.parameters()]))
    [forget() for forget in clear]
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-4)


def test_share_by_hand() -> None:
    group = share([[1, 2, 3, 4], [1, 2, 5], [1, 2, 3, 9]])
    assert group.prefix.tolist() == [1, 2]
    assert [a.tolist() for a in group.answers] == [[3, 4], [5], [3, 9]]
    assert (group.tokens, group.whole, group.longest()) == (7, 11, 4)
    nested = share([[1, 2], [1, 2, 3]])
    assert (nested.prefix.tolist(), [a.tolist() for a in nested.answers]) == ([1], [[2], [2, 3]])
    assert share([[1, 2]]).prefix.tolist() == []
    assert share([[1, 2, 3], [1, 2, 4]], types=(1, 1)).prefix.tolist() == []


def test_a_pack_by_hand() -> None:
    made = pack([share([[7, 8, 1], [7, 8, 2, 3]]), share([[9]])], multiple=1)
    assert made.ids_1T.tolist() == [[7, 8, 1, 2, 3, 9]]
    assert made.positions_1T.tolist() == [[0, 1, 2, 2, 3, 0]]
    assert made.last_N.tolist() == [2, 4, 5]
    assert made.layout.queries_S1.tolist() == [0, 2, 3, 5, 6]
    assert made.layout.keys_U.tolist() == [0, 1, 0, 1, 2, 0, 1, 3, 4, 5]
    assert made.layout.keys_S1.tolist() == [0, 2, 5, 9, 10]
    filled = pack([share([[7, 8, 1]])], multiple=8)
    assert (filled.tokens, filled.last_N.tolist(), filled.layout.queries_S1.tolist()) == (8, [2], [0, 3, 8])


@given(parts=groups, heads=st.sampled_from([(2, 2), (4, 2)]))
@settings(max_examples=15)
def test_all_back_ends_agree(parts: list[Group], heads: tuple[int, int]) -> None:
    """FlexAttention's mask (its forward runs here) and varlen's gathered keys say the same as the segments' loop."""
    torch.manual_seed(0)
    made = pack(parts, "flex")
    length, (h, k) = made.tokens, heads
    q, key, value = (torch.randn(length, n, 16) for n in (h, k, k))
    expected = attention._segments(q, key, value, made.layout, 0.25)
    flex = attention._flex(q, key, value, made.layout, 0.25)
    torch.testing.assert_close(flex, expected, atol=1e-5, rtol=1e-5)
    layout, varlen = made.layout, []
    starts, key_starts = layout.queries_S1.tolist(), layout.keys_S1.tolist()
    for s, e, f, t in zip(starts, starts[1:], key_starts, key_starts[1:], strict=False):
        rows, columns = e - s, t - f
        mask = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)  # causal, aligned at the bottom right
        parts_ = (
            x[i].transpose(0, 1)[None]
            for x, i in ((q, slice(s, e)), (key, layout.keys_U[f:t]), (value, layout.keys_U[f:t]))
        )
        out = torch.nn.functional.scaled_dot_product_attention(*parts_, attn_mask=mask, scale=0.25, enable_gqa=h != k)
        varlen.append(out[0].transpose(0, 1))
    torch.testing.assert_close(torch.cat(varlen), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(attention_cpu.library() is None, reason="no C++ compiler: the compiled helper is not tested")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(parts=groups, heads=st.sampled_from([(2, 2), (4, 2), (3, 1)]), strided=st.booleans())
@settings(max_examples=15)
def test_the_compiled_helper_computes_what_pytorch_does(
    dtype: torch.dtype, parts: list[Group], heads: tuple[int, int], strided: bool
) -> None:
    made, (h, k) = pack(parts), heads
    grads = []
    for usable, amx in ((attention_cpu.usable, False), (attention_cpu.usable, True), (lambda _: False, False)):
        torch.manual_seed(0)
        inputs = [torch.randn(n, made.tokens, 16, dtype=dtype).transpose(0, 1) for n in (h, k, k)]
        inputs = [(x if strided else x.contiguous()).requires_grad_() for x in inputs]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention_cpu, "usable", usable)
            patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
            out = attention._segments(*inputs, made.layout, 0.3)
            grads.append(torch.autograd.grad(out, inputs, torch.randn(out.shape, dtype=dtype)))
    tolerance = 2e-6 if dtype == torch.float32 else 0.02
    for found in grads[:-1]:
        for one, other in zip(found, grads[-1], strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.skipif(attention_cpu.library() is None, reason="no C++ compiler: the compiled helper is not tested")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", [8, 40])
def test_compiled_attention_of_long_segments(threads: int, width: int) -> None:
    """More queries than a block holds, heads that fill no whole panels, work shared among threads; scores up to 60."""
    random = np.random.default_rng(0)
    made = pack([
        Group(prefix=random.integers(9, size=70), answers=tuple(random.integers(9, size=n) for n in (130, 1, 49))),
        Group(prefix=random.integers(9, size=0), answers=(random.integers(9, size=97),)),
    ])  # fmt: skip
    found, before = [], torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for compiled in (True, False):
            torch.manual_seed(0)
            inputs = [3 * torch.randn(made.tokens, n, width) for n in (6, 2, 2)]
            inputs = [x.requires_grad_() for x in inputs]
            with pytest.MonkeyPatch.context() as patch:
                if not compiled:
                    patch.setattr(attention_cpu, "usable", lambda _: False)
                out = attention._segments(*inputs, made.layout, width**-0.5)
                found.append([out, *torch.autograd.grad(out, inputs, torch.randn(out.shape))])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_differentiating_under_autocast_changes_nothing() -> None:
    """The helper once read what autocast had made of its products as if it were fp32, past its end."""
    made, grads = pack([share([[1] * 70, [1] * 40 + [2] * 20])]), []
    for inside in (False, True):
        torch.manual_seed(0)
        inputs = [torch.randn(made.tokens, n, 16, dtype=torch.bfloat16).requires_grad_() for n in (4, 2, 2)]
        out = attention._segments(*inputs, made.layout, 0.3)
        with torch.autocast("cpu", torch.bfloat16, enabled=inside):
            grads.append(torch.autograd.grad(out, inputs, torch.ones_like(out)))
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


@pytest.mark.skipif(attention_cpu.library() is None, reason="no C++ compiler")
def test_the_compiled_helper_leaves_the_processs_arithmetic_alone() -> None:
    assert np.float32(1e-38) / np.float32(16) > 0, "subnormal numbers were turned off"


def test_padded_batches_give_the_same_rewards() -> None:
    parts = [share([[5, 6, 7], [5, 6, 8, 9, 10]]), share([[11, 12]])]
    made = pad(parts, 0)
    assert made.mask_BT.sum(1).tolist() == [3, 5, 2]
    plain = PLAIN["llama"]
    rewards = plain(input_ids=made.ids_BT, attention_mask=made.mask_BT).logits[:, 0]
    torch.testing.assert_close(rewards, alone(plain, parts), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "rows", [[[5, 6, 7, 0], [5, 6, 8, 9]], [[5, 6, 0], [5, 6, 0, 0, 0]], [[5, 0, 6], [5, 0, 0, 0]]]
)
def test_rewards_are_read_where_transformers_reads_them(rows: list[list[int]]) -> None:
    """Sequences that end in the padding token (0 here), as with tokenizers that pad with their end-of-text."""
    parts = [share(rows)]
    made = pad(parts, 0)
    expected = PLAIN["llama"](input_ids=made.ids_BT, attention_mask=made.mask_BT).logits[:, 0]
    found = PACKED["llama"].score(packing.packed_hidden(PACKED["llama"], pack(parts, pad_id=0)))[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_back_end_that_does_not_run_here_is_found_out() -> None:
    one = FAMILIES["llama"]()
    before = one.config._attn_implementation
    assert "packed attention (varlen) fails on it" in packing.use_packing(one, "varlen")
    assert one.config._attn_implementation == before
    assert packing.use_packing(one, "segments", half=True) == ""
    assert attention.candidates(torch.device("cuda"), half=True) == ("varlen", "flex", "segments")


def test_what_cannot_be_packed_says_why_and_stays_as_it_was() -> None:
    small = {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}
    deberta = DebertaV2ForSequenceClassification(DebertaV2Config(**small)).eval()
    assert "cannot be replaced" in packing.use_packing(deberta)
    window = MistralForSequenceClassification(MistralConfig(**SIZES, sliding_window=8))
    assert "sliding" in packing.use_packing(window)
    liar = FAMILIES["llama"]()
    for layer in liar.model.layers:
        layer.self_attn.forward = lambda hidden_states, **_: (hidden_states.flip(1), None)
    before = liar.config._attn_implementation
    for half in (False, True):
        assert "not plain attention" in packing.use_packing(liar, half=half)
        assert liar.config._attn_implementation == before


def test_weights_that_bfloat16_rounds_badly_are_no_other_attention() -> None:
    """In bfloat16 this model's packed and single states lie further apart than 5%; in fp32 they are the same."""
    deep = tiny_models.language("llama", layers=24, width=64)
    with torch.no_grad():
        for weight in (w for w in deep.model.layers.parameters() if w.dim() == 2):
            weight.mul_(16)
    before = deep.config._attn_implementation
    assert packing.use_packing(deep, half=True) == ""
    deep.model.set_attn_implementation(before)
    for layer in deep.model.layers:
        layer.self_attn.forward = lambda hidden_states, **_: (hidden_states.flip(1), None)
    assert "not plain attention" in packing.use_packing(deep, half=True), (
        "however badly it rounds, another attention is refused"
    )


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(10, 60))
def test_bins_hold_everything_once_within_the_budget(sizes: list[int], budget: int) -> None:
    filled = bins(sizes, budget)
    assert sorted(i for f in filled for i in f) == list(range(len(sizes)))
    assert all(sum(sizes[i] for i in f) <= budget or len(f) == 1 for f in filled)
    loads = sorted(sum(sizes[i] for i in f) for f in filled)
    assert len(loads) < 2 or loads[0] + loads[1] > budget, "two bins would have fitted into one"


def test_padded_bins_group_neighbours_in_length() -> None:
    made = padded_bins([share([[1] * n, [2] * n]) for n in (3, 30, 4, 29)], 60)
    assert sorted(map(sorted, made)) == [[0, 2], [1], [3]]


@pytest.mark.parametrize("causal", [True, False])
def test_flex_s_mask_made_from_boundaries_is_that_of_all_pairs_of_tokens(causal: bool) -> None:
    """Segments that begin and end anywhere in a block, fill several blocks, or share one."""
    from torch.nn.attention.flex_attention import create_block_mask

    random = np.random.default_rng(0)
    for _ in range(8):
        lengths = [random.integers(1, 300, random.integers(2, 5)) for _ in range(random.integers(1, 4))]
        texts = [[random.integers(1, 50, n, dtype=np.int32) for n in some] for some in lengths]
        made = pack([Group(prefix=t[0][: 300 * causal], answers=tuple(t[1:])) for t in texts], "flex", causal=causal)
        layout, n = made.layout, made.tokens
        dense = create_block_mask(attention_flex.visible(layout), None, None, n, n, device="cpu")
        assert torch.equal(layout.mask.to_dense() > 0, dense.to_dense() > 0), "the same blocks are read"
        pairs_TT = attention_flex.visible(layout)(None, None, torch.arange(n)[:, None], torch.arange(n))
        for row in range(layout.mask.full_kv_indices.shape[-2]):
            for column in layout.mask.full_kv_indices[0, 0, row, : layout.mask.full_kv_num_blocks[0, 0, row]].tolist():
                side = attention_flex.BLOCK
                block = pairs_TT[row * side : (row + 1) * side, column * side : (column + 1) * side]
                assert block.shape == (side, side), "not at the pack's ragged end"
                assert block.all(), "a block that is read without asking is seen whole"
    assert layout.mask.full_kv_num_blocks.sum(), "there are such blocks at all"
    there = made.to(torch.device("meta")).layout.mask
    assert there.kv_indices.is_meta
    assert all(c.cell_contents.is_meta for c in there.mask_mod.__closure__ if isinstance(c.cell_contents, torch.Tensor))
