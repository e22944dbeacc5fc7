"""The library: pools, runs and reward models as objects, over the same functions as the command line (docs/python.md).

A pool or run is a folder, and an object here only its name: what another process does to the folder is seen. Mistakes raise
AssayError with the line that the command line would print. What takes long prints its progress, and goes on where it was
killed when it is called again with the same arguments.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assay.cli.run import Llms, run_pool
from assay.curate import pool as importing
from assay.curate import shards
from assay.errors import AssayError
from assay.formats.reading import Fields
from assay.pipeline.exchange import exported
from assay.pipeline.finished import labels_of
from assay.pipeline.flow import FlowConfig
from assay.pipeline.settings import Tool
from assay.recipes import presets
from assay.records import Conversation, Judge, Pair, Preference, Scorer, assistant, user
from assay.reward.config import TrainConfig
from assay.show import find, life
from assay.store import Place
from assay.tables import read_json, remove, sibling

if TYPE_CHECKING:
    from assay.bench.results import BenchmarkResult, Skipped


def _quiet(_: str) -> None:
    """Say nothing."""


class _Labelled:
    """What pools and runs have in common: a folder (or URL) of pairs, their labels, and the life of each."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.folder!r})"

    def preferences(self, labels: str = "raw") -> list[Preference]:
        """All labelled pairs, in memory. Of a run: raw, stage1, filtered or flipped; of a pool: raw."""
        with TemporaryDirectory() as beside:
            return labels_of(self.folder, labels, Place.of(beside)).preferences()

    def export(self, out: str | Path, labels: str = "raw", to: Tool = "parquet") -> int:
        """Write the labels into the new folder `out` (`assay reward export`), and return their number: as Parquet, which
        `RewardModel.train` reads, or for trl, openrlhf, llamafactory, jsonl, with tier, fate, reason and votes."""
        return exported(self.folder, Path(out), labels, to)

    def explain(self, pair_id: str) -> list[dict[str, Any]]:
        """Every row about the pair whose id begins so, in the order in which they came to be: votes, judgements, label with
        its fate and reason. Each has its `table`."""
        place = Place.of(self.folder)
        return [{"table": table, "shard": shard, **row} for table, shard, row in life(place, find(place, pair_id))]


class Pool(_Labelled):
    """Pairs with what their sources say of them, in a folder or an object store (`s3://bucket/pool`).

    Example: Pool.add("prefs.jsonl", out="pool")

    Raises AssayError where no pool is there.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._held()

    @classmethod
    def add(
        cls, *sources: str | Path, out: str | Path, layout: str | None = None, name: str | None = None,
        fields: dict[str, str] | None = None, say: Callable[[str], None] = _quiet,
    ) -> "Pool":  # fmt: skip
        """Import files, folders or hub ids into a pool, which is made where there is none.

        `layout` names the shape of the rows instead of having it detected, `name` the source; `fields` maps fields to the
        columns that hold them ({"chosen": "win"}). `say` is told what became of each file. Raises AssayError where labels
        can be read in two ways, and where no row could be read; single bad rows are counted and kept (`rejections`).
        """
        if not sources:
            raise AssayError("Pool.add needs at least one source: a file, a folder or a dataset id")
        mapped = Fields.of(tuple(f"{field}={column}" for field, column in (fields or {}).items()), ())
        told = importing.add(list(map(str, sources)), Place.of(out), layout=layout, name=name, fields=mapped, say=say)
        if not told.pairs:
            raise AssayError(f"no usable pair in {', '.join(map(str, sources))}:\n{told}")
        return cls(out)

    def _held(self) -> shards.Pool:
        return shards.Pool.open(Place.of(self.folder))

    def __len__(self) -> int:
        """How many different pairs it holds."""
        return self._held().pairs

    def __iter__(self) -> Iterator[Pair]:
        """All pairs, in the order of the folder, a part of a file at a time."""
        held = self._held()
        for shard in (s for s in held.shards if s.pairs):
            yield from held.table("pairs").stream(shard.name)  # type: ignore[misc]

    def rejections(self) -> list[dict[str, Any]]:
        """The rows that could not be read, each with file, row, field and reason."""
        return [dict(r) for r in self._held().table("rejections").frame().iter_rows(named=True)]

    def curate(
        self, out: str | Path, *, judge: Judge | Sequence[str] = (), people: Judge | None = None, samples: int = 3,
        price: tuple[float, float] = (0.0, 0.0), budget: float = 0.0, config: FlowConfig | None = None,
        at_chance: bool = False,
    ) -> "Run":  # fmt: skip
        """Run part A (`assay run pool`): people verify, judges label, reward models are trained; a report at the end.

        `judge`: LLMs as MODEL@URL of OpenAI-compatible servers (asked `samples` times each; `price` of a million tokens in
        and out, `budget` in the same money), or a function of cases that returns a judgement of each. Without one, sources'
        labels are kept or dropped by what people verified. `people`: a function likewise; without one, people answer on the
        page or in the terminal, and AssayError says how many pairs wait: call this again when they are judged. `config`
        defaults to `recipes.presets.pool()`; a run does not go on with another one. `at_chance`: go on with a judge that
        agrees with people no more than a coin would.
        """
        folder, config = Path(out), config or presets.pool()
        if not callable(judge) and people is None:
            llms = Llms(judge=tuple(judge), samples=samples, price=price, budget=budget)
            run_pool(self.folder, config, folder, llms=llms, at_chance=at_chance)
            return Run(folder)
        if not callable(judge) and judge:
            raise AssayError("curate: people as a function go with a judge as a function, or with none")
        from assay.pipeline.job import run_job
        from assay.pipeline.people_on_file import PeopleOnFile
        from assay.report.page import write_report

        who = people or PeopleOnFile(folder / "judgements.jsonl", folder / "queue")
        asked = {"people": _named(people) if people else "judgements.jsonl"}
        asked |= {"judge": _named(judge)} if callable(judge) else {}
        run_job(folder, config, self._held(), who, judge if callable(judge) else None, asked=asked, at_chance=at_chance)
        write_report(folder)
        return Run(folder)


class Run(_Labelled):
    """The folder of an `assay run`, finished or not. Raises AssayError where none is there."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        if not (Path(folder) / "config.json").exists():
            raise AssayError(f"{folder}: not a run folder; give the --out folder of an `assay run`")

    @property
    def config(self) -> dict[str, Any]:
        """The settings that the run keeps to."""
        return dict(read_json(Place.of(self.folder) / "config.json"))

    def model(self, seed: int = 0, **how: Any) -> "RewardModel":
        """The released reward model of a seed; `how` as for `RewardModel`."""
        place = Path(self.folder) / f"seed-{seed}" / "models" / "final"
        if not (place / "config.json").exists():
            raise AssayError(f"{self.folder}: seed {seed} has no final model yet; run it to its end")
        return RewardModel(place, **how)

    def report(self) -> Path:
        """Write the HTML report again, and return where it is."""
        from assay.report.page import write_report

        return write_report(Path(self.folder))


