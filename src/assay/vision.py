"""Where pictures enter a model: pixels to features, features into the row of tokens.

A vision-language model is vision tower + adapter + language model (paper B, section 3.1), in any class of transformers that
has `get_image_features`. A frozen tower sees every picture once: its output is kept by the picture's id, and only the
adapter runs again. Where the adapter is the tower's end (Qwen-VL's mergers), what the blocks before it say is kept.
"""

import hashlib
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor

from assay.images import ImageStore

KEPT = 2 << 30
"""Bytes of tower outputs that are kept in a process."""
_SEEN: dict[str, dict[str, dict[str, Tensor]]] = {}
"""What towers made of pictures: by `Pictures._who`, then by the picture's id. Policies and reward models of one run look
through the same frozen tower, each loaded anew."""
_ONE_TOWER = threading.Lock()
"""While a tower's forward stands replaced, no other thread runs any."""
TOWERS = ("vision_tower", "visual", "vision_model")
ADAPTERS = ("multi_modal_projector", "connector", "aligner")
"""What classes of transformers call these parts."""
_BLIND = ("llava", "fast_vlm", "internvl", "cohere2_vision")
"""Model types whose `get_image_features` reads nothing but the tower's output."""
_ONE_CALL = (*_BLIND, "llava_next", "llava_onevision", "smolvlm", "idefics3", "gemma3")
"""Those that give their tower all pictures (and tiles) in one call, in order, along the first axis."""


def is_visual(model: Any) -> bool:
    """Does this model of transformers take pictures?"""
    return hasattr(getattr(model, "model", None), "get_image_features") and hasattr(model.config, "text_config")


def language_model(model: Any) -> Any:
    """The decoder without its head: of a vision-language model, or of a language model."""
    body = getattr(model, model.base_model_prefix)
    return next((getattr(body, n) for n in ("language_model", "text_model") if hasattr(body, n)), body)


def vision_tower(model: Any) -> Any:
    """The vision encoder, or None. Qwen's holds its adapter too."""
    body = getattr(model, model.base_model_prefix)
    return next((getattr(body, n) for n in TOWERS if hasattr(body, n)), None)


def adapter(model: Any) -> Any:
    """The module between tower and language model, or None (some towers end in their own). Qwen's are the mergers at the
    end of its tower, the ones for middle layers included."""
    body, tower = getattr(model, model.base_model_prefix), vision_tower(model)
    found = next((getattr(body, n) for n in ADAPTERS if hasattr(body, n)), None)
    if found is not None or not isinstance(getattr(tower, "merger", None), torch.nn.Module):
        return found
    deeper = getattr(tower, "deepstack_merger_list", None)
    return tower.merger if deeper is None else torch.nn.ModuleList([tower.merger, *deeper])


def tower_weights(model: Any) -> list[torch.nn.Parameter]:
    """The vision encoder's parameters, without the adapter's."""
    between = adapter(model)
    others = set() if between is None else {id(p) for p in between.parameters()}
    return [p for p in vision_tower(model).parameters() if id(p) not in others]


def touch(model: Any, found: Tensor) -> Tensor:
    """The same numbers, on which every trained weight between pixels and text has a gradient, if of zero.

    A micro-batch without pictures reads none of these, one with pictures not all (LLaVA leaves out the last layers of its
    tower). DDP waits for their gradients for ever, and where nothing else trains there would be no backward pass at all.
    Weights that FSDP2 has sharded at that time are left out. Where it can, `found` is what the layers read, not what they
    give: layers must end their backward passes in one order on all processes (FSDP2), and those whose inputs have no
    gradient end last.
    """
    if not torch.is_grad_enabled() or not is_visual(model):
        return found
    for part in (m for m in (vision_tower(model), adapter(model)) if m is not None):
        for parameter in (p for p in part.parameters() if p.requires_grad and not hasattr(p, "to_local")):
            found = found + 0.0 * parameter.flatten()[0].to(found.dtype)
    return found


