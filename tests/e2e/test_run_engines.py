"""The whole of a run on every engine, models and all: the same tables, byte for byte."""

from pathlib import Path

import pytest
from small_job import small_config

from assay.curate.shards import create
from assay.curate.verify import oracle
from assay.engine import engine_of
from assay.recipes.job import run_job
from assay.recipes.pools import constraint_pool

PARTS = 4


@pytest.mark.slow
def test_a_run_is_the_same_here_on_all_cores_and_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'assay[ray]'")
    whole = constraint_pool()
    names = sorted({p.question_id for p in whole.pairs.values()})
    questions = set(names[:: len(names) // 80])
    pairs = [p for p in whole.pairs.values() if p.question_id in questions and int(p.id[:2], 16) < 64]
    ids = {p.id for p in pairs}
    truth = {i: better for i, better in whole.truth.items() if i in ids}
    pool = create(tmp_path / "pool", pairs, [j for j in whole.wild if j.pair_id in ids], truth, parts=PARTS)
    assert len(pool.shards) == PARTS
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
