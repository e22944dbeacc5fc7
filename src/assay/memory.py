"""How this process asks the system for memory, and lets go of it."""

import ctypes
import functools
import sys

import polars as pl
import pyarrow as pa


def compact(frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows in memory of their own.

    A column of texts that Polars filtered, sorted or joined points into all texts that were read, and one of numbers may be
    a slice: a thousand rows of a shard hold the whole shard. What is kept of many shards must go through here.
    """
    taken = frame.select(
        pl.all().gather(pl.int_range(len(frame)))
    )  # copies numbers; texts are copied on the way to Arrow
    return pl.DataFrame(pl.from_arrow(taken.to_arrow(compat_level=pl.CompatLevel.oldest())), schema=frame.schema)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for what comes next, instead of giving it back to the system at once.

    A training step, or a piece of an import, frees and asks for the same hundreds of megabytes again; each time the system
    clears them anew. The peak stays about what it is. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


@functools.cache
def keep_tables() -> None:
    """`keep_freed_memory`, also for Arrow: its own allocator gives large pieces back (a quarter of an import's time)."""
    keep_freed_memory()
    pa.set_memory_pool(pa.system_memory_pool())
