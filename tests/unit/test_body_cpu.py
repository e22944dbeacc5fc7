"""Compiled loops in bfloat16 compute what transformers' layers do: in packs, in decoding steps, in a scorer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tiny_models
from assay import body_cpu, packing
from assay.body_cpu import Body, Panels
from assay.pack import Group, pack, share
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.decode import LayerDecoder, decoder
from assay.policy.decode_half import HalfDecoder
from assay.policy.model import Policy
from assay.policy.sampler import LocalSampler
from assay.records import assistant, user
from assay.reward.scorer import LocalScorer
from assay.rollouts import Prompt
from tiny_models import SHAPE

pytestmark = pytest.mark.skipif(
    body_cpu.library() is None,
    reason="no AVX512-BF16, or AMX, or no C++ compiler: bfloat16 by PyTorch's operators only",
)
BUILT: dict[str, Any] = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SHAPE, head_dim=12, attention_bias=True, mlp_bias=True)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE, head_dim=36)),
    "odd": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **SHAPE | {"hidden_size": 45, "intermediate_size": 71, "num_attention_heads": 3, "num_key_value_heads": 1},
        head_dim=64,
    )),
    "wide": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **SHAPE | {"hidden_size": 2048, "num_hidden_layers": 1, "num_attention_heads": 8}, head_dim=8
    )),
}  # fmt: skip
OTHER: dict[str, Any] = {
    "granite": lambda: transformers.GraniteForCausalLM(transformers.GraniteConfig(**SHAPE, residual_multiplier=0.5)),
    "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**SHAPE, head_dim=8, hidden_act="silu")),
    "gelu": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, head_dim=8, hidden_act="gelu")),
}  # fmt: skip
RANDOM = np.random.default_rng(0)


def ids(n: int) -> list[int]:
    return [int(i) for i in RANDOM.integers(2, SHAPE["vocab_size"], n)]


def made(build: Any) -> Any:
    """Weights that differ from their beginnings everywhere: biases and norms too."""
    torch.manual_seed(0)
    model, draw = build().eval(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=draw) * p.std(correction=0).clamp(min=0.05))
    packing.use_packing(model, "segments", True)
    return model


def groups() -> list[Group]:
    """Prompts and answers of one token and of several blocks, answers alone, and three of one prompt."""
    long, short = ids(61), ids(1)
    rows = [[long + ids(1), long + ids(30), long + ids(77)], [short + ids(2), short + ids(3)], [ids(200)], [ids(1)]]
    return [share(r) for r in rows]


@pytest.mark.parametrize("built", BUILT)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_pass_is_as_near_to_full_precision_as_the_layers_in_bfloat16(built: str, threads: int) -> None:
    model = made(BUILT[built])
    body, before = Body(model.model), torch.get_num_threads()
    for read in (False, True):
        batch = pack(groups(), read=read)
        given = packing.packed_inputs(model, batch)
        keys: dict[str, Any] = {n: [] for n in ("exact", "rounded", "ours")}
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                exact = model.model(**given, prefilled=keys["exact"], use_cache=False).last_hidden_state
                with torch.autocast("cpu", torch.bfloat16):
                    rounded = model.model(**given, prefilled=keys["rounded"], use_cache=False).last_hidden_state
                ours = body(**given, prefilled=keys["ours"]).last_hidden_state
        finally:
            torch.set_num_threads(before)
        assert ours.shape == exact.shape
        used = slice(None) if read else batch.from_M.unique()
        assert _apart(ours, exact, used) < 1.3 * _apart(rounded, exact, used) < 0.05
        for mine, theirs in zip(keys["ours"], keys["exact"], strict=not read):
            for a, b in zip(mine, theirs, strict=True):
                torch.testing.assert_close(a.float(), b, atol=0.03 * float(b.abs().max()), rtol=0.05)


@pytest.mark.parametrize("built", ["llama", "qwen3", "odd"])
def test_a_text_has_the_same_state_whatever_it_is_packed_with(built: str) -> None:
    """Bit for bit: alone, among answers to its prompt and to others, and going on from the keys of an earlier pass (of its
    prompt, or of what several prompts begin with, in one pass or two); all by the compiled loops."""
    model = made(BUILT[built])
    body, packs = Body(model.model), groups()
    model.model.layers[0].register_forward_pre_hook(_fail)
    prompt, none = packs[0].prefix, packs[0].prefix[:0]
    whole = [np.concatenate([g.prefix, a]) for g in packs for a in g.answers]
    keys: Any = []

    def state(asked: list[Group], earlier: int = 0, **kept: Any) -> torch.Tensor:
        batch = pack(asked, multiple=1, before=earlier, read="prefilled" not in kept)
        with torch.inference_mode():
            return packing.read(body(**packing.packed_inputs(model, batch), **kept).last_hidden_state[0], batch)

    together = state(packs)
    assert torch.equal(together, torch.cat([state([share([row])]) for row in whole]))
    state([Group(prefix=none, answers=(prompt,))], prefilled=keys)
    answers = [Group(prefix=none, answers=(a,)) for a in packs[0].answers]
    assert torch.equal(together[:3], state(answers, len(prompt), before=keys))
    first: Any = [(k[:23], v[:23]) for k, v in keys]
    rest: Any = []
    state([Group(prefix=none, answers=(prompt[23:],))], 23, prefilled=rest, before=first)
    assert all(torch.equal(a[23:], b) for layers in zip(keys, rest, strict=True) for a, b in zip(*layers, strict=True))
    behind = [
        share([[*prompt[:23], *row] for row in rows]) for rows in ([ids(40) + ids(9), ids(40)], [ids(70)], [[7], [8]])
    ]
    packs = [packs[0], *behind]
    assert torch.equal(state(packs), state([g.after(23) for g in packs], 23, before=first))


def _fail(*_: Any) -> None:
    raise AssertionError("the model's own layers ran")


def _apart(x: torch.Tensor, exact: torch.Tensor, used: Any) -> float:
    return float((x.float() - exact)[0, used].abs().mean() / exact[0, used].abs().mean())


@pytest.mark.parametrize("built", OTHER)
def test_a_model_that_is_built_otherwise_keeps_its_own_layers(built: str) -> None:
    model = made(OTHER[built])
    with pytest.raises(ValueError, match=r"other|another|something else"):
        Body(model.model)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 1, 1), (3, 7, 16), (25, 40, 33), (29, 64, 100)])
def test_panels_multiply(rows: int, depth: int, columns: int) -> None:
    draw = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(s, generator=draw) for s in ((columns, depth), (columns,), (rows, depth)))
    expected = x.bfloat16().double() @ weight.bfloat16().double().T
    torch.testing.assert_close(Panels([weight])(x).double(), expected, atol=1e-4, rtol=1e-4)
    panels = Panels([weight[:1], weight[1:]], [bias[:1], bias[1:]])
    torch.testing.assert_close(panels(x).double(), expected + bias, atol=1e-4, rtol=1e-4)
    panels.fill([2 * weight[:1], 2 * weight[1:]], [bias[:1], bias[1:]])
    torch.testing.assert_close(panels(x).double(), 2 * expected + bias, atol=1e-4, rtol=1e-4)


PROMPTS = [
    Prompt(messages=(user(text),)) for text in ("a", "what is seven and eight, and why is it?" * 3, "bcd", "ef?")
]


@pytest.mark.parametrize("built", ["llama", "qwen2", "qwen3", "odd"])
def test_decoded_answers_have_the_log_probabilities_of_the_policy(built: str) -> None:
    """Prompts of several lengths, answers beyond the first room for keys, and rows that end and leave on the way; against
    the policy in full precision, and no farther from it than transformers' layers in bfloat16 are."""
    policy = Policy(made(BUILT[built]), tiny_models.tokenizer(), PolicyConfig(precision="bf16"))
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=80, temperature=1.0))
    assert isinstance(sampler.decoder, HalfDecoder)
    gaps = {}
    for name in ("ours", "layers"):
        if name == "layers":
            sampler.decoder = LayerDecoder(policy.inner, half=True)
            sampler.decoder.load()
        answers = sampler(PROMPTS, 5)
        assert len({len(r.tokens) for g in answers for r in g}) > 3
        assert max(len(r.tokens) for g in answers for r in g) > 2 * body_cpu.library().panel(), "room grew"
        asked = [
            Group(
                prefix=np.array(sampler.prompt_ids(p), dtype=np.int32),
                answers=tuple(np.array(r.tokens, dtype=np.int32) for r in g),
            )
            for p, g in zip(PROMPTS, answers, strict=True)
        ]
        with torch.inference_mode():
            exact = policy(policy.batch(asked)).logp_M
        said = torch.tensor([x for g in answers for r in g for x in r.logprobs])
        gaps[name] = float((said - exact).abs().mean())
    assert gaps["ours"] < max(1.3 * gaps["layers"], 2e-3) < 0.1


