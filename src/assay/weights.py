"""What a loaded checkpoint must have held, adapters beside it, a padding token that no conversation ends with, saving, and
in which precision weights are kept.

transformers draws every weight that a checkpoint lacks from a random state and goes on. Here each such weight is asked
about: a head that is to be trained may be new, anything else is refused by name.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.overrides import TorchFunctionMode
from transformers.utils import cached_file

from assay.errors import AssayError, first_line, missing_extra

Use = Literal["score", "train", "generate", "body"]
"""What for: its reward is read; a reward head is trained on it; it generates; its hidden states are read."""
OTHER_WAY = (
    "for a head of another kind give MODULE:FUNCTION, a function of a list of conversations that returns one reward each "
    "(docs/serving.md shows one)"
)
_LANGUAGE_HEAD = re.compile(
    r"(^|\.)(lm_head|embed_out|cls|predictions|lm_predictions|mask_predictions|generator_\w+|vocab_\w+|pooler|mtp)\."
)
"""Heads over words, and poolers: what a reward or a hidden state does not need."""
_REWARD_HEAD = re.compile(r"^(score|classifier)\.")
_PADS = ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>", "<PAD>", "<|padding|>", "<|pad_token|>")
_RESERVED = re.compile(r"[<\[]\|?(reserved|unused|extra|placeholder|dummy)\w*\|?[>\]]")
ADDED_PAD = "<|pad|>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """How a checkpoint's weights (names) met those of the model: `missing` were drawn at random, so were those of another
    shape, `mismatched` (name, shape in the checkpoint, shape in the model); `unexpected` were left out."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    errors: tuple[str, ...] = ()

    @staticmethod
    def of(info: dict[str, Any]) -> "Loaded":
        """From what `from_pretrained(output_loading_info=True)` says."""
        return Loaded(
            missing=tuple(sorted(info["missing_keys"])), unexpected=tuple(sorted(info["unexpected_keys"])),
            mismatched=tuple((n, tuple(a), tuple(b)) for n, a, b in sorted(info["mismatched_keys"])),
            errors=tuple(map(str, info["error_msgs"])),
        )  # fmt: skip

    def without(self, names: Iterable[str]) -> "Loaded":
        """The same when these missing weights have come from elsewhere."""
        given = set(names)
        return Loaded(
            missing=tuple(n for n in self.missing if n not in given), unexpected=self.unexpected, errors=self.errors,
            mismatched=tuple(m for m in self.mismatched if m[0] not in given),
        )  # fmt: skip


def check(name: str, model: Any, loaded: Loaded, use: Use, layers: int | None = None) -> str:
    """Refuse a model that is not what its checkpoint says, by the names of the weights at fault.

    `layers`: only so many were wanted, so those of the others are left out rightly. Returns what is worth telling ("" for
    nothing): a head that did not fit and is drawn anew, where one is trained.
    """
    if loaded.errors:
        raise AssayError(f"the weights of '{name}' cannot be read: {loaded.errors[0].strip().splitlines()[0]}")
    lost = [n for n in loaded.missing if _matters(model, n, use)]
    other = [m for m in loaded.mismatched if _matters(model, m[0], use)]
    strange = [n for n in loaded.unexpected if not _beyond(n, layers) and _foreign(model, n, use)]
    kind = type(model).__name__
    if use == "score" and any(_in_head(model, n) for n in (*lost, *(m[0] for m in other), *strange)):
        raise AssayError(_no_reward_head(name, model, lost, other, strange, loaded.unexpected))
    if use == "generate" and any(_in_head(model, n) for n in lost):
        raise AssayError(
            f"'{name}' is no model that generates: it lacks {_some(lost)}, which would be random{_beside(loaded.unexpected)}"
        )
    if use == "generate" and strange and not any(_in_body(model, n) for n in strange):
        raise AssayError(f"'{name}' is a classifier or reward model ({_some(strange)}), not one that generates")
    if lost or other or strange:
        own = " (it brings code of its own, which was not run)" if getattr(model.config, "auto_map", None) else ""
        faults = [f"lacks {_some(lost)}"] * bool(lost) + [f"has {_shapes(other)}"] * bool(other)
        faults += [f"has {_some(strange)}, which {kind} does not know"] * bool(strange)
        raise AssayError(
            f"the weights of '{name}' do not fit {kind}: the checkpoint {'; it '.join(faults)}. The model would compute "
            f"something else than its authors' does{own}: is the checkpoint whole, and its config.json its own?"
        )
    odd = [n for n in loaded.unexpected if not _LANGUAGE_HEAD.search(n) and not _beyond(n, layers)]
    told = [_shapes(loaded.mismatched)] * bool(loaded.mismatched) + [_some(odd)] * bool(odd)
    if use != "train" or not told:
        return ""
    new = "its reward head is drawn anew" if loaded.missing or loaded.mismatched else "not everything is used"
    return f"{new}: the checkpoint has {' and '.join(told)}"


