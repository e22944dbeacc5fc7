"""`assay policy bench` and `assay policy serve`: a policy on paper B's reasoning benchmarks, and behind a chat server."""

import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from assay.cli.arguments import chat_config
from assay.errors import AssayError
from assay.policy.config import PolicyConfig

if TYPE_CHECKING:
    from assay.bench.reasoning.measure import Measured
    from assay.llm.client import Server


def policy_bench(
    model: Positional[str], data: Path | None = None, out: Path = Path("policy-bench"), only: tuple[str, ...] = (),
    repeats: int = 1, limit: int = 0, temperature: float | None = None, max_tokens: int = 4096, seed: int = 0,
    at_once: int = 8, budget_tokens: int = 0, window: str = "", judge: tuple[str, ...] = (), judge_tokens: int = 1024,
    judge_budget: int = 0, judge_prompt: Path | None = None, environments: Path | None = None, install: bool = False,
    served_by: Literal["auto", "vllm", "decoder"] = "auto", vllm_python: Path | None = None,
    server_options: str = "",
) -> None:  # fmt: skip
    """Measure a policy on the reasoning benchmarks of Skywork R1V2, through evalscope and bfcl-eval, with intervals.

    Example: assay policy bench runs/mpo-1 --data benchmarks --only aime24 ifeval --repeats 5 --max-tokens 65536 --install

    A killed run goes on with the same command, and asks nothing twice. `assay bench compare A/results.json B/results.json`
    compares two, and `assay policy judge OUT --judge MODEL@URL` has another judge look at the answers that are kept.

    Args:
        model: A folder, a hub id or a packaged model (smollm2), which is served here, or NAME@URL of any OpenAI-compatible
            server (the key is $OPENAI_API_KEY).
        data: The folder of the benchmarks' files (default: $ASSAY_BENCH_DATA); docs/reasoning.md says which.
        out: The folder of answers and results: results.json, results.md, results.html, cards.json, answers/.
        only: Names of benchmarks (default: all ten; one that cannot be run here is a line that says why): aime24,
            livecodebench, livebench, ifeval, bfcl, mmmu, mathvista, olympiadbench, mathvision, mmmu-pro.
        repeats: Answers to each question; the number is the mean over questions of their means (paper: 5).
        limit: The first so many questions of each benchmark (0: all).
        temperature: Of the answers (default: 0 for one answer a question, 0.6 for more).
        max_tokens: Of an answer, thoughts included (paper: 65536).
        seed: Of drawn answers; each repeat has one of its own.
        at_once: Requests that are under way at a time.
        budget_tokens: Ask no more when so many tokens, in and out, are spent, earlier runs of OUT included (0: no limit).
        window: Of LiveCodeBench, FIRST:LAST as ISO dates or their beginnings (2024-08:2025-01).
        judge: MODEL@URL of a judge of equivalence, or two: what each makes of the same answers, and how they agree with the
            rule, is told beside the rule's number.
        judge_tokens: The most tokens of a judge's reply.
        judge_budget: The same as budget_tokens, of each judge.
        judge_prompt: A file of what judges are asked instead of Assay's words, with {{question}}, {{reference}} and
            {{answer}} in their places, that asks for {"equivalent": true} or {"equivalent": false}.
        environments: Where the libraries' environments are (default: $ASSAY_ENVIRONMENTS, or assay/environments in the
            user's cache).
        install: Make the environments that are missing.
        served_by: What serves a folder or hub id. auto: vLLM where it is installed or VLLM_PYTHON is given, else our
            decoder.
        vllm_python: The python of an environment that has vLLM.
        server_options: Further options of what serves, after an equals sign, in quotes where there are several:
            --server-options="--max-model-len 8192 --enforce-eager" (vLLM's).
    """
    from assay.bench.reasoning.environments import default_folder
    from assay.bench.reasoning.equivalence import prompt_of
    from assay.bench.reasoning.measure import Settings, measure
    from assay.bench.reasoning.serving import served
    from assay.llm.outage import probe
    from assay.locks import alone
    from assay.run import environment

    settings = Settings(
        only=only, repeats=repeats, limit=limit or None, temperature=temperature, max_tokens=max_tokens, seed=seed,
        at_once=at_once, budget=budget_tokens or None, window=window,
    )  # fmt: skip
    prompt, judges = prompt_of(judge_prompt), _judges(judge, out, judge_tokens, judge_budget)
    folder = _data(data)
    probe(judges)  # not after hours of answers
    with alone(out), served(model, out / "server.log", served_by, vllm_python, shlex.split(server_options)) as endpoint:
        measured = measure(
            endpoint, folder, out, settings, environments or default_folder(), install, judges, judge_prompt=prompt
        )
        told = {**environment(), "served by": endpoint.by}
    _tell(out, model, told, measured)
    _end(measured)


