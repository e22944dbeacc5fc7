"""Pictures by content id: a folder of files, here or in an object store, that prompts and pairs point into.

A picture is decoded and checked when it comes in, so a corrupt or oversized one is refused with its reason then, and never
met in the middle of a training. Its own bytes are kept where all readers know their format: to pack a photograph anew takes
longer than to decode it, and several times the room.
"""

import hashlib
import io
import shutil
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import AssayError, missing_extra
from assay.store import Place

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 50_000_000
SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
"""Of the formats whose bytes are kept; any other picture becomes a PNG."""
MEDIA = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}


def file_of(folder: Path, name: str) -> Path | None:
    """The file of a picture in a store's folder; None where there is none."""
    return next((f for f in (folder / f"{name}{s}" for s in MEDIA) if f.is_file()), None)


class ImageStore:
    """A folder of pictures, each `ID.png`, `ID.jpg` or `ID.webp`, where the ID is the digest of its size and RGB pixels. Any
    number of processes may add to it at a time."""

    def __init__(self, folder: Path | Place) -> None:
        self.place = Place.of(folder)

    @property
    def folder(self) -> Path:
        """Where it lies. Raises AssayError for one in an object store."""
        return self.place.local("whoever reads pictures by their path")

    def add(self, picture: "Path | bytes | Image") -> str:
        """Keep a picture; returns its id. Raises AssayError when it cannot be decoded or is too large."""
        given = _opened(picture)
        image = _pixels(given, picture)
        name = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).hexdigest()
        if self._file(name) is None:
            suffix = SUFFIXES.get(given.format or "", "")
            if suffix and isinstance(picture, bytes):
                (self.place / f"{name}{suffix}").put(lambda path: path.write_bytes(picture))
            elif suffix and isinstance(picture, Path):
                (self.place / f"{name}{suffix}").put(lambda path: shutil.copyfile(picture, path))
            else:
                (self.place / f"{name}.png").put(lambda path: image.save(path, format="PNG"))
        return name

    def open(self, name: str) -> "Image":
        """The picture with this id, in RGB. Raises AssayError when it is not there or was damaged since."""
        file = self._file(name)
        if file is None:
            raise AssayError(f"{self.place}: no picture with the id {name}")
        if file.path is not None:
            return _decode(file.path)
        with file.open() as held:
            return _decode(bytes(held.read()), str(file))

    def _file(self, name: str) -> Place | None:
        return next((f for f in (self.place / f"{name}{s}" for s in MEDIA) if f.exists()), None)


@lru_cache(maxsize=64)
def blank(width: int, height: int) -> "Image":
    """A grey picture: what a policy is shown to learn how much it looks."""
    from PIL import Image

    return Image.new("RGB", (width, height), (127, 127, 127))


def _decode(picture: "Path | bytes | Image", name: str = "") -> "Image":
    return _pixels(_opened(picture, name), picture, name)


def _where(picture: "Path | bytes | Image", name: str) -> str:
    told = f"a picture of {len(picture):,} bytes" if isinstance(picture, bytes) else "a picture"
    return name or (str(picture) if isinstance(picture, Path) else told)


def _opened(picture: "Path | bytes | Image", name: str = "") -> "Image":
    """The picture, its pixels not read yet."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise missing_extra("pillow", "vision") from error
    if isinstance(picture, Image.Image):
        image, where = picture, "a picture"
    else:
        where = _where(picture, name)
        try:
            image = Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture))
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            said = "its bytes are those of no known format" if isinstance(error, UnidentifiedImageError) else error
            raise AssayError(f"{where}: cannot be decoded ({said})") from error
    if image.width * image.height > MOST_PIXELS:
        raise AssayError(f"{where}: {image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are read")
    return image


def _pixels(image: "Image", picture: "Path | bytes | Image", name: str = "") -> "Image":
    from PIL import Image

    try:
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AssayError(f"{_where(picture, name)}: cannot be decoded ({error})") from error