def _matters(model: Any, weight: str, use: Use) -> bool:
    """May this weight not be random?"""
    if use == "train":
        return not _in_head(model, weight)
    return use != "body" or not weight.startswith("pooler.")


def _foreign(model: Any, weight: str, use: Use) -> bool:
    """Does a weight that the model does not know change what is computed?"""
    if _in_body(model, weight):
        return not _LANGUAGE_HEAD.search(weight)
    if use == "score":
        return not _LANGUAGE_HEAD.search(weight)
    return use == "generate" and bool(_REWARD_HEAD.match(weight))


def _in_body(model: Any, weight: str) -> bool:
    prefix = model.base_model_prefix
    body = getattr(model, prefix, model) if prefix else model
    first = weight.split(".")[0]
    return first == prefix or first in dict(body.named_children())


def _in_head(model: Any, weight: str) -> bool:
    return "pooler." in weight or not _in_body(model, weight)


def _beyond(weight: str, layers: int | None) -> bool:
    found = re.search(r"(^|\.)(layers|layer|h|blocks|block)\.(\d+)\.", weight)
    return layers is not None and found is not None and int(found[3]) >= layers


def _no_reward_head(
    name: str, model: Any, lost: Sequence[str], other: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    strange: Sequence[str], unexpected: Sequence[str],
) -> str:  # fmt: skip
    outputs = next((seen[0] for n, seen, _ in other if _REWARD_HEAD.match(n) and n.endswith("weight")), 1)
    if outputs != 1:
        return (
            f"'{name}' has {outputs} outputs ({_shapes(other)}), a reward model has one; {OTHER_WAY}, and say there which "
            "of them is the reward"
        )
    if not lost and not other:
        return (
            f"'{name}' has {_some(strange)}, which {type(model).__name__} does not know: its rewards would not be those of "
            f"its authors; {OTHER_WAY}"
        )
    said = f"lacks {_some(lost)}" if lost else f"has {_shapes(other)}"
    plain = all(_LANGUAGE_HEAD.search(n) for n in unexpected)
    train = "train one on it with `assay reward train`; " if plain and lost else ""
    return (
        f"'{name}' has no reward head that {type(model).__name__} reads: the checkpoint {said}{_beside(unexpected)}. Its "
        f"rewards would be random; {train}{OTHER_WAY}"
    )


