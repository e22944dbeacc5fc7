"""What a run lacks of people: the one notion of it that run, `assay verify`, page and `assay runs` share.

    RUN/queue/              every pair that the run asked people about
    RUN/judgements.jsonl    what people said
    RUN/asked.json          while it waits: how many pairs it asked about, and those that lacked an answer
    RUN/people.json         how many people answer each pair, where that is more than one (a setting of the page)
    RUN/seats.json          who has which pair before them, and until when

A pair is answered when as many people as are asked for have said something of it (a tie is an answer too), or a lead has
decided it. Reading is cheap: ids, no texts.
"""

import fcntl
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.curate.verify import read_judgements
from assay.errors import AssayError
from assay.processes import alive
from assay.records import Judgement
from assay.session import SESSION
from assay.store import Place
from assay.tables import plain, read_shard, write_text

ASKED, PEOPLE, SEATS = "asked.json", "people.json", "seats.json"
SECONDS_A_PAIR = 60.0
"""For a forecast, where nobody has answered yet: an assumption, and said to be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """That a person has a pair before them. `until` is in seconds since 1970; `where` is "page" or "terminal"."""

    pair_id: str
    by: str
    until: float
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What a run waits for: `missing` of the `asked` pairs lack an answer, and some of these are `held` by people.
    `live`: its process is there (`--wait`), and goes on by itself."""

    run: Path
    asked: int
    missing: tuple[str, ...]
    held: tuple[Hold, ...] = ()
    live: bool = False

    def __str__(self) -> str:
        if not self.missing:
            then = "the run goes on by itself" if self.live else f"assay resume {self.run}"
            return f"all {self.asked:,} answers are there; {then}"
        return (
            f"{len(self.missing):,} of {self.asked:,} answers missing; assay verify {self.run}, or assay web {self.run}"
            f"{told(self.held)}"
        )


def told(held: Sequence[Hold], clock: Callable[[], float] = time.time) -> str:
    """Who has which pairs before them, and until when, in words; "" where nobody has."""
    if not held:
        return ""
    people: dict[str, list[Hold]] = {}
    for hold in held:
        people.setdefault(hold.by, []).append(hold)
    now = clock()
    words = [
        f"{name} holds {len(some)} of them ({some[0].where}, for {max(1, round((max(h.until for h in some) - now) / 60))}"
        " min yet)"
        for name, some in sorted(people.items())
    ]
    return f"; {', '.join(words)}"


def waits(run: Path, judgements: Path | None = None) -> Waits | None:
    """What the run in this folder waits for; None where it waits for nobody. It is read from files, and nothing is written.

    `judgements`: the file of answers, where it is not RUN/judgements.jsonl.
    """
    note = _read(run / ASKED)
    if note is None:  # an older version began it, or nobody was asked yet
        ids = queued(run)
        note = {"asked": len(ids), "pairs": ids}
    if not note.get("pairs"):
        return None
    file = judgements or run / str(note.get("judgements") or "judgements.jsonl")
    missing = lacking(run, [str(i) for i in note["pairs"]], read_judgements(file))
    held = holds(run, missing)
    return Waits(run=run, asked=int(note["asked"]), missing=tuple(missing), held=held, live=_lives(run))


