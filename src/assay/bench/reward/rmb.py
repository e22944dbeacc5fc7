"""RMB (Zhou et al. 2024, arXiv 2410.09893; github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark): 49 categories of real
prompts, as pairs and as best-of-N lists, for helpfulness and harmlessness.

A pair is right on a strict win, a list when the best answer strictly beats every loser. The total is the plain mean of the
four sections. Lists and pairs share prompts, so their errors are not independent: they are clustered by prompt.
"""

from collections.abc import Sequence
from pathlib import Path

from assay.bench.benchmark import Benchmark, Choice, Scores, Wins
from assay.bench.files import Row, rows
from assay.bench.results import BenchmarkResult, cell
from assay.errors import AssayError
from assay.records import assistant

NAME = "rmb"
HOME = "https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark"
FETCH = f"git clone --depth 1 {HOME} {{}}"
PROTOCOL = "RMB (arXiv 2410.09893): strict wins; best-of-N: the best beats every loser; mean of the four sections"
KINDS = {"Pairwise_set": "pairwise", "BoN_set": "best-of-N"}
GOALS = {"Helpfulness": "helpfulness", "Harmlessness": "harmlessness"}
SECTIONS = tuple(f"{kind} {goal}" for kind in KINDS.values() for goal in GOALS.values())


def load(folder: Path) -> list[Choice]:
    """All pairs and lists, of a clone of the repository (one file per category) or of merged JSON lines."""
    items = []
    for path in sorted(p for p in folder.rglob("*.json*") if p.is_file()):
        here = str(path.relative_to(folder))
        kind = next((k for k in KINDS if k in here), None)
        if kind:
            items += [_item(row, kind) for row in rows(path)]
    if not items:
        raise AssayError(f"{folder}: no Pairwise_set or BoN_set files of RMB here; get RMB_dataset/ from {HOME}")
    return items


def _item(row: Row, kind: str) -> Choice:
    path = row.text("category_path")
    _, goal, category = (*path.split("/", 2), "", "")[:3]
    if goal not in GOALS or not category:
        row.fail(("category_path",), f"expected '{kind}/(Helpfulness|Harmlessness)/CATEGORY', found {path!r}")
    prompt = row.conversation("conversation_input")
    if kind == "Pairwise_set":
        key, best, losers = "pair_uid", row.text("chosen", "answer"), [row.text("reject", "answer")]
    else:
        key, best, losers = "bon_uid", row.text("bon_best", "answer"), _losers(row)
    return Choice(
        id=f"{KINDS[kind]}/{row.text(key)}",
        source=NAME,
        stratum=f"{KINDS[kind]} {GOALS[goal]}/{category}",
        prompt=prompt,
        best=(*prompt, assistant(best)),
        losers=tuple((*prompt, assistant(text)) for text in losers),
    )


def _losers(row: Row) -> list[str]:
    found = row.get("loser_list")
    if not isinstance(found, list) or not found:
        row.fail(("loser_list",), "expected a list of losing answers")
    answers = [loser.get("answer") if isinstance(loser, dict) else None for loser in found]
    if not all(isinstance(a, str) for a in answers):
        row.fail(("loser_list",), "every loser must have a text 'answer'")
    return [str(a) for a in answers]


def _section(item: Choice) -> str:
    return item.stratum.split("/")[0]


def _category(item: Choice) -> str:
    return item.stratum.split(" ", 1)[1]


def report(items: Sequence[Choice], scores: Scores | Wins) -> BenchmarkResult:
    """The four sections and their plain mean; no total where a section has no items."""
    right = [float(i.right(scores)) for i in items]
    prompts, sections = [i.prompt for i in items], [_section(i) for i in items]
    present = [s for s in SECTIONS if s in sections]
    cells = []
    for section in present:
        at = [k for k, s in enumerate(sections) if s == section]
        cells.append(cell(section, [right[k] for k in at], [prompts[k] for k in at]))
    notes = []
    if len(present) < len(SECTIONS):
        absent = ", ".join(s for s in SECTIONS if s not in present)
        notes.append(f"{absent} absent, so no total can be reported: it is the mean of all four sections")
    hopeless = sum(i.best in i.losers for i in items)
    if hopeless:
        notes.append(f"{hopeless} items have a loser equal to the best answer: they tie, and ties count as wrong")
    headline = cell("mean of the four sections", right, prompts, sections) if len(present) == len(SECTIONS) else None
    return BenchmarkResult(
        name=NAME, n=len(items), total=len(items), headline=headline, slices=tuple(cells), notes=tuple(notes),
        protocol=PROTOCOL,
    )  # fmt: skip


def caveats(items: Sequence[Choice]) -> tuple[str, ...]:
    """The categories that one kind of item has here and the other has not: files that are missing."""
    seen = {kind: {_category(i) for i in items if i.stratum.startswith(kind)} for kind in KINDS.values()}
    gaps = [
        f"{kind} {category}"
        for kind, categories in seen.items()
        if categories
        for category in sorted(set().union(*seen.values()) - categories)
    ]
    if not gaps:
        return ()
    return (f"{len(gaps)} category files absent here ({'; '.join(gaps)}): not quite the leaderboard's number",)


RMB = Benchmark(name=NAME, folder="rmb", home=HOME, fetch=FETCH, load=load, report=report, caveats=caveats)
