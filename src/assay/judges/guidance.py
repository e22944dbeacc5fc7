"""`assay guidance`: what do gold examples do for a judge? The same judge on the same pairs unguided, with random gold
examples, and with the nearest ones; beside it the offline judge that learns from the same nearest examples alone.

Paper A reports (A3, section 3.3) that guidance raises the agreement of judges with people. The arms here differ in the
examples alone: pairs, orders and samples are the same, so arms are compared pair by pair. Gold of the target's own question
never guides. An undecided pair counts as half right, as a coin would have it, so that an arm cannot win by silence.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

from rich.console import Console

from assay.curate.judge_page import Section, markdown, page, show
from assay.curate.judge_report import JudgeReport, Share, longer, steady
from assay.curate.offline import gold_ridge_judge
from assay.curate.shards import Pool
from assay.curate.verify import read_judgements
from assay.errors import AssayError
from assay.figures import points
from assay.judges.annotate import Examples, JudgeConfig, annotate
from assay.judges.asking import AskConfig
from assay.judges.embedders import EmbedderConfig, load_embedder
from assay.judges.servers import FILE, Servers
from assay.judges.sources import Where
from assay.judges.votes import lengths
from assay.records import Case, Judgement
from assay.run import environment, jsonable
from assay.statistics import paired
from assay.tables import Table, write_text

ARMS: tuple[Examples, ...] = ("none", "random", "nearest")
OFFLINE, LONGER = "offline:gold-ridge", "longer response"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmRow:
    """One arm over all seeds. `right`: agreement with gold over all pairs, undecided ones counted as half; `agreement`: over
    the decided ones; `readable`: votes with a verdict; `first`: of those, for the response shown first; `steady`: pairs of
    votes of one seed in the two orders that name the same response. The last three are of votes, so None for rules."""

    arm: str
    right: Share
    agreement: Share
    decided: Share
    readable: Share | None = None
    first: Share | None = None
    steady: Share | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How much more often `one` is right than `other` on the same pairs (undecided as half), with its 95% interval."""

    one: str
    other: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """What the experiment came to."""

    judge: str
    pairs: int
    questions: int
    seeds: tuple[int, ...]
    arms: tuple[ArmRow, ...]
    differences: tuple[Difference, ...]


