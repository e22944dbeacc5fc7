"""A reward model as a module: groups of sequences in, one reward for each sequence out; packed where it can be."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from assay import models
from assay.attention import Prefilled, candidates
from assay.errors import AssayError, missing_extra
from assay.images import ImageStore
from assay.pack import Group, Pack, Padded, bins, continued, pack, pad, padded_bins
from assay.reward.config import EngineConfig, TrainConfig
from assay.reward.visual import load_visual
from assay.vision import Pictures

Batch = Pack | Padded


class RewardModel(torch.nn.Module):
    """Any sequence classifier with one output. `packed` tells how it runs, `reason` why it is not packed, `bf16`
    whether it computes in bfloat16.

    `fresh` is set where adapters are trained: it makes the same model anew, in full precision and on the CPU.
    """

    def __init__(
        self, model: Any, pad_id: int, engine: EngineConfig, precision: str = "fp32", pictures: Pictures | None = None
    ) -> None:
        super().__init__()
        if getattr(model.config, "is_encoder_decoder", False):
            raise AssayError(
                f"{model.config.name_or_path}: an encoder-decoder ({model.config.model_type}) is no reward model here; "
                "take a decoder with a chat template, or an encoder"
            )
        self.model, self.pad_id, self.engine, self.pictures = model, pad_id, engine, pictures
        self.fresh: Callable[[], Any] | None = None
        self._no_split_modules = list(getattr(model, "_no_split_modules", None) or [])
        self.reason, self.backend = "engine.packing is off", "segments"
        self.bf16 = models.computes_in_half(precision)
        self.typed = _has_types(model)
        wanted = candidates(models.device(), self.bf16) if engine.attention == "auto" else (engine.attention,)
        for backend in wanted if engine.packing else ():
            self.reason, self.backend = models.use_packing(model, backend, self.bf16), backend
            if self.packed:
                break

    @property
    def packed(self) -> bool:
        return not self.reason

    def bins(self, groups: Sequence[Group]) -> list[list[int]]:
        """Indices of the groups of each forward pass, within the budget of tokens."""
        if self.packed:
            return bins([g.tokens for g in groups], self.engine.tokens)
        return padded_bins(groups, self.engine.tokens)

    def batch(self, groups: Sequence[Group]) -> Batch:
        return pack(groups, self.backend, pad_id=self.pad_id) if self.packed else pad(groups, self.pad_id)

    def passes(self, group: Group) -> Iterator[tuple[list[int], torch.Tensor]]:
        """(answers, their rewards) of a packed group that is too large for one pass: what its answers share is read once,
        and they go on from its keys in passes within the budget. For scoring: no gradient goes back into the prefix."""
        prefix, answers = continued(group, self.pad_id)
        where, none = self.model.get_input_embeddings().weight.device, group.prefix[:0]
        kept: Prefilled = []
        if len(prefix):
            self(self.batch([Group(prefix=none, answers=(prefix,), images=group.images)]).to(where), prefilled=kept)
            before = {"before": [(k[: len(prefix)], v[: len(prefix)]) for k, v in kept]}
        backend = "segments" if self.backend == "flex" else self.backend
        for part in bins([len(a) for a in answers], self.engine.tokens):
            alone = [Group(prefix=none, answers=(answers[i],)) for i in part]
            batch = pack(alone, backend, pad_id=self.pad_id, before=len(prefix)).to(where)
            yield part, self(batch, **(before if len(prefix) else {}))

    def forward(self, batch: Batch, **kept: Any) -> torch.Tensor:
        """Rewards in fp32, shape (N,): one for each answer of each group, in order; `kept` as in `models.packed_hidden`."""
        if isinstance(batch, Padded):
            inputs = {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT}
            if batch.types_BT is not None and self.typed:
                inputs["token_type_ids"] = batch.types_BT
            return self.model(**inputs).logits.squeeze(-1).float()  # type: ignore[no-any-return]
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return inner.score(models.packed_hidden(inner, batch, self.pictures, **kept)).squeeze(-1).float()  # type: ignore[no-any-return]


def _has_types(model: Any) -> bool:
    """Does the model tell a second text by its token types? RoBERTa has one type, DistilBERT none."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    one = getattr(inner.config, "type_vocab_size", 2) == 1
    return not one and "token_type_ids" in inspect.signature(inner.forward).parameters


def for_training(config: TrainConfig, tokenizer: Any) -> RewardModel:
    """The model that `config` asks for, on this process's device. `tokenizer` is the processor of a model with pictures."""
    engine = config.engine
    if config.images is not None:
        return _visual(config)
    model = _backbone(config, tokenizer, engine.quantize)
    if engine.checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    made = RewardModel(model.to(models.device()), tokenizer.pad_token_id, engine, config.precision)
    made.fresh = (lambda: _backbone(config, tokenizer, quantize=False)) if engine.lora_rank else None
    return made


def _visual(config: TrainConfig) -> RewardModel:
    assert config.images is not None
    if config.engine.lora_rank or config.engine.quantize:
        raise AssayError("low-rank adapters on a model with pictures are not supported: leave engine.lora_rank at 0")
    torch.manual_seed(config.seed)
    model, processor = load_visual(config.backbone)
    if config.engine.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    pictures = Pictures(processor, ImageStore(config.images))
    made = RewardModel(
        model.to(models.device()), processor.tokenizer.pad_token_id, config.engine, config.precision, pictures
    )
    if not made.packed:
        raise AssayError(f"{config.backbone}: a reward model with pictures must be packed, but {made.reason}")
    return made


def _backbone(config: TrainConfig, tokenizer: Any, quantize: bool) -> Any:
    """The backbone with a new head, its adapters if any; drawn from the config's seed, so always the same."""
    torch.manual_seed(config.seed)
    attention = models.attention_for(config.max_tokens)
    backbone = models.Backbone(name=config.backbone, layers=config.layers, attention=attention, quantize=quantize)
    model = models.load_reward_model(backbone, tokenizer)
    model.get_input_embeddings().requires_grad_(config.train_embeddings)
    return with_lora(model, config.engine.lora_rank) if config.engine.lora_rank else model


def compile_when_worth(model: RewardModel, tokens: float) -> bool:
    """Compile the layers as `engine.compile` says; "auto" judges by the work of training on so many tokens."""
    return model.packed and models.compile_layers(model, model._no_split_modules, model.engine.compile, tokens)


def with_lora(model: Any, rank: int) -> Any:
    """Low-rank adapters (scale 2) on every linear layer of the body; the head is trained whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise missing_extra("peft", "lora") from error
    settings = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return get_peft_model(model, settings)


def save(model: RewardModel, weights: dict[str, torch.Tensor], folder: Path, tokenizer: Any) -> None:
    """Write `weights` (of `RewardModel`) as a plain sequence classifier: adapters are merged, nothing else differs.

    Adapters are merged into a fresh backbone in full precision, whatever they were trained on.
    """
    inner: Any = model.model
    own = {name.removeprefix("model."): value for name, value in weights.items()}
    if model.fresh is not None:
        inner = model.fresh()
        inner.load_state_dict(own, strict=False)
        inner = inner.merge_and_unload()
        own = inner.state_dict()
    inner.save_pretrained(folder, state_dict={name: value.contiguous() for name, value in own.items()})
    tokenizer.save_pretrained(folder)
