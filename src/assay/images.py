"""Pictures by content id: a folder of PNG files that prompts and pairs point into.

A picture is decoded and checked when it comes in, so a corrupt or oversized one is refused with its reason then, and never
met in the middle of a training.
"""

import hashlib
import io
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from assay.errors import AssayError, missing_extra

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 50_000_000


class ImageStore:
    """A folder of pictures, each `ID.png`, where the ID is the digest of its size and RGB pixels."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, picture: "Path | bytes | Image") -> str:
        """Keep a picture; returns its id. Raises AssayError when it cannot be decoded or is too large."""
        image = _decode(picture)
        name = hashlib.blake2b(repr(image.size).encode() + image.tobytes(), digest_size=16).hexdigest()
        path = self.folder / f"{name}.png"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(f".{os.getpid()}.tmp")
            image.save(beside, format="PNG")
            beside.replace(path)
        return name

    def open(self, name: str) -> "Image":
        """The picture with this id, in RGB. Raises AssayError when it is not there or was damaged since."""
        path = self.folder / f"{name}.png"
        if not path.exists():
            raise AssayError(f"{self.folder}: no picture with the id {name}")
        return _decode(path)


@lru_cache(maxsize=64)
def blank(width: int, height: int) -> "Image":
    """A grey picture: what a policy is shown to learn how much it looks."""
    from PIL import Image

    return Image.new("RGB", (width, height), (127, 127, 127))


def _decode(picture: "Path | bytes | Image") -> "Image":
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise missing_extra("pillow", "vision") from error
    if isinstance(picture, Image.Image):
        image, where = picture, "a picture"
    else:
        where = str(picture) if isinstance(picture, Path) else f"a picture of {len(picture):,} bytes"
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
