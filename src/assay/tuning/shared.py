"""What a command reads of a user's questions, once for all of its processes.

Rank 0 reads files and pictures, and the others its table; making token ids (a picture's take its processor) is shared out
between them, and each finds them all in files that are mapped into memory: what a process holds does not grow with the
number of tokens, and a question is never rendered by all.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from assay.errors import AssayError, CannotRead
from assay.policy.prompt_ids import IdFile, Ids, mapped
from assay.rollouts import Prompt
from assay.store import Place
from assay.tables import Table, to_arrow, write_shard

if TYPE_CHECKING:
    from assay.step import Engine

T = TypeVar("T")
MARK = ".assay-questions"
"""The file that says whose the folder is."""


class Shared:
    """A folder that all processes of a command see, for as long as this is open. A killed command's is made anew. Raises
    AssayError where something else has its name.

    Example:
        with Shared(engine, folder) as shared:
            prompts = shared.questions(lambda: {"train": read(path)})["train"]
    """

    def __init__(self, engine: "Engine", folder: Path) -> None:
        self.engine, self.folder, self.files = engine, folder, 0

    def __enter__(self) -> "Shared":
        self.engine.lead_says(self._begin)
        return self

    def _begin(self) -> None:
        """Only what an earlier command of ours left is removed: the folder lies beside the user's output."""
        if self.folder.exists() and not (self.folder / MARK).exists() and any(self.folder.iterdir()):
            raise AssayError(f"{self.folder} is there already, and not of this command: move it, or use another --out")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        (self.folder / MARK).touch()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.engine.wait()
        if self.engine.lead:
            shutil.rmtree(self.folder, ignore_errors=True)

    def questions(self, read: Callable[[], Mapping[str, Sequence[Prompt]]]) -> dict[str, list[Prompt]]:
        """Lists of questions, by name, as rank 0 reads them."""
        if self.engine.world == 1:
            return {name: list(prompts) for name, prompts in read().items()}

        def work() -> list[str]:
            found = read()
            for name, prompts in found.items():
                write_shard(Place.of(self.folder) / f"{name}.parquet", to_arrow(Prompt, prompts))
            return list(found)

        names = self.engine.lead_says(work)
        return {name: Table(self.folder, Prompt).read(name) for name in names}

    def lead(self, work: Callable[[], T]) -> T:
        """What `work` finds on rank 0, on every process."""
        return self.engine.lead_says(work)

    def ids(self, n: int, make: Callable[[int], Sequence[Sequence[int]]]) -> list[tuple[str, list[Ids]]]:
        """For each of n items the rows of ids that `make` gives it, made by one process of all; where it raises CannotRead,
        the reason and no rows."""
        self.files += 1
        engine, name = self.engine, f"{self.files}"
        own, file = [], IdFile(self.folder / f"{name}-{engine.rank}.i32")
        for i in range(engine.rank, n, engine.world):
            try:
                own.append((i, engine.rank, "", [file.add(row) for row in make(i)]))
            except CannotRead as error:
                own.append((i, engine.rank, str(error), []))
        file.close()
        rows = engine.gather(own)
        files = [mapped(self.folder / f"{name}-{rank}.i32") for rank in range(engine.world)]
        found: list[Any] = [None] * n
        for i, rank, reason, places in rows:
            found[i] = (reason, [files[rank][start:end] for start, end in places])
        return found
