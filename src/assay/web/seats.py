"""Seats: who is shown which pair next, and sits down at it, within one transaction of the store.

A seat that ran out is still its holder's until another person takes it; then the holder's late answer may sit down again
where a seat is free.
"""

import json
import secrets
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from assay.curate.annotate import shown_order
from assay.records import Case, Judgement
from assay.tables import build
from assay.web.facts import note
from assay.web.schema import as_body, facts, judgements, pairs, seats
from assay.web.settings import Settings

LEFT_BEHIND = "This page was left behind by another one of yours; here is the pair that you are at."


class Refused(Exception):
    """Why an answer was not stored, in words for the annotator."""


class Answered(Exception):
    """Another answer of the same person to the same pair was stored before: `judgement`, which stands."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.pair_id)
        self.judgement = judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A person's place at a pair: what the task page shows. `draft` is what they typed so far; `verdicts` are by
    response id."""

    case: Case
    name: str
    submission: str
    opened: float
    expires: float
    draft: dict[str, str]
    verdicts: dict[str, list[dict[str, Any]]]
    words: int
    trap: bool

    @property
    def shown(self) -> tuple[str, str]:
        """The order of the responses: random, the same for this person on every reload."""
        return Seat.order(self.case, self.name)

    @staticmethod
    def order(case: Case, name: str) -> tuple[str, str]:
        """The order in which `name` sees the responses of a case."""
        return shown_order(case.pair, "web", name)


def skipped_by(name: str) -> Any:
    """Whether `name` skipped a pair and did not take that back."""
    later = facts.alias()
    again = sa.exists().where(
        later.c.kind == "unskip", later.c.target == facts.c.target, later.c.by == name, later.c.seq > facts.c.seq
    )
    return sa.exists().where(facts.c.kind == "skip", facts.c.target == pairs.c.id, facts.c.by == name, ~again)


def next_pair(
    connection: sa.Connection, name: str, settings: Settings, now: float, before: int = 0
) -> tuple[str | None, bool]:
    """The pair that `name` should see next, or after `before` more answers, and whether it is a trap.

    What is held ahead for others (`ahead`) is given away when nothing else is left, to whom would see it now.
    """
    mine = sa.exists().where(seats.c.pair_id == pairs.c.id, seats.c.name == name)
    base = sa.select(pairs.c.id).where(~mine, ~skipped_by(name)).order_by(pairs.c.place).limit(1)
    if trap_due(connection, name, settings, before):
        trap = connection.execute(base.where(pairs.c.truth.is_not(None))).scalar()
        if trap is not None:
            return trap, True
    for kept in (seats.c.expires > now, (seats.c.expires > now) & ~seats.c.ahead)[: 1 if before else 2]:
        held = (
            sa.select(sa.func.count()).select_from(seats)
            .where(seats.c.pair_id == pairs.c.id, seats.c.judged | kept).scalar_subquery()
        )  # fmt: skip
        free = base.where(pairs.c.truth.is_(None), pairs.c.open, held < settings.overlap)
        found = connection.execute(free).scalar()
        if found is not None:
            return found, False
    return None, False


def trap_due(connection: sa.Connection, name: str, settings: Settings, before: int = 0) -> bool:
    """Whether the pair that `name` sees after `before` more answers is to be a trap, if any is left."""
    if not settings.trap_every:
        return False
    count = sa.select(sa.func.count()).select_from(seats).where(seats.c.name == name, seats.c.judged)
    done = connection.execute(count).scalar_one() + before
    return done % settings.trap_every == settings.trap_every - 1


def sit(
    connection: sa.Connection, pair_id: str, name: str, settings: Settings, now: float, trap: bool, ahead: bool = False
) -> bool:
    """Take a free seat, or one that ran out, or at last one that somebody holds `ahead`. False where there is none."""
    taken = {row.seat: row for row in connection.execute(sa.select(seats).where(seats.c.pair_id == pair_id))}
    limit = len(taken) + 1 if trap else settings.overlap
    fresh = {"name": name, "submission": secrets.token_hex(16), "opened": now, "expires": now + settings.lease_s,
             "judged": False, "draft": "{}", "ahead": ahead}  # fmt: skip
    held = [(n, row) for n, row in sorted(taken.items()) if n < limit and not row.judged]
    over = [r for r in held if r[1].expires <= now] + ([] if ahead else [r for r in held if r[1].ahead])
    seat = next((n for n in range(limit) if n not in taken), None)
    if seat is not None:
        connection.execute(seats.insert().values(pair_id=pair_id, seat=seat, **fresh))
        return True
    if not over:
        return False
    seat, row = over[0]
    lapse(connection, row, now)
    connection.execute(seats.update().where(seats.c.pair_id == pair_id, seats.c.seat == seat).values(**fresh))
    return True


