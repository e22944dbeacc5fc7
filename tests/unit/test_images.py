"""The store of pictures: their own bytes where every reader knows the format, and any number of writers at a time."""

import io
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.errors import AssayError
from assay.images import ImageStore, file_of

PIL = pytest.importorskip("PIL.Image")


def noise(seed: int = 0, mode: str = "RGB") -> Any:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, len(mode)), dtype=np.uint8)
    return PIL.fromarray(pixels, mode=None if mode == "RGB" else mode)


def written(picture: Any, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp")])
def test_a_picture_keeps_its_own_bytes(tmp_path: Path, kind: str, suffix: str) -> None:
    data, store = written(noise(), kind), ImageStore(tmp_path / "store")
    (tmp_path / "given").write_bytes(data)
    name = store.add(tmp_path / "given")
    assert store.add(data) == name
    kept = file_of(store.folder, name)
    assert kept == store.folder / f"{name}{suffix}"
    assert kept.read_bytes() == data
    assert store.open(name).tobytes() == PIL.open(io.BytesIO(data)).convert("RGB").tobytes()
    assert store.add(store.open(name)) == name, "the id is of the pixels"
    assert len(list(store.folder.iterdir())) == 1


def test_any_other_becomes_a_png(tmp_path: Path) -> None:
    store, picture = ImageStore(tmp_path), noise()
    name = store.add(written(picture, "BMP"))
    assert [f.name for f in tmp_path.iterdir()] == [f"{name}.png"]
    assert store.open(name).tobytes() == picture.tobytes()
    seen_through = ImageStore(tmp_path / "other").add(written(noise(mode="RGBA"), "PNG"))
    assert ImageStore(tmp_path / "other").open(seen_through).mode == "RGB"
    with pytest.raises(AssayError, match="a picture of 4 bytes: cannot be decoded"):
        store.add(b"none")


def test_a_store_that_others_add_to_is_told_of_a_cut_picture(tmp_path: Path) -> None:
    data = written(noise(), "PNG")
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(AssayError, match=r"cut\.png: cannot be decoded"):
        ImageStore(tmp_path / "store").add(tmp_path / "cut.png")
    assert not (tmp_path / "store").exists()


def _add(folder: Path, barrier: Any, kind: str) -> None:
    store = ImageStore(folder)
    for seed in range(20):
        barrier.wait(300)
        store.add(written(noise(seed), kind))


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_two_processes_add_the_same_picture_at_once(tmp_path: Path, kind: str) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    both = [context.Process(target=_add, args=(tmp_path, barrier, kind)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [p.exitcode for p in both] == [0, 0]
    store = ImageStore(tmp_path)
    assert len(list(tmp_path.iterdir())) == 20, "and nothing unfinished is left"
    for seed in range(20):
        assert store.open(store.add(noise(seed))).tobytes() == noise(seed).tobytes()
