"""Sampled answers with what they earned, step by step, to look at: answers/STEP.parquet in the folder of a training.

Of a step the groups of a few prompts are kept, the first of rank 0's (whose order is random); of a long run not every step.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.rollouts import Prompt, Rollout, Score
from assay.store import Place
from assay.tables import Table, to_arrow, write_shard

PROMPTS = 2
"""Of a step."""
STEPS = 200
"""Of a run, about, evenly spread: some thousand answers."""
FOLDER = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownAnswer:
    """One sampled answer, and its reward by terms (`rollouts.Score`)."""

    step: int
    prompt_id: str
    question: str
    """The last turn; `images` are the ids of the prompt's pictures."""
    images: tuple[str, ...]
    answer: str
    """The right one, "" where it is not known."""
    text: str
    tokens: int
    ended: bool
    rule: float
    format: float
    claims: float
    model: float
    raw: float | None
    total: float
    problem: str
    overlong: float = 0.0


class Shown:
    """Keeps answers of a training whose unfinished folder is `folder`."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.every = folder / FOLDER, max(1, steps // STEPS)
        self.rows: list[ShownAnswer] = []
        self.prompts = 0

    def add(self, step: int, prompt: Prompt, group: Sequence[Rollout], scores: Sequence[Score]) -> None:
        """A group of this step, if there is room for it."""
        if step % self.every or self.prompts >= PROMPTS:
            return
        self.prompts += 1
        self.rows += [
            ShownAnswer(
                step=step + 1, prompt_id=prompt.id, question=prompt.messages[-1].content, images=prompt.images,
                answer=prompt.answer, text=r.text, tokens=len(r.tokens), ended=r.ended, rule=s.rule, format=s.format,
                claims=s.claims, model=s.model, raw=s.raw, total=s.total, problem=s.problem,
                overlong=s.overlong,
            )
            for r, s in zip(group, scores, strict=True)
        ]  # fmt: skip

    def write(self, step: int) -> None:
        """Write what was added; a step that a resumed run takes again is written again."""
        if self.rows:
            write_shard(Place.of(self.folder) / f"{step + 1:08d}.parquet", to_arrow(ShownAnswer, self.rows))
        self.rows, self.prompts = [], 0

    def copy(self, to: Path) -> None:
        """Put all of them into the finished folder."""
        if self.folder.exists():
            shutil.copytree(self.folder, to / FOLDER, dirs_exist_ok=True)


def read(folder: Path, steps: int = 0) -> list[ShownAnswer]:
    """The answers of a training's folder, by step; of `steps` evenly spread steps, the first and the last among them (0: of
    all)."""
    table = Table(folder / FOLDER, ShownAnswer)
    shards = table.shards()
    if steps and len(shards) > steps:
        shards = [shards[round(i * (len(shards) - 1) / max(1, steps - 1))] for i in range(steps)]
    return table.read(*shards) if shards else []
