"""A model folder answers for its own training only; a training killed at any instant ends as one that was not."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException

import tiny_models
from assay.errors import AssayError
from assay.identity import Training
from assay.policy.config import FitConfig, GrpoConfig, PolicyConfig, SamplerConfig
from assay.policy.grpo import grpo
from assay.policy.model import load_policy
from assay.policy.mpo import Comparison, fit
from assay.policy.sampler import LocalSampler
from assay.records import Pair, Preference, Response, user
from assay.reward.config import EngineConfig, LossConfig, TrainConfig
from assay.reward.data import MemoryPairs, ParquetPairs
from assay.reward.monitor import StepMetrics
from assay.reward.steps import Micro, Steps
from assay.reward.train import train
from assay.rollouts import Prompt, Score
from assay.run import environment
from assay.step import Engine, states
from assay.tables import Table, opened, write_text


def preferences(n: int, start: int = 0, **fields: float) -> list[Preference]:
    made = []
    for i in range(start, start + n):
        good = Response.of(f"thanks {i}")
        pair = Pair.of((user(f"item {i}"),), good, Response.of(f"go away {i}")).preferring(good.id)
        made.append(replace(pair, **fields))  # type: ignore[arg-type]
    return made


def turned(pairs: list[Preference]) -> list[Preference]:
    return [replace(p, chosen=p.rejected, rejected=p.chosen) for p in pairs]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    backbone = tiny_models.reward(tmp_path_factory.mktemp("backbone"))
    return TrainConfig(
        backbone=str(backbone), batch_pairs=4, lr=1e-3, checks=2, max_tokens=64, engine=EngineConfig(tokens=1_024)
    )


PAIRS, GOLD = preferences(14), preferences(5, start=100)


@pytest.fixture(scope="module")
def whole(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("whole") / "rm", config, PAIRS, GOLD).folder


class Killed(BaseException):
    """Stands in for SIGKILL: nothing in the code under test catches it."""


def test_a_finished_model_answers_its_own_training_only(config: TrainConfig, whole: Path, tmp_path: Path) -> None:
    before = (whole / "model.safetensors").read_bytes()
    same = replace(config, save_minutes=99, engine=EngineConfig(tokens=99, checkpointing=True), images=config.images)
    assert train(whole, same, PAIRS[::-1], GOLD[::-1]).folder == whole, "order, memory and times do not matter"
    shutil.copytree(config.backbone, tmp_path / "moved")
    assert train(whole, replace(config, backbone=str(tmp_path / "moved")), PAIRS, GOLD).steps == 4
    other = tiny_models.reward(tmp_path / "other", seed=1)
    changed: list[tuple[str, TrainConfig, list[Preference], list[Preference]]] = [
        ("labels.digest", config, turned(PAIRS), GOLD),
        ("labels.digest", config, [replace(PAIRS[0], certainty=0.7), *PAIRS[1:]], GOLD),
        ("pairs.digest", config, preferences(14, start=1), GOLD), ("pairs.n: 14 -> 42", config, preferences(42), GOLD),
        ("gold.labels", config, PAIRS, turned(GOLD)), ("gold.n: 5 -> 0", config, PAIRS, []),
        ("config.lr: 0.001 -> 9", replace(config, lr=9), PAIRS, GOLD),
        ("config.engine.lora_rank: 0 -> 2", replace(config, engine=EngineConfig(lora_rank=2)), PAIRS, GOLD),
        ("config.loss.center: 0.0 -> 0.1", replace(config, loss=LossConfig(center=0.1)), PAIRS, GOLD),
        ("backbone: ", replace(config, backbone=str(other)), PAIRS, GOLD),
        ("backbone: ", replace(config, backbone="minilm"), PAIRS, GOLD),
    ]  # fmt: skip
    for named, asked, pairs, gold in changed:
        with pytest.raises(AssayError, match=f"holds a training with other inputs .*{named}.*choose another folder"):
            train(whole, asked, pairs, gold)
    with pytest.raises(AssayError, match="cannot load the model"):
        train(whole, replace(config, backbone=str(tmp_path / "nothing")), PAIRS, GOLD)
    assert (whole / "model.safetensors").read_bytes() == before


def test_a_training_names_the_machines_that_worked_on_it(whole: Path, tmp_path: Path) -> None:
    assert json.loads((whole / "training.json").read_text())["machines"] == [environment()]
    place = Training(tmp_path / "rm", {"lr": 1}, "training")
    place.begin()
    kept = json.loads((place.partial / "identity.json").read_text())
    write_text(place.partial / "identity.json", json.dumps({**kept, "machines": [{"processor": "another"}]}))
    place.begin()
    place.begin()
    (place.partial / "model").mkdir()
    place.finish(place.partial / "model", {"steps": 3})
    told = json.loads((tmp_path / "rm" / "training.json").read_text())
    assert told["machines"] == [{"processor": "another"}, environment()]
    assert place.finished() == {"steps": 3}


def test_weights_changed_in_place_are_another_backbone(config: TrainConfig, tmp_path: Path) -> None:
    backbone = tiny_models.reward(tmp_path / "backbone")
    own = replace(config, backbone=str(backbone))
    train(tmp_path / "rm", own, PAIRS, GOLD)
    (backbone / "README.md").write_text("a note")
    train(tmp_path / "rm", own, PAIRS, GOLD)
    told = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps({**told, "rms_norm_eps": 1e-3}))
    with pytest.raises(AssayError, match=r"other inputs \(backbone: "):
        train(tmp_path / "rm", own, PAIRS, GOLD)


def test_a_model_without_an_identity_is_not_taken_for_this_training(
    config: TrainConfig, whole: Path, tmp_path: Path
) -> None:
    """Neither a finished nor an unfinished training of a version that did not keep what it was of."""
    shutil.copytree(whole, tmp_path / "old")
    told = json.loads((whole / "training.json").read_text())
    del told["identity"]
    (tmp_path / "old" / "training.json").write_text(json.dumps(told))
    (tmp_path / "new.partial" / "state").mkdir(parents=True)
    for name in ("old", "new"):
        with pytest.raises(AssayError, match="does not say what it was trained on"):
            train(tmp_path / name, config, PAIRS, GOLD)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    take = Steps.take

    def dies(self: Steps, micros: list[Micro], done: int) -> StepMetrics:
        if done == step:
            raise Killed
        return take(self, micros, done)

    monkeypatch.setattr(Steps, "take", dies)


def test_an_unfinished_training_is_not_resumed_with_other_inputs(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(Killed):
            train(tmp_path / "rm", config, PAIRS, GOLD)
    assert [s.name for s in states(tmp_path / "rm.partial")] == ["state-00000002"]
    for named, asked, pairs, gold in (
        ("labels.digest", config, turned(PAIRS), GOLD), ("gold.labels", config, PAIRS, turned(GOLD)),
        ("config.checks: 2 -> 3", replace(config, checks=3), PAIRS, GOLD),
    ):  # fmt: skip
        with pytest.raises(AssayError, match=f"rm.partial holds a training with other inputs .*{named}"):
            train(tmp_path / "rm", asked, pairs, gold)
    assert train(tmp_path / "rm", config, PAIRS, GOLD).steps == 4


@contextmanager
def no_files_above(size: int) -> Iterator[None]:
    """As on a disk that is full: the system lets no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("room", "what"), [(-1, "best-00000002.saving"), (1, "state-00000002.saving")])
