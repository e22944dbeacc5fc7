"""The compiled decoding step computes what transformers' layers do, and is refused to models that are built otherwise."""

from typing import Any

import pytest
import torch
import transformers

import tiny_models
from assay.policy import decode_cpu
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.decode import LayerDecoder, decoder
from assay.policy.decode_cpu import CpuDecoder, Panels
from assay.policy.model import Policy
from assay.policy.sampler import LocalSampler
from assay.records import user
from assay.rollouts import Prompt
from tiny_models import SHAPE

pytestmark = pytest.mark.skipif(
    decode_cpu.library() is None, reason="no C++ compiler: decoding by PyTorch's operators only"
)


def _without_a_bias(model: Any) -> Any:
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias = None
    return model


BUILT = {
    "llama": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SHAPE, head_dim=12, attention_bias=True, mlp_bias=True)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SHAPE, head_dim=36)),
    "mistral": lambda: transformers.MistralForCausalLM(
        transformers.MistralConfig(**SHAPE, head_dim=8, sliding_window=None)
    ),
}
OTHER = {
    "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**SHAPE, head_dim=8, hidden_act="silu")),
    "granite": lambda: transformers.GraniteForCausalLM(
        transformers.GraniteConfig(**SHAPE, residual_multiplier=0.5)
    ),
    "gpt2": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=SHAPE["vocab_size"], n_embd=32, n_layer=2, n_head=4, eos_token_id=1, bos_token_id=None
    )),
    "cohere": lambda: transformers.CohereForCausalLM(transformers.CohereConfig(**SHAPE, head_dim=8)),
    "olmo2": lambda: transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**SHAPE, head_dim=8)),
    "glm": lambda: transformers.GlmForCausalLM(transformers.GlmConfig(**SHAPE, head_dim=8)),
    "some biases": lambda: _without_a_bias(
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, head_dim=8, attention_bias=True))
    ),
    "gelu": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE, head_dim=8, hidden_act="gelu")),
}  # fmt: skip
PROMPTS = [
    Prompt(messages=(user(text),)) for text in ("a", "what is seven and eight, and why is it?" * 3, "bcd", "ef?")
]


def policy_of(model: Any, **config: Any) -> Policy:
    """Weights that differ from their beginnings everywhere: biases and norms too."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=draw) * parameter.std(correction=0).clamp(min=0.3)
            )
    return Policy(model.eval(), tiny_models.tokenizer(), PolicyConfig(precision="fp32", **config))


@pytest.mark.parametrize("built", BUILT)
def test_the_compiled_step_draws_what_the_layers_draw(built: str) -> None:
    """Prompts of several lengths, answers beyond the first room for keys, and rows that end and leave on the way."""
    policy = policy_of(BUILT[built]())
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=70, temperature=1.0), half=False)
    assert isinstance(sampler.decoder, CpuDecoder)
    groups = {"compiled": sampler(PROMPTS, 5)}
    sampler.decoder = LayerDecoder(policy.inner, half=False)
    sampler.decoder.load()
    groups["layers"] = sampler(PROMPTS, 5)
    compiled, layers = ([r for g in groups[k] for r in g] for k in ("compiled", "layers"))
    assert [r.tokens for r in compiled] == [r.tokens for r in layers]
    assert len({len(r.tokens) for r in compiled}) > 3
    assert max(len(r.tokens) for r in compiled) > 2 * decode_cpu.library().panel(), "room grew"
    for one, other in zip(compiled, layers, strict=True):
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("built", OTHER)
def test_a_model_that_is_built_otherwise_keeps_its_own_layers(built: str) -> None:
    policy = policy_of(OTHER[built]())
    with pytest.raises(ValueError, match=r"other|another|something else"):
        CpuDecoder(policy.inner)
    if policy.packed:
        assert isinstance(decoder(policy, half=False), LayerDecoder)


def test_new_weights_and_adapters_are_taken_over() -> None:
    pytest.importorskip("peft")
    from assay.policy.model import _with_lora

    model = tiny_models.language("qwen3", width=64)
    policy = Policy(
        _with_lora(model, PolicyConfig(lora_rank=2)),
        tiny_models.tokenizer(),
        PolicyConfig(precision="fp32", lora_rank=2),
    )
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=12, temperature=0.0), half=False)
    assert isinstance(sampler.decoder, CpuDecoder)
    before = sampler(PROMPTS, 1)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    sampler.load(1)
    after = sampler(PROMPTS, 1)
    sampler.decoder = LayerDecoder(policy.inner, half=False, adapters=True)
    for one, other in zip(after, sampler(PROMPTS, 1), strict=True):
        assert one[0].tokens == other[0].tokens
        assert one[0].logprobs == pytest.approx(other[0].logprobs, abs=1e-4)
    assert after[0][0].logprobs != before[0][0].logprobs


def test_without_a_compiler_the_layers_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_cpu, "library", lambda: None)
    assert isinstance(decoder(policy_of(BUILT["llama"]()), half=False), LayerDecoder)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 1, 1), (3, 7, 16), (8, 40, 33), (29, 64, 100)])
@pytest.mark.parametrize("threads", [1, 2])
def test_panels_multiply(rows: int, depth: int, columns: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_cpu, "threads", lambda: threads)
    draw = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(s, generator=draw) for s in ((columns, depth), (columns,), (rows, depth)))
    made = Panels(weight)
    torch.testing.assert_close(made(x), x @ weight.T, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made(x, bias), x @ weight.T + bias, atol=1e-5, rtol=1e-4)
    made.fill(2 * weight)
    torch.testing.assert_close(made(x), 2 * x @ weight.T, atol=1e-5, rtol=1e-4)
