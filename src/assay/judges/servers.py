"""Where the models answer that a folder asks. A judge is known by its model's name, and another model may go by that name at
another address: the folder keeps both, and an address that has changed is asked about.

    servers.json    {role: [{"model", "name", "url", "first"}]}: in the order given; urls without a query, which may be a key

Addresses are no part of what is made: a model that has moved keeps the name and the cached replies of its first address
(`ChatConfig.known_as`), so tables are the same bytes wherever its server was.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from assay.errors import AssayError
from assay.llm.chat import ChatConfig
from assay.llm.replies import spelled
from assay.tables import write_text

FILE = "servers.json"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """A model, what judgements call it, where it answers, and where it answered when the folder was begun."""

    model: str
    name: str
    url: str
    first: str


def address(url: str) -> str:
    """A server's address in its one spelling."""
    return spelled(url).partition("?")[0]


class Servers:
    """The addresses that `file` keeps, and those given now.

    Args:
        begun: Whether anything was asked there before: else what the file says is left of a kill, and counts for nothing.
        moved: The user says that models at other addresses are the same ones.
    """

    def __init__(self, file: Path, begun: bool, moved: bool = False) -> None:
        self._file, self._begun, self._moved = file, begun, moved
        self._before = _read(file) if begun else None
        self._now: dict[str, list[At]] = {}

    @staticmethod
    def of_run(folder: Path, moved: bool) -> "Servers":
        """Those of a run folder."""
        return Servers(folder / FILE, (folder / "config.json").exists(), moved)

    def of(self, role: str, given: Sequence[T]) -> list[T]:
        """The models that are asked as `role`, by the names and first addresses that the folder knows them by.

        Where other models are given, or another number of servers of one, nothing is said here: they are in the folder's
        config, which refuses them. Raises AssayError where the same models are said to answer at other addresses.
        """
        chats = [c for c in given if isinstance(c, ChatConfig)]
        if chats and self._begun and self._before is None and not self._moved:
            raise AssayError(
                f"{self._file.parent}: nothing there says at which addresses its models answered (an earlier version of "
                "Assay began it, or it asked none); if they are the models that are given now, add --servers-moved"
            )
        kept = (self._before or {}).get(role, [])
        known = _paired(kept, chats)
        gone = [(k, c) for k, c in zip(known, chats, strict=True) if k is not None and k.url != address(c.url)]
        if gone and not self._moved:
            what = "; ".join(
                f"{k.model} answered at {k.url}, and is now to be asked at {address(c.url)}" for k, c in gone
            )
            raise AssayError(
                f"{self._file.parent}: {what}. Another model may go by that name there: if it is the same one, add "
                "--servers-moved (what it has answered is not asked again), else use another --out"
            )
        told = [_told(k, c) for k, c in zip(known, chats, strict=True)]
        self._now[role] = told
        named = iter(
            replace(c, name=t.name, known_as=t.first if t.first != address(c.url) else "")
            for t, c in zip(told, chats, strict=True)
        )
        return [next(named) if isinstance(c, ChatConfig) else c for c in given]

    def keep(self) -> None:
        """Write them, when the folder is known to be of this command, and before it says what it is of itself."""
        text = json.dumps({role: [asdict(t) for t in told] for role, told in self._now.items()}, indent=2)
        if not self._file.exists() or self._file.read_text(encoding="utf-8") != text:
            write_text(self._file, text)


def _told(kept: At | None, config: ChatConfig) -> At:
    url = address(config.url)
    if kept is None:
        return At(model=config.model, name=config.name or config.model, url=url, first=url)
    return replace(kept, url=url)


def _paired(kept: Sequence[At], given: Sequence[ChatConfig]) -> list[At | None]:
    """For each server what is kept of it: of the same model at the same address, else, in order, of the same model at one
    that is not given any more."""
    found: dict[int, At] = {}
    for model in {c.model for c in given}:
        old = [k for k in kept if k.model == model]
        new = [n for n, c in enumerate(given) if c.model == model]
        if len(old) != len(new):
            continue
        there = {address(given[n].url): n for n in new}
        found |= {there[k.url]: k for k in old if k.url in there}
        found |= zip((n for n in new if n not in found), (k for k in old if k.url not in there), strict=True)
    return [found.get(n) for n in range(len(given))]


def _read(file: Path) -> Mapping[str, list[At]] | None:
    """What a file keeps; None where there is none."""
    if not file.exists():
        return None
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return {role: [At(**row) for row in rows] for role, rows in told.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise AssayError(
            f"{file}: not the addresses of models ({error!r}); remove it, and add --servers-moved"
        ) from error
