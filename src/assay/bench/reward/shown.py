"""Pairs of answers to a question about a picture: what the benchmarks for reward models that see have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.bench.benchmark import Choice, Scores, Wins
from assay.bench.files import Row
from assay.bench.results import Cell, cell
from assay.bench.verdicts import Draw, Verdicts
from assay.images import ImageStore
from assay.records import Conversation, Message, assistant


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown(Choice):
    """A pair about one picture. `right_first`: the right answer is the first of the file's two; `picture`: what errors are
    clustered by, for several pairs may be about one ("" where pictures were not asked for)."""

    right_first: bool
    picture: str


def shown(
    row: Row, id_: str, source: str, stratum: str, question: str, answers: tuple[str, str], right_first: bool,
    picture: tuple[str, Path], store: ImageStore | None,
) -> Shown:  # fmt: skip
    """The pair of a row; `picture` is the field that holds it, or its path, and the benchmark's folder. No store: words
    alone."""
    name = store.add(row.picture(*picture)) if store is not None else ""
    prompt: Conversation = (Message(role="user", content=question, images=(name,) if name else ()),)
    best, loser = answers if right_first else answers[::-1]
    return Shown(
        id=id_, source=source, stratum=stratum, prompt=prompt, best=(*prompt, assistant(best)),
        losers=((*prompt, assistant(loser)),), right_first=right_first, picture=name,
    )  # fmt: skip


def clusters(items: Sequence[Shown]) -> list[Conversation | str]:
    """What errors are clustered by: pictures, else questions."""
    return [i.picture or i.prompt for i in items]


def parts(
    items: Sequence[Shown], scores: Scores | Wins, named: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Cell], list[float]]:
    """(the accuracy on each part that has pairs here, whether each pair is right); a part is made of strata."""
    right, keys = [float(i.right(scores)) for i in items], clusters(items)
    cells = {}
    for name, strata in named.items():
        at = [k for k, i in enumerate(items) if i.stratum in strata]
        if at:
            cells[name] = cell(name, [right[k] for k in at], [keys[k] for k in at])
    return cells, right


def draws(verdicts: Verdicts, item: Shown) -> tuple[Draw, ...]:
    """The judge's verdicts on a pair, draw by draw: with the right answer shown first, and last."""
    return verdicts.draws[item.duels[0]]
