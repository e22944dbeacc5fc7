"""Published sets of people's (and GPT-4's) choices, as files in a folder per set: one small reader for each.

Most rows are read by the generic layouts; a reader here adds only what its files need: votes of one item that stand in
several rows, a label code, a prompt made of several fields, dialogues to be cut. `people` says whose choices they are.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from assay.errors import AssayError
from assay.formats.dialogues import pair_of
from assay.formats.labels import verdict
from assay.formats.lists import scored_list
from assay.formats.preferred import Outcome, Preferred, labelled, tally, voted
from assay.formats.rows import Row, RowError
from assay.formats.sources import rows
from assay.formats.texts import Cell
from assay.records import Pair

Source = Literal["human", "wild"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanSet:
    """The files of a set, how to read the rows of all of them, and whether people ("human") or GPT-4 ("wild") chose."""

    files: tuple[str, ...]
    read: Callable[[Sequence[Row]], list[Outcome]]
    people: Source = "human"


def each(read: Callable[[Row], list[Outcome]]) -> Callable[[Sequence[Row]], list[Outcome]]:
    """A reader of one row made a reader of all, with errors in the places of bad rows."""

    def one(row: Row) -> list[Outcome]:
        try:
            return read(row)
        except RowError as error:
            return [error]

    return lambda table: [outcome for row in table for outcome in one(row)]


def argument_pair(row: Row) -> list[Outcome]:
    """UKP ConvArg: which of two arguments on one side of a debate convinces more; five workers, or their verdict alone.

    The two files write lines of an argument differently ("<br/>" and an end of line), so that without care only six in ten
    of the cleaned verdicts would be found to be about pairs of the full file.
    """
    about = f"\n\n{row['description'].strip()}" if (row.get("description") or "None") != "None" else ""
    prompt = f"Debate: {row['title']}{about}\n\nArgue for this position: {row['stance']}"
    one, other = (re.sub(r"\s*<br\s*/?>\s*", "\n", row[name]).strip() for name in ("a1", "a2"))
    made: Row = {"prompt": prompt, "a1": one, "a2": other, "label": row["label"]}
    (decided,) = labelled(made)
    if "worker_labels" not in row or not isinstance(decided, Preferred):
        return [decided]
    pair, ids = pair_of(made, one, other, ("a1", "a2"))
    sides = [verdict(v, "worker_labels", made, ("a1", "a2"), None) for v in row["worker_labels"]]
    counted = tally(pair, ids, sides)
    # The set's own verdict weighs workers by their reliability, so it can differ from the plain count.
    share = counted.confidence if counted.better == decided.better else 0.5 if decided.better else 1.0
    return [Preferred(pair=pair, better=decided.better, votes=len(sides), confidence=share)]


def votes_by_item(table: Sequence[Row]) -> list[Outcome]:
    """Vicuna-80 (PRD, QLoRA): a vote a row; the votes on the same two responses to a prompt become one."""
    items: defaultdict[str, list[str | None]] = defaultdict(list)
    pairs: dict[str, Pair] = {}
    bad: list[Outcome] = []
    for row in table:
        try:
            (vote,) = labelled({**row, "input": None})
        except RowError as error:
            bad.append(error)
            continue
        if isinstance(vote, Preferred):
            pairs[vote.pair.id] = vote.pair
            items[vote.pair.id].append(vote.better)
    return [_merged(pairs[key], votes) for key, votes in items.items()] + bad


def _merged(pair: Pair, votes: list[str | None]) -> Preferred:
    ids = (pair.responses[0].id, pair.responses[1].id)
    return tally(pair, ids, [None if v is None else ids.index(v) for v in votes])


def expert_turn(table: Sequence[Row]) -> list[Outcome]:
    """MT-bench: dialogues of two turns, of which a vote on turn 1 saw the first only; an item's votes become one."""
    cut = [
        {**row, **{name: row[name][: 2 * row["turn"]] for name in ("conversation_a", "conversation_b")}}
        for row in table
    ]
    return votes_by_item(cut)


