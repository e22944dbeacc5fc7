"""A small curation without models: 90 invented pairs, an oracle for people, a server for judges, and a stand-in trainer.

`curate` runs stage 1 and stage 2 of the real loop in a folder. As a program, which a test can kill:
`python curation.py FOLDER URL`.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from assay.chat import ChatConfig, Server
from assay.curate.annotate import llm_judge
from assay.curate.attributes import rule_attributes
from assay.curate.stage1 import Material, Stage1Config, Stage1Result, Tools, Train, stage1
from assay.curate.stage2 import Stage2Config, stage2
from assay.curate.verify import oracle
from assay.recipes.job import PeopleOnFile
from assay.records import Conversation, Judge, Judgement, Label, Pair, Preference, Response, Scorer, digest, user
from assay.run import Run

CONFIG = Stage1Config(
    iterations=2, seed_gold=12, seed_silver=10, per_iteration=16, gold_share=0.3, held_share=0.3, k_max=4, examples=2
)
WILD = Stage2Config(band=0.2, examples=2, shard_pairs=20)


def pair(n: int) -> Pair:
    """Right is the answer that says the number; it is the shorter one of two thirds of the pairs."""
    right, wrong = f"It is {n}.", f"Perhaps {n + 1}, or {n + 2}." if n % 3 else "No."
    return Pair.of((user(f"What is {n // 2} + {n - n // 2}? Say it in words of group {n % 9}."),), Response.of(right),
                   Response.of(wrong))  # fmt: skip


def truth(p: Pair) -> str:
    return next(r.id for r in p.responses if r.text.startswith("It is"))


def unit(text: str, d: int = 16) -> NDArray[np.float32]:
    x = np.random.default_rng(int(digest([text])[:8], 16)).normal(size=d)
    return (x / np.linalg.norm(x)).astype(np.float32)


def material(numbers: Sequence[int]) -> Material:
    """The pairs of these numbers; the source is right about three in four of them."""
    pairs = [pair(n) for n in numbers]
    choice = {p.id: truth(p) if int(p.id[:6], 16) % 4 else p.other(truth(p)) for p in pairs}
    return Material(
        pairs={p.id: p for p in pairs},
        wild=[Judgement(pair_id=i, better=better, by="wild:web", kind="wild") for i, better in choice.items()],
        attributes={p.id: rule_attributes(p) for p in pairs}, vectors=VECTORS,
    )  # fmt: skip


VECTORS = {p.id: unit(p.prompt[0].content) for p in map(pair, range(120))}
FIRST, SECOND = material(range(60)), material(range(60, 120))


def train(name: str, pairs: Sequence[Preference], gold: Sequence[Preference]) -> Scorer:
    """A reward for every text, another one for every set of labels: what it is trained on decides what is retrieved."""
    about = sorted([p.pair_id, p.chosen.id] for p in pairs)

    def score(conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        draws = [int(digest([name, about, c[-1].content])[:8], 16) / 16**8 for c in conversations]
        return np.array(draws) * 4 - 2

    return score


PEOPLE = oracle({p.id: truth(p) for m in (FIRST, SECOND) for p in m.pairs.values()})


def server(folder: Path, url: str) -> Server:
    config = ChatConfig(url=url, model="m", concurrency=4, tries=2, backoff_s=0.001, timeout_s=5)
    return Server(config, folder / "replies.sqlite")


def curate(
    folder: Path, judge: Judge, people: Judge = PEOPLE, train: Train = train, resettle: bool = False
) -> tuple[Stage1Result, list[Label]]:
    standing = people.standing if isinstance(people, PeopleOnFile) else None
    with closing(Run(folder, {"curation": "small"}, Console(stderr=True, width=400))) as run:
        tools = Tools(people=people, judge=judge, train=train, standing=standing)
        first = stage1(run, CONFIG, FIRST, tools, resettle=resettle)
        return first, stage2(run, WILD, SECOND, first, judge)


if __name__ == "__main__":
    curate(Path(sys.argv[1]), llm_judge([server(Path(sys.argv[1]), sys.argv[2])], samples=2))