def sit_again(
    connection: sa.Connection, submission: str, pair_id: str, name: str, settings: Settings, now: float
) -> bool | None:
    """Sit down again at a pair whose seat ran out, under the old submission; False when no seat is free, None where this
    person never lost that seat, or has a new one at the pair."""
    lapsed = sa.select(facts.c.seq).where(
        facts.c.kind == "lapsed", facts.c.target == pair_id, facts.c.by == name,
        facts.c.body == as_body({"submission": submission}),
    )  # fmt: skip
    if connection.execute(lapsed).first() is None:
        return None
    there = sa.select(seats.c.submission).where(seats.c.pair_id == pair_id, seats.c.name == name)
    if connection.execute(there).scalar() is not None:  # has a new seat here: this is an old form
        return None
    if not sit(connection, pair_id, name, settings, now, _is_trap(connection, pair_id)):
        return False
    own = (seats.c.pair_id == pair_id, seats.c.name == name)
    connection.execute(seats.update().where(*own).values(submission=submission))
    return True


def remarked(connection: sa.Connection, kind: str, pair_id: str, name: str) -> bool:
    """Whether `name` flagged (or skipped) a pair and did not take that back."""
    own = (facts.c.kind.in_((kind, f"un{kind}")), facts.c.target == pair_id, facts.c.by == name)
    last = sa.select(facts.c.kind).where(*own).order_by(facts.c.seq.desc()).limit(1)
    return connection.execute(last).scalar() == kind


def unskip(connection: sa.Connection, pair_id: str, name: str, settings: Settings, now: float) -> bool:
    """Give a skipped pair back, in place of the seat that `name` has now; False where somebody else took it."""
    at = seat_before(connection, name)
    if not sit(connection, pair_id, name, settings, now, _is_trap(connection, pair_id)):
        return False
    if at is not None:
        put_behind(connection, at, now)
    note(connection, "unskip", pair_id, name, now, {})
    return True


def seat_before(connection: sa.Connection, name: str) -> Any:
    """The row of the seat that `name` has before them; None where they have none."""
    own = (seats.c.name == name, ~seats.c.judged, ~seats.c.ahead)
    return connection.execute(sa.select(seats).where(*own).limit(1)).one_or_none()


def put_behind(connection: sa.Connection, seat: sa.Row[Any], now: float) -> None:
    """Another pair comes before the one that somebody has before them: it is held ahead, with what was typed, in place of
    the one that was."""
    release(connection, seat.name, now)
    connection.execute(seats.update().where(seats.c.submission == seat.submission).values(ahead=True))


def release(connection: sa.Connection, name: str, now: float, submission: str | None = None) -> None:
    """Give back what `name` holds ahead (or this one alone)."""
    own = [seats.c.name == name, ~seats.c.judged, seats.c.ahead]
    if submission is not None:
        own.append(seats.c.submission == submission)
    for row in connection.execute(sa.select(seats).where(*own)).all():
        lapse(connection, row, now)
        connection.execute(seats.delete().where(seats.c.submission == row.submission))


def seat_of(connection: sa.Connection, pair_id: str, name: str) -> Seat:
    """The seat of `name` at a pair."""
    both = sa.select(seats, pairs.c.body, pairs.c.words, pairs.c.truth, pairs.c.verdicts).join(pairs)
    row = connection.execute(both.where(seats.c.pair_id == pair_id, seats.c.name == name)).one()
    return Seat(
        case=case_in(row.body), name=name, submission=row.submission, opened=row.opened, expires=row.expires,
        draft=json.loads(row.draft), verdicts=json.loads(row.verdicts), words=row.words, trap=row.truth is not None,
    )  # fmt: skip


def _is_trap(connection: sa.Connection, pair_id: str) -> bool:
    return connection.execute(sa.select(pairs.c.truth).where(pairs.c.id == pair_id)).scalar() is not None


def close_full(connection: sa.Connection, pair_id: str, settings: Settings) -> None:
    """The queue gives a pair to nobody else once enough people, or a lead, have judged it."""
    done = sa.select(sa.func.count()).select_from(seats).where(seats.c.pair_id == pair_id, seats.c.judged)
    lead = sa.select(judgements.c.seq).where(judgements.c.pair_id == pair_id, judgements.c.kind == "lead").limit(1)
    full = connection.execute(done).scalar_one() >= settings.overlap or connection.execute(lead).first() is not None
    connection.execute(pairs.update().where(pairs.c.id == pair_id).values(open=not full))


def lapse(connection: sa.Connection, seat: sa.Row[Any], at: float) -> None:
    """Remember a seat that is lost, for its holder's late answer: nobody else can know its submission."""
    note(connection, "lapsed", seat.pair_id, seat.name, at, {"submission": seat.submission})


def case_in(body: str) -> Case:
    case: Case = build(Case, json.loads(body))
    return case
