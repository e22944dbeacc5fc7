"""A reward model as a module: groups of sequences in, one reward for each sequence out; packed where it can be.

The head is computed in fp32, on padded rows and in packs, whatever the body is computed in.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from assay import devices, encoders, models, packing, sight, vision, weights
from assay.attention import Prefilled, candidates
from assay.body_cpu import Body
from assay.errors import AssayError, missing_extra
from assay.frozen import Frozen, parts
from assay.images import ImageStore
from assay.pack import Group, Ids, Pack, Padded, bins, continued, pack, pad, padded_bins
from assay.reward.config import EngineConfig, TrainConfig
from assay.reward.visual import load_visual
from assay.shortcuts import MOST_SCORES, Route, layers_of
from assay.tables import write_text
from assay.vision import Pictures

Batch = Pack | Padded
Earlier = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of every layer that a pass goes on from."""
WORTH = 32
"""As `packing.WORTH`, by compiled loops, where one more pass takes as long as 12 tokens."""


class RewardModel(torch.nn.Module):
    """Any sequence classifier with one output. `packed` tells how it runs, `reason` why it is not packed, `bf16`
    whether it computes in bfloat16. A reward is read at the last token that is not `pad_id` (-1: at the last), an encoder's
    at its first. `frozen`: so many first layers are never trained; what they make of a text is kept.

    `fresh` is set where adapters are trained: it makes the same model anew, in full precision and on the CPU. `body` is set
    where the model only scores, and compiled loops compute its body (`score_only`).
    """

    def __init__(
        self, model: Any, pad_id: int, engine: EngineConfig, precision: str = "fp32", pictures: Pictures | None = None,
        frozen: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if getattr(model.config, "is_encoder_decoder", False):
            raise AssayError(
                f"{model.config.name_or_path}: an encoder-decoder ({model.config.model_type}) is no reward model here; "
                "take a decoder with a chat template, or an encoder"
            )
        self.model, self.pad_id, self.engine, self.pictures = model, pad_id, engine, pictures
        self.fresh: Callable[[], Any] | None = None
        self.body: Any = None
        self._no_split_modules = list(getattr(model, "_no_split_modules", None) or [])
        self.reason, self.backend = "engine.packing is off", "segments"
        self.bf16 = devices.computes_in_half(precision)
        self.typed = _has_types(model)
        wanted = candidates(devices.device(), self.bf16) if engine.attention == "auto" else (engine.attention,)
        plain = vision.language_model(self.inner).config._attn_implementation
        for backend in wanted if engine.packing else ():
            self.reason, self.backend = packing.use_packing(model, backend, self.bf16), backend
            if self.packed:
                break
        if pictures is not None:
            seen = sight.tried(self.inner, pictures.whole, plain, self.backend if self.packed else "", self.bf16)
            self.reason = self.reason or seen
        self.causal = not encoders.is_encoder(self.inner)
        self.heads = getattr(self.inner.config.get_text_config(), "num_attention_heads", 1)
        stays = frozen > 0 and self.packed and layers_of(vision.language_model(self.inner))
        self.frozen = Frozen(self.inner, frozen, self.backend, self.bf16, self.causal) if stays else None

    def score_only(self) -> "RewardModel":
        """Make it ready to score and nothing else. Where it computes in bfloat16, its products' weights (a tower's too) are
        rounded to that once, not in every pass, which gives the same products; on a CPU compiled loops take its body where
        they can."""
        if not self.bf16 or self.frozen is not None:
            return self
        if self.packed and devices.device().type == "cpu":
            with suppress(ValueError):
                self.body = Body(vision.language_model(self.inner))
        precise = {id(p) for m in self.full_precision for p in m.parameters()}
        for module in vision.language_model(self.inner).modules():
            if type(module) is torch.nn.Linear and id(module.weight) not in precise:
                module.weight.data = module.weight.data.to(torch.bfloat16)
        seeing = [vision.vision_tower(self.inner), vision.adapter(self.inner)] if self.pictures is not None else []
        for weight in (w for part in seeing if part is not None for w in weights.products(part)):
            weight.data = weight.data.to(torch.bfloat16)
        return self

    @property
    def packed(self) -> bool:
        return not self.reason

    @property
    def device(self) -> torch.device:
        where: torch.device = self.model.get_input_embeddings().weight.device
        return where

    @property
    def multiple(self) -> int:
        """A pack's tokens are filled up to a multiple of this: compiled loops take any number."""
        return 64 if self.body is None else 1

    @property
    def shares(self) -> bool:
        """Is a prefix that sequences share computed once?"""
        return self.packed and self.causal

    def bins(self, groups: Sequence[Group]) -> list[list[int]]:
        """Indices of the groups of each forward pass, within the budget of tokens."""
        if self.packed:
            return bins([g.tokens if self.causal else g.whole for g in groups], self.engine.tokens)
        return padded_bins(groups, self.engine.tokens)

    def batch(self, groups: Sequence[Group], before: Earlier = ()) -> Batch:
        """The input of one pass, which may go on from the keys of an earlier one (`read_on`)."""
        return self._pack(groups, before) if self.packed else pad(groups, self.pad_id)

    def _pack(self, groups: Sequence[Group], before: Earlier = ()) -> Pack:
        earlier = len(before[0][0]) if before else 0
        scores = self.heads * sum(len(g.answers) for g in groups) * (earlier + sum(g.whole for g in groups))
        backend = "segments" if before and self.backend == "flex" else self.backend
        read = scores <= MOST_SCORES
        made = pack(groups, backend, self.multiple, self.pad_id, earlier, causal=self.causal, read=read)
        return made if self.frozen is None else replace(made, groups=tuple(groups))

    def common(self, groups: Sequence[Group]) -> Ids:
        """The tokens with which many groups begin, where reading them once in a pass of their own pays (`read_on`); else
        none. Other calls play no part, so a reward is the same to the last digit whatever came before."""
        worth = packing.WORTH if self.body is None else WORTH
        told = groups if self.shares and self.frozen is None else ()
        return packing.beginning(self.inner, told, self.backend, self.pad_id, worth)

    def read_on(self, ids: Ids, before: Earlier = (), images: tuple[str, ...] = ()) -> tuple[Prefilled, int]:
        """The keys and values of `before` and then of these tokens, for passes that go on from there; and how far places
        after them are from what their number says. For scoring: no gradient goes back."""
        batch = self._pack([Group(prefix=ids[:0], answers=(ids,), images=images)], before).to(self.device)
        made: Prefilled = []
        self(batch, prefilled=made, before=before)
        own = [(k[: len(ids)], v[: len(ids)]) for k, v in made]
        if before:
            own = [(torch.cat([a, k]), torch.cat([b, v])) for (a, b), (k, v) in zip(before, own, strict=True)]
        return own, packing.skipped(self.inner, batch, self.pictures)

    def passes(self, group: Group, before: Earlier = ()) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(answers, their rewards) of a packed group that is too large for one pass: what its answers share is read once,
        and they go on from its keys in passes within the budget. With `before`, the group goes on from these itself."""
        prefix, answers = continued(group, self.pad_id)
        images, skipped = group.images, 0
        if len(prefix):
            (before, skipped), images = self.read_on(prefix, before, images), ()
        for part in bins([len(a) for a in answers], self.engine.tokens):
            alone = [Group(prefix=prefix[:0], answers=(answers[i],), images=images) for i in part]
            batch = self._pack(alone, before).to(self.device)
            batch = replace(batch, positions_1T=batch.positions_1T + skipped)
            yield part, self(batch, before=before)

    @property
    def inner(self) -> Any:
        """The model of transformers, under adapters if there are any."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def full_precision(self) -> list[Any]:
        """The modules that are not to be computed in bfloat16: the head's, and an encoder's pooler."""
        inner = self.inner
        found = [m for n, m in inner.named_children() if n != inner.base_model_prefix]
        found.append(getattr(getattr(inner, inner.base_model_prefix), "pooler", None))
        return [m for m in found if isinstance(m, torch.nn.Module) and any(True for _ in m.parameters())]

    @property
    def aside(self) -> list[Any]:
        """What not every pass runs: the vision tower (see `step.Engine`)."""
        return [vision.vision_tower(self.inner)] if self.pictures is not None else []

    def forward(self, batch: Batch, **kept: Any) -> torch.Tensor:
        """Rewards in fp32, shape (N,): one for each answer of each group, in order; `kept` as in `packing.packed_hidden`."""
        kept = {name: keys for name, keys in kept.items() if keys or name == "prefilled"}  # an empty `before` is none
        with nullcontext() if self.causal else encoders.ONE_BODY:
            found_N = self._rewards(batch, **kept)
        return found_N if self.packed else vision.touch(self.inner, found_N)

    def _rewards(self, batch: Batch, **kept: Any) -> torch.Tensor:
        inner = self.inner
        if not isinstance(batch, Padded):
            if kept:
                batch = replace(batch, groups=())
            if "prefilled" in kept and self.body is None:  # every layer's keys are asked for
                batch = batch.through(None)
            if self.frozen is not None and batch.groups:
                given = {"given_1TD": self.frozen.given(batch.groups, batch), "frozen": self.frozen.layers}
                batch = batch.through(replace(batch.layout.route or Route(), **given))
            states_ND = packing.packed_hidden(inner, batch, self.pictures, self.body, **kept)
            if self.causal:
                return packing.in_fp32(inner.score, states_ND).squeeze(-1)
            return encoders.first_token_rewards(inner, states_ND)
        if hasattr(inner, "score") and self.pictures is not None:
            states_BTD, last_B = packing.padded_hidden(inner, batch, self.pictures), self._last(batch)
            return packing.in_fp32(inner.score, states_BTD[torch.arange(len(last_B)), last_B]).squeeze(-1)
        inputs = {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT}
        if batch.types_BT is not None and self.typed:
            inputs["token_type_ids"] = batch.types_BT
        if hasattr(inner, "score"):
            states_BTD, last_B = packing.hidden(inner, inputs), self._last(batch)
            return packing.in_fp32(inner.score, states_BTD[torch.arange(len(last_B)), last_B]).squeeze(-1)
        return encoders.rewards(inner, getattr(inner, inner.base_model_prefix)(**inputs), inputs)

    def _last(self, batch: Padded) -> torch.Tensor:
        """Where each row's reward is read, shape (B,): as transformers does, or at the last token of a row all padding."""
        places_T = torch.arange(batch.ids_BT.shape[1], device=batch.ids_BT.device)
        read_B = (places_T * (batch.mask_BT.bool() & (batch.ids_BT != self.pad_id))).argmax(-1)
        first_B = batch.ids_BT[:, 0] == self.pad_id
        return torch.where((read_B == 0) & first_B, batch.mask_BT.sum(-1) - 1, read_B)


def _has_types(model: Any) -> bool:
    """Does the model tell a second text by its token types? RoBERTa has one type, DistilBERT none."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    one = getattr(inner.config, "type_vocab_size", 2) == 1
    return not one and "token_type_ids" in inspect.signature(inner.forward).parameters


def for_training(config: TrainConfig, tokenizer: Any, say: Callable[[str], None] = lambda _: None) -> RewardModel:
    """The model that `config` asks for, on this process's device. `tokenizer` is the processor of a model with pictures;
    it gets a padding token that no conversation ends with, if it has none. A head that is left out is told by `say`."""
    engine = config.engine
    if config.images is not None:
        return _visual(config, tokenizer)
    model = _backbone(config, tokenizer, engine.quantize, say)
    if engine.checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if 0 < (limit := packing.longest_together(model)) < config.max_tokens:
        say(
            f"not packed: a text above {limit:,} tokens would turn those beside it (longrope); max_tokens {limit} packs"
        )
        engine = replace(engine, packing=False)
    frozen = config.freeze_layers
    made = RewardModel(model.to(devices.device()), tokenizer.pad_token_id, engine, config.precision, frozen=frozen)
    made.fresh = (lambda: _backbone(config, tokenizer, quantize=False)) if engine.lora_rank else None
    return made


def _visual(config: TrainConfig, processor: Any) -> RewardModel:
    assert config.images is not None
    if config.engine.lora_rank or config.engine.quantize:
        raise AssayError("low-rank adapters on a model with pictures are not supported: leave engine.lora_rank at 0")
    torch.manual_seed(config.seed)
    model, _ = load_visual(config.backbone)
    weights.own_pad(processor.tokenizer, model)
    if config.engine.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    pictures = Pictures(processor, ImageStore(config.images))
    return RewardModel(
        model.to(devices.device()), processor.tokenizer.pad_token_id, config.engine, config.precision, pictures
    )


def _backbone(config: TrainConfig, tokenizer: Any, quantize: bool, say: Callable[[str], None] = lambda _: None) -> Any:
    """The backbone with a new head, its adapters if any; drawn from the config's seed, so always the same."""
    torch.manual_seed(config.seed)
    attention = devices.attention_for(config.max_tokens)
    backbone = models.Backbone(name=config.backbone, layers=config.layers, attention=attention, quantize=quantize)
    model = models.load_reward_model(backbone, tokenizer, say=say)
    model.get_input_embeddings().requires_grad_(config.train_embeddings)
    for part in parts(model, config.freeze_layers) if config.freeze_layers else ():
        part.requires_grad_(False)
    return with_lora(model, config.engine.lora_rank) if config.engine.lora_rank else model


def compile_when_worth(model: RewardModel, tokens: float) -> bool:
    """Compile the layers as `engine.compile` says; "auto" judges by the work of training on so many tokens."""
    return model.packed and devices.compile_layers(model, model._no_split_modules, model.engine.compile, tokens)


def with_lora(model: Any, rank: int) -> Any:
    """Low-rank adapters (scale 2) on every linear layer of the body; the head is trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise missing_extra("peft", "lora") from error
    settings = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return get_peft_model(model, settings)


def save(model: RewardModel, state: dict[str, torch.Tensor], folder: Path, tokenizer: Any) -> None:
    """Write the weights in `state` (of `RewardModel`) as a plain sequence classifier: adapters are merged.

    Adapters are merged into a fresh backbone in full precision, whatever they were trained on.
    """
    inner: Any = model.model
    own = {name.removeprefix("model."): value for name, value in state.items()}
    if model.fresh is not None:
        inner = model.fresh()
        inner.load_state_dict(own, strict=False)
        inner = inner.merge_and_unload()
        own = inner.state_dict()
    inner.save_pretrained(folder, state_dict={name: value.contiguous() for name, value in own.items()})
    tokenizer.save_pretrained(folder)
    write_text(folder / "README.md", card(tokenizer))
    weights.readable(folder)


def card(tokenizer: Any) -> str:
    """What the folder says of itself: how a conversation becomes text, and how others load the model."""
    text = getattr(tokenizer, "tokenizer", tokenizer)
    if hasattr(tokenizer, "image_processor"):
        return _CARD + _VISUAL
    if text.chat_template:
        return _CARD + _TEMPLATE
    return _CARD + _PAIR.format(cls=text.cls_token, sep=text.sep_token)


_CARD = """# Reward model

One output: the reward, which is no probability and has no scale of its own.

"""
_VISUAL = """A vision-language model without its language-model head, which `transformers.AutoModel` loads; the head is
score.safetensors, a linear layer on the last hidden state of the last token. Conversations are rendered by the processor's
chat template, the answer included.
"""
_TEMPLATE = """Conversations are rendered by the chat template, the answer included, without further special tokens:

    pipe = transformers.pipeline("text-classification", FOLDER)
    text = pipe.tokenizer.apply_chat_template(conversation, tokenize=False)
    pipe(text, add_special_tokens=False)[0]["score"]   # the reward itself

vLLM: `vllm serve FOLDER --runner pooling --convert classify`, then POST /pooling with `messages` and
`"use_activation": false`.
"""
_PAIR = """Conversations are a pair of texts for the tokenizer, {cls} history {sep} answer {sep}. A history of one turn is
its text; one of several has a line "role: text" for each.

    pipe = transformers.pipeline("text-classification", FOLDER)
    pipe({{"text": history, "text_pair": answer}})["score"]   # the reward itself

vLLM: `vllm serve FOLDER --runner pooling --convert classify`, then POST /score with `text_1` (the history), `text_2` (an
answer, or a list of them) and `"use_activation": false`.
"""
