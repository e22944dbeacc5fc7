"""The records that the pages show, and who asks for them."""

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import StringConstraints
from starlette.requests import Request

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


class Access(Protocol):
    """Who asks, as the log-in established it."""

    def person(self, request: Request) -> Account | None:
        """The active account of the request's session; None: nobody."""

    def csrf(self, request: Request) -> str:
        """The token that a form of this session must send back as `csrf`."""

    def csrf_holds(self, request: Request, token: str) -> bool: ...
