"""Files that appear whole or not at all, on this machine, on a shared file system, or in an object store (`s3://`, `gs://`).

A file is written beside its place and renamed (locally), or made here and put in one piece (elsewhere): so that a file is
there means that it is finished, for a reader on any machine. The transport is pyarrow's; what it does not know (`memory://`,
`abfs://`, ...) goes through fsspec.

On a file system that machines share, that needs a rename in one step, which POSIX file systems and NFS have. A file and its
folder are flushed before anything is said to be done, so that a manifest on the disk means that the files it names are.
Other machines may see a new file late (NFS keeps what it knows of a folder for up to a minute): `engine.make` waits for it.
Files that are replaced are small and are read in one piece, so that no reader holds one that is gone. No locks are used.
"""

import functools
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from assay.errors import AssayError

PENDING = ".tmp"
"""The suffix of a file that is being written: it counts for nothing."""
DAY_S = 86_400.0
_URL_AS_PATH = re.compile(r"^([a-z][a-z0-9+.]+):/(?!/)")
"""What a Path makes of a URL."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or file by its path, or by its URL in an object store.

    Example: Place.of("s3://bucket/pool") / "pairs" / "0000-00.parquet"
    """

    url: str

    @staticmethod
    def of(where: "str | Path | Place") -> "Place":
        """Raises AssayError for a URL of a kind that nothing installed can open, or of a store that cannot be reached."""
        if isinstance(where, Place):
            return where
        text = str(where)
        if isinstance(where, Path):
            text = _URL_AS_PATH.sub(r"\1://", text)
        if text.rstrip("/").endswith(":") and "://" in text:
            raise AssayError(f"{text}: name a bucket or a folder in it")
        place = Place(text.rstrip("/") or "/")
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
        """Raises AssayError where that cannot be known."""
        return self.path.exists() if self.path is not None else self._info() != fs.FileType.NotFound

    def names(self, suffix: str = "") -> list[str]:
        """What lies in this folder and ends with `suffix`, sorted, unfinished files aside; nothing where it is missing."""
        files, at = self._opened()
        with _told(self.url, "cannot be listed"):
            found = files.get_file_info(fs.FileSelector(at, allow_not_found=True))
        return sorted(i.base_name for i in found if i.base_name.endswith(suffix) and not i.base_name.endswith(PENDING))

    def open(self) -> Any:
        """The file for reading at any place (a pyarrow NativeFile). Raises AssayError where it cannot be opened."""
        files, at = self._opened()
        with _told(self.url, "cannot be read"):
            return files.open_input_file(at)

    def put(self, write: Callable[[Path], object]) -> None:
        """Make this file of what `write` leaves in the file that it is given; it appears in one step. Raises AssayError
        where it cannot be written (no space, no right)."""
        with _told(self.url, "cannot be written"):
            if self.path is None:
                self._send(write)
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            beside = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:12]}{PENDING}")
            try:
                write(beside)
                replace(beside, self.path)
            finally:
                beside.unlink(missing_ok=True)

    def _send(self, write: Callable[[Path], object]) -> None:
        files, at = self._opened()
        with tempfile.TemporaryDirectory(prefix="assay-") as folder:
            made = Path(folder) / "file"
            write(made)
            whole = made.read_bytes()
        if not self.url.startswith(_FLAT):
            files.create_dir(at.rsplit("/", 1)[0], recursive=True)
        sink = files.open_output_stream(at)
        # In one call: closing a stream makes an object of what was written to it, also after an interrupt between two parts.
        sink.write(whole)
        sink.close()

    def read_text(self) -> str:
        with self.open() as file:
            return bytes(file.read()).decode()

    def write_text(self, text: str) -> None:
        self.put(lambda path: path.write_text(text, encoding="utf-8"))

    def keep_text(self, text: str) -> None:
        """`write_text`, unless the file says so already."""
        if not self.exists() or self.read_text() != text:
            self.write_text(text)

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
        with _told(self.url, "cannot be removed"):
            if kind == fs.FileType.Directory:
                files.delete_dir(at)
            elif kind == fs.FileType.File:
                files.delete_file(at)

    def sweep(self) -> None:
        """Remove what writers that were killed more than a day ago left in this folder."""
        if self.path is not None and self.path.is_dir():
            for left in self.path.glob(f"*{PENDING}"):
                with suppress(OSError):  # another sweeps too
                    if time.time() - left.stat().st_mtime > DAY_S:
                        left.unlink()

    def __reduce__(self) -> tuple[type["Place"], tuple[str]]:
        """In another process, which may be in another folder, it is the same place."""
        return Place, (self.url if self.path is None else str(self.path.absolute()),)

    def _info(self) -> Any:
        files, at = self._opened()
        with _told(self.url, "cannot be looked up"):
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


_FLAT = ("s3://", "gs://")
"""Stores without folders: there is nothing to make before a file, and a folder is there while something lies in it."""


@functools.cache
def _remote(root: str) -> Any:
    """The file system of a bucket ("s3://bucket"), opened once in a process. Credentials and endpoints are the usual
    environment variables' (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AWS_REGION, GOOGLE_APPLICATION_CREDENTIALS, ...)."""
    scheme, _, bucket = root.partition("://")
    try:
        with _told(root, "cannot be reached"):
            if scheme == "s3":
                return _s3(bucket)
            if scheme == "gs":
                return fs.GcsFileSystem(
                    retry_time_limit=timedelta(minutes=1)
                )  # its own default is a quarter of an hour
            if scheme == "hdfs":
                return fs.FileSystem.from_uri(root)[0]
            import fsspec

            return fs.PyFileSystem(fs.FSSpecHandler(fsspec.core.url_to_fs(root)[0]))
    except (ImportError, ValueError, pa.ArrowInvalid) as error:
        raise AssayError(f"{root}: nothing installed opens such a URL ({error})") from error


def _s3(bucket: str) -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    files = fs.S3FileSystem(
        region=region or ("us-east-1" if endpoint else fs.resolve_s3_region(bucket)), endpoint_override=endpoint,
        connect_timeout=10, request_timeout=60, allow_delayed_open=True,  # a small file is one request
    )  # fmt: skip
    if files.get_file_info(bucket).type == fs.FileType.NotFound:
        raise AssayError(
            f"s3://{bucket}: there is no such bucket{f' at {endpoint}' if endpoint else ''}; make it first"
        )
    return files


@contextmanager
def _told(url: str, what: str) -> Iterator[None]:
    """Raise the errors of a file system as an AssayError in one line."""
    try:
        yield
    except OSError as error:
        why = " ".join(str(error).split())
        raise AssayError(f"{url}: {what} ({why[:400]})") from error


def replace(beside: Path, path: Path) -> None:
    """Move a finished file into place so that a crash leaves the old state or the new one, never a part."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
