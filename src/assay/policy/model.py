"""A policy as a module: groups of [prompt, answer, answer, ...] in, a log-probability for every answer token out.

The body runs on packs without padding (a prompt and its pictures once per group), or on padded rows where it cannot be
packed; only places that predict an answer's token reach the head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from assay import devices, models, packing, sight, vision, weights
from assay.attention import candidates
from assay.errors import AssayError, missing_extra
from assay.head import chosen_logprobs
from assay.images import ImageStore
from assay.pack import Group, Pack, Padded, bins, pack, pad, padded_bins, split
from assay.policy.config import PolicyConfig
from assay.policy.saving import as_it_came, plain_weights
from assay.records import assistant, user
from assay.render import render, render_prompt

Part = Literal["adapter", "llm", "vision"]
Batch = Pack | Padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Of the answers' tokens, in the order of the batch: log-probability and entropy (zero if not asked for), fp32, shape
    (M,), in nats."""

    logp_M: Tensor
    entropy_M: Tensor


class Policy(torch.nn.Module):
    """A causal language model or a vision-language model of transformers. `reason` says why it is not packed, if so;
    `bf16` whether it computes in bfloat16.

    Args:
        model: With a language-model head.
        processor: Its processor, or the tokenizer of a model without pictures.
        store: Where the pictures of prompts are.
        config: Which parts train, and how the work is done.
    """

    def __init__(self, model: Any, processor: Any, config: PolicyConfig, store: ImageStore | None = None) -> None:
        super().__init__()
        self.model, self.processor, self.config = model, processor, config
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.visual = vision.is_visual(_inner(model))
        self.pictures = vision.Pictures(processor, store) if self.visual and store is not None else None
        self.gathered: Callable[[], dict[str, Tensor]] | None = None
        """Gathers all weights of all processes, where they are sharded (FSDP2)."""
        self.start: list[tuple[torch.nn.Parameter, Tensor]] = []
        """What trains, and what it was; see `keep_start`."""
        self._no_split_modules = list(getattr(model, "_no_split_modules", None) or [])
        self.reason, self.backend = "packing is off", "segments"
        self.bf16 = devices.computes_in_half(config.precision)
        wanted = candidates(devices.device(), self.bf16) if config.attention == "auto" else (config.attention,)
        plain = vision.language_model(_inner(model)).config._attn_implementation
        for backend in wanted if config.packing else ():
            self.reason, self.backend = packing.use_packing(_inner(model), backend, self.bf16), backend
            if self.packed:
                break
        if (
            self.pictures is not None and model.device.type != "meta"
        ):  # an outline of what a server has computes nothing
            seen = sight.tried(_inner(model), processor, plain, self.backend if self.packed else "", self.bf16)
            self.reason = self.reason or seen

    @property
    def packed(self) -> bool:
        return not self.reason

    @property
    def inner(self) -> Any:
        """The model of transformers, under adapters if there are any."""
        return _inner(self.model)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        found = [self.tokenizer.eos_token_id, getattr(self.inner.generation_config, "eos_token_id", None)]
        flat = [t for f in found if f is not None for t in (f if isinstance(f, list) else [f])]
        return tuple(dict.fromkeys(flat))

    @cached_property
    def turn_end(self) -> int:
        """The token that the chat template puts behind an answer, where it is one that ends answers (Gemma's <end_of_turn>,
        whose tokenizer ends texts by another); else the first of `end_ids`. What answers that are given as text end with."""
        asked, ends = (user("?"),), self.end_ids
        try:
            whole = render(self.processor, [(*asked, assistant("!"))], 1 << 20)[0].ids
            behind = whole[len(render_prompt(self.processor, asked)) :]
        except AssayError:  # a template that refuses them
            behind = []
        return next((t for t in reversed(behind) if t in ends), ends[0])

    @property
    def image_token(self) -> int | None:
        return int(self.inner.config.image_token_id) if self.visual else None

    @property
    def aside(self) -> list[Any]:
        """What not every pass runs: the vision tower (see `step.Engine`)."""
        tower = vision.vision_tower(self.inner) if self.visual else None
        return [tower] if tower is not None else []

    def train(self, mode: bool = True) -> "Policy":
        """As usual, but the vision tower keeps its statistics."""
        super().train(mode)
        tower = vision.vision_tower(self.inner) if self.visual else None
        if tower is not None:
            tower.eval()
        return self

    def bins(self, groups: Sequence[Group], budget: int = 0) -> list[list[int]]:
        """Indices of the groups of each forward pass, within the budget of tokens."""
        if self.packed:
            return bins([g.tokens for g in groups], budget or self.config.tokens)
        return padded_bins(groups, budget or self.config.tokens)

    def parts(self, group: Group) -> list[list[int]]:
        """The answers of a group for each forward pass, within the budget of tokens."""
        return split(group, self.config.tokens, self.packed)

    def batch(self, groups: Sequence[Group]) -> Batch:
        return pack(groups, self.backend) if self.packed else pad(groups, self.tokenizer.pad_token_id or 0)

    def hidden(self, batch: Batch) -> Tensor:
        """The last hidden state of every place, shape (places, D)."""
        inner = self.inner
        if isinstance(batch, Pack):
            return packing.hidden(inner, packing.packed_inputs(inner, batch, self.pictures)).flatten(0, 1)
        return packing.padded_hidden(inner, batch, self.pictures).flatten(0, 1)

    def forward(self, batch: Batch, entropy: bool | Literal["gradient"] = True, temperature: float = 1.0) -> Logprobs:
        """Log-probabilities under softmax(logits / temperature); `entropy`: not, without or with a gradient."""
        head = self.inner.get_output_embeddings()
        # answers to a prompt begin at one state: the gradient of plain indexing adds them in whatever order threads come by
        hidden_MD = self.hidden(batch).index_select(0, batch.from_M)
        logp_M, entropy_M = chosen_logprobs(
            hidden_MD, head.weight, batch.targets_M, temperature, getattr(head, "bias", None), entropy
        )
        return Logprobs(logp_M=logp_M if self.packed else vision.touch(self.inner, logp_M), entropy_M=entropy_M)

    def compile_when_worth(self, tokens: float) -> None:
        """Fuse the layers of the language model as `config.compile` says; auto judges by the work of so many tokens."""
        body = vision.language_model(self.inner)
        if self.packed:
            devices.compile_layers(body, self._no_split_modules, self.config.compile, tokens)

    def keep_start(self) -> None:
        """Keep what trains as it is now, for `at_start`; of low-rank adapters nothing, which are switched off there. Call it
        where the weights are to stay: on their device, sharded if they are to be."""
        trained = ((n, p) for n, p in self.named_parameters() if p.requires_grad)
        self.start = [(p, p.detach().clone()) for n, p in trained if ".lora_" not in n]

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Inside, it is the policy that it was when `keep_start` was called: the reference, without a second model. For
        passes without gradients, between others."""
        with self.model.disable_adapter() if hasattr(self.model, "peft_config") else nullcontext():
            self._exchange()
            try:
                yield
            finally:
                self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        if isinstance(self, FSDPModule):
            self.reshard()  # what a pass has gathered stays gathered until the next backward pass
        for at, (parameter, kept) in enumerate(self.start):
            if isinstance(parameter, DTensor):  # FSDP2 gathers from this memory, wherever the parameter points
                here, there = parameter.to_local(), cast(DTensor, kept).to_local()
                now = here.clone()
                here.copy_(there)
                there.copy_(now)
            else:
                self.start[at] = parameter, parameter.data
                parameter.data = kept

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Write what transformers loads: weights (adapters merged), config, processor.

        `state` are the weights by this module's names, as `Engine.weights` gives them; without it they are gathered here,
        and under FSDP2 every process must call this.
        """
        if found := self.weights(state):
            self._write(self.inner, folder, found)

    def weights(self, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """All weights by the names that transformers gives them, adapters merged one tensor at a time (`save` says of
        `state`). Of a sharded policy on the CPU of rank 0, nothing elsewhere; every process must call it."""
        if state is None and self.gathered is None:
            return plain_weights(self.model, self.model.state_dict())
        given = self.gathered() if state is None and self.gathered is not None else state
        if not given:
            return {}
        whole = {n: x for n, x in self.model.state_dict().items() if not isinstance(x, DTensor)}
        return plain_weights(self.model, whole | {n.removeprefix("model."): x for n, x in given.items()})

    def _write(self, inner: Any, folder: Path, state: dict[str, Tensor]) -> None:
        first: dict[int, str] = {}
        tied = {n for n, p in inner.named_parameters(remove_duplicate=False) if first.setdefault(id(p), n) != n}
        with as_it_came(inner):
            inner.save_pretrained(folder, state_dict={n: x.contiguous() for n, x in state.items() if n not in tied})
        self.processor.save_pretrained(folder)
        weights.readable(Path(folder))


def load_policy(name: str, config: PolicyConfig, store: ImageStore | None = None, trains: bool = True) -> Policy:
    """A policy from a packaged model, a folder or a hub id: a vision-language model where the config says it is one. What
    does not train (nothing does where it only answers: not `trains`) is kept in bfloat16 where it computes in it."""
    half = devices.computes_in_half(config.precision)
    if not trains and config.quantize:
        raise AssayError("policy.quantize is for training adapters, and nothing is trained here: leave it off")
    if not trains:
        config = replace(config, lora_rank=0)
    four = (torch.bfloat16 if half else torch.float32) if config.quantize else None
    model, processor = models.load_generator(name, four, half)
    if trains and not config.quantize and getattr(model.config, "quantization_config", None) is not None:
        raise AssayError(
            f"the weights of '{name}' are quantised, and cannot be trained or written as they are: give the model with its "
            "whole weights (--policy.quantize, with --policy.lora-rank, holds them in 4 bits)"
        )
    choose_trained(model, config.train if trains else (), config.last_layers)
    if config.lora_rank:
        model = _with_lora(model, config)
    if config.checkpointing and trains:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if half:
        weights.narrow(model)
    return Policy(model.to(devices.device()), processor, config, store)


def choose_trained(model: Any, parts: Sequence[str], last: int = 0) -> None:
    """Freeze everything but the named parts; of the language model all but the `last` layers and the final norm, unless it
    is 0. Raises AssayError where the model has none of a name's parts, or fewer layers."""
    has = {"llm": True, "adapter": False, "vision": False}
    if vision.is_visual(model):
        has.update(adapter=vision.adapter(model) is not None, vision=vision.vision_tower(model) is not None)
    absent = [p for p in parts if not has[p]]
    if absent:
        raise AssayError(f"policy.train names '{absent[0]}', which this model does not have")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if "llm" in parts and last:
        for part in _last(vision.language_model(model), last):
            part.requires_grad_(True)
    elif "llm" in parts:
        for parameter in vision.language_model(model).parameters():
            parameter.requires_grad_(parameter.is_floating_point())  # not what is in 4 bits
        model.get_output_embeddings().requires_grad_(True)
    if "adapter" in parts:
        vision.adapter(model).requires_grad_(True)
    if "vision" in parts:
        for parameter in vision.tower_weights(model):
            parameter.requires_grad_(True)


def _last(body: Any, last: int) -> list[Any]:
    """The last layers of a language model, and its final norm."""
    layers, norm = getattr(body, "layers", None), getattr(body, "norm", None)
    if layers is None or norm is None:
        raise AssayError(
            f"policy.last_layers: {type(body).__name__} has no `layers` and `norm` to choose from; leave it off"
        )
    if last > len(layers):
        raise AssayError(f"policy.last_layers: {last} of {len(layers)} layers; give fewer, or 0 for the whole model")
    return [*layers[-last:], norm]


def _with_lora(model: Any, config: PolicyConfig) -> Any:
    """Low-rank adapters on the language model, whose own weights and head rest; the other chosen parts train whole."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise missing_extra("peft", "lora") from error
    resting = {
        id(p) for part in (vision.language_model(model), model.get_output_embeddings()) for p in part.parameters()
    }
    chosen = {n for n, p in model.named_parameters() if p.requires_grad and id(p) not in resting}
    inside = set(vision.language_model(model).modules())
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m in inside]
    made = get_peft_model(
        model,
        LoraConfig(task_type="CAUSAL_LM", r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=names),
    )
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if name.removeprefix("base_model.model.") in chosen:
            parameter.requires_grad_(True)
        if (
            ".lora_A." in name
        ):  # as peft draws them, but the same in every process: peft's depend on its hashes of names
            torch.nn.init.kaiming_uniform_(parameter, a=5**0.5, generator=generator)
    return made


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model