def test_a_disk_that_is_full_is_told_and_the_training_goes_on(
    config: TrainConfig, whole: Path, tmp_path: Path, room: int, what: str
) -> None:
    """`room`: bytes beyond those of the weights; a state has moments, too."""
    size = (whole / "model.safetensors").stat().st_size
    told = rf"{what}: cannot be written \(.*too large.*\); what was saved before is kept"
    with no_files_above(size + room), pytest.raises(AssayError, match=told):
        train(tmp_path / "rm", config, PAIRS, GOLD)
    assert not (tmp_path / "rm").exists()
    train(tmp_path / "rm", config, PAIRS, GOLD)
    assert (tmp_path / "rm/model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_the_state_is_saved_by_time(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One check at the end of 7 steps; by the clock, which stands at a minute a step, a state every three minutes."""
    now, take, save = [0.0], Steps.take, Engine.save
    saved: list[int] = []

    def minute(self: Steps, micros: list[Micro], done: int) -> StepMetrics:
        now[0] += 60
        return take(self, micros, done)

    def counted(self: Engine, within: Path, step: int, extra: dict[str, Any]) -> None:
        save(self, within, step, extra)
        saved.append(step)

    monkeypatch.setattr("assay.step.time.monotonic", lambda: now[0])
    monkeypatch.setattr(Steps, "take", minute)
    monkeypatch.setattr(Engine, "save", counted)
    long = replace(config, checks=1, epochs=2, save_minutes=3)
    train(tmp_path / "rm", long, PAIRS, GOLD)
    assert saved == [3, 6]
    with pytest.raises(AssayError, match="save_minutes"):
        TrainConfig(save_minutes=-1)


# --- A kill at any instant ---------------------------------------------------------------------------------------------


@contextmanager
def dying(number: int, root: Path) -> Iterator[list[int]]:
    """Die right before the `number`-th change of a name under `root`: a rename, a folder removed (half of it is), or a
    file written anew. Yields the count of changes so far."""
    seen = [0]

    def count(path: object) -> bool:
        seen[0] += str(path).startswith(str(root))
        return str(path).startswith(str(root)) and seen[0] == number

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def change(path: Any, *rest: Any, **options: Any) -> Any:
            if count(path):
                raise Killed
            return original(path, *rest, **options)

        return change

    rmtree = shutil.rmtree

    def half(path: Any, *rest: Any, **options: Any) -> None:
        if Path(path).exists() and count(path):
            for file in [p for p in sorted(Path(path).rglob("*")) if p.is_file()][::2]:
                file.unlink()
            raise Killed
        rmtree(path, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", wrapped(os.rename))
        patch.setattr(os, "replace", wrapped(os.replace))
        patch.setattr(shutil, "rmtree", half)
        patch.setattr(shutil, "copy", wrapped(shutil.copy))
        patch.setattr(torch, "save", wrapped(lambda *a, **k: torch_save(*a, **k)))
        yield seen


torch_save = torch.save


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def result(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "training.json").read_text())
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {**{k: v for k, v in told.items() if k != "wall_s"}, "losses": [s["loss"] for s in steps]}


def killed_everywhere(
    work: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int = 1
) -> int:
    """Do the work once whole; then, killed before each change of a name (or every so many), and given again. Nothing may
    differ. Returns the number of changes."""
    monkeypatch.setattr(Engine, "due", lambda self, minutes: True)
    with dying(0, tmp_path / "whole") as seen:
        work(tmp_path / "whole" / "model")
    for number in range(1, seen[0] + 1, every):
        place = tmp_path / f"killed-{number}"
        with (
            pytest.raises((Killed, CheckpointException)),
            dying(number, place),
        ):  # torch wraps what it meets while it saves
            work(place / "model")
        work(place / "model")
        ours, theirs = weights(place / "model"), weights(tmp_path / "whole" / "model")
        assert all(torch.equal(ours[n], v) for n, v in theirs.items()), number
        assert result(place / "model") == result(tmp_path / "whole" / "model"), number
        work(place / "model")
        assert [p.name for p in place.iterdir()] == ["model"], number
        shutil.rmtree(place)
    return seen[0]


EVERY = pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 9])
"""All instants are in the slow suite."""


