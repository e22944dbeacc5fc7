"""The papers' claims in a run's report: what each way of labelling does, with the papers' numbers beside ours, and how often
judges and filters agree with the truth. Runs have them with `--claims`."""

from dataclasses import dataclass

from markupsafe import Markup

from assay.figures import counted, told
from assay.pipeline import claims, product
from assay.report.arms import arms_grid, fixed_grid, unseen_grid
from assay.report.run import Grid, RunSteps, sets_grid, sets_plot, shares

SETS = {
    name: {**claims.SETS, **product.SETS}[name]
    for name in (
        "raw",
        "raw-more",
        "unguided",
        "stage1",
        "filtered",
        "flipped",
        "nohuman-filtered",
        "nohuman-flipped",
        "truth",
    )
}
"""The sets in the papers' order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimsTold:
    """The claims' section: those fixed beforehand, the arms, unseen kinds; then the table of sets with its picture, judges,
    and filters of stage 2."""

    fixed: Grid
    arms: Grid
    unseen: Grid
    sets: Grid
    plot: Markup
    judges: Grid
    filters: Grid

    def tables(self) -> list[tuple[str, Grid]]:
        """The tables with their titles."""
        return [
            ("the claims fixed beforehand (docs/evidence.md)", self.fixed),
            ("arms", self.arms),
            ("kinds that nothing was trained on", self.unseen),
            ("the claims, by training labels", self.sets),
            ("judges", self.judges),
            ("stage 2 filters", self.filters),
        ]


def claims_told(run: RunSteps) -> ClaimsTold | None:
    """What the run says of the claims; None where it did not test them to the end."""
    if not run.done("claims-filters"):
        return None
    return ClaimsTold(
        fixed=fixed_grid(run), arms=arms_grid(run), unseen=unseen_grid(run),
        sets=sets_grid(run, SETS, ("paper A3 T20", PAPER_CLAIMS)), plot=sets_plot(run, SETS), judges=judge_grid(run),
        filters=filter_grid(run),
    )  # fmt: skip


def judge_grid(run: RunSteps) -> Grid:
    done = run.done("claims-judges")
    rows = []
    for name, cells in done[0].items():
        if isinstance(cells, dict) and cells["n"]:
            ours = shares([d[name]["agreement"] for d in done if name in d])
            share = counted(round(sum(d[name]["undecided"] for d in done if name in d) / len(done)), cells["n"])
            rows.append([f"judge, {name}", f"{cells['n']:,}", share, told(ours, ""), PAPER_JUDGES.get(name, "")])
    header = ("", "judged pairs", "undecided, %", "agreement with the truth, %", "paper A3 T14, objective / subjective")
    return Grid(header=header, rows=rows)


PAPER_CLAIMS = {
    "raw": "70.0 (seed)", "raw-more": "72.2 (it. 8)", "unguided": "71.1 (it. 1, Fig. 6)", "stage1": "79.0 (it. 8)",
    "filtered": "~84.5 (Fig. 7)", "flipped": "~87.5 (Fig. 7)", "nohuman-filtered": "74.2 (it. 8)",
    "nohuman-flipped": "74.5 (it. 8)",
}  # fmt: skip
"""Paper A's benchmark means of models trained on the corresponding sets; other models, data and measures than ours."""
PAPER_JUDGES = {
    "no gold": "75 / 63 (pure LLM)",
    "random gold": "87 / 77 (LLM + human)",
    "nearest gold": "93 / 84 (+ retrieval)",
}
PAPER_FILTERS = {"best RM": "78 / 79", "gold RM": "84 / 88", "best + gold RM": "86 / 92"}


def filter_grid(run: RunSteps) -> Grid:
    done = run.done("claims-filters")
    rows = []
    for name, cells in done[0].items():
        if isinstance(cells, dict) and cells["kept"] + cells["flipped"]:
            keep, flip = (shares([d[name][f"{what}_agreement"] for d in done]) for what in ("keep", "flip"))
            rows.append(
                [
                    name,
                    f"{cells['kept']:,}",
                    told(keep, ""),
                    f"{cells['flipped']:,}",
                    told(flip, ""),
                    PAPER_FILTERS[name],
                ]
            )
    header = ("filter by", "kept", "rightly kept, %", "would flip", "rightly flipped, %", "paper A3 T19, keep / flip")
    return Grid(header=header, rows=rows)
