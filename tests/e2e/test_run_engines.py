"""The whole of a run on every engine, models and all: the same tables, byte for byte, and on two devices the same models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_job import small_config

from assay.curate.shards import Pool, create
from assay.curate.verify import oracle
from assay.engine import engine_of
from assay.pipeline.job import run_job
from assay.pipeline.pools import constraint_pool

PARTS = 4


def pool_of(folder: Path) -> tuple[Pool, dict[str, str]]:
    """A pool of four shards, and the truth about it."""
    whole = constraint_pool()
    names = sorted({p.question_id for p in whole.pairs.values()})
    questions = set(names[:: len(names) // 80])
    pairs = [p for p in whole.pairs.values() if p.question_id in questions and int(p.id[:2], 16) < 64]
    ids = {p.id for p in pairs}
    truth = {i: better for i, better in whole.truth.items() if i in ids}
    pool = create(folder, pairs, [j for j in whole.wild if j.pair_id in ids], truth, parts=PARTS)
    assert len(pool.shards) == PARTS
    return pool, truth


@pytest.mark.slow
def test_a_run_is_the_same_here_on_all_cores_and_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'assay-rm[ray]'")
    pool, truth = pool_of(tmp_path / "pool")
    found = {}
    for name in ("local", "cores:2", "ray"):
        folder = tmp_path / name.replace(":", "-")
        run_job(folder, small_config(), pool, people=oracle(truth), engine=engine_of(name))
        files = sorted(p for p in folder.rglob("*.parquet") if p.is_file())
        found[name] = {str(p.relative_to(folder)): p.read_bytes() for p in files}
        assert sum("stage2-" in n for n in found[name]) >= PARTS
    for name in ("cores:2", "ray"):
        assert found[name].keys() == found["local"].keys()
        assert [n for n, raw in found[name].items() if raw != found["local"][n]] == []


@pytest.mark.slow
def test_a_run_on_two_devices_has_the_models_of_one(tmp_path: Path) -> None:
    """Two processes train each model, and two copies score: here, and as actors of Ray."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'assay-rm[ray]'")
    pool, truth = pool_of(tmp_path / "pool")
    config = small_config()
    config = replace(config, stage1=replace(config.stage1, iterations=1))
    for name, processes in {"local": 1, "cores:2": 2, "ray": 2}.items():
        engine = engine_of(name, processes)
        run_job(tmp_path / name[:4], config, pool, people=oracle(truth), engine=engine, processes=processes)
    one = {p.parent.name: p.parent for p in (tmp_path / "loca").rglob("training.json")}
    assert len(one) == 12
    for name in ("core", "ray"):
        for p in (tmp_path / name).rglob("training.json"):
            told, said = (json.loads((f / "training.json").read_text()) for f in (p.parent, one[p.parent.name]))
            assert (told["pairs"], told["steps"]) == (said["pairs"], said["steps"])
            weights = load_file(one[p.parent.name] / "model.safetensors")
            for key, value in load_file(p.parent / "model.safetensors").items():
                torch.testing.assert_close(value, weights[key], atol=5e-4, rtol=0, msg=f"{name} {p.parent.name} {key}")