def policy_judge(
    out: Positional[Path], judge: tuple[str, ...], judge_tokens: int = 1024, judge_budget: int = 0,
    judge_prompt: Path | None = None,
) -> None:  # fmt: skip
    """Have further judges look at the answers that `assay policy bench` kept; the policy is asked nothing.

    Example: assay policy judge policy-bench --judge Qwen/Qwen3-32B@http://localhost:8000/v1

    Each total stands beside the rule's and those of the judges that were there before, with all agreements; the results in
    OUT are written anew. A killed command goes on with the same one, and asks nothing twice.

    Args:
        out: The folder of answers and results of `assay policy bench`.
        judge: MODEL@URL of a judge of equivalence, or several (the key is $OPENAI_API_KEY).
        judge_tokens: The most tokens of a judge's reply.
        judge_budget: Ask a judge no more when so many tokens, in and out, are spent on it in OUT (0: no limit).
        judge_prompt: A file of what judges are asked instead of Assay's words, with {{question}}, {{reference}} and
            {{answer}} in their places, that asks for {"equivalent": true} or {"equivalent": false}. The same model with
            another prompt is another judge.
    """
    from assay.bench.reasoning.equivalence import prompt_of
    from assay.bench.reasoning.rejudge import rejudge
    from assay.llm.outage import probe
    from assay.locks import alone

    prompt = prompt_of(judge_prompt)
    if not judge:
        raise AssayError("give --judge MODEL@URL, one or several")
    if not out.is_dir():
        raise AssayError(f"{out}: no such folder")
    judges = _judges(judge, out, judge_tokens, judge_budget)
    with alone(out):
        measured, before = rejudge(out, judges, prompt, lambda: probe(judges))
        _tell(out, str(before["model"]), before["environment"], measured)
    _end(
        measured._replace(results=[r for r in measured.results if r not in measured.failed])
    )  # no judge failed at these


def _judges(named: tuple[str, ...], out: Path, tokens: int, budget: int) -> "list[Server]":
    from assay.llm.budget import Budget
    from assay.llm.client import Server

    if len(set(named)) < len(named):
        raise AssayError(f"--judge {' '.join(named)}: one is named twice")
    prices = (1e6, 1e6) if budget else (0.0, 0.0)
    return [
        Server(
            chat_config(text, "judge", prices=prices, reply_tokens=tokens), out / "judge-replies.sqlite",
            Budget(budget) if budget else None, told=Replies(text),
        )
        for text in named
    ]  # fmt: skip


class Replies:
    """Says on stderr, every quarter of a minute, how many replies of a judge have come."""

    def __init__(self, name: str, every_s: float = 15.0) -> None:
        self.name, self.every_s, self.count, self.said = name, every_s, 0, time.monotonic()

    def __call__(self, _: object) -> None:
        self.count += 1
        if time.monotonic() > self.said + self.every_s:
            self.said = time.monotonic()
            print(f"judge {self.name}: {self.count:,} replies", file=sys.stderr)


def _tell(out: Path, model: str, told: Mapping[str, Any], measured: "Measured") -> None:
    """The table on the terminal, and the results in the folder."""
    from assay.bench import compare, page, table
    from assay.tables import write_text

    print(table.text(measured.results))
    compare.save(out / "results.json", model, told, measured.results)
    write_text(out / "results.md", table.markdown(measured.results))
    print(f"page: {page.write(out / 'results.html', model, told, measured.results, {})}")


def _end(measured: "Measured") -> None:
    """Raises AssayError where a benchmark, a judge or some answers failed, or none could be run, BudgetSpent where a budget
    ended."""
    from assay.bench.results import BenchmarkResult
    from assay.llm.budget import BudgetSpent

    if lost := [f"{r.name} has no number ({r.reason})" for r in measured.failed] + measured.undone:
        raise AssayError(
            f"{'; '.join(lost)}. What the others came to is kept, and the same command asks only what failed"
        )
    if measured.short:
        raise BudgetSpent(
            f"the budget of tokens ended in {', '.join(measured.short)}: what was answered is kept, and "
            "coverage says how much that is; give a larger one to go on"
        )
    if not any(isinstance(r, BenchmarkResult) for r in measured.results):
        raise AssayError("no benchmark could be run here: the lines above say what each needs")


def _data(given: Path | None) -> Path:
    folder = given or (Path(named) if (named := os.environ.get("ASSAY_BENCH_DATA", "")) else None)
    if folder is None:
        raise AssayError("give --data DIR, the folder of the benchmarks' files (or set ASSAY_BENCH_DATA)")
    if not folder.is_dir():
        raise AssayError(f"--data {folder}: no such folder")
    return folder


def policy_serve(
    model: Positional[str], host: str = "127.0.0.1", port: int = 8000, name: str = "", rows: int = 32,
    policy: PolicyConfig = PolicyConfig(),  # noqa: B008
) -> None:  # fmt: skip
    """Serve a policy by our decoder: /v1/chat/completions, pictures as data URLs. For traffic use vLLM.

    Example: assay policy serve runs/mpo-1 --port 8000

    Args:
        model: A language model, or a vision-language model: a packaged one, a folder or a hub id.
        host: Where to listen; this server asks for no key.
        port: Where to listen.
        name: What requests call the model (default: MODEL).
        rows: Answers that are decoded together.
        policy: Precision and memory.
    """
    from assay.tuning.own_serve import run_serve

    run_serve(model, host, port, policy, rows, name)