def test_new_weights_are_taken_over() -> None:
    policy = Policy(made(BUILT["qwen3"]), tiny_models.tokenizer(), PolicyConfig(precision="bf16"))
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=5, temperature=0.0))
    before = sampler(PROMPTS, 1)[1][0]
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())), alpha=0.2)
    sampler.load(1)
    fresh = LocalSampler(policy, SamplerConfig(max_tokens=5, temperature=0.0))
    assert sampler(PROMPTS, 1)[1][0].logprobs == fresh(PROMPTS, 1)[1][0].logprobs != before.logprobs


def test_without_the_instructions_the_layers_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_cpu, "library", lambda: None)
    policy = Policy(made(BUILT["llama"]), tiny_models.tokenizer(), PolicyConfig(precision="bf16"))
    assert isinstance(decoder(policy, half=True), LayerDecoder)


def test_a_scorer_in_bfloat16_gives_the_rewards_of_full_precision(tmp_path: Path) -> None:
    """Answers of one prompt, groups beyond the budget of a pass (which go on from keys of an earlier one), and weights that
    are rounded once."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(**SHAPE | {"num_hidden_layers": 2}, head_dim=16, num_labels=1)
    transformers.Qwen3ForSequenceClassification(config).save_pretrained(tmp_path)
    chats = [
        (user(f"what is {n}?" * (1 + 9 * n)), assistant(f"it is {k}, because " * (1 + k)))
        for n in range(4)
        for k in range(5)
    ]
    found = {}
    for precision, tokens in (("fp32", 8192), ("bf16", 8192), ("bf16", 128)):
        model = transformers.Qwen3ForSequenceClassification.from_pretrained(tmp_path).eval()
        score = LocalScorer(model, tiny_models.tokenizer(), 512, tokens, precision)
        half = precision == "bf16"
        if half:
            model.model.layers[0].register_forward_pre_hook(_fail)
        found[precision, tokens] = score(chats)
        assert (score.model.body is not None) == half
        assert score.model.batch([share([[1, 2, 3]])]).tokens == (3 if half else 64), "compiled loops take any number"
        assert (model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16) == half
        assert model.score.weight.dtype == torch.float32, "the head keeps its precision"
    exact = found["fp32", 8192]
    for key in (("bf16", 8192), ("bf16", 128)):
        assert np.abs(found[key] - exact).max() < 0.1 * exact.std(), key
        assert np.corrcoef(found[key], exact)[0, 1] > 0.999
