"""The store as the lead's page sees it."""

from collections.abc import Mapping, Sequence
from typing import Literal

from assay.records import Judgement
from assay.web.accounts import Accounts
from assay.web.desk import Event, Held, Remark, Setting
from assay.web.facts import Fact
from assay.web.pace import held, times
from assay.web.settings import Settings, describe
from assay.web.store import Store

_LOGGED = ("audit", "setting", "login-failed", "withdrawal", "skip", "flag", "unskip", "unflag", "attributes")


class StoreDesk:
    """A store and its accounts. Changes are logged, with `by` as their author."""

    def __init__(self, store: Store, accounts: Accounts) -> None:
        self.store, self.people = store, accounts

    def times(self) -> Sequence[float]:
        """When people gave the answers that stand, traps left out, in unix seconds, in rising order."""
        with self.store.database.read() as connection:
            return times(connection)

    def held(self) -> Sequence[Held]:
        """The pairs that somebody has open."""
        now = self.store.clock()
        with self.store.database.read() as connection:
            open_now = held(connection, now)
        return [Held(name=n, pair_id=i, minutes=max(1, round((until - now) / 60))) for n, i, until in open_now]

    def overlap(self) -> int:
        """How many people judge each pair."""
        return self.store.settings().overlap

    def remarks(self) -> Sequence[Remark]:
        back, found = set[tuple[str, str, str]](), list[Remark]()
        for f in self.store.facts("flag", "skip", "unflag", "unskip"):  # newest first
            if f.kind.startswith("un"):
                back.add((f.kind, f.target, f.by))
            elif (f"un{f.kind}", f.target, f.by) not in back:
                kind: Literal["flag", "skip"] = "flag" if f.kind == "flag" else "skip"
                found.append(Remark(pair_id=f.target, by=f.by, kind=kind, text=f.body["text"], at=f.at))
        return found

    def adjudicate(self, judgement: Judgement) -> None:
        """Append a judgement of kind "lead"; a later one by the same lead on the same pair replaces it."""
        self.store.adjudicate(judgement)
        self.log("adjudicated", judgement.pair_id, judgement.by, judgement.better or judgement.problem)

    def add(self, judgements: Sequence[Judgement], by: str) -> int:
        """Append what is not there yet, and return how many that were."""
        added = self.store.add(judgements, self.store.settings())
        self.log("imported", "judgements", by, f"{added} of {len(judgements)}")
        return added

    def settings(self) -> Sequence[Setting]:
        values = self.store.settings().texts()
        return [_setting(name, value) for name, value in values.items()]

    def set(self, values: Mapping[str, str], by: str) -> None:
        """Change settings. Raises ValueError, naming the setting, for a value that is not allowed."""
        known = Settings().texts()
        self.store.set({k: v for k, v in values.items() if k in known}, by)

    def events(self, before: float, limit: int) -> Sequence[Event]:
        """The audit log, newest first, older than `before`."""
        return [_event(f) for f in self.store.facts(*_LOGGED, before=before, limit=limit)]

    def log(self, action: str, target: str, by: str, detail: str = "") -> None:
        self.store.note("audit", target, by, {"action": action, "detail": detail})


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
