"""`assay run`: part A from a pool to trained reward models."""

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console
from tyro.conf import Positional

from assay.cli.arguments import App, Flat, asking_of, chat_config
from assay.cli.run_file import kept
from assay.curate.cost import Judging
from assay.engine import Engine, engine_of
from assay.errors import AssayError
from assay.llm.batches import BatchServer
from assay.llm.budget import Budget
from assay.llm.client import Server
from assay.pipeline.flow import FlowConfig
from assay.recipes import presets

if TYPE_CHECKING:
    from assay.judges.servers import Servers

app = App()


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """On which machines and devices a run works."""

    engine: str = "local"
    """Where stages run, shard by shard: local (this process), cores (all of this machine), cores:N, ray (the cluster that
    runs, or one on this machine), ray://HOST:PORT. It changes no result, but for the last digits of what models say."""
    processes: int = 0
    """Train each model on so many processes, and score with so many copies: one for each device, on Ray of the cluster (0:
    one for each accelerator there is, or one). Under torchrun or accelerate launch: all of theirs."""
    trackers: tuple[str, ...] = ()
    """Where metrics of trainings and the numbers of all steps go besides OUT: tensorboard, wandb, mlflow, trackio, ..."""

    def opened(self) -> Engine:
        """The engine; in an allocation only the first process has stages, and the others join no cluster."""
        return engine_of(self.engine if os.environ.get("RANK", "0") == "0" else "local", self.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Llms:
    """LLM servers that judge pairs and describe them."""

    judge: tuple[str, ...] = ()
    """LLM judges as MODEL@URL of OpenAI-compatible servers (https://HOST/v1); the key is $OPENAI_API_KEY."""
    attributes: str = ""
    """An LLM that describes the pairs, as MODEL@URL (default: rules)."""
    samples: int = 3
    """Votes that each judge gives to a pair (self-consistency)."""
    price: tuple[float, float] = (0.0, 0.0)
    """Of a million tokens in and out, of all LLM servers."""
    budget: float = 0.0
    """The most that LLM servers may cost, earlier runs in this folder included; the run stops before the request that could
    pass it, and a larger budget goes on (0: no limit)."""
    batch: bool = False
    """Ask LLM servers through their batch APIs (/v1/batches), at half the price, within a day for each step."""
    reply_tokens: int = 1024
    """The most tokens of a reply. What it cuts is no verdict; a larger one goes on with the same run."""
    servers_moved: bool = False
    """The models are those that the run asked before, where their servers are at other addresses now: go on with them, and
    ask nothing again."""

    def judging(self, config: FlowConfig) -> Judging | None:
        """What a forecast of their costs needs to know."""
        if not self.judge:
            return None
        price = (self.price[0] / 2, self.price[1] / 2) if self.batch else self.price
        return Judging(judges=len(self.judge), samples=self.samples, examples=config.stage2.examples, price=price)

    def check(self, config: FlowConfig) -> None:
        """Raises AssayError for what does not go together."""
        if self.judge and config.offline_judge:
            raise AssayError("--judge and --offline-judge: choose one of them")
        if self.budget and not any(self.price):
            raise AssayError("--budget needs --price IN OUT, of a million tokens: without prices nothing is spent")

    def asked(self, out: Path, pool: Path | None, addresses: "Servers") -> tuple[list[Server], list[Server]]:
        """The judges, and who describes pairs (one, or none), with their replies in the run folder. `pool`: the folder of
        the pool, where it is one, for its pictures."""
        purse, pictures = Budget(self.budget) if self.budget else None, pool / "images" if pool is not None else None

        def servers(role: str, named: Sequence[str]) -> list[Server]:
            configs = [chat_config(text, role, self.price, self.reply_tokens, pictures) for text in named]
            made = BatchServer if self.batch else Server
            return [made(c, out / "replies.sqlite", purse) for c in addresses.of(role, configs)]

        return servers("judge", self.judge), servers("attributes", [self.attributes] if self.attributes else [])


@app.command(name="tiny")
@kept("run tiny")
def run_tiny(
    config: Annotated[FlowConfig, Flat] = presets.tiny(),  # noqa: B008
    out: Path = Path("runs/tiny"),
    people: Literal["erring", "oracle"] = "erring",
    where: Annotated[Where, Flat] = Where(),
) -> None:
    """The embedded default: checkable instructions, simulated people, an offline judge; minutes on two cores.

    Args:
        config: The run's settings.
        out: The run folder; the same command resumes what is in it.
        people: Simulated from the known answers: two annotators who err in 10 and 15 of 100 pairs, or an oracle.
        where: On which machines and devices.
    """
    from assay.curate.people import ANNOTATORS, erring
    from assay.curate.verify import oracle
    from assay.pipeline.pools import constraint_pool

    engine, pool = where.opened(), constraint_pool()
    who, told = (oracle, "oracle") if people == "oracle" else (erring, ANNOTATORS)
    _run(where, engine, out, config, pool, people=who(pool.truth), asked={"people": told}, at_chance=True)


@app.command(name="human")
@kept("run human")
def run_human(
    data: Positional[Path],
    config: Annotated[FlowConfig, Flat] = presets.human(),  # noqa: B008
    out: Path = Path("runs/human"),
    sets: tuple[str, ...] = (),
    per_set: int = 0,
    where: Annotated[Where, Flat] = Where(),
) -> None:
    """Real people's preference sets: what people said together answers for people, single voices are in the wild.

    Args:
        data: The folder of preference sets, one subfolder each: ukp-convarg1, vicuna80-human, dsp-hh-webgpt, ...
        config: The run's settings; --benchmarks DIR adds the public benchmarks and decontaminates against them.
        out: The run folder; the same command resumes what is in it.
        sets: ukp-convarg1, vicuna80, hh-helpful, hh-harmless, webgpt, qa-feedback, mt-bench, pandalm, lfqa, alpaca_eval
            (default: all that lie there).
        per_set: At most so many pairs of each set (0: 2,500, and all of a set that is alone).
        where: On which machines and devices.
    """
    from assay.pipeline.people_on_file import recorded_people
    from assay.pipeline.pools import human_pool

    engine, pool = where.opened(), human_pool(data, sets, per_set, say=print)
    people = recorded_people(pool.truth)
    _run(where, engine, out, config, pool, people=people, asked={"people": "recorded"}, at_chance=True)


def _costs(
    pool: str, config: FlowConfig, out: Path, judgements: Path, llms: Llms, **_: Any
) -> None:  # fmt: skip
    """Say (on stderr) what people and stage 2 will cost, where the pool is there."""
    from assay.curate.shards import Pool
    from assay.pipeline.planning import people_forecast, stage2_cost
    from assay.store import Place

    if (Place.of(pool) / "pool.json").exists():
        found = Pool.open(pool)
        lines = people_forecast(found, config, out, out / judgements)
        print(*lines, *stage2_cost(found, config, out, llms.judging(config)).lines(), sep="\n", file=sys.stderr)


@app.command(name="pool")
@kept("run pool", _costs, " Say as well what stage 2 will cost: pairs, tokens, GPU hours, requests, money.")
def run_pool(
    pool: Positional[str],
    config: Annotated[FlowConfig, Flat] = presets.pool(),  # noqa: B008
    out: Path = Path("runs/pool"),
    judgements: Path = Path("judgements.jsonl"),
    llms: Annotated[Llms, Flat] = Llms(),
    resettle: bool = False,
    at_chance: bool = False,
    where: Annotated[Where, Flat] = Where(),
    wait: bool = False,
    web: bool = False,
) -> None:
    """Your own pool: people answer in the terminal (`assay verify`) or on the page, judges are LLM servers (--judge).

    Without judges the labels of sources are kept or dropped by what people verified, and none is turned round; the offline
    judge, which can, works where --offline-judge asks for it. Judges are compared with people in every round, and stop the
    run where they are no better than a coin.

    The run pauses when it needs people (exit code 4), says how many answers are missing, and goes on with
    `assay resume OUT`; with --wait or --web it goes on by itself. It stops as well where a server does not answer: nothing
    is decided by that, and it asks only what failed. A run keeps to its pool, judges, samples and attributes.

    Args:
        pool: A pool folder made by `assay pool add`, or its URL (s3://, gs://).
        config: The run's settings.
        out: The run folder; the same command resumes what is in it.
        judgements: The file in which `assay verify` keeps people's answers, inside the run folder.
        llms: Who judges and describes.
        resettle: Where people have corrected answers (or a lead has decided) since the labels were made: make the labels and
            all that follows from them anew. What was made before is kept in seed-N/superseded.
        at_chance: Go on with judges that agree with people's gold no more than a coin would.
        where: On which machines and devices.
        wait: Do not stop for people: go on as soon as they have answered.
        web: As --wait, and serve the page on which they answer (`assay web OUT` with its defaults) as long as the run works.
    """
    llms.check(config)
    from assay.curate.annotate import llm_judge
    from assay.curate.book import AT_ONCE, IN_A_BATCH
    from assay.curate.shards import Pool
    from assay.judges.servers import Servers
    from assay.llm.outage import probe
    from assay.pipeline.people_on_file import PeopleOnFile
    from assay.pipeline.planning import people_forecast
    from assay.pipeline.waiting_room import waiter
    from assay.store import Place

    if (out / "config.json").exists() and not (Place.of(pool) / "pool.json").exists():
        raise AssayError(f"{pool}: this run's pool is not there; where it was moved: assay resume {out} /WHOLE/PATH")
    engine, found, addresses = where.opened(), Pool.open(pool), Servers.of_run(out, llms.servers_moved)
    judges, describers = llms.asked(out, found.place.path, addresses)
    asked = {"people": str(judgements), "attributes": asking_of(describers) if describers else "rules"}
    asked |= {"judge": {**asking_of(judges), "samples": llms.samples}} if judges else {}

    def accepted() -> None:
        for line in people_forecast(found, config, out, out / judgements):
            print(line, file=sys.stderr)
        probe([*judges, *describers])
        addresses.keep()

    _run(
        where, engine, out, config, found, asked=asked, accepted=accepted, resettle=resettle, at_chance=at_chance,
        people=PeopleOnFile(out / judgements, out / "queue", waiter(web=web) if wait or web else None),
        judge=llm_judge(judges, samples=llms.samples) if judges else None, chat=next(iter(describers), None),
        at_once=IN_A_BATCH if llms.batch else AT_ONCE,
    )  # fmt: skip


def _run(where: Where, engine: Engine, out: Path, *what: Any, **how: Any) -> None:
    """Do the job (`run_job`), on so many processes, and report on it: when stage 1 is done, and at the end. In an allocation
    (torchrun, accelerate) the first process does; the others train along."""
    from assay.pipeline.job import run_job
    from assay.report.page import first_summary, summary, write_report
    from assay.reward.crew import attend, dismiss
    from assay.reward.launch import how_many

    with closing(engine):
        processes = how_many(where.processes, engine)
        if not attend():
            return
        console = Console(highlight=False)
        try:
            run_job(out, *what, **how, engine=engine, processes=processes, trackers=where.trackers,
                    after_stage1=lambda seed: first_summary(seed, console))  # fmt: skip
        finally:
            dismiss()
    path = write_report(out)
    summary(out, console)
    print(f"report: {path}")
