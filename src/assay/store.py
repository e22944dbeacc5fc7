"""Files that appear whole or not at all, on this machine, on a shared file system, or in an object store (`s3://`, `gs://`).

A file is written beside its place and renamed (locally), or made here and put in one piece (elsewhere): so that a file is
there means that it is finished, for a reader on any machine. The transport is pyarrow's; what it does not know (`memory://`,
`abfs://`, ...) goes through fsspec.
"""

import functools
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from assay.errors import AssayError

PENDING = ".tmp"
"""The suffix of a file that is being written: it counts for nothing."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or file by its path, or by its URL in an object store.

    Example: Place.of("s3://bucket/pool") / "pairs" / "0000-00.parquet"
    """

    url: str

    @staticmethod
    def of(where: "str | Path | Place") -> "Place":
        """Raises AssayError for a URL of a kind that nothing installed can open."""
        if isinstance(where, Place):
            return where
        place = Place(str(where).rstrip("/") or "/")
        place._opened()
        return place

    def __truediv__(self, name: str) -> "Place":
        return Place(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def path(self) -> Path | None:
        """Where it lies on this machine (or a shared file system); None in an object store."""
        return None if "://" in self.url else Path(self.url)

    def local(self, what: str) -> Path:
        """Its path. Raises AssayError, naming `what` needs one, in an object store."""
        if self.path is None:
            raise AssayError(f"{self.url}: {what} needs a folder of a file system, not of an object store")
        return self.path

    def exists(self) -> bool:
        return self.path.exists() if self.path is not None else self._info() != fs.FileType.NotFound

    def names(self, suffix: str = "") -> list[str]:
        """What lies in this folder and ends with `suffix`, sorted, unfinished files aside; nothing where it is missing."""
        files, at = self._opened()
        found = files.get_file_info(fs.FileSelector(at, allow_not_found=True))
        return sorted(i.base_name for i in found if i.base_name.endswith(suffix) and not i.base_name.endswith(PENDING))

    def open(self) -> Any:
        """The file for reading at any place (a pyarrow NativeFile). Raises AssayError where it cannot be opened."""
        files, at = self._opened()
        try:
            return files.open_input_file(at)
        except OSError as error:
            raise AssayError(f"{self.url}: cannot be read ({error})") from error

    def put(self, write: Callable[[Path], object]) -> None:
        """Make this file of what `write` leaves in the file that it is given; it appears in one step."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:12]}{PENDING}")
            try:
                write(beside)
                replace(beside, self.path)
            finally:
                beside.unlink(missing_ok=True)
            return
        files, at = self._opened()
        with tempfile.TemporaryDirectory(prefix="assay-") as folder:
            made = Path(folder) / "file"
            write(made)
            files.create_dir(at.rsplit("/", 1)[0], recursive=True)
            with made.open("rb") as source, files.open_output_stream(at) as sink:
                while block := source.read(1 << 23):
                    sink.write(block)

    def read_text(self) -> str:
        with self.open() as file:
            return bytes(file.read()).decode()

    def write_text(self, text: str) -> None:
        self.put(lambda path: path.write_text(text, encoding="utf-8"))

    def remove(self) -> None:
        """Remove this file, or this folder with all that is in it; nothing where it is missing."""
        if self.path is not None:
            if self.path.is_dir():
                shutil.rmtree(self.path)
            else:
                self.path.unlink(missing_ok=True)
            return
        files, at = self._opened()
        kind = self._info()
        if kind == fs.FileType.Directory:
            files.delete_dir(at)
        elif kind == fs.FileType.File:
            files.delete_file(at)

    def _info(self) -> Any:
        files, at = self._opened()
        return files.get_file_info(at).type

    def _opened(self) -> tuple[Any, str]:
        """The file system, and where in it this is."""
        if self.path is not None:
            return _local(), str(self.path.absolute())
        scheme, _, rest = self.url.partition("://")
        return _remote(f"{scheme}://{rest.partition('/')[0]}"), rest


@functools.cache
def _local() -> Any:
    return fs.LocalFileSystem()


@functools.cache
def _remote(root: str) -> Any:
    """The file system of a bucket ("s3://bucket"), opened once in a process. Credentials and endpoints are the usual
    environment variables' (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, ...)."""
    try:
        if root.startswith(("s3://", "gs://", "hdfs://")):
            return fs.FileSystem.from_uri(root)[0]
        import fsspec

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.core.url_to_fs(root)[0]))
    except ImportError as error:
        raise AssayError(f"{root}: nothing installed opens such a URL ({error})") from error
    except (ValueError, OSError, pa.ArrowInvalid) as error:
        raise AssayError(f"{root}: cannot be opened ({error})") from error


def replace(beside: Path, path: Path) -> None:
    """Move a finished file into place so that a crash leaves the old state or the new one, never a part."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