@EVERY
def test_a_reward_training_killed_at_any_instant_ends_the_same(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    short = replace(config, batch_pairs=3, checks=2, patience=3)

    def work(folder: Path) -> None:
        train(folder, short, PAIRS, GOLD)
        assert (folder / "calibration.json").exists()

    assert killed_everywhere(work, tmp_path, monkeypatch, every) > 15


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_models.save_language(tmp_path_factory.mktemp("lm"), "qwen3"))


@EVERY
def test_mpo_killed_at_any_instant_ends_the_same(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    pairs = [Comparison(prompt=(5, 6, 8 + i), chosen=(10 + i, 11, 1), rejected=(12, 13 + i, 1)) for i in range(7)]

    def work(folder: Path) -> None:
        fit(folder, FitConfig(batch=2, lr=1e-2), load_policy(language, PolicyConfig()), pairs)

    assert killed_everywhere(work, tmp_path, monkeypatch, every) > 10


@EVERY
def test_grpo_killed_at_any_instant_ends_the_same(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    prompts = [Prompt(messages=(user(f"say {c}"),), answer=c) for c in "abcd"]

    def reward(pairs: Any) -> list[Score]:
        found = [float(r.tokens[0] % 5 == 0) for _, r in pairs]
        return [Score(rule=f, format=0.0, total=f) for f in found]

    def work(folder: Path) -> None:
        policy = load_policy(language, PolicyConfig())
        sampler = LocalSampler(policy, SamplerConfig(max_tokens=3), half=False)
        grpo(folder, GrpoConfig(steps=4, prompts=2, group=4, lr=1e-2), policy, prompts, sampler, reward)

    assert killed_everywhere(work, tmp_path, monkeypatch, every) > 10


def test_a_damaged_state_is_told_and_the_one_before_it_is_read(
    config: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "due", lambda self, minutes: True)
        stop_at(patch, 3)
        with pytest.raises(Killed):
            train(tmp_path / "rm", config, PAIRS, GOLD)
    kept = states(tmp_path / "rm.partial")
    assert [s.name for s in kept] == ["state-00000002", "state-00000003"]
    shutil.copytree(tmp_path / "rm.partial", tmp_path / "lost.partial")
    next(kept[1].glob("*.distcp")).write_bytes(b"")
    said: list[str] = []
    train(tmp_path / "rm", config, PAIRS, GOLD, said.append)
    assert any("state-00000003: cannot be read" in line and "earlier state" in line for line in said)
    assert "rm: resumed at step 2/4" in said
    assert all(torch.equal(v, weights(whole)[n]) for n, v in weights(tmp_path / "rm").items())
    for state in states(tmp_path / "lost.partial"):
        (state / "extra.pt").write_bytes(b"no")
    with pytest.raises(AssayError, match="none of its states can be read"):
        train(tmp_path / "lost", config, PAIRS, GOLD)


# --- Order, epochs, shards ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch", "epochs", "sizes"), [
    (14, 4, 1.0, [4, 4, 4, 2]), (383, 256, 1.0, [256, 127]), (15, 10, 1.0, [10, 5]), (6, 100, 1.0, [6]),
    (6, 4, 2.0, [4, 4, 4]), (10, 4, 0.5, [4, 1]), (3, 2, 0.1, [1]),
])  # fmt: skip
def test_one_epoch_leaves_nothing_out(n: int, batch: int, epochs: float, sizes: list[int]) -> None:
    config = TrainConfig(batch_pairs=batch, epochs=epochs)
    compute = Steps(None, None, config, min(batch, n), config.presented(n))  # type: ignore[arg-type]
    assert [compute.pairs_of(s) for s in range(compute.steps)] == sizes
    assert compute.steps == config.steps(n) == len(sizes)


