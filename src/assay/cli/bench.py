"""`assay bench`: measure a reward model, compare two, and see which benchmarks agree."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from assay.cli.arguments import App, Flat, asking_of, chat_config
from assay.errors import AssayError
from assay.llm.client import Server
from assay.locks import alone
from assay.policy.config import AskConfig, SamplerConfig, VllmConfig
from assay.records import Scorer
from assay.reward.remote import Layout
from assay.rollouts import Prompt
from assay.run import environment

if TYPE_CHECKING:
    from assay.bench.results import BenchmarkResult, Skipped
    from assay.bench.verdicts import PairJudge
    from assay.images import ImageStore
    from assay.pipeline.own_benchmarks import Job

app = App()


@app.command(name="run")
def bench(
    model: Positional[str], data: tuple[Path, ...] = (), only: tuple[str, ...] = (), pair_layout: str = "", limit: int = 0,
    max_tokens: int = 4096, scores: Path | None = None, layout: Layout = "assay", tokenizer: str = "",
    replies: Path = Path("bench-replies.sqlite"), reply_tokens: int = 1024, judgements: int = 1,
    images: Path | None = None, out: Path | None = None, markdown: Path | None = None, html: Path | None = None,
) -> None:  # fmt: skip
    """Measure a reward model, on public benchmarks or your own pairs; `assay bench MODEL` is short for `bench run MODEL`.

    Results stand in the card (README.md) of a model's folder as well, and the newest of each benchmark stays there.

    Args:
        model: A reward model (a folder, for example runs/tiny/seed-0/models/final; ./run for one that is called so; or a hub
            id); the URL of a reward server; MODULE:FUNCTION, a function that takes a list of conversations and returns their
            rewards; a .jsonl file of scores (see --scores); or MODEL@URL, a chat model on an OpenAI-compatible server that
            compares answers in both orders (the key is $OPENAI_API_KEY).
        data: What to measure on (default: $ASSAY_BENCH_DATA): a folder with one for each public benchmark, of which what is
            missing is skipped with the command that fetches it; or your own labelled pairs, measured under their name: a
            pool folder, a folder of exported preferences, a file or folder in any layout that `assay pool add` reads.
        only: Names of the benchmarks and sets to run (default: all that are there).
        pair_layout: The layout of your own files, where it cannot be told (labelled:0/1), as of `assay pool add --layout`.
        limit: At most this many items of each, a stratified sample (0: all).
        max_tokens: Longer conversations lose the front of their history (a server's model may have less room).
        scores: Keep every reward in this file of JSON lines; a killed run scores nothing twice. It keeps to one model
            (SCORES.identity.json says which).
        layout: Of a reward server: assay, vllm, sglang or openrlhf.
        tokenizer: Of a reward server that takes texts (sglang, openrlhf): whose chat template renders them. For vllm it is
            optional: requests are larger then, and what is too long is cut as offline.
        replies: Where the replies of a chat model are kept: a killed run asks nothing twice.
        reply_tokens: The most tokens of a chat model's reply; what it cuts is no verdict.
        judgements: How often a chat model judges each pair in each order (1, 3, 5, ...); the majority counts.
        images: The folder of pictures, for a model that sees (default: DATA/images). Those of the benchmarks with pictures
            are put there; a function finds the picture ID of a message there as ID.png, ID.jpg or ID.webp.
        out: Write the results as JSON to this file as well: what `assay bench compare` reads.
        markdown: Write the table as Markdown to this file.
        html: Write a page with plots to this file.
    """
    from assay.bench import compare, table
    from assay.bench.score_file import Recorder
    from assay.bench.verdicts import PairJudge
    from assay.pipeline.own_benchmarks import pictures_of, plan
    from assay.tables import write_text
    from assay.tuning.reward_model import fingerprint

    planned = plan(data, only, pair_layout)
    pictures = pictures_of(planned, data, images)
    store = _store(pictures) if pictures is not None and _sees(model) else None
    with nullcontext() if scores is None else alone(scores):
        chat = (replies, reply_tokens, judgements)
        scorer = _scorer(model, pictures, chat) or _reward(model, max_tokens, layout, tokenizer, pictures)
        problems = getattr(scorer, "problems", {})
        if scores is not None and not isinstance(scorer, PairJudge):
            read = {"max_tokens": max_tokens, "layout": layout, "tokenizer": tokenizer}
            scorer = Recorder(scorer, scores, {"model": fingerprint(model), **read})
        results = measured(planned, scorer, limit or None, problems, store, only)
        _tell(model, results, problems, max_tokens)
        if out is not None:
            compare.save(out, model, environment(), results)
        if markdown is not None:
            write_text(markdown, table.markdown(results))
        if html is not None:
            _page(html, model, results, planned, scorer, limit or None)


def _scorer(model: str, pictures: Path | None, chat: tuple[Path, int, int]) -> "Scorer | PairJudge | None":
    """What is no reward model: a chat model that compares (`chat`: the file of its replies, the most tokens of one, and how
    often it judges), or a file of scores."""
    from assay.bench.score_file import ScoreFile
    from assay.bench.verdicts import PairJudge

    replies, reply_tokens, judgements = chat
    if "@http" in model:
        asked = chat_config(model, "model", reply_tokens=reply_tokens, images=pictures)
        return PairJudge(Server(asked, replies), judgements)
    if judgements != 1:
        raise AssayError("--judgements is how often a chat model (MODEL@URL) judges; a reward model is asked once")
    return ScoreFile(Path(model)) if model.endswith(".jsonl") else None


def _tell(
    model: str, results: "list[BenchmarkResult | Skipped]", problems: Mapping[str, int], max_tokens: int
) -> None:  # fmt: skip
    """Print results, and put them into the model's card, where it is a folder that has one."""
    from assay.bench import table
    from assay.pipeline.measured import put_in_card

    print(table.text(results))
    for result in results:
        if verdict := getattr(result, "verdict", ""):
            print(f"{result.name}: {verdict}")
    for reason, count in problems.items():
        print(f"failed: {count:,} times: {reason}")
    try:
        if put_in_card(Path(model), results, max_tokens):
            print(f"in the model's card as well: {Path(model) / 'README.md'}")
    except PermissionError as error:
        print(f"not in the model's card: {error.filename}: {error.strerror}")


def _page(
    file: Path, model: str, results: "list[BenchmarkResult | Skipped]", planned: "Mapping[str, Job]",
    scorer: "Scorer | PairJudge", limit: int | None,
) -> None:  # fmt: skip
    from assay.bench import page
    from assay.bench.reward import curves
    from assay.bench.verdicts import PairJudge

    best, told = planned.get("ppe-correctness"), {}
    if isinstance(best, tuple) and not isinstance(scorer, PairJudge):
        told = curves(best[1], scorer, limit)
    print(f"page: {page.write(file, model, environment(), results, told)}")


def measured(
    planned: "Mapping[str, Job]", scorer: "Scorer | PairJudge", limit: int | None, problems: Mapping[str, int],
    store: "ImageStore | None" = None, only: Sequence[str] = (),
) -> "list[BenchmarkResult | Skipped]":  # fmt: skip
    """Every benchmark and set in turn. Raises AssayError with what went wrong before (`problems`, counted), and for a
    benchmark of `only` with pictures where there is no `store` of them: the scorer has no eyes."""
    from assay.bench.benchmark import BLIND
    from assay.bench.benchmark import run as run_benchmark
    from assay.bench.progress import Parts
    from assay.bench.reward.pairs import evaluate_pairs
    from assay.bench.verdicts import PairJudge

    results: list[BenchmarkResult | Skipped] = []
    for name, job in planned.items():
        teller = partial(print, f"{name}:", file=sys.stderr)
        asked = scorer if isinstance(scorer, PairJudge) else Parts(scorer, teller)
        try:
            if isinstance(job, tuple):
                if name in only and job[0].shown is not None and store is None:
                    raise AssayError(f"--only {name}: {BLIND}; it takes one that `assay reward train --images` makes")
                results.append(run_benchmark(job[0], job[1], asked, limit, images=store))
            else:
                results.append(evaluate_pairs(job.preferences, asked, name, limit, 0, job.parts, job.notes))
        except AssayError as error:
            reasons = "".join(f"; failed {count:,} times: {reason}" for reason, count in problems.items())
            raise AssayError(f"{error}{reasons}") from error
    return results


def _store(folder: Path) -> "ImageStore":
    """The folder of pictures, which is made. Raises AssayError where it cannot be."""
    from assay.images import ImageStore

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AssayError(f"{folder}: cannot be made ({error}); name a folder for pictures with --images") from error
    return ImageStore(folder)


def _sees(model: str) -> bool:
    """Whether a scorer can be shown pictures. A chat model and a function are trusted to look, a file of scores to know."""
    if "@http" in model or model.endswith(".jsonl"):
        return True
    if model.startswith(("http://", "https://")):
        return False
    from assay.reward.scorer import is_function
    from assay.reward.visual import is_visual

    return is_function(model) or is_visual(model)


def _reward(model: str, max_tokens: int, layout: Layout, tokenizer: str, pictures: Path | None = None) -> Scorer:
    """A reward model, behind its server or here; one that sees finds its pictures in `pictures`."""
    from assay.reward.remote import RemoteConfig, RemoteScorer
    from assay.reward.scorer import is_function, load_scorer
    from assay.reward.visual import is_visual

    if model.startswith(("http://", "https://")):
        return RemoteScorer(RemoteConfig(url=model, layout=layout, tokenizer=tokenizer, max_tokens=max_tokens))
    images = None if is_function(model) or not is_visual(model) else pictures or Path("images")
    return load_scorer(model, max_tokens, images=images)


@app.command(name="fetch")
def fetch_data(data: Positional[Path], only: tuple[str, ...] = ()) -> None:
    """Bring the data of the benchmarks that are not in DATA yet, from where they are published (needs the network).

    Args:
        data: The folder that gets one folder for each benchmark.
        only: Names of benchmarks (default: the seven without pictures; vl-rewardbench and multimodal-rewardbench have them).
    """
    from assay.bench.fetch import fetch
    from assay.bench.reward import named

    fetch(data, named(only))


@app.command(name="compare")
def compare_models(
    a: Positional[Path], b: Positional[Path], draws: int = 10_000, seed: int = 0, html: Path | None = None
) -> None:
    """Is model A better than B? Paired item by item, clustered by prompt, on every benchmark that both have a total of.

    Args:
        a: Results of `assay bench MODEL --out FILE`.
        b: The same of another model, on the same items.
        draws: Random exchanges of the two models' names, prompt by prompt, for the p-value.
        seed: Of the draws.
        html: Write a page with a plot to this file.
    """
    from assay.bench.compare import COMPARED, compare, compared, load

    one, two = load(a), load(b)
    found = compare(one, two, draws, seed)
    _print(COMPARED, compared(found))
    print(*(f"{d.name}: {line}" for d in found for line in (f"A: {d.verdict}", *d.notes)), sep="\n")
    print(f"A: {one.model}\nB: {two.model}")
    if html is not None:
        from assay.bench import page

        print(f"page: {page.write_compared(html, one.model, two.model, found)}")


@app.command(name="correlate")
def correlate_benchmarks(results: Positional[tuple[Path, ...]]) -> None:
    """Over models, which benchmarks agree: Pearson's and Spearman's correlation of their totals (paper A, Fig. 2).

    Args:
        results: Files of `assay bench MODEL --out FILE`, one for each model.
    """
    from assay.bench.compare import correlate, load

    rows = [
        (c.one, c.other, str(c.models), f"{c.pearson:+.2f}", _between(c.low, c.high), f"{c.spearman:+.2f}")
        for c in correlate([load(p) for p in results])
    ]
    _print(("benchmark", "and", "models", "Pearson", "95% interval", "Spearman"), rows)


def best_of_n(
    prompts: Positional[Path],
    policy: str,
    reward: str,
    out: Path,
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 8,
    sampler: SamplerConfig = SamplerConfig(),  # noqa: B008
    vllm: Annotated[VllmConfig, Flat] = VllmConfig(),  # noqa: B008
    ask: Annotated[AskConfig, Flat] = AskConfig(),  # noqa: B008
    max_tokens: int = 4096,
    seed: int = 0,
    replies: Path = Path("best-of-n-replies.sqlite"),
    layout: Layout = "assay",
    tokenizer: str = "",
    answer_field: str = "",
    reply_tokens: int = 1024,
    servers_moved: bool = False,
) -> None:
    """Answer prompts N times and keep the answer that a reward model likes best, with all candidates; resumes.

    Args:
        prompts: Questions (and pictures, for a model with eyes) in any form that `assay policy grpo` reads.
        policy: Who answers: a packaged model, a folder, a hub id, or MODEL@URL of an OpenAI-compatible server.
        reward: Who chooses: a reward model's folder or hub id, the URL of a reward server, or MODULE:FUNCTION.
        out: A file of JSON lines; the same command goes on with it, another one does not (OUT.identity.json says why).
        n: Answers to each prompt.
        sampler: Length and temperature of a local policy's answers.
        vllm: Whether vLLM draws a local policy's answers.
        ask: How questions are put.
        max_tokens: Of a conversation that the reward model reads.
        seed: Of a local policy's answers.
        replies: Where a chat server's answers are kept.
        layout: Of a reward server: assay, vllm, sglang or openrlhf.
        tokenizer: Of a reward server, as for `assay bench`.
        answer_field: As for `assay policy grpo`: needed where two fields of PROMPTS could both be the answer.
        reply_tokens: The most tokens of a chat server's answer; one that is cut is no answer.
        servers_moved: The chat model is the one that answered before, at another address now: go on with it.
    """
    from assay.formats.sources import find
    from assay.images import ImageStore
    from assay.judges.servers import Servers
    from assay.tables import sibling
    from assay.tuning import best_of_n as recipe
    from assay.tuning.reward_model import fingerprint

    find(str(prompts))  # before a model is loaded
    begun = out.exists() and out.stat().st_size > 0
    servers = Servers(sibling(out, ".servers.json"), begun, servers_moved)
    store = ImageStore(out.with_name(out.name + ".images"))
    asked = {"reward": fingerprint(reward), "max_tokens": max_tokens, "n": n}
    scorer = _reward(reward, max_tokens, layout, tokenizer, store.folder)
    if "@http" in policy:
        config = chat_config(policy, "policy", reply_tokens=reply_tokens, images=store.folder)
        server = Server(servers.of("policy", [config])[0], replies)
        asked |= {"policy": asking_of([server])}
        answers, kept = recipe.chat_answers(server), list[Prompt]
    else:
        asked |= {"policy": fingerprint(policy), "sampler": sampler, "seed": seed, **vllm.drawn_by}
        answers, kept = recipe.local_answers(policy, store, sampler, seed, vllm)
    told = recipe.best_of_n(prompts, out, n, answers, scorer, store, kept, asked=asked, accepted=servers.keep,
                            answer_field=answer_field, ask=ask)  # fmt: skip
    print(told)


def _between(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"


def _print(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    shown = Table(*header, box=box.SIMPLE)
    for row in rows:
        shown.add_row(*row)
    Console(highlight=False).print(shown)


NAMES: tuple[str, ...] = ("run", "fetch", "compare", "correlate")


def with_default(arguments: list[str]) -> list[str]:
    """`bench MODEL` as `bench run MODEL`."""
    if arguments[:1] == ["bench"] and len(arguments) > 1 and arguments[1] not in (*NAMES, "-h", "--help"):
        return ["bench", "run", *arguments[1:]]
    return arguments
