"""The ids of many pairs of conversations of text at once (`records.Pair`), read from Arrow's own buffers.

They are made by compiled code where there is a compiler and enough to do, else by Python; a test compares the two.
"""

import sys
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from orjson import dumps

from assay import native

_SOURCE = Path(__file__).with_name("content_ids.cpp")
ENOUGH = 40_000
"""So many pairs of a process are Python's where the compiled part is not built yet: to build it costs more."""
_done = 0

Ids = NDArray[np.bytes_]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairIds:
    """(n,) ids of the prompts, questions, responses (`first` < `second`) and pairs, as bytes, and whether the two responses
    were given in the other order."""

    prompt: Ids
    question: Ids
    first: Ids
    second: Ids
    pair: Ids
    swapped: NDArray[np.bool_]


def pair_ids(prompts: pa.ListArray, answers: pa.ListArray, compiled: bool | None = None) -> PairIds:
    """The ids of n pairs from their prompts and from 2 n responses, two after each other: lists of messages, of which only
    role and content count. Neither may be a slice."""
    global _done
    count = len(prompts)
    _done += count
    wanted = _done > ENOUGH or native.built(_SOURCE) if compiled is None else compiled
    library = native.library(_SOURCE) if wanted and sys.byteorder == "little" else None
    if library is None:
        return _by_python(prompts, answers)
    made = [np.empty(n, "S32") for n in (count, count, 2 * count, count)]
    swapped = np.empty(count, np.uint8)
    library.pair_ids(
        *native.longs(count), *native.places(*_buffers(prompts), *_buffers(answers)), *native.places(*made, swapped)
    )
    prompt, question, both, pair = made
    return PairIds(
        prompt=prompt, question=question, first=both[::2], second=both[1::2], pair=pair, swapped=swapped.astype(bool)
    )


def _buffers(lists: pa.ListArray) -> list[int]:
    """Where the offsets of lists, of roles and of texts are, and the bytes of these."""
    role, content = lists.values.field("role"), lists.values.field("content")
    assert lists.offset == role.offset == content.offset == 0
    return [_at(b) for b in (lists.buffers()[1], role.buffers()[1], role.buffers()[2], *content.buffers()[1:])]


def _at(buffer: pa.Buffer | None) -> int:
    return buffer.address if buffer is not None else 0


def _by_python(prompts: pa.ListArray, answers: pa.ListArray) -> PairIds:
    rows: list[tuple[str, ...]] = []
    swapped: list[bool] = []
    said = [_id(turns) for turns in _turns(answers)]
    for prompt, one, other in zip(_turns(prompts), said[::2], said[1::2], strict=True):
        prompt_id, (first, second) = _id(prompt), sorted((one, other))
        asked = next((text for role, text in prompt if role == "user"), prompt[0][1] if prompt else "")
        words = " ".join(asked.split())
        pair = blake2b(f'["{prompt_id}","{first}","{second}"]'.encode(), digest_size=16).hexdigest()
        rows.append((prompt_id, _id([("user", words)]), first, second, pair))
        swapped.append(one > other)
    made = [np.array(column, "S32") for column in (zip(*rows, strict=True) if rows else [()] * 5)]
    return PairIds(
        **dict(zip(("prompt", "question", "first", "second", "pair"), made, strict=True)),
        swapped=np.array(swapped, bool),
    )


def _turns(lists: pa.ListArray) -> list[list[tuple[str, str]]]:
    roles, texts = (lists.values.field(n).to_pylist() for n in ("role", "content"))
    turns, ends = list(zip(roles, texts, strict=True)), lists.offsets.to_pylist()
    return [turns[start:end] for start, end in pairwise(ends)]


def _id(turns: Any) -> str:
    """`records.messages_id` of messages of text alone."""
    return blake2b(dumps(turns), digest_size=16).hexdigest()
