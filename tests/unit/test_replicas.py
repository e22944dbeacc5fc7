"""Stages that hold a model, on two processes of this machine: what one makes, byte for byte."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pytest
import torch

import tiny_models
from assay import devices
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.shards import create
from assay.engine import Cores, Here, make
from assay.judges.embedders import EmbedderConfig, Encoder
from assay.pipeline.training import OnDevices, score_together
from assay.records import Pair, Response, user
from assay.reward.scorer import Model
from assay.store import Place
from assay.tables import to_arrow

T = TypeVar("T")
R = TypeVar("R")


def rewarded(models: Sequence[Model], shard: pa.Table) -> pa.Table:
    """A real stage: what reward models give the pairs of a shard."""
    torch.set_num_threads(1)  # more of them change last digits
    found = score_together(models, shard)
    return pa.table({str(n): pa.array(list(both)) for n, both in enumerate(found)})


def test_two_replicas_score_as_one(tmp_path: Path) -> None:
    models = [Model(str(tiny_models.reward(tmp_path / str(seed), seed)), 200, 512) for seed in range(2)]
    pairs = [
        Pair.of((user(f"question {n % 12}"),), Response.of("well, " * (n % 9) + str(n)), Response.of(f"no {n}"))
        for n in range(72)
    ]
    shards = {f"{n:02}": to_arrow(Pair, pairs[6 * n : 6 * n + 6]) for n in range(12)}
    for name, engine in {"one": OnDevices(Here(), 1), "two": OnDevices(Cores(3), 2)}.items():
        made = make(engine, Place.of(tmp_path / name), partial(rewarded, models), shards, model=True)
        assert len(made) == 12
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert len(set(one.values())) == 12


def test_nothing_to_do_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.pipeline.training.Replicas", None)
    assert list(OnDevices(Here(), 8).map(abs, [], model=True)) == []
    assert list(OnDevices(Here(), 1).map(abs, [-1, 2], model=True)) == [1, 2]


def test_a_process_sees_one_of_those_that_are_seen_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """No accelerator is needed to say by which variables processes part them."""
    monkeypatch.setattr(devices, "count", lambda: 0)
    assert devices.replicas(2) == [{}, {}]
    monkeypatch.setattr(devices, "count", lambda: 3)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.replicas(2) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-8a,7")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in devices.replicas(8)] == ["5", "GPU-8a", "7"]
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert devices.replicas(1) == [{"HIP_VISIBLE_DEVICES": "5", "CUDA_VISIBLE_DEVICES": "5"}]
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("xpu", 0))
    assert devices.replicas(2) == [{"ZE_AFFINITY_MASK": "0"}, {"ZE_AFFINITY_MASK": "1"}]
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps", 0))
    assert devices.replicas(8) == [{}]


def test_hashed_words_are_no_model(tmp_path: Path) -> None:
    """Their vectors are made wherever other stages run."""
    asked = []

    class Told(Here):
        def map(self, work: Callable[[T], R], items: Iterable[T], *, model: bool = False) -> Iterator[R]:
            asked.append(model)
            return super().map(work, items)

    pairs = [Pair.of((user(f"what is {n}?"),), Response.of(f"yes {n}"), Response.of(f"no {n}")) for n in range(20)]
    pool, split = create(tmp_path / "pool", pairs, [], parts=4), SplitConfig()
    for name, engine in {"here": Told(), "cores": OnDevices(Cores(2), 1)}.items():
        encoder = Encoder(EmbedderConfig(embedder="hash"))
        prepare(pool, Place.of(tmp_path / name), split, {}, encoder, encoder.reading, engine)
    assert asked
    assert not any(asked)
    here, cores = ({f.name: f.read_bytes() for f in (tmp_path / n / "vectors").iterdir()} for n in ("here", "cores"))
    assert here == cores
    assert len(here) == len(pool.shards)
    assert Encoder(EmbedderConfig(embedder="minilm")).holds_model
