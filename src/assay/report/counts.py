"""From the rows of files to the labels of a run: one table whose lines add up, and how judges compare with people."""

from assay.figures import beside_a_coin, told
from assay.report.run import Grid, RunSteps, shares

Line = tuple[str, list[int]]
INDENT = "\N{EM SPACE}"
"""Of a line that is a part of another; a plain space would be lost in HTML."""


def ledger(run: RunSteps) -> Grid:
    """What became of every row and pair, a column for each seed. Below a line that begins with "=" stand the lines that it
    is the sum of; what they lack is told. A number that is one other is not said twice."""
    rows = list[list[str]]()
    for whole, every in sums(run):
        parts = [(title, values) for title, values in every if any(values)]
        left = [n - sum(column) for n, *column in zip(whole[1], *(values for _, values in parts), strict=True)]
        if any(left):
            parts.append(("NOT ACCOUNTED FOR", left))
        if len(parts) != 1:
            rows.append([f"= {whole[0]}", *(f"{n:,}" for n in whole[1])])
            rows += [[f"{INDENT}{title}", *(f"{n:,}" for n in values)] for title, values in parts]
    seeds = (
        [f"seed {folder.name.removeprefix('seed-')}" for folder in run.folders] if len(run.folders) > 1 else ["number"]
    )
    return Grid(header=("", *seeds), rows=rows)


USES = {
    "evaluation": "to measure only", "unseen": "to measure only: of kinds that the rest has nothing of",
    "stage1": "for stage 1", "stage2": "for stage 2",
}  # fmt: skip


def sums(run: RunSteps) -> list[tuple[Line, list[Line]]]:
    """Every number with those that it is the sum of."""
    pool, split = run.steps["prepare/pool"], run.steps["prepare/split"]
    seeds = len(run.seeds)

    def same(title: str, n: int) -> Line:
        return title, [n] * seeds

    read: Line = same("pairs in these rows", pool["read"])
    found = list[tuple[Line, list[Line]]]()
    if pool["rows"] is not None:
        rejected = [same(f"rejected: {why}", n) for why, n in pool["rejected"].items()]
        gave = pool["rows"] - sum(pool["rejected"].values())
        found.append((same("rows in the files", pool["rows"]), [*rejected, same("rows that were read", gave)]))
    kept = same("pairs of the run", pool["pairs"])
    found.append((read, [same("repeat a pair", pool["duplicates"]), same("pairs in the pool", pool["pool"])]))
    found.append((same("pairs in the pool", pool["pool"]), [
        same("left out: share a 13-gram with a benchmark prompt", pool["contaminated"]),
        same("left out: near-duplicates of others", pool["near_duplicates"]),
        same("left out: other pairs of questions that only measure", pool["aside"]), kept,
    ]))  # fmt: skip
    found.append((kept, [same(title, split.get(use, 0)) for use, title in USES.items()]))
    return [*found, *_labels(run, split["stage1"] + split["stage2"])]


def _labels(run: RunSteps, pairs: int) -> list[tuple[Line, list[Line]]]:
    counts = [seed.get("labels", {}).get("counts", {}) for seed in run.seeds]
    keys = sorted({k for c in counts for k in c})
    labels = [(key.replace(" | ", ", "), [c.get(key, 0) for c in counts]) for key in keys]
    none = [pairs - sum(c.values()) for c in counts]
    whole: Line = ("pairs for stages 1 and 2", [pairs] * len(counts))
    return [(whole, [("nobody was asked about (stage 1)", none), *labels])]


def about(run: RunSteps) -> list[str]:
    """What else is to be said of the pool."""
    pool = run.steps["prepare/pool"]
    lines = [f"The pairs have {pool['prompts']:,} different prompts."]
    if pool["conflicting"]:
        lines.append(f"Of {pool['conflicting']:,} pairs in the pool the sources prefer different responses.")
    if pool["wrong"] is not None:
        lines.append(f"Raw labels that are wrong, where that is known: {told(shares([pool['wrong']]))}.")
    return lines


def judge_rounds(run: RunSteps) -> Grid:
    """Round by round, until then: how often judges agree with people's gold, and what share of the sources' labels that they
    decided about they turned over."""
    rows = []
    turns = ["seed", *(f"it{n}" for n in range(1000))]
    for turn in turns:
        if not (done := run.done(f"stage1/judges-{turn}")):
            break
        agrees, turned = (shares([d[key] for d in done]) for key in ("agreement", "overturned"))
        asked = f"{sum(d['asked'] for d in done) / len(done):,.0f}"
        when = "the first answers" if turn == "seed" else f"round {int(turn[2:]) + 1}"
        rows.append([when, asked, told(agrees, ""), told(turned, "")])
    if done := run.done("stage2/judges"):
        asked = f"{sum(d['asked'] for d in done) / len(done):,.0f}"
        rows.append(["stage 2", asked, "", told(shares([d["overturned"] for d in done]), "")])
    header = ("until", "judged pairs", "agree with people's gold, %", "the sources' labels turned over, %")
    return Grid(header=header, rows=rows)


def judges_doubted(run: RunSteps) -> str:
    """A word on judges that are not shown to be better than a coin; "" of others, and where there are none."""
    turns = [name for name in run.seeds[0] if name.startswith("stage1/judges-")]
    last = max(turns, key=lambda name: int(name.rpartition("it")[2] or -1) if "judges-it" in name else -1, default="")
    agrees = shares([d["agreement"] for d in run.done(last)]) if last else None
    if agrees is None or not (doubt := beside_a_coin(agrees)):
        return ""
    return (
        f"Judges agree with people's gold on {told(agrees)}{doubt}. What they changed rests on that: more gold "
        "(stage1.seed-gold) may tell, and a run without judges changes no label that people did not."
    )


def measured_by(run: RunSteps) -> str:
    """What the models are measured on, in words."""
    split, done = run.steps["prepare/split"], run.seeds[0][f"sets/{run.seeds[0]['final']['set']}"]
    n = f"{done['accuracy']['n']:,}"
    if done["on_held"]:
        return f"{n} pairs of held gold: they chose the checkpoints and the released model too, so this is optimistic"
    if split["by_people"]:
        return f"{n} pairs that people decided, of {split['evaluation']:,} which they verified to measure only"
    return f"{n} pairs that no set contains, and whose answer is known"
