"""The pair after the one that a person reads: held for them meanwhile, so that it stands on the screen at their key.

It is a seat as any other, marked `ahead` until its pair is shown. A person has one at most. It lasts as long as the seat
before it, and others are given such a pair only when nothing else is left for them: so nobody has nothing to do because of
what somebody will read later. Whoever loses it may sit down again while a seat is free, as with any seat.
"""

from typing import Any

import sqlalchemy as sa

from assay.web.schema import as_body, facts, pairs, seats
from assay.web.seats import next_pair, release, seat_before, sit, sit_again, skipped_by, trap_due
from assay.web.settings import Settings


def take(connection: sa.Connection, name: str, settings: Settings, now: float, shown: str = "") -> str | None:
    """The pair that `name` has before them; else the one that was held ahead, or the next of the queue; None: nothing.

    `shown` is the submission of the pair that stands on their screen already.
    """
    at = seat_before(connection, name)
    if at is not None:
        # An own seat that ran out is still one's own as long as nobody took it: the draft is in it.
        own = (seats.c.name == name, ~seats.c.judged)
        connection.execute(seats.update().where(*own).values(expires=now + settings.lease_s))
        return str(at.pair_id)
    held = _come_up(connection, name, settings, now, shown)
    if held is not None:
        return held
    pair_id, trap = next_pair(connection, name, settings, now)
    return pair_id if pair_id is not None and sit(connection, pair_id, name, settings, now, trap) else None


def hold(connection: sa.Connection, name: str, settings: Settings, now: float, at: str) -> str | None:
    """Hold the pair that `name` sees after they have answered the one of the submission `at`; None where nothing is left,
    or where they are not there."""
    before = seat_before(connection, name)
    if before is None or before.submission != at:
        return None
    held = _held(connection, name)
    if held is not None and _fits(connection, held, settings, before=1):
        connection.execute(_own(held).values(expires=now + settings.lease_s))
        return str(held.pair_id)
    release(connection, name, now)
    pair_id, trap = next_pair(connection, name, settings, now, before=1)
    if pair_id is None or not sit(connection, pair_id, name, settings, now, trap, ahead=True):
        return None
    return pair_id


def _come_up(connection: sa.Connection, name: str, settings: Settings, now: float, shown: str) -> str | None:
    """What was held ahead is before its holder now, if the queue would still give it to them.

    Of a pair that was shown while its predecessor was being saved, time runs from when it was handed out: what its page
    counted since it was visible is less, and must not be cut by a server that answered late.
    """
    held = _held(connection, name)
    if held is None:
        return _again(connection, name, settings, now, shown) if shown else None
    if not _fits(connection, held, settings, shown=shown):
        release(connection, name, now)
        return None
    opened = held.opened if held.submission == shown else now
    connection.execute(_own(held).values(ahead=False, opened=opened, expires=now + settings.lease_s))
    return str(held.pair_id)


def _again(connection: sa.Connection, name: str, settings: Settings, now: float, shown: str) -> str | None:
    """Sit down again at a pair that was given back, or ran out, while it came onto the screen."""
    lost = connection.execute(sa.select(facts.c.target).where(*_lapsed(name, shown))).scalar()
    wanted = (pairs.c.open | pairs.c.truth.is_not(None), ~skipped_by(name))
    pair_id = connection.execute(sa.select(pairs.c.id).where(pairs.c.id == lost, *wanted)).scalar()
    if pair_id is None or not sit_again(connection, shown, pair_id, name, settings, now):
        return None
    return str(pair_id)


def _fits(connection: sa.Connection, held: sa.Row[Any], settings: Settings, before: int = 0, shown: str = "") -> bool:
    """Whether the queue would still give this pair: it lacks an answer, and is a trap where one is due (other than what
    is on the screen already: taking that away would tell)."""
    if held.truth is None and not held.open:
        return False
    if held.submission == shown:
        return True
    due = trap_due(connection, held.name, settings, before)
    if held.truth is not None or not due:
        return due == (held.truth is not None)
    seen = sa.exists().where(seats.c.pair_id == pairs.c.id, seats.c.name == held.name)
    left = sa.select(pairs.c.id).where(pairs.c.truth.is_not(None), ~seen, ~skipped_by(held.name)).limit(1)
    return connection.execute(left).first() is None


def why_gone(connection: sa.Connection, name: str, submission: str, now: float) -> str:
    """Why the pair of a submission that was held ahead is not before its holder."""
    row = connection.execute(sa.select(seats.c.judged).where(seats.c.submission == submission)).one_or_none()
    if row is not None:
        return "you answered it in another window" if row.judged else "another window of yours is at a pair before it"
    lost = connection.execute(sa.select(facts.c.target).where(*_lapsed(name, submission))).scalar()
    at = sa.select(pairs.c.open, pairs.c.truth).where(pairs.c.id == lost)
    pair = connection.execute(at).one_or_none()
    if pair is not None and pair.truth is None and not pair.open:
        return "it needs no more answers"
    others = (seats.c.pair_id == lost, seats.c.name != name, seats.c.judged | (seats.c.expires > now))
    if lost is not None and connection.execute(sa.select(seats.c.seat).where(*others)).first() is not None:
        return "somebody else has it by now"
    return "it was left in another window of yours"


def _held(connection: sa.Connection, name: str) -> Any:
    both = sa.select(seats, pairs.c.truth, pairs.c.open).join(pairs)
    return connection.execute(both.where(seats.c.name == name, ~seats.c.judged, seats.c.ahead).limit(1)).one_or_none()


def _own(held: sa.Row[Any]) -> Any:
    return seats.update().where(seats.c.submission == held.submission)


def _lapsed(name: str, submission: str) -> tuple[Any, ...]:
    return facts.c.kind == "lapsed", facts.c.by == name, facts.c.body == as_body({"submission": submission})
