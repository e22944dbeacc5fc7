"""Does a model see pictures here as transformers' whole model does? Tried once, with one picture, when it is loaded.

Packs go around the model's own forward pass: features are put into the row, places are counted and attention is ours. A
class that does anything else with pictures (Gemma 3 and PaliGemma let a picture's tokens see each other both ways) is found
out by its numbers, whatever its name. Such a model works on padded rows, through its own forward pass; where those are not
right either it is refused.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assay import attention, packing, vision
from assay.errors import AssayError, first_line
from assay.pack import Group, pack, pad
from assay.records import Message
from assay.render import render_prompt
from assay.weights import Widened

PICTURE, ASKED = "a picture to try a model with", "What is it?"
FAILS = (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, LookupError, ImportError)


class One:
    """A store of one picture: noise, twice as wide as high (classes that cut pictures into tiles cut this one)."""

    folder = PICTURE

    def open(self, _: str) -> Any:
        from PIL import Image

        return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8))


class _Heard:
    """A processor that keeps what it made last, as tensors."""

    def __init__(self, processor: Any) -> None:
        self.processor, self.made = processor, dict[str, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, **given: Any) -> dict[str, Any]:
        self.made = dict(self.processor(**given, return_tensors="pt"))
        return self.made


def tried(inner: Any, processor: Any, plain: str, backend: str = "", half: bool = False) -> str:
    """Why packs with pictures are not what the whole model computes; "" where they are.

    Args:
        inner: A model with a vision tower, its language model set to packed attention if there is a `backend`; it is set
            back to `plain`, transformers' attention, where packs are not right.
        processor: Its processor.
        backend: Of packed attention; "" tries padded rows alone.
        half: Compute in bfloat16.

    Raises AssayError where padded rows are not right either, or the model cannot be shown a picture.
    """
    name, body = type(inner).__name__, vision.language_model(inner)
    plain = "sdpa" if plain == attention.NAME else plain  # it was packed before
    trial = _Trial(inner, processor, plain)
    reason = ""
    if backend:
        try:
            body.set_attn_implementation(attention.NAME)
            reason = trial.apart(backend, half)
        except FAILS as error:
            reason = f"packs with pictures fail on it: {first_line(error)}"
        if not reason:
            return ""
        body.set_attn_implementation(plain)
    try:
        wrong = trial.apart("", half)
    except FAILS as error:
        wrong = first_line(error)
    if wrong:
        raise AssayError(
            f"{name} cannot be used with pictures here: {wrong}. Take another model, or train it on text alone (no pictures)"
        )
    return reason


class _Trial:
    """One picture, two answers, and the states that the whole model has at each place (`states`: by answer, (n + 1, D))."""

    def __init__(self, inner: Any, processor: Any, plain: str) -> None:
        self.inner, self.plain = inner, plain
        self.pictures = vision.Pictures(processor, One())  # type: ignore[arg-type]
        heard = _Heard(processor)
        asked = (Message(role="user", content=ASKED, images=(PICTURE,)),)
        try:
            ids = render_prompt(heard, asked, One())  # type: ignore[arg-type]
        except FAILS as error:
            raise AssayError(
                f"the processor of {type(inner).__name__} does not read a picture: {first_line(error)}"
            ) from error
        self.made, self.prompt = heard.made, len(ids)
        words = processor.tokenizer(ASKED, add_special_tokens=False)["input_ids"]
        self.answers = [words[:3], words[-1:] + words[:2]]
        self.group = Group(
            prefix=np.array(ids, dtype=np.int32), images=(PICTURE,),
            answers=tuple(np.array(a, dtype=np.int32) for a in self.answers),
        )  # fmt: skip

    def apart(self, backend: str, half: bool) -> str:
        """How far packs of this back end (or padded rows: "") are from the whole model, in words; "" where they agree."""
        found = self._largest(backend, half)
        if found > (0.05 if half else 1e-3) and half:  # some weights round badly: where they do, fp32 decides
            found = min(found, self._largest(backend, rounded=False) * 50)
        if found <= (0.05 if half else 1e-3):
            return ""
        return f"with a picture, {'packs' if backend else 'padded rows'} differ from the whole model by {found:.1%}"

    @torch.no_grad()
    def _largest(self, backend: str, rounded: bool) -> float:
        inner, body = self.inner, vision.language_model(self.inner)
        was, before = inner.training, body.config._attn_implementation
        where = inner.get_input_embeddings().weight.device
        inner.eval()
        try:
            with torch.autocast(where.type, torch.bfloat16, enabled=rounded), nullcontext() if rounded else Widened():
                body.set_attn_implementation(self.plain)
                whole = [self._whole(a, where) for a in self.answers]
                body.set_attn_implementation(before)
                ours = self._ours(backend, where)
        finally:
            body.set_attn_implementation(before)
            inner.train(was)
        scale = max(w.abs().max().item() for w in whole)
        if (whole[0][0] - whole[1][0]).abs().max().item() > (0.05 if rounded else 1e-3) * scale:
            raise ValueError("its prompt's states depend on the answer that follows (attention both ways over text)")
        return max((o - w).abs().max().item() for o, w in zip(ours, whole, strict=True)) / scale

    def _whole(self, answer: Sequence[int], where: torch.device) -> Tensor:
        """What transformers' model makes of its processor's own inputs, from the prompt's end on."""
        base, inputs = getattr(self.inner, self.inner.base_model_prefix), dict(self.made)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], 1)
        for kind in {"mm_token_type_ids", "token_type_ids"} & set(inputs):
            inputs[kind] = torch.nn.functional.pad(torch.as_tensor(inputs[kind]), (0, len(answer)))
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        shown = {n: x.to(where) for n, x in inputs.items() if isinstance(x, Tensor)}
        states: Tensor = base(**vision.taken(base.forward, shown), use_cache=False).last_hidden_state
        return states[0, self.prompt - 1 :].float()

    def _ours(self, backend: str, where: torch.device) -> list[Tensor]:
        sizes = [len(a) + 1 for a in self.answers]
        if not backend:
            batch = pad([self.group], 0).to(where)
            rows = packing.padded_hidden(self.inner, batch, self.pictures).float()
            return [row[self.prompt - 1 : self.prompt - 1 + n] for row, n in zip(rows, sizes, strict=True)]
        made = pack([self.group], backend).to(where)
        states = packing.hidden(self.inner, packing.packed_inputs(self.inner, made, self.pictures))[0]
        read = packing.packed_hidden(self.inner, pack([self.group], backend, read=True).to(where), self.pictures)
        before = torch.split(states[made.from_M], [n - 1 for n in sizes])
        return [torch.cat([x, last[None]]).float() for x, last in zip(before, read, strict=True)]
