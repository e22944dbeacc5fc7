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


def next_pair(connection: sa.Connection, name: str, settings: Settings, now: float) -> tuple[str | None, bool]:
    """The pair that `name` should see next, and whether it is a trap."""
    mine = sa.exists().where(seats.c.pair_id == pairs.c.id, seats.c.name == name)
    base = sa.select(pairs.c.id).where(~mine, ~skipped_by(name)).order_by(pairs.c.place).limit(1)
    if settings.trap_every:
        count = sa.select(sa.func.count()).select_from(seats).where(seats.c.name == name, seats.c.judged)
        done = connection.execute(count).scalar_one()
        if done % settings.trap_every == settings.trap_every - 1:
            trap = connection.execute(base.where(pairs.c.truth.is_not(None))).scalar()
            if trap is not None:
                return trap, True
    held = (
        sa.select(sa.func.count()).select_from(seats)
        .where(seats.c.pair_id == pairs.c.id, seats.c.judged | (seats.c.expires > now)).scalar_subquery()
    )  # fmt: skip
    free = base.where(pairs.c.truth.is_(None), pairs.c.open, held < settings.overlap)
    return connection.execute(free).scalar(), False


def sit(connection: sa.Connection, pair_id: str, name: str, settings: Settings, now: float, trap: bool) -> bool:
    """Take a free seat, or one that ran out. False where there is none."""
    taken = {row.seat: row for row in connection.execute(sa.select(seats).where(seats.c.pair_id == pair_id))}
    limit = len(taken) + 1 if trap else settings.overlap
    fresh = {"name": name, "submission": secrets.token_hex(16), "opened": now, "expires": now + settings.lease_s,
             "judged": False, "draft": "{}"}  # fmt: skip
    for seat in range(limit):
        row = taken.get(seat)
        if row is None:
            connection.execute(seats.insert().values(pair_id=pair_id, seat=seat, **fresh))
            return True
        if not row.judged and row.expires <= now:
            lapse(connection, row, now)
            change = seats.update().where(seats.c.pair_id == pair_id, seats.c.seat == seat).values(**fresh)
            connection.execute(change)
            return True
    return False


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
    held = connection.execute(sa.select(seats).where(seats.c.name == name, ~seats.c.judged)).all()
    if not sit(connection, pair_id, name, settings, now, _is_trap(connection, pair_id)):
        return False
    for row in held:
        lapse(connection, row, now)
        connection.execute(seats.delete().where(seats.c.submission == row.submission))
    note(connection, "unskip", pair_id, name, now, {})
    return True


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
