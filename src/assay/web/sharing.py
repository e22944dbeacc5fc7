"""What people answer on the page and in terminals is one set of judgements: both ways, at once, while both are open.

The file RUN/judgements.jsonl is what the run reads, and terminals write; the page has its database. What both held when they
were last the same is kept in RUN/shared.json: whatever differs from it was changed there, be it while the page was closed.
Where both have changed a person's word on a pair, that of the page stands. Who has a pair before them is shared as well.
"""

import json
import secrets
from pathlib import Path

import sqlalchemy as sa

from assay.curate.verify import add_judgements, read_judgements, withdraw_judgements
from assay.curate.waiting import Hold, hold, holds, set_people_a_pair
from assay.records import Judgement
from assay.tables import write_text
from assay.web.facts import note
from assay.web.schema import judgements, pairs, seats
from assay.web.store import Store

SHARED = "shared.json"
_PEOPLE = frozenset({"human", "lead"})
"""Whose words both sides have. What an oracle said stays where it was said."""
Key = tuple[str, str]
Said = tuple[str | None, str] | None
"""What somebody said of a pair: the better response and the problem; None: nothing, or it was taken back."""


class Sharing:
    """A page's store and the run's files, kept the same by `sync`. Many pages may share one database and run."""

    def __init__(self, store: Store, run: Path) -> None:
        self.store, self.run, self.out = store, run, run / "judgements.jsonl"
        self.terminal: set[Key] = set()
        self.seen: object = None

    def sync(self) -> int:
        """Take over what was said on either side; returns how many judgements came to the file."""
        self.seat()
        settings = self.store.settings()
        set_people_a_pair(self.run, settings.overlap)
        if (now := self._now()) == self.seen:
            return 0
        here = {(j.pair_id, j.by): j for j in self.store.judgements() if j.kind in _PEOPLE}
        known = self._pairs()
        there = {(j.pair_id, j.by): j for j in read_judgements(self.out) if j.pair_id in known and j.kind in _PEOPLE}
        before, gone = self._before(), {(j.pair_id, j.by) for j in self.store.gone()}
        to_page, to_file = list[Judgement](), list[Judgement]()
        off_page, off_file, agreed = list[Key](), list[Judgement](), dict[Key, Said]()
        for key in sorted(here.keys() | there.keys() | before.keys()):
            ours, theirs = here.get(key), there.get(key)
            agreed[key] = _said(ours)
            if _said(ours) == _said(theirs):
                continue
            if self._page_spoke(key, ours, before, gone):
                if ours is not None:
                    to_file.append(ours)
                elif theirs is not None:
                    off_file.append(theirs)
                continue
            agreed[key] = _said(theirs)
            if theirs is not None:
                to_page.append(theirs)
            else:
                off_page.append(key)
        for pair_id, by in off_page:
            self._withdraw(pair_id, by)
        self.store.add(to_page, settings)
        withdraw_judgements(self.out, off_file)
        added = add_judgements(self.out, sorted(to_file, key=list(here.values()).index))
        self._keep(agreed)
        self.seen = None if to_page or off_page or off_file or added else now
        return added

    def _pairs(self) -> set[str]:
        with self.store.database.read() as connection:
            return set(connection.execute(sa.select(pairs.c.id).where(pairs.c.truth.is_(None))).scalars())

    def _page_spoke(self, key: Key, ours: Judgement | None, before: dict[Key, Said], gone: set[Key]) -> bool:
        """Whether the difference in a person's word was made on the page."""
        if key in before:
            return _said(ours) != before[key]
        return ours is not None or key in gone

    def _before(self) -> dict[Key, Said]:
        try:
            rows = json.loads((self.run / SHARED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {(p, by): None if said is None else (said[0], said[1]) for p, by, said in rows}

    def _keep(self, agreed: dict[Key, Said]) -> None:
        """What both sides hold now: what was read and made the same, not what anybody has said since."""
        text = json.dumps([[*key, said] for key, said in sorted(agreed.items())])
        if not (self.run / SHARED).exists() or (self.run / SHARED).read_text(encoding="utf-8") != text:
            write_text(self.run / SHARED, text)

    def _now(self) -> tuple[object, ...]:
        """What changes whenever either side does."""
        try:
            found = self.out.stat()
            file: tuple[int, int] | None = (found.st_size, found.st_mtime_ns)
        except OSError:
            file = None
        with self.store.database.read() as connection:
            last = connection.execute(sa.select(sa.func.max(judgements.c.seq), sa.func.count())).one()
            judged = connection.execute(
                sa.select(sa.func.count()).select_from(seats).where(seats.c.judged)
            ).scalar_one()
            known = connection.execute(sa.select(sa.func.count()).select_from(pairs)).scalar_one()
        return file, *last, judged, known

    def _withdraw(self, pair_id: str, by: str) -> None:
        """What a person took back in a terminal no longer stands on the page; the pair is open again."""
        with self.store.database.write() as connection:
            note(connection, "withdrawal", pair_id, by, self.store.clock(), {"submission": ""})
            connection.execute(seats.delete().where(seats.c.pair_id == pair_id, seats.c.name == by))
            connection.execute(pairs.update().where(pairs.c.id == pair_id).values(open=True))

    def seat(self) -> None:
        """Tell who has which pairs open on the page, and let nobody there sit down at one that a terminal has."""
        now, overlap = self.store.clock(), self.store.settings().overlap
        away = {(h.pair_id, h.by): h for h in holds(self.run, clock=self.store.clock) if h.where == "terminal"}
        with self.store.database.read() as connection:
            rows = connection.execute(
                sa.select(seats.c.pair_id, seats.c.name, seats.c.expires).where(~seats.c.judged, seats.c.expires > now)
            ).all()
        mine = [
            Hold(pair_id=p, by=n, until=round(t, 1), where="page") for p, n, t in rows if (p, n) not in self.terminal
        ]
        hold(self.run, "page", mine)
        new, left = away.keys() - self.terminal, self.terminal - away.keys()
        if not new and not left:
            return
        with self.store.database.write() as connection:
            for pair_id, name in left:
                own = (seats.c.pair_id == pair_id, seats.c.name == name, ~seats.c.judged)
                connection.execute(seats.delete().where(*own))
            for pair_id, name in new:
                taken = connection.execute(
                    sa.select(seats.c.seat, seats.c.name).where(seats.c.pair_id == pair_id)
                ).all()
                free = [n for n in range(overlap) if n not in {s for s, _ in taken}]
                there = connection.execute(sa.select(pairs.c.id).where(pairs.c.id == pair_id)).first()
                if there is not None and free and name not in {n for _, n in taken}:
                    connection.execute(seats.insert().values(
                        pair_id=pair_id, seat=free[0], name=name, submission=secrets.token_hex(16), opened=now,
                        expires=away[pair_id, name].until, judged=False, draft="{}"))  # fmt: skip
        self.terminal = set(away)


def held_by_others(store: Store, name: str) -> list[tuple[str, int, float]]:
    """(who, how many pairs, until when) of the seats that other people have now, in terminals as well; what they hold
    ahead would be given to `name`."""
    latest = sa.func.max(seats.c.expires)
    query = sa.select(seats.c.name, sa.func.count(), latest).group_by(seats.c.name).order_by(seats.c.name)
    with store.database.read() as connection:
        rows = connection.execute(
            query.where(~seats.c.judged, ~seats.c.ahead, seats.c.expires > store.clock(), seats.c.name != name)
        ).all()
    return [(who, n, until) for who, n, until in rows]


def _said(j: Judgement | None) -> Said:
    return None if j is None else (j.better, j.problem)
