"""The store as the lead's page sees it."""

from collections.abc import Mapping, Sequence
from typing import Literal

from assay.records import Case, Judgement
from assay.web.accounts import Accounts
from assay.web.desk import Account, Event, Held, Remark, Role, Setting
from assay.web.facts import Fact
from assay.web.pace import held, times
from assay.web.quality import Work
from assay.web.settings import Settings, describe
from assay.web.store import Store

_LOGGED = ("audit", "setting", "login-failed", "withdrawal", "skip", "flag", "unskip", "unflag", "attributes")


class StoreDesk:
    """A store and its accounts. Changes are logged, with `by` as their author."""

    def __init__(self, store: Store, accounts: Accounts) -> None:
        self._store, self._accounts = store, accounts

    def cases(self) -> Sequence[Case]:
        """All pairs of the project with their attributes."""
        return self._store.cases()

    def case(self, pair_id: str) -> Case | None:
        return self._store.case(pair_id)

    def judgements(self) -> Sequence[Judgement]:
        """The standing judgements, of people, leads and machines, traps left out."""
        return self._store.judgements()

    def works(self) -> Sequence[Work]:
        """The standing judgements of annotators as the page recorded them, traps as well."""
        return self._store.works()

    def times(self) -> Sequence[float]:
        """When people gave the answers that stand, traps left out, in unix seconds, in rising order."""
        with self._store.database.read() as connection:
            return times(connection)

    def held(self) -> Sequence[Held]:
        """The pairs that somebody has open."""
        now = self._store.clock()
        with self._store.database.read() as connection:
            open_now = held(connection, now)
        return [Held(name=n, pair_id=i, minutes=max(1, round((until - now) / 60))) for n, i, until in open_now]

    def overlap(self) -> int:
        """How many people judge each pair."""
        return self._store.settings().overlap

    def remarks(self) -> Sequence[Remark]:
        back, found = set[tuple[str, str, str]](), list[Remark]()
        for f in self._store.facts("flag", "skip", "unflag", "unskip"):  # newest first
            if f.kind.startswith("un"):
                back.add((f.kind, f.target, f.by))
            elif (f"un{f.kind}", f.target, f.by) not in back:
                kind: Literal["flag", "skip"] = "flag" if f.kind == "flag" else "skip"
                found.append(Remark(pair_id=f.target, by=f.by, kind=kind, text=f.body["text"], at=f.at))
        return found

    def adjudicate(self, judgement: Judgement) -> None:
        """Append a judgement of kind "lead"; a later one by the same lead on the same pair replaces it."""
        self._store.adjudicate(judgement)
        self.log("adjudicated", judgement.pair_id, judgement.by, judgement.better or judgement.problem)

    def add(self, judgements: Sequence[Judgement], by: str) -> int:
        """Append what is not there yet, and return how many that were."""
        added = self._store.add(judgements, self._store.settings())
        self.log("imported", "judgements", by, f"{added} of {len(judgements)}")
        return added

    def accounts(self) -> Sequence[Account]:
        return self._accounts.all()

    def invite(self, name: str, role: Role, by: str) -> str:
        return self._accounts.invite(name, role, by)

    def change(self, name: str, by: str, *, role: Role | None = None, active: bool | None = None) -> None:
        self._accounts.change(name, by, role=role, active=active)

    def renew(self, name: str, by: str) -> str:
        return self._accounts.renew(name, by)

    def settings(self) -> Sequence[Setting]:
        values = self._store.settings().texts()
        return [_setting(name, value) for name, value in values.items()]

    def set(self, values: Mapping[str, str], by: str) -> None:
        """Change settings. Raises ValueError, naming the setting, for a value that is not allowed."""
        known = Settings().texts()
        self._store.set({k: v for k, v in values.items() if k in known}, by)

    def events(self, before: float, limit: int) -> Sequence[Event]:
        """The audit log, newest first, older than `before`."""
        return [_event(f) for f in self._store.facts(*_LOGGED, before=before, limit=limit)]

    def log(self, action: str, target: str, by: str, detail: str = "") -> None:
        self._store.note("audit", target, by, {"action": action, "detail": detail})


def _setting(name: str, value: str) -> Setting:
    label, options, low, high = describe(name)
    return Setting(name=name, label=label, value=value, options=options, low=low, high=high)


def _event(fact: Fact) -> Event:
    if fact.kind == "audit":
        action, detail = fact.body["action"], fact.body.get("detail", "")
    else:
        words = {"setting": "setting changed", "login-failed": "log-in failed", "withdrawal": "answer withdrawn",
                 "skip": "skipped", "flag": "flagged", "attributes": "attributes edited",
                 "unskip": "skip taken back", "unflag": "flag taken back"}  # fmt: skip
        action, detail = words[fact.kind], str(fact.body.get("value", fact.body.get("text", "")))
    return Event(at=fact.at, by=fact.by, action=action, target=fact.target, detail=detail)
