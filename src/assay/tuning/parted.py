"""A sampler's answers in parts that are kept: commands that ask a policy once go on after a kill, and many processes share
the questions. How many they are changes no answer: each part is drawn by its own number.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.records import digest
from assay.rollouts import Prompt, Rollout
from assay.run import Run
from assay.tables import check_new, remove

if TYPE_CHECKING:
    from assay.step import Engine

PART = 32
"""Questions between two writes."""
ASKED = "asked"
"""The folder of what servers have answered of parts that are not whole yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Rollout):
    """A rollout as it is kept; `entropies` are those of a greedy one's tokens, in nats, where the sampler knows them."""

    entropies: tuple[float, ...] = ()


def keep_answers(sampler: Any, run: Run) -> None:
    """Servers' answers are kept as they come, those of an unfinished part too."""
    if hasattr(sampler, "keep_in"):
        sampler.keep_in(run.folder / ASKED)


class PartedSampler:
    """Looks to its callers as the sampler that it asks. Every process must make the same calls."""

    def __init__(self, sampler: Any, run: Run, engine: "Engine") -> None:
        self.sampler, self.run, self.engine = sampler, run, engine
        self.config, self.answer_start = sampler.config, sampler.answer_start
        self.policy = getattr(sampler, "policy", None)
        keep_answers(sampler, run)
        if hasattr(sampler, "entropies"):
            self.entropies: dict[str, tuple[float, ...]] = {}

    def load(self, step: int) -> None:
        self.sampler.load(step)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        return self.sampler.prompt_ids(prompt)  # type: ignore[no-any-return]

    def __call__(self, prompts: Sequence[Prompt], n: int, draw: int = 0) -> list[list[Rollout]]:
        asked = digest([[p.id for p in prompts], n, draw])[:16]
        parts = [prompts[at : at + PART] for at in range(0, len(prompts), PART)]
        table, names = self.run.table("answers", Answered), [f"{asked}-{k:05d}" for k in range(len(parts))]
        for number in range(self.engine.rank, len(parts), self.engine.world):
            table.once(names[number], lambda number=number: self._made(parts[number], n, draw * len(parts) + number))  # type: ignore[misc]
            if self.engine.lead and number + self.engine.world < len(parts):
                self.run.say(
                    f"answers to {min(len(prompts), (number + self.engine.world) * PART):,} of {len(prompts):,}"
                )
        self.engine.wait()
        found: list[list[Rollout]] = []
        for name in names:
            rows = table.read(name)
            if hasattr(self, "entropies"):
                self.entropies |= {r.prompt_id: r.entropies for r in rows}
            found += [list[Rollout](rows[at : at + n]) for at in range(0, len(rows), n)]
        return found

    def _made(self, prompts: Sequence[Prompt], n: int, draw: int) -> list[Answered]:
        groups = self.sampler(prompts, n, draw)
        known = getattr(self.sampler, "entropies", {})
        return [Answered(**asdict(r), entropies=known.get(r.prompt_id, ())) for group in groups for r in group]


@contextmanager
def kept(engine: "Engine", folder: Path, settings: dict[str, Any], out: Path | None = None) -> Iterator[Run]:
    """A run folder that all processes have open, which goes away when its command has ended well. Raises AssayError where it
    holds the answers to something else, and where the file `out` that shall come of it is there."""
    here = list[Run]()

    def opened() -> Any:
        here.append(Run(folder, settings))
        if out is not None and out.exists():  # of another command, which ended meanwhile
            remove(folder)
            here[0].close()
            check_new(out)
        return here[0].place

    place = engine.lead_says(opened)
    run = here[0] if engine.lead else Run.joined(*place)
    try:
        yield run
        engine.wait()
        done = True
    except BaseException:
        done = not any((folder / name).exists() for name in ("tables", ASKED))  # nothing was answered yet
        raise
    finally:
        if engine.lead and done:
            remove(folder)
        run.close()
