"""What the lead's page needs from the store and from the log-in, and nothing else: two plain interfaces and their
records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import StringConstraints
from starlette.requests import Request

from assay.records import Case, Judgement
from assay.web.quality import Work

Id = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z]{0,64}$")]
"""An id of a pair or of a seat as a request gives it."""
Role = Literal["annotator", "lead", "admin"]
ROLES: tuple[Role, ...] = ("annotator", "lead", "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One person who may log in. `seen` is when they last did something, in unix seconds (0: never)."""

    name: str
    role: Role
    active: bool
    seen: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A pair that a person has open, and for how many minutes more it is theirs if they do nothing."""

    name: str
    pair_id: str
    minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A pair that somebody flagged or skipped, and why. `at` is in unix seconds."""

    pair_id: str
    by: str
    kind: Literal["flag", "skip"]
    text: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the audit log: who did what to what. `at` is in unix seconds."""

    at: float
    by: str
    action: str
    target: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of the project as the page shows it: a choice of `options`, or a whole number when there are none."""

    name: str
    label: str
    value: str
    options: tuple[str, ...] = ()
    low: int = 0
    high: int = 1_000_000


class Desk(Protocol):
    """The store, as the lead's page sees it. Changes are logged by the store, with `by` as their author."""

    def cases(self) -> Sequence[Case]:
        """All pairs of the project with their attributes."""

    def case(self, pair_id: str) -> Case | None: ...

    def judgements(self) -> Sequence[Judgement]:
        """The standing judgements, of people, leads and machines, traps left out."""

    def works(self) -> Sequence[Work]:
        """The standing judgements of annotators as the page recorded them, traps as well."""

    def times(self) -> Sequence[float]:
        """When people gave the answers that stand, traps left out, in unix seconds, in rising order."""

    def held(self) -> Sequence[Held]:
        """The pairs that somebody has open."""

    def overlap(self) -> int:
        """How many people judge each pair."""

    def remarks(self) -> Sequence[Remark]: ...

    def adjudicate(self, judgement: Judgement) -> None:
        """Append a judgement of kind "lead"; a later one by the same lead on the same pair replaces it."""

    def add(self, judgements: Sequence[Judgement], by: str) -> int:
        """Append what is not there yet, and return how many that were."""

    def accounts(self) -> Sequence[Account]: ...

    def invite(self, name: str, role: Role, by: str) -> str:
        """A new account; returns its token, which is shown once. Raises ValueError where the name is taken or not
        allowed."""

    def change(self, name: str, by: str, *, role: Role | None = None, active: bool | None = None) -> None:
        """Change a role or switch an account off (which ends its sessions) or on. Raises ValueError for the last admin."""

    def renew(self, name: str, by: str) -> str:
        """A new token in place of all other ways to log in to the account; its sessions end."""

    def settings(self) -> Sequence[Setting]: ...

    def set(self, values: Mapping[str, str], by: str) -> None:
        """Change settings. Raises ValueError, naming the setting, for a value that is not allowed."""

    def events(self, before: float, limit: int) -> Sequence[Event]:
        """The audit log, newest first, older than `before`."""


class Access(Protocol):
    """Who asks, as the log-in established it."""

    def person(self, request: Request) -> Account | None:
        """The active account of the request's session; None: nobody."""

    def csrf(self, request: Request) -> str:
        """The token that a form of this session must send back as `csrf`."""

    def csrf_holds(self, request: Request, token: str) -> bool: ...
