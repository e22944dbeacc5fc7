"""The arms in a run's report: the claims that docs/evidence.md fixed beforehand, each with a verdict in words; every arm
with what it asked, said and reached; and the kinds of which nothing but these measures was ever seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from assay.figures import told, verdict
from assay.pipeline import claims, product
from assay.pipeline.arms import EQUAL_EFFORT, GOLD_ONLY, TITLES
from assay.pipeline.hits import Hit, apart
from assay.report.run import Grid, RunSteps, shares
from assay.statistics import Estimate, Spread, over_seeds, seeds_apart
from assay.store import Place
from assay.tables import Table

SETS = {**product.SETS, **claims.SETS}


@dataclass(slots=True)
class Found:
    """What a run has to compare by: its steps, and its hits pair by pair (`pipeline.hits`), of every seed."""

    run: RunSteps
    hits: list[Table[Hit]] = field(default_factory=list)

    @staticmethod
    def of(run: RunSteps) -> "Found":
        places = sorted(run.folder.glob("seed-*/tables/hits"))
        return Found(run, [Table(Place.of(p), Hit) for p in places])

    def models(self, one: str, other: str, than: str) -> str:
        """Whether the model `one` is better than `other` on held-out pairs of seen kinds, in words."""
        both = apart(self.hits, one, other)
        return verdict(both.found, both.questions, than) if both else NOTHING

    def estimates(self, step: str, *keys: str) -> list[Estimate]:
        """A share of every seed that has it."""
        found = []
        for cells in self.run.done(step):
            for key in keys:
                cells = cells.get(key) or {}
            if cells:
                found.append(Estimate(**cells))
        return found

    def shares(self, step: str, keys: tuple[str, ...], other: tuple[str, ...], than: str) -> str:
        """Whether one share of a step is larger than another, each on its own pairs, in words."""
        ones, others = self.estimates(step, *keys), self.estimates(step, *other)
        if not ones or len(ones) != len(others):
            return NOTHING
        return verdict(seeds_apart(ones, others), round(min(e.clusters for e in (*ones, *others))), than)

    def spread(self, step: str, *keys: str) -> Spread | None:
        return shares([cells for d in self.run.done(step) if (cells := _inside(d, keys))])


NOTHING = "not measured in this run, or nothing to tell apart"


def _inside(cells: dict[str, object], keys: Sequence[str]) -> dict[str, object] | None:
    found: object = cells
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else None


Say = Callable[[Found], str]


def _better(other: str, than: str, one: str = "stage1") -> Say:
    return lambda found: found.models(one, other, than)


def _filters(what: str) -> Say:
    """Whether both models filter better than each alone."""
    both, at = "best + gold RM", f"{what}_agreement"
    return lambda f: "; ".join(
        f.shares("claims-filters", (both, at), (alone, at), alone) for alone in ("best RM", "gold RM")
    )


def _control(found: Found) -> str:
    tossed = [Estimate(**share) for step in found.run.done("control") for share in step["draws"]]
    if not tossed:
        return NOTHING
    mean = over_seeds(tossed)
    fits = mean.low <= 0.5 <= mean.high
    return f"{'in keeping with a coin' if fits else 'NOT a coin'}: {told(mean)}, {len(tossed)} draws of coins"


FIXED: tuple[tuple[str, str, Say], ...] = (
    ("0", "control: gold by a coin teaches the judge nothing", _control),
    (
        "1",
        "the nearest gold guides the judge better than random gold",
        _better("judge-random gold", "random gold", "judge-nearest gold"),
    ),
    (
        "2",
        "gold makes a judge better than none",
        _better("judge-no gold", "the judge without gold", "judge-nearest gold"),
    ),
    ("3", "silver earns its place", _better(f"arm-{GOLD_ONLY}", "its gold alone")),
    ("4", "the loop is worth people's effort", _better(f"arm-{EQUAL_EFFORT}", "as much gold at random")),
    ("5", "look-alikes of mistakes are better to label than random pairs", _better("arm-random-pairs", "random pairs")),
    ("6", "asking by need is better than asking alike", _better("arm-fixed-k", "a fixed k")),
    ("7", "better guidance makes a better model", _better("arm-random-examples", "random examples")),
    ("8", "stage 1 is better to train on than as many raw labels", _better("raw", "as many raw labels")),
    ("8", "... and than all of them", _better("raw-more", "all raw labels")),
    ("9", "gold RM and best RM keep better than one alone", _filters("keep")),
    ("9", "... and flip better", _filters("flip")),
    ("10", "filtered pairs add to stage 1", _better("stage1", "stage 1", "filtered")),
    ("10", "flipped ones add to these", _better("filtered", "filtered", "flipped")),
    (
        "11",
        "without people filtering gains nothing",
        _better("unguided", "unfiltered, without people", "nohuman-filtered"),
    ),
    ("11", "... nor does flipping", _better("nohuman-filtered", "filtered, without people", "nohuman-flipped")),
)
"""The claims by their numbers in docs/evidence.md, and what says whether they hold."""


def fixed_grid(run: RunSteps) -> Grid:
    """The claims that were fixed beforehand, with what was found."""
    if not run.done("arms/whole"):
        return Grid(header=(), rows=[])
    found = Found.of(run)
    rows = [(number, claim, say(found)) for number, claim, say in FIXED]
    return Grid(header=("", "claim, fixed beforehand", "found"), rows=rows, words=3)


def arms_grid(run: RunSteps) -> Grid:
    """What every arm asked, what was said, and what its model reaches on seen and unseen kinds."""
    found, rows = Found.of(run), []
    for name, title in TITLES.items():
        step = f"arms/{name}"
        if done := run.done(step):
            asked, open_, pairs = (sum(f(d) for d in done) / len(done) for f in (_asked, _undecided, _pairs))
            spreads = [found.spread(step, *keys) for keys in MEASURES]
            rows.append([title, f"{asked:,.0f}", f"{open_:,.0f}", f"{pairs:,.0f}", *(told(s, "") for s in spreads)])
    header = ("stage 1", "put to people", "undecided", "trained on", "gold right, %", "silver right, %", "held out, %",
              "unseen kinds, %")  # fmt: skip
    return Grid(header=header, rows=rows)


MEASURES = (("people", "right"), ("judges", "right"), ("accuracy",), ("unseen",))


def _asked(step: dict[str, dict[str, int]]) -> int:
    return step["people"]["asked"]


def _undecided(step: dict[str, dict[str, int]]) -> int:
    return step["people"]["undecided"]


def _pairs(step: dict[str, int]) -> int:
    return step["pairs"]


def unseen_grid(run: RunSteps) -> Grid:
    """Models and judges on pairs of kinds that were in no gold, silver or wild set."""
    found = Found.of(run)
    models = [[f"reward model: {t}", told(found.spread(f"unseen/{n}", "unseen"), "")] for n, t in SETS.items()
              if run.done(f"unseen/{n}")]  # fmt: skip
    ways = [key for key in (run.done("claims-unseen") or [{}])[0] if key.endswith("gold")]
    judges = [[f"judge, {way}", told(found.spread("claims-unseen", way, "agreement"), "")] for way in ways]
    return Grid(header=("", "right on unseen kinds, %"), rows=[*models, *judges])