class Pictures:
    """The pictures of a store on their way into one model.

    Args:
        processor: The model's processor, whose own settings for pictures hold (InternVL's cuts large ones into tiles).
        store: Where pictures are looked up by id.
    """

    def __init__(self, processor: Any, store: ImageStore) -> None:
        self.whole, self.processor, self.store = processor, processor.image_processor, store
        set_in = getattr(processor, "images_kwargs", None)
        if set_in is None:  # transformers before 5.20
            set_in = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}).get("images_kwargs")
        self.options = {n: x for n, x in (set_in or {}).items() if n != "return_tensors"}
        self.reads = repr([self.processor.to_dict(), self.options])
        self.known: dict[tuple[Any, ...], str] = {}
        self.sizes: dict[str, dict[str, Tensor]] = {}

    def inputs(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """What the processor makes of these pictures, along the first axis."""
        made = self.processor(images=[self.store.open(i) for i in ids], return_tensors="pt", **self.options)
        return {n: x for n, x in made.items() if isinstance(x, Tensor)}

    def without_pixels(self, ids: Sequence[str], made: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The same without the pixels (Qwen-VL's grids), kept by picture; `made` are the inputs of `ids[0]`, if they are
        there already."""
        for name in dict.fromkeys(ids):
            if name not in self.sizes:
                found = self.inputs([name]) if made is None else made
                self.sizes[name] = {n: x for n, x in found.items() if "pixel" not in n}
        return {n: torch.cat([self.sizes[i][n] for i in ids]) for n in self.sizes[ids[0]]}

    def features(self, model: Any, ids: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """What the language model reads for these pictures, shape (picture tokens, D), in order; and what is added to the
        states of its first layers there (Qwen3-VL's "deepstack"), if anything."""
        look = model.model.get_image_features
        with self.shown(model, ids) as inputs:
            found = look(**taken(look, inputs))
        return _flat(found), [torch.cat(tuple(x)) for x in getattr(found, "deepstack_features", None) or []]

    @contextmanager
    def shown(self, model: Any, ids: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """What a model is given of these pictures; inside, a frozen tower answers for them with what it said before."""
        where = model.get_input_embeddings().weight.device
        if not _frozen(model):
            yield _on(self.inputs(ids), where)
            return
        with _ONE_TOWER:
            rows = self._kept(model, ids, where)
            with _remembering(model, rows):
                yield _on(self._shape(model, ids, rows), where)

    def _shape(self, model: Any, ids: Sequence[str], rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the model is given where its tower answers from memory: as little as its class looks at."""
        first = next(iter(rows.values()))
        if _parts(vision_tower(model)):
            return self.without_pixels(ids) | {"pixel_values": first.new_zeros(len(first), 1)}
        return {"pixel_values": first} if model.config.model_type in _BLIND else self.inputs(ids)

    def _kept(self, model: Any, ids: Sequence[str], where: torch.device) -> dict[str, Tensor]:
        """What the tower said of these pictures, along the first axis, by what is read of it; seen now, or before."""
        kept = _SEEN.setdefault(self._who(model, where), {})
        for name in dict.fromkeys(i for i in ids if i not in kept):
            kept[name] = self._see(model, name, where)
        rows = {n: torch.cat([kept[i][n] for i in ids]).to(where) for n in kept[ids[0]]}
        if sum(x.nbytes for seen in _SEEN.values() for one in seen.values() for x in one.values()) > KEPT:
            _SEEN.clear()
        return rows

    def _who(self, model: Any, where: torch.device) -> str:
        """Who sees: evenly spaced values of all of a tower's weights (not the adapter's) and statistics, what is read of it,
        what it is given, and where; the number of threads too, for kernels round as that has it, and a resumed run must see
        what the first one saw."""
        tower = vision_tower(model)
        about = id(tower), str(where), torch.get_num_threads(), str(_read(model)), _halved(tower, where)
        if about not in self.known:
            found = hashlib.blake2b(repr([tower.config, *about[1:], self.reads]).encode(), digest_size=16)
            others = {id(p) for p in tower.parameters()} - {id(p) for p in tower_weights(model)}
            for name, x in (*tower.named_parameters(), *tower.named_buffers()):  # a state_dict would shard under FSDP2
                if id(x) in others:
                    continue
                flat = x.detach().flatten()
                found.update(name.encode() + flat[:: max(1, len(flat) // 1_024)].double().cpu().numpy().tobytes())
            self.known[about] = found.hexdigest()
        return self.known[about]

    def _see(self, model: Any, name: str, where: torch.device) -> dict[str, Tensor]:
        """One picture alone: kernels round as the size of the batch has it, and what a picture looks like must not hang
        on what it was first seen with (a resumed run meets its pictures in other company). A tower that is kept in bfloat16
        computes in it."""
        half, look = _halved(vision_tower(model), where), model.model.get_image_features
        with (
            torch.inference_mode(False), torch.no_grad(), torch.autocast(where.type, torch.bfloat16, enabled=half),
            _listening(model) as heard, suppress(_Said),
        ):  # fmt: skip
            made = self.inputs([name])
            self.without_pixels([name], made)
            look(**taken(look, _on(made, where)))
        return {n: x.cpu() for n, x in heard.items()}


def embedded(model: Any, ids_BT: Tensor, images: Sequence[str], pictures: Pictures | None) -> dict[str, Any]:
    """What the language model is given: token embeddings, shape (B, T, D), with the features of `images` in the places of
    the picture token, in order, and what it adds to its layers there."""
    embeds = touch(model, model.get_input_embeddings()(ids_BT))
    if not images:
        return {"inputs_embeds": embeds}
    assert pictures is not None, "a prompt with pictures needs a store"
    features, deeper = pictures.features(model, images)
    mask_BT = ids_BT == model.config.image_token_id
    places = int(mask_BT.sum())
    assert places == len(features), f"{places} picture tokens for {len(features)} picture features"
    made: dict[str, Any] = {"inputs_embeds": embeds.masked_scatter(mask_BT.unsqueeze(-1), features.to(embeds.dtype))}
    return made | ({"visual_pos_masks": mask_BT, "deepstack_visual_embeds": deeper} if deeper else {})


@contextmanager
def given(model: Any, ids_BT: Tensor, images: Sequence[str], pictures: Pictures | None) -> Iterator[dict[str, Any]]:
    """What a whole model of transformers is given of rows with pictures, besides their attention mask (`Pictures.shown`)."""
    assert pictures is not None or not images, "a prompt with pictures needs a store"
    kinds = torch.eq(ids_BT, model.config.image_token_id).long()
    whole = getattr(model, model.base_model_prefix).forward
    blind: AbstractContextManager[dict[str, Tensor]] = nullcontext({})
    with blind if pictures is None or not images else pictures.shown(model, images) as shown:
        yield {"input_ids": ids_BT} | taken(whole, shown | {"mm_token_type_ids": kinds, "token_type_ids": kinds})


def taken(call: Any, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the named arguments that a method of transformers names (decorators lie over many)."""
    names = inspect.signature(call).parameters
    return {n: x for n, x in named.items() if n in names}


def counts_places(model: Any) -> bool:
    """Does the model count the places of pictures in several dimensions (Qwen-VL)?"""
    return hasattr(getattr(model, model.base_model_prefix), "get_rope_index")


def places(model: Any, ids_T: Tensor, images: Sequence[str], pictures: Pictures | None) -> Tensor:
    """Where a text with pictures is in each of these dimensions, shape (3, T), as the model's own class says."""
    assert pictures is not None, "a prompt with pictures needs a store"
    count, ids_1T = getattr(model, model.base_model_prefix).get_rope_index, ids_T.unsqueeze(0)
    shown = pictures.without_pixels(images) | {"mm_token_type_ids": torch.eq(ids_1T, model.config.image_token_id).int()}
    found: Tensor = count(ids_1T, **taken(count, _on(shown, ids_T.device)))[0]
    return found[:, 0]


def _frozen(model: Any) -> bool:
    """Does a tower stand still whose answers can be kept?"""
    tower = vision_tower(model)
    known = tower is not None and (bool(_parts(tower)) or model.config.model_type in _ONE_CALL)
    return known and not any(p.requires_grad for p in tower_weights(model))


def _halved(tower: Any, where: torch.device) -> bool:
    """Does a tower compute in bfloat16? One that is kept in it does, where its model does."""
    return torch.is_autocast_enabled(where.type) and any(p.dtype == torch.bfloat16 for p in tower.parameters())


def _parts(tower: Any) -> dict[str, Any]:
    """The blocks of a tower that ends in its adapter (Qwen-VL) whose states the adapter reads, by number; of others none."""
    blocks = getattr(tower, "blocks", None)
    if blocks is None or not isinstance(getattr(tower, "merger", None), torch.nn.Module):
        return {}
    read = {*(getattr(tower, "deepstack_visual_indexes", None) or ()), len(blocks) - 1}
    return {str(n): blocks[n] for n in sorted(read)}


def _read(model: Any) -> list[str]:
    """What is read of a tower: blocks or hidden layers by number, or its "last" state."""
    if found := _parts(vision_tower(model)):
        return list(found)
    layer = getattr(model.config, "vision_feature_layer", -1)
    if layer == -1 and not model.config.model_type.startswith("llava"):
        return ["last"]
    return [str(n) for n in ([layer] if isinstance(layer, int) else layer)]


@contextmanager
def _replaced(forwards: Sequence[tuple[Any, Any]]) -> Iterator[None]:
    """Modules with other forward passes."""
    before = [(module, module.forward) for module, _ in forwards]
    try:
        for module, forward in forwards:
            module.forward = forward
        yield
    finally:
        for module, forward in before:
            module.forward = forward


class _Said(Exception):
    """A tower has said what there is to keep: its adapter need not run."""


@contextmanager
def _listening(model: Any) -> Iterator[dict[str, Tensor]]:
    """What is read of the tower in a pass, by `_read`; the pass ends there."""
    tower, wanted, heard = vision_tower(model), _read(model), dict[str, Tensor]()
    was, parts = tower.training, _parts(tower)

    def block(name: str, run: Any) -> Any:
        def forward(*args: Any, **given: Any) -> Any:
            heard[name] = run(*args, **given)
            if len(heard) == len(wanted):
                raise _Said
            return heard[name]

        return forward

    def whole(*args: Any, run: Any = tower.forward, **given: Any) -> Any:
        said = run(*args, **{**given, "return_dict": True, "output_hidden_states": wanted != ["last"]})
        heard.update({n: said.last_hidden_state if n == "last" else said.hidden_states[int(n)] for n in wanted})
        raise _Said

    ends = (tower.merger, *getattr(tower, "deepstack_merger_list", ())) if parts else ()
    silent = [(m, lambda x, *_, **__: x) for m in ends]
    tower.eval()
    try:
        with _replaced([*silent, *((m, block(n, m.forward)) for n, m in parts.items())] if parts else [(tower, whole)]):
            yield heard
    finally:
        tower.train(was)


@contextmanager
def _remembering(model: Any, rows: dict[str, Tensor]) -> Iterator[None]:
    """Let the tower answer with what it said before; of one that ends in its adapter, the blocks."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    tower = vision_tower(model)
    if parts := _parts(tower):
        first = next(iter(rows.values()))
        silent = {m: (lambda x, *_, **__: x) for m in tower.blocks} | {tower.patch_embed: lambda *_, **__: first}
        answers = {m: (lambda *_, said=rows[n], **__: said) for n, m in parts.items()}
        with _replaced(list({**silent, **answers}.items())):
            yield
        return
    said = BaseModelOutputWithPooling(last_hidden_state=rows.get("last"))
    if "last" not in rows:
        said.__dict__["hidden_states"] = {int(n): x for n, x in rows.items()}
    with _replaced([(tower, lambda *_, **__: said)]):
        yield


def _flat(found: Any) -> Tensor:
    """(picture tokens, D) of whatever a class of transformers returns for its pictures."""
    features = getattr(found, "pooler_output", found)
    if isinstance(features, (list, tuple)):
        return torch.cat([f.flatten(0, -2) for f in features])
    return features.flatten(0, -2)  # type: ignore[no-any-return]


def _on(inputs: dict[str, Tensor], where: torch.device) -> dict[str, Tensor]:
    return {n: x.to(where) for n, x in inputs.items() if isinstance(x, Tensor)}
