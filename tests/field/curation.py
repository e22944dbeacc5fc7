"""A small curation without models: 120 invented pairs, an oracle for people, a server for judges, and a stand-in trainer.

`curate` runs stage 1 and stage 2 of the real loop in a folder. As a program, which a test can kill:
`python curation.py FOLDER URL`.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from assay.curate.annotate import llm_judge
from assay.curate.material import Material
from assay.curate.prepare import SplitConfig, prepare
from assay.curate.shards import create
from assay.curate.stage1 import Stage1Config, Tools, Train, stage1
from assay.curate.stage2 import Stage2Config, stage2
from assay.curate.verify import oracle
from assay.curate.views import LabelSet
from assay.engine import Here
from assay.llm.chat import ChatConfig
from assay.llm.client import Server
from assay.order import draws
from assay.pipeline.people_on_file import PeopleOnFile
from assay.records import Conversation, Judge, Judgement, Label, Pair, Preference, Response, Scorer, digest, user
from assay.run import Run
from assay.store import Place

CONFIG = Stage1Config(
    iterations=2,
    seed_gold=12,
    seed_silver=10,
    per_iteration=16,
    gold_share=0.3,
    held_share=0.3,
    k_max=4,
    examples=2,
    checked=0,
)
WILD = Stage2Config(band=0.2, examples=2)
SPLIT = SplitConfig(stage1_share=0.5, held_share=CONFIG.held_share)
PARTS = 3


def pair(n: int) -> Pair:
    """Right is the answer that says the number; it is the shorter one of two thirds of the pairs."""
    right, wrong = f"It is {n}.", f"Perhaps {n + 1}, or {n + 2}." if n % 3 else "No."
    return Pair.of((user(f"What is {n // 2} + {n - n // 2}? Say it in words of group {n % 9}."),), Response.of(right),
                   Response.of(wrong))  # fmt: skip


def truth(p: Pair) -> str:
    return next(r.id for r in p.responses if r.text.startswith("It is"))


PAIRS = {p.id: p for p in map(pair, range(120))}
"""The source is right about three in four of them."""
VOTES = [
    Judgement(pair_id=i, better=truth(p) if int(i[:6], 16) % 4 else p.other(truth(p)), by="wild:web", kind="wild")
    for i, p in PAIRS.items()
]
_OPEN = dict(zip(PAIRS, draws([p.question_id for p in PAIRS.values()], "split") < SPLIT.stage1_share, strict=True))
FIRST = SimpleNamespace(pairs={i: p for i, p in PAIRS.items() if _OPEN[i]})
SECOND = SimpleNamespace(pairs={i: p for i, p in PAIRS.items() if not _OPEN[i]})
"""The pairs of stage 1, and those of stage 2."""


def embed(texts: Sequence[str], d: int = 16) -> NDArray[np.float32]:
    """A vector for every question, at random."""
    x = np.stack([np.random.default_rng(int(digest([t[:60]])[:8], 16)).normal(size=d) for t in texts])
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def material(run: Run) -> Material:
    """The pairs as a pool of three parts, prepared in the folder of a run."""
    folder = Place.of(run.folder.absolute())
    pool = create(folder / "pool", PAIRS.values(), VOTES, parts=PARTS)
    slices = prepare(pool, folder / "tables", SPLIT, {}, embed, "random", Here())
    return Material(pool=pool, slices=slices, out=folder / "tables")


def train(name: str, labels: LabelSet, gold: Sequence[Preference]) -> Scorer:
    """A reward for every text, another one for every set of labels: what it is trained on decides what is retrieved."""
    about = sorted(labels.frame().select("pair_id", "chosen").rows())

    def score(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        draws = [int(digest([name, about, c[-1].content])[:8], 16) / 16**8 for c in conversations]
        return np.array(draws) * 4 - 2

    return score


PEOPLE = oracle({p.id: truth(p) for p in PAIRS.values()})


def server(folder: Path, url: str) -> Server:
    config = ChatConfig(url=url, model="m", concurrency=4, tries=2, backoff_s=0.001)
    return Server(config, folder / "replies.sqlite")


def curate(
    folder: Path, judge: Judge, people: Judge = PEOPLE, train: Train = train, resettle: bool = False
) -> tuple[list[Label], list[Label]]:
    """The labels of stage 1 and of stage 2."""
    standing = people if isinstance(people, PeopleOnFile) else None
    with closing(Run(folder, {"curation": "small"}, Console(stderr=True, width=400))) as run:
        tools = Tools(people=people, judge=judge, train=train, standing=standing, at_once=4)
        pool = material(run)
        first = stage1(run, CONFIG, pool, tools, resettle=resettle)
        stage2(run, WILD, pool, first, judge, tools.at_once)
        labels = run.table("labels", Label)
        assert len(first.labels) == len(labels.read("stage1"))
        return labels.read("stage1"), labels.read(*labels.shards("stage2-"))


if __name__ == "__main__":
    curate(Path(sys.argv[1]), llm_judge([server(Path(sys.argv[1]), sys.argv[2])], samples=2))