def answer_choices(row: Row) -> list[Outcome]:
    """QA-feedback: four predictions and the six preferences between them (1 the former, 2 the latter, 0 a tie)."""
    outcomes: list[Outcome] = []
    for (one, other), label in zip(combinations(range(1, 5), 2), row["preference"], strict=True):
        names = (f"prediction {one}", f"prediction {other}")
        try:
            pair, ids = pair_of({"question": row["question"]}, row[names[0]], row[names[1]], names)
            side = verdict(label, "preference", row, names, (1, 2))
            outcomes.append(Preferred(pair=pair, better=None if side is None else ids[side]))
        except RowError as error:
            outcomes.append(error)
    return outcomes


def three_annotators(row: Row) -> list[Outcome]:
    """PandaLM: three annotators, 1 or 2 for a response, 0 for a tie. Six answers "True" lost their quotes in the file."""
    said = {name: str(v) if isinstance(v := row[name], bool) else v for name in ("response1", "response2")}
    return voted({**row, **said}, code=(1, 2))


def against_reference(row: Row) -> list[Outcome]:
    """AlpacaEval: candidates against a reference, judged by GPT-4: 1 the reference wins, 2 the candidate, else a draw."""
    outcomes: list[Outcome] = []
    for index, candidate in enumerate(row["candidates"]):
        reference = candidate.get("ref_output") or row["references"][candidate["ref"]]
        field = f"candidates[{index}]"
        names = ("references", f"{field}.output")
        try:
            pair, ids = pair_of({"instruction": row["instruction"]}, reference, candidate["output"], names)
            side = verdict(candidate["preference"], f"{field}.preference", row, names, (1, 2))
            outcomes.append(Preferred(pair=pair, better=None if side is None else ids[side]))
        except RowError as error:
            outcomes.append(error)
    return outcomes


HUMAN_SETS: dict[str, HumanSet] = {
    "ukp-convarg1": HumanSet(files=("ukp-convarg1/convarg1_full_pairs.jsonl.gz",), read=each(argument_pair)),
    "ukp-convarg1-strict": HumanSet(files=("ukp-convarg1/convarg1_strict_pairs.jsonl.gz",), read=each(argument_pair)),
    "vicuna80": HumanSet(files=("vicuna80-human/vicuna80_human_pairs.jsonl.gz",), read=votes_by_item),
    "hh-helpful": HumanSet(files=("dsp-hh-webgpt/helpful.test.json",), read=each(scored_list)),
    "hh-harmless": HumanSet(files=("dsp-hh-webgpt/harmless.test.json",), read=each(scored_list)),
    "webgpt": HumanSet(files=("dsp-hh-webgpt/webgpt.test.json",), read=each(scored_list)),
    "qa-feedback": HumanSet(files=("qa-feedback/dev_feedback.json",), read=each(answer_choices)),
    "mt-bench": HumanSet(files=("mt-bench/human_votes_partial.jsonl.gz",), read=expert_turn),
    "pandalm": HumanSet(files=("pandalm/testset-v1.json",), read=each(three_annotators)),
    "lfqa": HumanSet(files=("lfqa-expert/experts_pairwise_human_preferences.jsonl",), read=each(labelled)),
    "alpaca_eval": HumanSet(
        files=("alpaca_eval/alpacaeval1_gpt4_vs_davinci003.jsonl.gz",), read=each(against_reference), people="wild"
    ),
}
"""By name. The strict UKP pairs are all but a few in the full set too, with the votes."""


def read_set(folder: Path, name: str) -> list[Outcome]:
    """All of one set, with a `RowError` for what cannot be used. Raises AssayError when a file is missing."""
    table: list[Row] = []
    for file in HUMAN_SETS[name].files:
        if not (folder / file).is_file():
            raise AssayError(f"{folder / file}: this file of the set '{name}' is missing; check the folder")
        for item in rows(folder / file):
            if not isinstance(item, Cell):
                raise AssayError(f"{folder / file}, row {item.row}: {item.reason}; take the file from its source again")
            table.append(item.value)
    return HUMAN_SETS[name].read(table)


def read_human_sets(folder: Path, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Preferred, Source]]:
    """(set, judged pair, whose judgement) of the named sets, or of all but the strict UKP pairs, which repeat others."""
    for name in names or tuple(n for n in HUMAN_SETS if n != "ukp-convarg1-strict"):
        for outcome in read_set(folder, name):
            if isinstance(outcome, Preferred):
                yield name, outcome, HUMAN_SETS[name].people
