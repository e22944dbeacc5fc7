"""What happened in a project, appended and never changed: skips, flags, edits, settings, the audit log (`schema.facts`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from assay.web.schema import as_body, facts, storable


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of `facts`; `body` is what this kind of fact holds."""

    seq: int
    kind: str
    target: str
    by: str
    at: float
    body: dict[str, Any] = field(default_factory=dict)


def note(connection: sa.Connection, kind: str, target: str, by: str, at: float, body: Mapping[str, Any]) -> None:
    """Append a fact."""
    row = {"kind": kind, "target": storable(target), "by": storable(by), "at": at, "body": as_body(dict(body))}
    connection.execute(facts.insert().values(**row))
