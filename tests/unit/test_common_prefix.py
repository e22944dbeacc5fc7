"""What many prompts begin with (a template's first tokens, a system prompt) is computed once in a call of a scorer, and
kept: the scores of transformers' own models, fewer tokens."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import tiny_models
from assay import attention, attention_cpu, body_cpu, packing
from assay.images import ImageStore
from assay.pack import Group, Pack, common, pack, share
from assay.policy.config import PolicyConfig, SamplerConfig
from assay.policy.decode import LayerDecoder
from assay.policy.model import Policy
from assay.policy.sampler import LocalSampler
from assay.records import Conversation, Message, assistant, user
from assay.render import Rendered
from assay.reward import model as reward_model
from assay.reward.scorer import LocalScorer
from assay.reward.visual import load_visual
from assay.rollouts import Prompt

SIZES: dict[str, Any] = {
    "vocab_size": len(tiny_models.tokenizer()), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_labels": 1, "pad_token_id": 0, "bos_token_id": None,
}  # fmt: skip
FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": lambda **more: transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**SIZES, **more)),
    "qwen2": lambda: transformers.Qwen2ForSequenceClassification(transformers.Qwen2Config(**SIZES)),
    "qwen3": lambda: transformers.Qwen3ForSequenceClassification(transformers.Qwen3Config(**SIZES, head_dim=16)),
    "gemma": lambda: transformers.GemmaForSequenceClassification(transformers.GemmaConfig(**SIZES, head_dim=8)),
}
SYSTEM = "you are a judge of answers and say nothing else, ever. be short."
ALONE = user("what else?" * 4)


def system(text: str) -> Message:
    return Message(role="system", content=text)


def built(family: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return FAMILIES[family](**more).eval()


def chats(prompts: int = 9, answers: int = 3) -> list[Conversation]:
    """Most prompts under one system prompt, one without, one that is answered once."""
    asked = [(system(SYSTEM), user(f"what is {n}?" * (1 + n % 4))) for n in range(prompts)]
    told = [(*prompt, assistant("it is " * k + "so")) for prompt in asked for k in range(1, 1 + answers)]
    return [*told, (ALONE, assistant("nothing")), (system(SYSTEM), ALONE, assistant("all of it"))]


def expected(model: Any, score: LocalScorer, conversations: list[Conversation]) -> Any:
    """By the model's own forward pass, one unpadded sequence at a time."""
    with torch.no_grad():
        rows = [torch.tensor([one.ids]) for one in score.render(conversations)]
        return np.array([float(model(input_ids=row).logits) for row in rows])


