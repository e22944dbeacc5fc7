"""Where pairs, gold and attributes of a judging command come from: a pool, a run, a file of judgements, published sets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.curate.human_sets import HUMAN_SETS, read_human_sets
from assay.curate.settle import settle_all
from assay.curate.verify import read_judgements
from assay.errors import AssayError
from assay.recipes.pools import check_whole
from assay.records import Attributes, Judgement, Pair, Truth
from assay.tables import Table

_PEOPLE = frozenset({"lead", "human", "oracle"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Pairs by id, the better response of those that are gold, and the attributes that are known."""

    pairs: Mapping[str, Pair]
    gold: Mapping[str, str]
    attributes: Mapping[str, Attributes]


def read_material(
    source: Path, gold: Sequence[Path] = (), attributes: Path | None = None, sets: Sequence[str] = ()
) -> Material:
    """What `source` holds, with `gold` of other places.

    `source` is a folder with tables/pairs (a pool, a run, or an earlier `assay annotate`), or a folder of published sets of
    people's choices, of which `sets` names those to read; their choices are gold. `gold`: files of judgements (JSON lines;
    people's count) or folders like `source`, whose labels are taken as people's: say so only of a pool that people labelled.
    """
    if sets:
        pairs, better = _published(source, sets)
    else:
        pairs, better = _pairs(source), {}
    for place in gold:
        found, theirs = _gold(place, pairs)
        pairs = {**found, **pairs}
        better |= theirs
    unknown = better.keys() - pairs.keys()
    if gold and unknown and len(unknown) == len(better):
        raise AssayError(
            f"no pair of --gold {' '.join(map(str, gold))} is in {source}: give the folder that has them too"
        )
    known = {a.pair_id: a for a in _attributes(attributes or source, required=attributes is not None)}
    return Material(
        pairs=pairs, gold={p: b for p, b in better.items() if p in pairs},
        attributes={p: a for p, a in known.items() if p in pairs},
    )  # fmt: skip


def _pairs(folder: Path) -> dict[str, Pair]:
    table = Table(folder / "tables" / "pairs", Pair)
    if not table.shards():
        raise AssayError(
            f"{folder}: no pairs here; make a pool with: assay pool add, or name --sets of published choices"
        )
    check_whole(folder)
    return {p.id: p for p in table.stream()}


def _attributes(folder: Path, required: bool) -> Iterable[Attributes]:
    table = Table(folder / "tables" / "attributes", Attributes)
    if required and not table.shards():
        raise AssayError(f"--attributes {folder}: no attributes here; make them with: assay attributes")
    return table.stream()


def _gold(place: Path, known: Mapping[str, Pair]) -> tuple[dict[str, Pair], dict[str, str]]:
    """(pairs, better response by pair id) of a file or folder given as gold; `known` are pairs that a file may be about."""
    if place.is_file():
        return {}, _settled(j for j in read_judgements(place, known) if j.kind in _PEOPLE)
    pairs = _pairs(place)
    truth = {t.pair_id: t.better for t in Table(place / "tables" / "truth", Truth).stream()}
    people = [j for j in read_judgements(place / "judgements.jsonl", pairs) if j.kind in _PEOPLE]
    people += [j for j in Table(place / "tables" / "judgements", Judgement).stream() if j.kind in _PEOPLE]
    labels = people or ([] if truth else Table(place / "tables" / "wild", Judgement).read())
    better = {**truth, **_settled(labels)}
    if not better:
        raise AssayError(f"--gold {place}: no labels here")
    return pairs, better


def _settled(judgements: Iterable[Judgement]) -> dict[str, str]:
    return {label.pair_id: label.chosen for label in settle_all(judgements, "gold") if label.chosen is not None}


def _published(folder: Path, sets: Sequence[str]) -> tuple[dict[str, Pair], dict[str, str]]:
    """Pairs of published sets with what people chose; a pair on which sets contradict each other is not gold."""
    wrong = sorted(set(sets) - HUMAN_SETS.keys())
    if wrong:
        raise AssayError(f"unknown set '{wrong[0]}'; known: {', '.join(HUMAN_SETS)}")
    pairs: dict[str, Pair] = {}
    better: dict[str, str | None] = {}
    for _, found, people in read_human_sets(folder, tuple(sets)):
        pairs[found.pair.id] = found.pair
        if people == "human" and found.better is not None:
            same = better.get(found.pair.id, found.better) == found.better
            better[found.pair.id] = found.better if same else None
    return pairs, {p: b for p, b in better.items() if b is not None}
