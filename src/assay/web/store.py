"""Pairs, seats and judgements: who is shown what, what was answered, and what stands.

A submission has the id of the seat from which it was sent, and judgements are unique by it: sending a form twice,
from two tabs or after a crash, stores one judgement. A seat that expired may be taken by another person; its holder's
late answer still counts while a seat is free, and is refused (never stored twice, never beyond the overlap) when none is.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from assay.curate.attributes import conversation_text, response_text
from assay.records import Attributes, Case, Judgement
from assay.tables import build, plain
from assay.web import ahead
from assay.web.facts import Fact, note
from assay.web.pace import Pace, pace
from assay.web.quality import Work
from assay.web.queue import places
from assay.web.schema import Database, as_body, facts, judgements, pairs, seats, storable
from assay.web.seats import (
    LEFT_BEHIND,
    Answered,
    Refused,
    Seat,
    case_in,
    close_full,
    put_behind,
    release,
    remarked,
    seat_before,
    seat_of,
    sit_again,
    unskip,
)
from assay.web.settings import Settings

Clock = Callable[[], float]
_ANSWERS = judgements.join(pairs).join(seats, seats.c.submission == judgements.c.id)
"""People's judgements with their pairs and seats; a withdrawn one has no seat that bears its submission."""


class Store:
    """Everything about pairs and judgements in one database. Safe to use from many threads and processes at once."""

    def __init__(self, database: Database, clock: Clock = time.time) -> None:
        self.database, self.clock = database, clock

    # -- pairs ----------------------------------------------------------------------------------------------------

    def load(
        self, cases: Sequence[Case], margins: Mapping[str, float] | None = None, truths: Mapping[str, str] | None = None
    ) -> int:
        """Add the pairs that are not there yet, in queue order, and return how many; `truths` makes traps of those it
        names."""
        known = truths or {}
        with self.database.write() as connection:
            there = set(connection.execute(sa.select(pairs.c.id)).scalars())
            start = connection.execute(sa.select(sa.func.coalesce(sa.func.max(pairs.c.place), -1.0))).scalar_one() + 1
            new = list({c.pair.id: c for c in cases if c.pair.id not in there}.values())
            order = places(new, margins)
            rows = [
                {"id": c.pair.id, "body": as_body(plain(replace(c, examples=()))), "words": _words(c),
                 "category": storable(c.attributes.category), "place": start + order[c.pair.id],
                 "truth": known.get(c.pair.id), "open": True, "verdicts": "{}"}
                for c in new
            ]  # fmt: skip
            if rows:
                connection.execute(pairs.insert(), rows)
        return len(rows)

    def add_verdicts(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Add a machine's verdicts on single responses: rows with pair_id, response_id, text, right (or null), by."""
        added = 0
        with self.database.write() as connection:
            for row in rows:
                held = connection.execute(sa.select(pairs.c.verdicts).where(pairs.c.id == row["pair_id"])).scalar()
                if held is None:
                    continue
                verdicts = json.loads(held)
                by = str(row.get("by", "machine"))
                entry = {"text": str(row.get("text", "")), "right": row.get("right"), "by": by}
                own = verdicts.setdefault(str(row["response_id"]), [])
                if entry not in own:
                    own.append(entry)
                    added += 1
                    change = pairs.update().where(pairs.c.id == row["pair_id"]).values(verdicts=as_body(verdicts))
                    connection.execute(change)
        return added

    def cases(self) -> list[Case]:
        """All pairs that are no traps, in queue order."""
        with self.database.read() as connection:
            query = sa.select(pairs.c.body).where(pairs.c.truth.is_(None)).order_by(pairs.c.place)
            return [case_in(body) for body in connection.execute(query).scalars()]

    def size(self) -> int:
        """How many pairs there are that are no traps."""
        with self.database.read() as connection:
            query = sa.select(sa.func.count()).select_from(pairs).where(pairs.c.truth.is_(None))
            return connection.execute(query).scalar_one()

    def case(self, pair_id: str) -> Case | None:
        with self.database.read() as connection:
            body = connection.execute(sa.select(pairs.c.body).where(pairs.c.id == pair_id)).scalar()
        return None if body is None else case_in(body)

    # -- seats ----------------------------------------------------------------------------------------------------

    def take(self, name: str, settings: Settings, shown: str = "") -> Seat | None:
        """The seat that `name` has before them, or the next one; None when the queue has nothing for this person.

        `shown` is the submission of the pair that already stands on their screen, as it was held `ahead`.
        """
        with self.database.write() as connection:
            pair_id = ahead.take(connection, name, settings, self.clock(), shown)
            return None if pair_id is None else seat_of(connection, pair_id, name)

    def take_ahead(self, name: str, settings: Settings, at: str) -> Seat | None:
        """Hold the pair that comes after the one of the submission `at`; None: there is none, or `name` is elsewhere."""
        with self.database.write() as connection:
            pair_id = ahead.hold(connection, name, settings, self.clock(), at)
            return None if pair_id is None else seat_of(connection, pair_id, name)

    def release(self, name: str, submission: str) -> None:
        """Give back a pair that was held ahead: the page that it was held for has gone."""
        with self.database.write() as connection:
            release(connection, name, self.clock(), submission)

    def why_gone(self, name: str, submission: str) -> str:
        """Why a pair that was held ahead is not the one that `name` has before them now."""
        with self.database.read() as connection:
            return ahead.why_gone(connection, name, submission, self.clock())

    def draft(self, submission: str, name: str, values: Mapping[str, str]) -> dict[str, str]:
        """Keep what was typed so far, and return it with what is kept of the other fields, as another window may
        have sent them. A seat that is gone or judged keeps nothing."""
        with self.database.write() as connection:
            own = (seats.c.submission == submission, seats.c.name == name, ~seats.c.judged)
            held = connection.execute(sa.select(seats.c.draft).where(*own)).scalar()
            merged = {**json.loads(held or "{}"), **values}
            connection.execute(seats.update().where(*own).values(draft=as_body(merged)))
        return merged

    def leave(self, submission: str, name: str, kind: str, text: str) -> None:
        """Skip a pair, which frees its seat, or flag it (kind "skip" or "flag"), saying why."""
        with self.database.write() as connection:
            own = (seats.c.submission == submission, seats.c.name == name, ~seats.c.judged)
            pair_id = connection.execute(sa.select(seats.c.pair_id).where(*own)).scalar()
            if pair_id is None:
                raise Refused(LEFT_BEHIND)
            again = sa.select(facts.c.body).where(facts.c.kind == kind, facts.c.target == pair_id, facts.c.by == name)
            last = connection.execute(again.order_by(facts.c.seq.desc()).limit(1)).scalar()
            said = json.loads(last)["text"] if last and remarked(connection, kind, pair_id, name) else None
            if said != text or kind == "skip":
                note(connection, kind, pair_id, name, self.clock(), {"text": text})
            if kind == "skip":
                connection.execute(seats.delete().where(*own))

    def unleave(self, pair_id: str, name: str, kind: str, settings: Settings) -> None:
        """Take back a skip (the pair is theirs again) or a flag. Raises Refused where there is none, or the pair is gone."""
        with self.database.write() as connection:
            if not remarked(connection, kind, pair_id, name):
                raise Refused(f"There is no {kind} of yours to take back.")
            if kind == "flag":
                note(connection, "unflag", pair_id, name, self.clock(), {})
            elif not unskip(connection, pair_id, name, settings, self.clock()):
                raise Refused("Somebody else has that pair by now; it stays skipped.")

    def flagged(self, pair_id: str, name: str) -> bool:
        with self.database.read() as connection:
            return remarked(connection, "flag", pair_id, name)

    # -- judgements -----------------------------------------------------------------------------------------------

    def submit(self, submission: str, pair_id: str, name: str, work: Work, strength: int, settings: Settings) -> bool:
        """Store an answer; False where it was stored before. Raises Refused when other people took all seats meanwhile, or
        where the same person was at the pair anew since; Answered where another answer was given from this seat."""
        with self.database.write() as connection:
            own = sa.select(seats).where(seats.c.submission == submission)
            seat = connection.execute(own).one_or_none()
            there = sa.select(judgements).where(judgements.c.id == submission)
            held = connection.execute(there).one_or_none()
            owners = {(row.name, row.pair_id) for row in (seat,) if row} | {
                (row.by, row.pair_id) for row in (held,) if row
            }
            if owners - {(name, pair_id)}:
                raise Refused("This answer belongs to somebody else.")
            if held is not None and (seat is None or not seat.judged):
                raise Refused(LEFT_BEHIND)
            if held is not None:
                before: Judgement = build(Judgement, json.loads(held.body)["judgement"])
                if _meant(before) != _meant(work.judgement):
                    raise Answered(before)
                return False
            seated = seat is not None or sit_again(connection, submission, pair_id, name, settings, self.clock())
            if seated is None:
                raise Refused(LEFT_BEHIND)
            if not seated:
                raise Refused("Your time for this pair ran out and somebody else took it; this answer was not stored.")
            recorded = {"strength": strength, "words": work.words, "panels": list(work.panels), "hint": work.hint}
            self._insert(connection, submission, work.judgement, recorded)
            connection.execute(seats.update().where(seats.c.submission == submission).values(judged=True, ahead=False))
            close_full(connection, pair_id, settings)
        return True

    def _insert(
        self, connection: sa.Connection, submission: str, j: Judgement, recorded: Mapping[str, Any] | None = None
    ) -> None:
        body = {"judgement": plain(j), "strength": 0, "words": 0, "panels": [], "hint": None, **(recorded or {})}
        row = {
            "id": submission,
            "pair_id": j.pair_id,
            "by": j.by,
            "kind": j.kind,
            "at": self.clock(),
            "body": as_body(body),
        }
        connection.execute(judgements.insert().values(**row))

    def undo(self, name: str, settings: Settings, submission: str | None = None) -> bool:
        """Withdraw the last standing answer of `name` and give the pair back to them, with what they had typed.

        `submission` is the seat from which it was asked ("": from none). Raises Refused where `name` has left it: a form
        sent twice takes one answer back, not two.
        """
        with self.database.write() as connection:
            held = seat_before(connection, name)
            if submission is not None and submission != (held.submission if held else ""):
                raise Refused(LEFT_BEHIND)
            last = connection.execute(
                sa.select(judgements.c.id, judgements.c.pair_id, judgements.c.body)
                .join(seats, seats.c.submission == judgements.c.id)
                .where(judgements.c.by == name, seats.c.judged, seats.c.name == name)
                .order_by(judgements.c.seq.desc()).limit(1)
            ).one_or_none()  # fmt: skip
            if last is None:
                return False
            now = self.clock()
            if held is not None:
                put_behind(connection, held, now)
            note(connection, "withdrawal", last.pair_id, name, now, {"submission": last.id})
            taken = json.loads(last.body)["judgement"]  # the time that was spent on the pair counts on
            draft = as_body({"reason": taken["rationale"], "seconds": str(taken["seconds"])})
            fresh = {"submission": secrets.token_hex(16), "opened": now - taken["seconds"],
                     "expires": now + settings.lease_s, "judged": False, "draft": draft, "ahead": False}  # fmt: skip
            connection.execute(seats.update().where(seats.c.submission == last.id).values(**fresh))
            connection.execute(pairs.update().where(pairs.c.id == last.pair_id).values(open=True))
        return True

    def add(self, rows: Sequence[Judgement], settings: Settings) -> int:
        """Append judgements from elsewhere: people's take a seat of their own, beyond the overlap where need be."""
        added = 0
        with self.database.write() as connection:
            known = set(connection.execute(sa.select(pairs.c.id)).scalars())
            standing = {(j.pair_id, j.by): j for j in self._standing(connection)}
            for j in rows:
                held = standing.get((j.pair_id, j.by))
                if j.pair_id not in known or (held and (held.better, held.problem) == (j.better, j.problem)):
                    continue
                standing[j.pair_id, j.by] = j
                self._append(connection, j, settings)
                added += 1
        return added

    def _append(self, connection: sa.Connection, j: Judgement, settings: Settings) -> None:
        submission, now = secrets.token_hex(16), self.clock()
        self._insert(connection, submission, j)
        if j.kind == "human":
            connection.execute(seats.delete().where(seats.c.pair_id == j.pair_id, seats.c.name == j.by))
            taken = set(connection.execute(sa.select(seats.c.seat).where(seats.c.pair_id == j.pair_id)).scalars())
            free = next(n for n in range(len(taken) + 1) if n not in taken)
            connection.execute(seats.insert().values(
                pair_id=j.pair_id, seat=free, name=j.by, submission=submission, opened=now, expires=now, judged=True,
                draft="{}"))  # fmt: skip
            close_full(connection, j.pair_id, settings)

    def adjudicate(self, j: Judgement) -> None:
        """Append a lead's judgement; it closes the pair."""
        with self.database.write() as connection:
            self._insert(connection, secrets.token_hex(16), j)
            connection.execute(pairs.update().where(pairs.c.id == j.pair_id).values(open=False))

    def judgements(self) -> list[Judgement]:
        """What stands, traps left out: people's answers that were not withdrawn, the last word of everyone else."""
        with self.database.read() as connection:
            return self._standing(connection)

    def gone(self) -> list[Judgement]:
        """People's answers that no longer stand: taken back, or replaced by what the same person said later."""
        stands = sa.exists().where(seats.c.submission == judgements.c.id, seats.c.judged)
        query = (
            sa.select(judgements.c.body).select_from(judgements.join(pairs))
            .where(pairs.c.truth.is_(None), judgements.c.kind == "human", ~stands).order_by(judgements.c.seq)
        )  # fmt: skip
        with self.database.read() as connection:
            return [build(Judgement, json.loads(body)["judgement"]) for body in connection.execute(query).scalars()]

    def _standing(self, connection: sa.Connection) -> list[Judgement]:
        real = pairs.c.truth.is_(None)
        people = (
            sa.select(judgements.c.seq, judgements.c.body).select_from(_ANSWERS)
            .where(real, judgements.c.kind == "human", seats.c.judged)
        )  # fmt: skip
        last = sa.select(sa.func.max(judgements.c.seq)).where(judgements.c.kind != "human")
        others = (
            sa.select(judgements.c.seq, judgements.c.body).select_from(judgements.join(pairs))
            .where(real, judgements.c.seq.in_(last.group_by(judgements.c.pair_id, judgements.c.by)))
        )  # fmt: skip
        rows = sorted([*connection.execute(people), *connection.execute(others)], key=lambda r: r.seq)
        return [build(Judgement, json.loads(r.body)["judgement"]) for r in rows]

    def works(self, name: str | None = None) -> list[Work]:
        """People's standing answers as the page recorded them, traps as well, oldest first."""
        query = (
            sa.select(judgements.c.body, pairs.c.truth).select_from(_ANSWERS)
            .where(judgements.c.kind == "human", seats.c.judged).order_by(judgements.c.seq)
        )  # fmt: skip
        with self.database.read() as connection:
            rows = connection.execute(query if name is None else query.where(judgements.c.by == name)).all()
        found = []
        for row in rows:
            body = json.loads(row.body)
            judgement: Judgement = build(Judgement, body["judgement"])
            found.append(Work(judgement=judgement, words=body["words"], panels=tuple(body["panels"]), hint=body["hint"],
                              right=row.truth))  # fmt: skip
        return found

    def pace(self, name: str, settings: Settings) -> Pace:
        """How far `name` is, and how fast."""
        with self.database.read() as connection:
            return pace(connection, name, settings)

    # -- facts ----------------------------------------------------------------------------------------------------

    def note(self, kind: str, target: str, by: str, body: Mapping[str, Any]) -> None:
        """Append a fact."""
        with self.database.write() as connection:
            note(connection, kind, target, by, self.clock(), body)

    def facts(
        self, *kinds: str, target: str | None = None, by: str | None = None, since: float = 0.0,
        before: float = float("inf"), limit: int = 1_000,
    ) -> list[Fact]:  # fmt: skip
        """Facts of these kinds, newest first."""
        query = sa.select(facts).where(facts.c.kind.in_(kinds), facts.c.at >= since).order_by(facts.c.seq.desc())
        if target is not None:
            query = query.where(facts.c.target == target)
        if by is not None:
            query = query.where(facts.c.by == by)
        if before != float("inf"):
            query = query.where(facts.c.at < before)
        with self.database.read() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [Fact(seq=r.seq, kind=r.kind, target=r.target, by=r.by, at=r.at, body=json.loads(r.body)) for r in rows]

    def settings(self) -> Settings:
        """The project's settings: the last value that was set of each."""
        with self.database.read() as connection:
            last = sa.select(sa.func.max(facts.c.seq)).where(facts.c.kind == "setting").group_by(facts.c.target)
            rows = connection.execute(sa.select(facts.c.target, facts.c.body).where(facts.c.seq.in_(last))).all()
        return Settings.of({r.target: json.loads(r.body)["value"] for r in rows})

    def set(self, values: Mapping[str, str], by: str) -> None:
        """Change settings. Raises ValueError, naming the setting, for a value that is not allowed."""
        now = self.settings()
        merged = Settings.of({**now.texts(), **values})
        changed = {k: v for k, v in merged.texts().items() if v != now.texts()[k]}
        with self.database.write() as connection:
            for name, value in changed.items():
                note(connection, "setting", name, by, self.clock(), {"value": value})
            if "overlap" in changed:
                done = (
                    sa.select(sa.func.count()).select_from(seats)
                    .where(seats.c.pair_id == pairs.c.id, seats.c.judged).scalar_subquery()
                )  # fmt: skip
                lead = sa.exists().where(judgements.c.pair_id == pairs.c.id, judgements.c.kind == "lead")
                connection.execute(pairs.update().values(open=(done < merged.overlap) & ~lead))

    def attributes(self, pair_id: str, name: str) -> Attributes | None:
        """The attributes as `name` last edited them; None where they did not."""
        edits = self.facts("attributes", target=pair_id, by=name, limit=1)
        if not edits:
            return None
        edited: Attributes = build(Attributes, edits[0].body)
        return edited


def _meant(j: Judgement) -> tuple[str | None, str, float]:
    return j.better, j.problem, j.strength


def _words(case: Case) -> int:
    texts = [conversation_text(case.pair.prompt), *(response_text(r) for r in case.pair.responses)]
    return sum(len(t.split()) for t in texts)