class RewardModel:
    """Whatever gives rewards, as a `Scorer`: a folder or hub id of a sequence classifier with one output, the URL of a
    reward server, or MODULE:FUNCTION. Longer conversations lose the front of their history.

    Example: RewardModel("runs/mine/seed-0/models/final").score("Name a fruit.", ["An apple.", "A chair."])
    """

    def __init__(
        self, name: str | Path, *, max_tokens: int = 2048, precision: str = "fp32", images: Path | None = None
    ) -> None:
        from assay.reward.scorer import load_scorer

        self.name, self.max_tokens = str(name), max_tokens
        self.scorer: Scorer = load_scorer(name, max_tokens, precision=precision, images=images)

    def __repr__(self) -> str:
        return f"RewardModel({self.name!r})"

    @classmethod
    def train(
        cls, source: Pool | Run | str | Path, out: str | Path, config: TrainConfig | None = None, *, labels: str = "raw",
        gold: Path | None = None, processes: int = 1, say: Callable[[str], None] = _quiet,
    ) -> "RewardModel":  # fmt: skip
        """Train one (`assay reward train`) on a pool, a run's `labels` (raw, stage1, filtered, flipped) or a folder of
        Parquet preferences; `gold` chooses the checkpoint. Called again, it goes on; a finished one is read from `out`.
        """
        from assay.pipeline.finished import training_data
        from assay.pipeline.training import fit
        from assay.reward.launch import check_processes

        check_processes(processes)
        folder, settings = Path(out), config or TrainConfig()
        beside = sibling(folder, ".data")
        pairs, held = training_data(
            source.folder if isinstance(source, _Labelled) else source, labels, gold, beside, say
        )
        fit(folder, settings, pairs, held, processes, say)
        remove(beside)
        return cls(folder, max_tokens=settings.max_tokens)

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        """(n,) rewards of n whole conversations; NaN for one that the model cannot read."""
        return self.scorer(conversations)

    def score(self, prompt: str | Conversation, responses: Sequence[str]) -> NDArray[np.float64]:
        """(n,) rewards of n responses to a prompt: a text, or messages. Only their differences mean anything."""
        turns = (user(prompt),) if isinstance(prompt, str) else tuple(prompt)
        return self([(*turns, assistant(r)) for r in responses])

    def rank(self, prompt: str | Conversation, responses: Sequence[str]) -> list[str]:
        """The responses, best first. Raises AssayError for one that the model cannot read."""
        rewards = self.score(prompt, responses)
        if np.isnan(rewards).any():
            raise AssayError(f"{self.name}: cannot read response {int(np.flatnonzero(np.isnan(rewards))[0]) + 1}")
        return [responses[i] for i in np.argsort(-rewards, kind="stable")]

    def bench(
        self, *data: str | Path, only: Sequence[str] = (), limit: int = 0, layout: str = ""
    ) -> "dict[str, BenchmarkResult | Skipped]":
        """Accuracy on public benchmarks or on labelled pairs of your own (`assay bench`), by name.

        `data`: folders of benchmarks, pools, exported preferences, or files in any `layout` that `Pool.add` reads. `limit`:
        at most so many items of each, a stratified sample. Each result has `headline.value` in per cent and its `interval`,
        and stands in the card of a model's folder.
        """
        from assay.cli.bench import measured
        from assay.pipeline.measured import put_in_card
        from assay.pipeline.own_benchmarks import plan

        planned = plan([Path(d) for d in data], only, layout)
        found = measured(planned, self.scorer, limit or None, getattr(self.scorer, "problems", {}))
        put_in_card(Path(self.name), found, self.max_tokens)
        return dict(zip(planned, found, strict=True))


def _named(function: object) -> str:
    """What a run keeps of a function that answers in it."""
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', type(function).__qualname__)}"