def test_every_pair_is_presented_once_and_the_last_step_is_a_mean(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    render = "assay.reward.renderer.Renderer.__call__"
    from assay.reward.renderer import Renderer

    call = Renderer.__call__
    monkeypatch.setattr(render, lambda self, rows: seen.append([p.pair_id for _, p in rows]) or call(self, rows))
    frozen = replace(config, lr=1e-12, schedule="constant", warmup=0.0)
    trained = train(tmp_path / "rm", frozen, PAIRS, [])
    steps = [json.loads(line) for line in (trained.folder / "metrics.jsonl").read_text().splitlines()]
    assert [s["pairs"] for s in steps] == [4, 4, 4, 2]
    assert sorted(i for part in seen[1:] for i in part) == sorted(p.pair_id for p in PAIRS)
    assert trained.presented == 14
    one = train(tmp_path / "one", replace(frozen, batch_pairs=14), PAIRS, [])
    whole = json.loads((one.folder / "metrics.jsonl").read_text())
    mean = sum(s["pairs"] * s["loss"] for s in steps) / 14
    assert mean == pytest.approx(whole["loss"], rel=1e-5), "each step's loss is the mean over its own pairs"


def test_a_step_s_loss_is_the_mean_over_the_pairs_that_could_be_read(config: TrainConfig, tmp_path: Path) -> None:
    """A streamed pair whose answers are the same tokens is met in its step: the others count as if it had never been."""
    good = Response.of("é")
    same = Pair.of((user("item"),), good, Response.of("ü")).preferring(good.id)  # both are <unk> to this tokenizer
    losses = {}
    for name, rows in (("with", [*PAIRS[:5], same]), ("without", PAIRS[:5])):
        Table(tmp_path / name / "data", Preference).write("a", rows)
        done = train(tmp_path / name / "rm", replace(config, batch_pairs=6), ParquetPairs(tmp_path / name / "data"), [])
        (line,) = (done.folder / "metrics.jsonl").read_text().splitlines()
        losses[name] = {k: json.loads(line)[k] for k in ("loss", "pairs", "grad_norm")}
    assert losses["with"] == pytest.approx(losses["without"], rel=1e-4)
    assert losses["with"]["pairs"] == 5


def test_mpo_s_epoch_leaves_nothing_out(language: str, tmp_path: Path) -> None:
    pairs = [Comparison(prompt=(5, 6, 8 + i), chosen=(10 + i, 11, 1), rejected=(12, 13 + i, 1)) for i in range(7)]
    config = FitConfig(batch=3, lr=1e-12, schedule="constant", warmup=0.0, weight_decay=0.0, shift=False)
    nlls = {}
    for batch in (3, 7):
        done = fit(tmp_path / str(batch), replace(config, batch=batch), load_policy(language, PolicyConfig()), pairs)
        rows = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
        sizes = [3, 3, 1] if batch == 3 else [7]
        assert done.steps == len(sizes)
        nlls[batch] = sum(r["nll"] * n for r, n in zip(rows, sizes, strict=True)) / 7
    assert nlls[3] == pytest.approx(nlls[7], rel=1e-5)


def test_an_epoch_s_order_is_drawn_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Table(tmp_path / "pairs", Preference).write("a", PAIRS)
    drawn: list[Any] = []
    make = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda key: drawn.append(key) or make(key))
    for pairs in (MemoryPairs(PAIRS), ParquetPairs(tmp_path / "pairs")):
        drawn.clear()
        for at in range(0, 28, 2):
            pairs.take(3, at // 14, [at % 14])
        assert drawn == [(3, 0), (3, 1)]
    drawn.clear()
    windows = ParquetPairs(tmp_path / "pairs", window=7)
    for at in range(0, 28, 2):
        windows.take(3, at // 14, [at % 14])
    assert drawn == [(3, 0), (3, 0, 0), (3, 0, 1), (3, 1), (3, 1, 0), (3, 1, 1)], "and that of each window"


def shards(folder: Path, parts: int = 4, start: int = 0, **options: Any) -> Path:
    table = Table(folder, Preference)
    for part in range(parts):
        table.write(f"part-{part}", preferences(10, start=start + 10 * part))
        path = folder / f"part-{part}.parquet"
        pq.write_table(pq.read_table(path), path, row_group_size=2)
    return folder


def test_shards_are_opened_once_a_window_and_their_names_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shards(tmp_path / "a")
    seen: list[str] = []
    monkeypatch.setattr("assay.reward.data.opened", lambda file: seen.append(file.name) or opened(file))
    pairs = ParquetPairs(folder)
    order = pairs.take(0, 0, range(40))
    assert sorted(seen) == sorted(2 * [f"part-{n}.parquet" for n in range(4)]), "once for its footer, once for rows"
    assert len({p.pair_id for _, p in order}) == 40
    before = pairs.identity()
    for n in range(4):
        (folder / f"part-{n}.parquet").rename(folder / f"{9 - n}.parquet")
    renamed = ParquetPairs(folder)
    assert renamed.identity() == before
    assert renamed.take(0, 0, range(40)) == order
    assert ParquetPairs(shards(tmp_path / "b", start=1)).identity() != before


def test_streamed_pairs_of_other_content_are_another_training(config: TrainConfig, tmp_path: Path) -> None:
    folder = shards(tmp_path / "data", 2)
    train(tmp_path / "rm", config, ParquetPairs(folder), GOLD)
    train(tmp_path / "rm", config, ParquetPairs(folder), GOLD)
    table = pq.read_table(folder / "part-1.parquet")
    names = ["chosen", "rejected"]
    swapped = table.rename_columns([names[1 - names.index(c)] if c in names else c for c in table.column_names])
    pq.write_table(swapped.select(table.column_names), folder / "part-1.parquet")
    with pytest.raises(AssayError, match=r"other inputs \(labels.digest: [^,]*\)"):
        train(tmp_path / "rm", config, ParquetPairs(folder), GOLD)


# --- Losses that the labels cannot feed --------------------------------------------------------------------------------


def test_a_loss_that_would_do_nothing_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    for loss, match in (
        (LossConfig(margin=True), "no pair has a strength: loss.margin would do nothing"),
        (LossConfig(soft_labels=True), "every label is certain"),
    ):
        asked = replace(config, loss=loss)
        for source in (PAIRS, ParquetPairs(shards(tmp_path / match[:5], 1))):
            with pytest.raises(AssayError, match=match):
                train(tmp_path / "rm", asked, source, GOLD)
        told = preferences(14, certainty=0.7, margin=1.0)
        assert train(tmp_path / f"told-{loss.margin}", asked, told, GOLD).steps == 4
