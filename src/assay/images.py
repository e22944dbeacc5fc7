"""Pictures by content id: a folder of PNG files, here or in an object store, that prompts and pairs point into.

A picture is decoded and checked when it comes in, so a corrupt or oversized one is refused with its reason then, and never
met in the middle of a training.
"""

import hashlib
import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import AssayError, missing_extra
from assay.store import Place

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 50_000_000


class ImageStore:
    """A folder of pictures, each `ID.png`, where the ID is the digest of its size and RGB pixels."""

    def __init__(self, folder: Path | Place) -> None:
        self.place = Place.of(folder)

    @property
    def folder(self) -> Path:
        """Where it lies. Raises AssayError for one in an object store."""
        return self.place.local("whoever reads pictures by their path")

    def add(self, picture: "Path | bytes | Image") -> str:
        """Keep a picture; returns its id. Raises AssayError when it cannot be decoded or is too large."""
        image = _decode(picture)
        name = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).hexdigest()
        file = self.place / f"{name}.png"
        if not file.exists():
            file.put(lambda path: image.save(path, format="PNG"))
        return name

    def open(self, name: str) -> "Image":
        """The picture with this id, in RGB. Raises AssayError when it is not there or was damaged since."""
        file = self.place / f"{name}.png"
        if not file.exists():
            raise AssayError(f"{self.place}: no picture with the id {name}")
        if file.path is not None:
            return _decode(file.path)
        with file.open() as held:
            return _decode(bytes(held.read()), str(file))


@lru_cache(maxsize=64)
def blank(width: int, height: int) -> "Image":
    """A grey picture: what a policy is shown to learn how much it looks."""
    from PIL import Image

    return Image.new("RGB", (width, height), (127, 127, 127))


def _decode(picture: "Path | bytes | Image", name: str = "") -> "Image":
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise missing_extra("pillow", "vision") from error
    if isinstance(picture, Image.Image):
        image, where = picture, "a picture"
    else:
        where = name or (str(picture) if isinstance(picture, Path) else f"a picture of {len(picture):,} bytes")
        try:
            image = Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture))
        except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise AssayError(f"{where}: cannot be decoded ({error})") from error
    if image.width * image.height > MOST_PIXELS:
        raise AssayError(f"{where}: {image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are read")
    try:
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise AssayError(f"{where}: cannot be decoded ({error})") from error
