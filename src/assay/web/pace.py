"""How far a person is, and how long the rest will take them; when answers came, and who is at work."""

import json
from dataclasses import dataclass
from statistics import median

import sqlalchemy as sa

from assay.web.schema import judgements, pairs, seats
from assay.web.seats import skipped_by
from assay.web.settings import Settings

LAST, LEAST = 20, 3
"""Of the last 20 answers; fewer than 3 say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A person's answers that stand, how many more the queue has for them at most (others work at it too), and the median
    seconds of their last answers (None: too few)."""

    judged: int
    left: int
    seconds: float | None

    @property
    def all(self) -> int:
        return self.judged + self.left

    @property
    def words(self) -> str:
        if self.seconds is None or not self.left:
            return ""
        each, all_ = (duration(s).replace(" ", "\N{NO-BREAK SPACE}") for s in (self.seconds, self.seconds * self.left))
        return f"about {each} each, {all_} to go at most"


def duration(seconds: float) -> str:
    """In the largest unit that fits: "38 s", "12 min", "2 h 05 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def pace(connection: sa.Connection, name: str, settings: Settings) -> Pace:
    """Of `name`. Pairs with known answers count like all others: what is shown must not tell them apart."""
    mine = sa.exists().where(seats.c.pair_id == pairs.c.id, seats.c.name == name, seats.c.judged)
    todo = sa.select(sa.func.count()).select_from(pairs).where(~mine, ~skipped_by(name))
    real = connection.execute(todo.where(pairs.c.truth.is_(None), pairs.c.open)).scalar_one()
    traps = connection.execute(todo.where(pairs.c.truth.is_not(None))).scalar_one() if settings.trap_every else 0
    own = sa.select(sa.func.count()).select_from(seats).where(seats.c.name == name, seats.c.judged)
    judged = connection.execute(own).scalar_one()
    last = sa.select(judgements.c.body).where(judgements.c.by == name, judgements.c.kind == "human")
    rows = connection.execute(last.order_by(judgements.c.seq.desc()).limit(LAST)).scalars()
    times = [s for body in rows if (s := json.loads(body)["judgement"]["seconds"]) > 0]
    return Pace(
        judged=judged, left=real + coming(real, traps, judged, settings.trap_every),
        seconds=median(times) if len(times) >= LEAST else None,
    )  # fmt: skip


def times(connection: sa.Connection) -> list[float]:
    """When people gave the answers that stand, traps left out, in unix seconds, in rising order."""
    query = (
        sa.select(judgements.c.at)
        .select_from(judgements.join(pairs).join(seats, seats.c.submission == judgements.c.id))
        .where(pairs.c.truth.is_(None), judgements.c.kind == "human", seats.c.judged)
    )  # fmt: skip
    return sorted(connection.execute(query).scalars())


def held(connection: sa.Connection, now: float) -> list[tuple[str, str, float]]:
    """Who has which pair open, and until when (unix seconds), if they do nothing. What is held ahead is not open."""
    query = sa.select(seats.c.name, seats.c.pair_id, seats.c.expires).where(~seats.c.judged, seats.c.expires > now)
    shown = query.where(~seats.c.ahead).order_by(seats.c.name)
    return [(r.name, r.pair_id, r.expires) for r in connection.execute(shown)]


def coming(real: int, traps: int, done: int, every: int) -> int:
    """How many of `traps` a person meets who has given `done` answers, until `real` other pairs are done: one whenever
    `every - 1` others came since the last."""
    if not every or not traps:
        return 0
    if every == 1:
        return traps
    before = every - 1 - done % every
    return min(traps, (real - before) // (every - 1) + 1) if real >= before else 0