def _lives(run: Path) -> bool:
    """Whether the process of the run's last call is there."""
    try:
        session = json.loads((run / SESSION).read_text(encoding="utf-8"))
        return "ended" not in session and alive(session["process"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def lacking(run: Path, pair_ids: Sequence[str], given: Sequence[Judgement]) -> list[str]:
    """Those of the pairs that lack an answer."""
    overlap = people_a_pair(run)
    said = Counter(j.pair_id for j in given if j.kind != "lead")
    decided = {j.pair_id for j in given if j.kind == "lead"}
    return [i for i in pair_ids if i not in decided and said[i] < overlap]


def people_a_pair(run: Path) -> int:
    """How many people answer each pair."""
    return max(1, int((_read(run / PEOPLE) or {}).get("overlap", 1)))


def set_people_a_pair(run: Path, overlap: int) -> None:
    """Keep how many people answer each pair, for all who read it."""
    if people_a_pair(run) != overlap:
        write_text(run / PEOPLE, json.dumps({"overlap": overlap}))


def note_asked(run: Path, asked: int, missing: Sequence[str], judgements: Path) -> None:
    """The run waits for these pairs."""
    inside = judgements.relative_to(run) if judgements.is_relative_to(run) else judgements.absolute()
    write_text(run / ASKED, json.dumps({"asked": asked, "pairs": list(missing), "judgements": str(inside)}))


def note_answered(run: Path) -> None:
    """The run waits for nobody."""
    if (run / ASKED).exists():
        write_text(run / ASKED, json.dumps({"asked": 0, "pairs": []}))


def queued(run: Path) -> list[str]:
    """The ids of all pairs that people were ever asked about, in their order; their texts are not read."""
    files = sorted(name for name in Place.of(run / "queue").names() if name.endswith(".parquet"))
    found = dict[str, None]()
    for name in files:
        column = read_shard(Place.of(run / "queue") / name, ["attributes.pair_id"])["attributes"]
        found |= dict.fromkeys(row["pair_id"] for row in column.to_pylist())
    return list(found)


# -- seats ----------------------------------------------------------------------------------------------------------


def holds(run: Path, pair_ids: Sequence[str] | None = None, clock: Callable[[], float] = time.time) -> tuple[Hold, ...]:
    """Who has which pairs before them now; of some pairs, or of all."""
    now, wanted = clock(), None if pair_ids is None else set(pair_ids)
    rows = [Hold(**row) for row in (_read(run / SEATS) or {}).get("seats", ())]
    return tuple(h for h in rows if h.until > now and (wanted is None or h.pair_id in wanted))


def hold(run: Path, where: str, mine: Sequence[Hold], of: str | None = None) -> None:
    """Replace the seats of one place ("page", or of the terminal those of the person `of`) by `mine`."""
    before = holds(run)
    others = [h for h in before if h.where != where or (of is not None and h.by != of)]
    if [h for h in before if h not in others] == list(mine):
        return
    with _alone(run):
        others = [h for h in holds(run) if h.where != where or (of is not None and h.by != of)]
        write_text(run / SEATS, json.dumps({"seats": [plain(h) for h in (*others, *mine)]}))


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    with (run / f"{SEATS}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(file: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise AssayError(f"{file}: cannot be read ({error}); take it away, and give the run's command again") from error
    return found if isinstance(found, dict) else None


class Desk:
    """A person at a terminal: which pairs are others' just now, and which is before them."""

    LEASE_S = 600.0

    def __init__(
        self, run: Path, name: str, judgements: Path, again: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self.run, self.name, self.judgements, self.again, self.clock = run, name, judgements, again, clock

    def elsewhere(self, pair_id: str) -> str:
        """Why this pair is not to be asked about now; "": it is."""
        now = None if self.again else waits(self.run, self.judgements)
        if now is not None and pair_id not in now.missing:
            return "it was answered meanwhile"
        others = [h for h in holds(self.run, [pair_id], self.clock) if h.by != self.name]
        if len(others) < people_a_pair(self.run):
            return ""
        minutes = max(1, round((others[0].until - self.clock()) / 60))
        return f"{others[0].by} holds it ({others[0].where}, for {minutes} min yet)"

    def hold(self, pair_id: str) -> None:
        """Have this pair before them; "": none."""
        until = self.clock() + self.LEASE_S
        mine = [Hold(pair_id=pair_id, by=self.name, until=until, where="terminal")] if pair_id else []
        hold(self.run, "terminal", mine, of=self.name)


# -- forecast -------------------------------------------------------------------------------------------------------


def seconds_a_pair(given: Sequence[Judgement]) -> float | None:
    """The median of the seconds that people took for a pair; None where nobody's were measured."""
    took = sorted(j.seconds for j in given if j.kind == "human" and j.seconds > 0)
    return took[len(took) // 2] if took else None