def _beside(unexpected: Sequence[str]) -> str:
    heads = [n for n in unexpected if not _LANGUAGE_HEAD.search(n)]
    return f" (it has {_some(heads)})" if heads else ""


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _shapes(rows: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> str:
    told = [f"{n} of shape {list(seen)}, not {list(wanted)}" for n, seen, wanted in rows]
    return _some(told, 2)


def adapter_config(place: str) -> Any:
    """The settings of the low-rank adapter that lies in a folder or under a hub id, or None where that is a whole model."""
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(place)
    except (OSError, ValueError):
        return None
    if found is None:
        return None
    try:
        from peft import PeftConfig
    except ImportError as error:
        raise missing_extra("peft", "lora") from error
    config = PeftConfig.from_pretrained(str(Path(found).parent))
    if not config.base_model_name_or_path:
        raise AssayError(f"the adapter '{place}' does not say which model it belongs to; merge it, and give the result")
    return config


def merged(model: Any, config: Any, place: str, loaded: Loaded, use: Use) -> tuple[Any, Loaded]:
    """The base model with the adapter of `place` merged into it, and what of `loaded` (the base's) still holds: a head that
    was trained with the adapter lies beside it. Raises AssayError where the adapter does not fit the model."""
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    given = set(load_peft_weights(place, device="cpu"))
    if use not in ("score", "train") or config.task_type != "SEQ_CLS":
        config.task_type = None  # only how it is called would differ
    try:
        adapted = PeftModel.from_pretrained(model, place, config=config)
    except (RuntimeError, ValueError) as error:
        raise AssayError(f"the adapter '{place}' does not fit its model: {first_line(error)}") from error
    wanted = set(get_peft_model_state_dict(adapted))
    if given != wanted:
        lost, strange = sorted(wanted - given), sorted(given - wanted)
        told = f"lacks {_some(lost)}" if lost else f"has {_some(strange)}, which its model does not know"
        raise AssayError(f"the adapter '{place}' does not fit its model: it {told}")
    trained = {n.removeprefix("base_model.model.") for n in given}
    return adapted.merge_and_unload(), loaded.without(trained)


def own_pad(tokenizer: Any, model: Any) -> None:
    """Give tokenizer and model a padding token that no conversation ends with.

    transformers reads a reward at the last token that is not padding, vLLM and SGLang at the last token: these are the same
    place only where padding is no token of the text. A reserved token is taken, or one for unknown text that no text can
    contain; else one is added, and the embeddings grow where they have no row for it.
    """
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    taken = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.sep_token, tokenizer.cls_token, tokenizer.mask_token}
    if tokenizer.pad_token is None or tokenizer.pad_token in taken or tokenizer.pad_token in template:
        vocabulary = tokenizer.get_vocab()
        reserved = sorted((t for t in vocabulary if _RESERVED.fullmatch(t)), key=lambda t: vocabulary[t])
        wanted = [t for t in (*_PADS, *reserved) if t in vocabulary and t not in taken and t not in template]
        if not wanted and _never_unknown(tokenizer) and tokenizer.unk_token not in taken:
            wanted = [tokenizer.unk_token]
        tokenizer.add_special_tokens({"pad_token": next(iter(wanted), ADDED_PAD)})
    table = model.get_input_embeddings()
    if tokenizer.pad_token_id >= table.num_embeddings:
        body = getattr(model, "model", model) if not hasattr(model, "resize_token_embeddings") else model
        body.resize_token_embeddings(tokenizer.pad_token_id + 1, mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[tokenizer.pad_token_id] = 0
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.pad_token_id = tokenizer.pad_token_id


def _never_unknown(tokenizer: Any) -> bool:
    """Has this tokenizer a token for unknown text that no text can contain, for it knows every byte?"""
    if tokenizer.unk_token_id is None:
        return False
    return tokenizer.unk_token_id not in tokenizer("\ue000 \U0001f9ff ☃", add_special_tokens=False)["input_ids"]


def padding(model: Any) -> int:
    """The token before which transformers reads the reward where a text ends in it, -1 for none: what the config says,
    whatever the tokenizer's is."""
    found = model.config.get_text_config().pad_token_id
    return -1 if found is None else int(found)


def readable(folder: Path) -> None:
    """Give the files in `folder` the mode of any new file here: safetensors makes them for their owner alone."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(mode)


def in_bfloat16(name: str) -> bool:
    """Whether all weights in the files of a folder or a hub id are in bfloat16: read in it, none is rounded. A config says
    in which precision they should be, and may be wrong."""

    def place(file: str) -> str | None:
        found: str | None = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        return found

    index, kinds = place("model.safetensors.index.json"), set[str]()
    files = sorted(set(json.loads(Path(index).read_text())["weight_map"].values())) if index else ["model.safetensors"]
    for path in map(place, files):
        if path is None:
            return False
        with Path(path).open("rb") as file:  # the format: the length of a JSON header, and the header
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        kinds |= {told["dtype"] for weight, told in header.items() if weight != "__metadata__"}
    return "BF16" in kinds and not kinds & {"F16", "F32", "F64"}


def rounded(model: Any) -> bool:
    """Whether a model that was read in bfloat16 has numbers of its own in it, which its checkpoint does not hold."""
    kept = set(model.state_dict())
    return any(b.dtype == torch.bfloat16 and name not in kept for name, b in model.named_buffers())


def products(model: Any) -> Iterator[torch.nn.Parameter]:
    """The weights that are read by matrix products and convolutions alone (of a mixture of experts those that are
    stacked): autocast rounds them to bfloat16 at every pass. Norms, biases, tables and whatever else a layer has are not."""
    from transformers.pytorch_utils import Conv1D

    linear = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, Conv1D)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            read = name == "weight" if isinstance(module, linear) else parameter.dim() == 3 and len(parameter) > 1
            if read and parameter.is_floating_point():
                yield parameter


def narrow(model: Any) -> None:
    """Keep what is frozen, of a model that computes in bfloat16 by autocast, in bfloat16: half the memory, and the rounding
    that each pass would do anew is done once. The table of token embeddings too, whose rows come out in fp32: the sums over
    layers stay in it, as autocast has them. All else is in fp32 (again, where the model was read in bfloat16)."""
    table = model.get_input_embeddings()
    rest = {id(p) for p in (*products(model), table.weight) if not p.requires_grad}
    for held in (*model.parameters(), *model.buffers()):
        if held.is_floating_point():
            held.data = held.data.to(torch.bfloat16 if id(held) in rest else torch.float32)
    if table.weight.dtype == torch.bfloat16:
        table.register_forward_hook(in_fp32)


def in_fp32(_: Any, __: Any, rows: torch.Tensor) -> torch.Tensor:
    """Of a table that is kept in bfloat16 (a forward hook)."""
    return rows.float()


_PRODUCTS = {
    torch.nn.functional.linear, torch.addmm, torch.matmul, torch.bmm, torch.mm, torch.Tensor.matmul, torch.Tensor.__matmul__,
    torch.conv1d, torch.conv2d, torch.conv3d,
}  # fmt: skip


class Widened(TorchFunctionMode):
    """Inside, what is kept in bfloat16 takes part in products as fp32: a model can be tried without the rounding of
    bfloat16, and without a second copy of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            args = [x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 else x for x in args]
        return func(*args, **(kwargs or {}))