def watched(score: LocalScorer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The (tokens, tokens of the pass that it goes on from) of each pass from now on."""
    passes: list[tuple[int, int]] = []
    forward = score.model.forward

    def spied(batch: Pack, **kept: Any) -> Any:
        passes.append((batch.tokens, len(kept["before"][0][0]) if kept["before"] else 0))
        return forward(batch, **kept)

    monkeypatch.setattr(score.model, "forward", spied)
    return passes


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of these tests are short."""
    monkeypatch.setattr(packing, "WORTH", 64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [1 << 20, 100])
def test_rewards_are_those_of_transformers_own_model(family: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups beyond the budget (100) go on from the common tokens with their prompts, and their answers from there."""
    plain, score = built(family), LocalScorer(built(family), tiny_models.tokenizer(), 512, budget)
    passes = watched(score, monkeypatch)
    asked = chats()
    for _ in range(2):  # the second time by the keys that are kept
        np.testing.assert_allclose(score(asked), expected(plain, score, asked), atol=2e-5)
    shared = len(SYSTEM) + 4
    assert sum(before >= shared for _, before in passes) >= 2
    if budget == 100:
        assert any(before > shared for _, before in passes), "a group's own prompt lies behind the common tokens"


def test_the_common_tokens_are_computed_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    score = LocalScorer(built("qwen3"), tiny_models.tokenizer(), 512)
    monkeypatch.setattr(type(score.model), "multiple", 1)
    passes, asked = watched(score, monkeypatch), chats()[:-2]
    score(asked)
    shared = len("[s]" + SYSTEM + "[u]what is ")
    read = [one.ids for one in score.render(asked)]
    once = sum(share(read[at : at + 3]).tokens for at in range(0, len(read), 3))
    assert passes == [(shared - 1, 0), (once - 9 * (shared - 1), shared - 1)]
    score(asked[:6])
    assert len(passes) == 3, "the keys of before were taken"
    score(asked[:3])
    assert passes[3:] == [(share(read[:3]).tokens, 0)], "one prompt shares nothing"


def test_what_was_scored_before_changes_no_digit() -> None:
    asked = chats()
    fresh, used = (LocalScorer(built("llama"), tiny_models.tokenizer(), 512) for _ in range(2))
    used([(system(SYSTEM[:50] + c), *x[1:]) for c in "ab" for x in asked[:9]])
    used(asked[:12])
    assert np.array_equal(used(asked), fresh(asked))


@pytest.mark.skipif(body_cpu.library() is None, reason="no AVX512-BF16, or AMX, or no C++ compiler")
def test_compiled_loops_give_the_same_states_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit. (The head's product, in fp32, rounds by the number of its rows.)"""
    states: dict[tuple[int, int], set[bytes]] = {}
    hidden, rewards = packing.packed_hidden, []
    for key in ((32, 1 << 20), (32, 100), (1 << 40, 1 << 20), (1 << 40, 100)):
        read = states.setdefault(key, set())

        def kept(*given: Any, read: set[bytes] = read, **more: Any) -> torch.Tensor:
            states_ND = hidden(*given, **more)
            read.update(row.numpy().tobytes() for row in states_ND)
            return states_ND

        monkeypatch.setattr(packing, "packed_hidden", hidden)
        monkeypatch.setattr(reward_model, "WORTH", key[0])
        score = LocalScorer(built("qwen3"), tiny_models.tokenizer(), 512, key[1], "bf16")
        assert score.model.body is not None
        monkeypatch.setattr(packing, "packed_hidden", kept)
        rewards.append(score(chats()))
    own = states[1 << 40, 1 << 20]
    assert len(own) == len(chats())
    assert all(own < more for key, more in states.items() if more is not own), "the others read prefixes too"
    for found in rewards:
        np.testing.assert_allclose(found, rewards[0], atol=1e-7)


def test_ties_stay_ties() -> None:
    score = LocalScorer(built("qwen2"), tiny_models.tokenizer(), 512)
    found = score([*chats(), *chats()])
    assert np.array_equal(found[: len(chats())], found[len(chats()) :])
    assert len(set(found)) > 9


def test_common_by_hand() -> None:
    def group(*sequences: list[int]) -> Group:
        return share(sequences)

    many = [group([7, 8, 9, 1]), group([7, 5]), group([7, 8, 9, 2, 3], [7, 8, 9, 2, 4]), group([6])]
    ids, saved = common(many)
    assert (ids.tolist(), saved) == ([7, 8, 9], 3)
    assert [g.begins(ids) for g in many] == [True, False, True, False]
    assert [a.tolist() for a in many[0].after(3).answers] == [[1]]
    assert (many[2].after(3).prefix.tolist(), many[2].after(3).answers) == ([2], many[2].answers)
    assert common([*many, *([group([7, 5, 5])] * 3)])[0].tolist() == [7], "five times one token saves more"
    assert common([*many, *([group([7, 5, 5])] * 5)])[0].tolist() == [7, 5]
    assert common(many, ends=[8])[0].tolist() == [7], "nothing from a picture on"
    assert common([group([1, 2, 3]), group([1, 2, 3])])[0].tolist() == [1, 2], "each keeps a token of its own"
    assert common([group([1, 2], [3, 4]), group([1, 2])])[1] == 0, "answers that share nothing have no beginning"


def test_rewards_are_read_where_transformers_reads_them() -> None:
    """Texts that end in padding: one whose last token that is none is the last of what all share, one of padding alone."""
    plain, score = built("llama"), LocalScorer(built("llama"), tiny_models.tokenizer(), 512)
    shared = [5 + n % 40 for n in range(70)]
    rows = [[*shared, 0, 0], [*shared, 9], [*shared, 0, 0, 0], [*shared, 8, 0, 7, 0], [0] * 75]
    found = score.rewards([(user(str(n)), assistant("a")) for n in range(len(rows))], [Rendered(ids=r) for r in rows])
    with torch.no_grad():
        exact = [float(plain(input_ids=torch.tensor([r])).logits) for r in rows[:-1]]
    np.testing.assert_allclose(found[:-1], exact, atol=2e-5)
    np.testing.assert_allclose(
        found[-1], score.rewards([(user("4"), assistant("a"))], [Rendered(ids=rows[-1])])[0], atol=2e-5
    )


def test_a_pack_behind_an_earlier_pass_by_hand() -> None:
    made = pack([share([[7, 8, 1], [7, 8, 2, 3]]), share([[9]])], multiple=8, before=2)
    assert made.ids_1T.tolist() == [[7, 8, 1, 2, 3, 9, 0, 0]]
    assert made.positions_1T.tolist() == [[2, 3, 4, 4, 5, 2, 0, 1]]
    assert made.last_N.tolist() == [2, 4, 5]
    assert made.layout.queries_S1.tolist() == [0, 2, 3, 5, 6, 8]
    keys, starts = made.layout.keys_U.tolist(), made.layout.keys_S1.tolist()
    seen = [keys[a:b] for a, b in pairwise(starts)]
    assert seen == [[8, 9, 0, 1], [8, 9, 0, 1, 2], [8, 9, 0, 1, 3, 4], [8, 9, 5], [8, 9, 6, 7]]
    with pytest.raises(AssertionError):
        pack([share([[7]])], "flex", before=2)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_sees_the_earlier_pass_first(
    compiled: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against plain attention over each segment's listed keys, which is what varlen's kernel is given."""
    if compiled and attention_cpu.library() is None:
        pytest.skip("no C++ compiler")
    monkeypatch.setattr(attention_cpu, "usable", (lambda _: True) if compiled else (lambda _: False))
    random, before = np.random.default_rng(0), 70
    sizes = ((300, (130, 1)), (0, (97,)), (5, (3, 40)))
    made = pack(
        [
            Group(prefix=random.integers(9, size=p), answers=tuple(random.integers(9, size=a) for a in told))
            for p, told in sizes
        ],
        before=before,
    )
    torch.manual_seed(0)
    q, k, v = (torch.randn(made.tokens + more, n, 16).to(dtype) for n, more in ((4, 0), (2, before), (2, before)))
    found = attention.attend(q, k, v, made.layout, 0.25)
    starts, keys = made.layout.queries_S1.tolist(), made.layout.keys_S1.tolist()
    for (s, e), (f, t) in zip(pairwise(starts), pairwise(keys), strict=True):
        mask = torch.ones(e - s, t - f, dtype=torch.bool).tril(t - f - (e - s))
        own = [x.float().transpose(0, 1)[None] for x in (q[s:e], *(x[made.layout.keys_U[f:t]] for x in (k, v)))]
        exact = torch.nn.functional.scaled_dot_product_attention(*own, attn_mask=mask, scale=0.25, enable_gqa=True)
        close = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(found[s:e].float(), exact[0].transpose(0, 1), atol=close, rtol=close)
    with pytest.raises(AssertionError, match="no gradient goes back"):
        attention.attend(q.requires_grad_(), k, v, made.layout, 0.25).sum().backward()


def test_nothing_is_shared_where_it_does_not_pay_or_would_be_another_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    stretched = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    for family, more, words, shares in (
        ("llama", {}, SYSTEM, True),
        ("llama", {}, "abc", False),
        ("llama", {"max_position_embeddings": 64, "rope_parameters": stretched}, SYSTEM, False),
    ):
        score = LocalScorer(built(family, **more), tiny_models.tokenizer(), 60 if more else 512)
        passes = watched(score, monkeypatch)
        score([(system(words), user(n), assistant("so")) for n in "abcd"])
        assert any(before for _, before in passes) == shares, words


@pytest.mark.parametrize("way", ["layers", "fp32", "bf16"])
def test_the_decoder_reads_once_what_its_prompts_begin_with(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers' log-probabilities are those of the policy, prompt by prompt."""
    half = way == "bf16"
    if half and body_cpu.library() is None:
        pytest.skip("no AVX512-BF16, or AMX, or no C++ compiler")
    policy = Policy(tiny_models.language(), tiny_models.tokenizer(), PolicyConfig(precision="bf16" if half else "fp32"))
    sampler = LocalSampler(policy, SamplerConfig(max_tokens=20, temperature=1.0), half=half)
    if way == "layers":
        sampler.decoder = LayerDecoder(policy.inner, half=False)
        sampler.decoder.load()
    passes, read = list[tuple[int, int]](), sampler._read

    def spied(batch: Pack, before: Any) -> Any:
        passes.append((batch.tokens, len(before[0][0]) if before else 0))
        return read(batch, before)

    monkeypatch.setattr(sampler, "_read", spied)
    for words in (SYSTEM, "be short"):
        prompts = [Prompt(messages=(system(words), user(f"what is {n}?" * (1 + n % 3)))) for n in range(12)]
        answers = sampler(prompts, 3)
        asked = [
            Group(
                prefix=np.array(sampler.prompt_ids(p), np.int32), answers=tuple(np.array(r.tokens, np.int32) for r in g)
            )
            for p, g in zip(prompts, answers, strict=True)
        ]
        with torch.inference_mode():
            exact = policy(policy.batch(asked)).logp_M
        said = torch.tensor([x for g in answers for r in g for x in r.logprobs])
        torch.testing.assert_close(said, exact.float(), atol=0.1 if half else 1e-4, rtol=0)
    shared, short = len("[s]" + SYSTEM + "[u]what is ") - 1, sum(len(g.prefix) for g in asked)
    own = short + 12 * (len(SYSTEM) - len("be short") - shared)
    assert passes == [(_filled(shared), 0), (_filled(own), shared), (_filled(short), 0)]


def _filled(tokens: int) -> int:
    return -(-tokens // 64) * 64


@pytest.mark.parametrize("kind", ["internvl", "qwen2.5-vl"])
def test_pictures_are_never_shared(
    kind: str, made: Callable[[str], Path], store: ImageStore, pictures: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text before the first picture is, where the model counts places in one dimension."""
    model, processor = load_visual(str(made(kind)))
    asked = [
        (system(SYSTEM), Message(role="user", content="what?", images=(picture,)), assistant(said))
        for picture in pictures[:2]
        for said in ("a blue one", "red")
    ]
    score = LocalScorer(model, processor, 1024, store=store)
    assert score.model.packed, score.model.reason
    passes = watched(score, monkeypatch)
    found = score(asked)
    assert len(set(found)) == 4
    shared = {before for _, before in passes}
    assert shared == ({0} if kind == "qwen2.5-vl" else {0, max(shared)})
    assert (max(shared) > len(SYSTEM)) == (kind == "internvl")
    monkeypatch.setattr(packing, "WORTH", 1 << 40)
    np.testing.assert_allclose(found, score(asked), atol=1e-4)