def compare(
    source: Where, out: Path, judges: Sequence[str], gold: Sequence[Path], config: JudgeConfig, asking: AskConfig,
    *, sets: Sequence[str] = (), attributes: Path | None = None, seeds: Sequence[int] = (0,),
    console: Console | None = None,
) -> Guidance:  # fmt: skip
    """Run every arm for every seed in a folder of its own under `out`, each resumed when it is not finished, and compare."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise AssayError("give different seeds")
    told = console or Console(stderr=True, highlight=False)
    servers = Servers(out / FILE, any(out.glob("*/config.json")), asking.servers_moved)
    folders: dict[tuple[str, int], Path] = {}
    reports: dict[tuple[str, int], JudgeReport] = {}
    for seed in seeds:
        for arm in ARMS:
            folder = out / f"{arm}-{seed}"
            told.print(f"[bold]{arm} examples, seed {seed}[/bold]")
            settings = replace(config, guidance=arm, pairs="gold", seed=seed)
            report = annotate(
                source, folder, judges, gold, settings, asking, attributes=attributes, sets=sets, console=told,
                replies=out / "replies.sqlite", servers=servers,
            )  # fmt: skip
            assert report is not None
            folders[arm, seed], reports[arm, seed] = folder, report
    found = _compared(folders, ", ".join(judges), tuple(seeds), config)
    write_text(out / "guidance.json", json.dumps({"environment": environment(), **jsonable(found)}, indent=2) + "\n")
    write_text(out / "guidance.md", markdown(sections(found)))
    write_text(out / "guidance.html", page(sections(found), f"Guided and unguided: {found.judge}", environment()))
    return found


def _compared(
    folders: Mapping[tuple[str, int], Path], judge: str, seeds: tuple[int, ...], embedder: EmbedderConfig
) -> Guidance:
    first = folders["nearest", seeds[0]]
    pool = Pool.open(first / "pool")
    gold = dict(pool.table("truth").frame(columns=["pair_id", "better"]).iter_rows())
    questions = dict(pool.table("index").frame(columns=["pair_id", "question_id"]).iter_rows())
    verdicts: dict[str, list[list[Judgement]]] = {
        str(arm): [read_judgements(folders[arm, seed] / "judgements.jsonl") for seed in seeds] for arm in ARMS
    }
    cases = Table(first / "tables" / "cases", Case).read()
    verdicts[OFFLINE] = [gold_ridge_judge(load_embedder(embedder))(cases)]
    verdicts[LONGER] = [[longer(p, told, LONGER) for p, told in lengths(pool).items()]]
    votes: dict[str, list[list[Judgement]]] = {
        arm: [Table(folders[arm, seed] / "tables" / "votes", Judgement).read() for seed in seeds] for arm in ARMS
    }
    credit = {arm: _credit(told, gold) for arm, told in verdicts.items()}
    rows = tuple(_row(arm, verdicts[arm], votes.get(arm, []), credit[arm], gold, questions) for arm in verdicts)
    differences = tuple(
        _difference(one, other, credit, questions)
        for other, one in (*combinations(ARMS, 2), (OFFLINE, "nearest"), (LONGER, "nearest"))
    )
    return Guidance(
        judge=judge, pairs=len(questions), questions=len(set(questions.values())), seeds=seeds, arms=rows,
        differences=differences,
    )  # fmt: skip


def _credit(told: Sequence[Sequence[Judgement]], gold: Mapping[str, str]) -> dict[str, float]:
    """Pair -> how right the arm was: 1, 0, or a half where it did not decide; the mean over seeds."""
    sums: dict[str, float] = dict.fromkeys(gold, 0.0)
    for j in (j for seed in told for j in seed):
        sums[j.pair_id] += 0.5 if j.better is None else float(j.better == gold[j.pair_id])
    return {p: total / len(told) for p, total in sums.items()}


def _row(
    arm: str, told: Sequence[Sequence[Judgement]], voted: Sequence[Sequence[Judgement]], credit: Mapping[str, float],
    gold: Mapping[str, str], questions: Mapping[str, str],
) -> ArmRow:  # fmt: skip
    share = partial(Share.of, questions=questions)
    every, votes = ([j for seed in rows for j in seed] for rows in (told, voted))
    cast = [v for v in votes if v.better]
    twice = [(p, float(same)) for seed in voted for p, same in steady(seed)]  # another seed shows other examples
    return ArmRow(
        arm=arm, right=share(credit.items()),
        agreement=share([(j.pair_id, float(j.better == gold[j.pair_id])) for j in every if j.better]),
        decided=share([(j.pair_id, float(j.better is not None)) for j in every]),
        readable=share([(v.pair_id, float(v.better is not None)) for v in votes]) if votes else None,
        first=share([(v.pair_id, float(v.better == v.shown[0])) for v in cast if v.shown]) if votes else None,
        steady=share(twice) if votes else None,
    )  # fmt: skip


def _difference(
    one: str, other: str, credit: Mapping[str, Mapping[str, float]], questions: Mapping[str, str]
) -> Difference:
    pairs = list(credit[one])
    ours, theirs = ([credit[arm][p] for p in pairs] for arm in (one, other))
    found = paired(ours, theirs, [questions[p] for p in pairs])
    return Difference(one=one, other=other, value=found.value, low=found.low, high=found.high)


def sections(found: Guidance) -> list[Section]:
    arms = tuple(
        (r.arm if r.arm not in ARMS else f"{r.arm} examples", str(r.right), str(r.agreement), str(r.decided),
         *("-" if s is None else str(s) for s in (r.readable, r.first, r.steady)))
        for r in found.arms
    )  # fmt: skip
    header = (
        "arm",
        "right, %",
        "agree with gold, %",
        "decided, %",
        "readable votes, %",
        "for the first shown, %",
        "same in both orders, %",
    )
    about = f"{found.pairs:,} pairs of {found.questions:,} questions, seeds {', '.join(map(str, found.seeds))}"
    return [
        Section(
            title=f"{found.judge}: {about}; %", header=header, rows=arms,
            note="Right: undecided pairs count as half. 95 % intervals, errors clustered by question.",
        ),
        Section(
            title="Differences, pair by pair, points", header=("", "minus", "more right by, points"),
            rows=tuple(
                (d.one, d.other, points(d, found.pairs))
                for d in found.differences
            ),
        ),
    ]  # fmt: skip


def show_guidance(found: Guidance, out: Path, console: Console) -> None:
    show(sections(found), console)
    console.print(f"report: {out / 'guidance.html'}, .md, .json; votes: {out}/ARM-SEED")
