"""Best of N for a user's own prompts: a policy answers N times, a reward model chooses.

Every candidate is kept with its reward. Prompts are worked on in parts; a part is on disk before the next begins, so a
killed run goes on with the same command (the answers of a local policy depend on the prompt, the seed and the part alone).
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from assay.errors import AssayError
from assay.identity import check_output
from assay.images import ImageStore
from assay.llm.chat import Chat, Request
from assay.llm.outage import Loss, Unreached, ask_all
from assay.llm.parsing import after_thoughts
from assay.locks import alone
from assay.policy.config import AS_THEY_ARE, HERE, AskConfig, PolicyConfig, SamplerConfig, VllmConfig
from assay.records import Scorer, assistant, digest
from assay.rollouts import Prompt
from assay.tuning.own import fitting, opened, questions

PART = 16
"""Prompts between two writes."""


class Said(NamedTuple):
    """An answer without its thoughts, why it is none ("": it is one), and whether the limit of tokens cut it off."""

    text: str
    problem: str = ""
    cut: bool = False


Answers = Callable[[Sequence[Prompt], int, int], list[list[Said]]]
"""(prompts, n, part) -> n answers to each prompt."""


def local_answers(
    model: str, store: ImageStore, sampling: SamplerConfig, seed: int, vllm: VllmConfig = HERE
) -> tuple[Answers, Any]:
    """Answers of a local model, and a function that leaves out prompts which do not fit it. One that is cut off is chosen
    only where none of the others ended: the limit is ours, and small unless it is set."""
    from assay.render import begun

    policy, sampler = opened(model, PolicyConfig(), sampling, store, seed, vllm=vllm, trains=False)

    def answers(prompts: Sequence[Prompt], n: int, part: int) -> list[list[Said]]:
        sampler.load(part)
        starts = [begun(policy.processor, p.messages) for p in prompts]
        return [
            [_said(start + r.text)._replace(cut=not r.ended) for r in group]
            for start, group in zip(starts, sampler(prompts, n), strict=True)
        ]

    return answers, lambda prompts: fitting(prompts, policy, sampler, sampling.max_tokens)


def chat_answers(chat: Chat) -> Answers:
    """Answers of a chat server: n independent samples of each prompt, each asked once. What is cut off, or ends inside a
    thought, is no answer; thoughts before an answer are not scored with it (they stay in the file of replies). Raises
    Unreached, with all that came in the cache, where the server did not answer: a candidate that an outage took is no
    candidate that failed."""

    def answers(prompts: Sequence[Prompt], n: int, _: int) -> list[list[Said]]:
        requests = [Request(messages=p.messages, sample=k) for p in prompts for k in range(n)]
        told = [Said("", r.problem) if r.problem else _said(r.text) for r in ask_all(chat, requests)]
        return [told[at : at + n] for at in range(0, len(told), n)]

    return answers


def _said(reply: str) -> Said:
    """What a reply says after its thoughts."""
    text = after_thoughts(reply)
    if text is None:
        return Said("", "a thought that does not end")
    if not text.strip():
        return Said("", "only thoughts, no answer" if reply.strip() else "empty")
    return Said(text if text == reply else text.strip())


def best_of_n(
    path: Path, out: Path, n: int, answers: Answers, scorer: Scorer, store: ImageStore,
    kept: Callable[[list[Prompt]], list[Prompt]] = lambda prompts: prompts,
    say: Callable[[str], None] = print, asked: Mapping[str, Any] | None = None,
    accepted: Callable[[], None] = lambda: None, answer_field: str = "", ask: AskConfig = AS_THEY_ARE,
) -> str:  # fmt: skip
    """Write a line for each question: the best answer, its reward, and every candidate; returns a summary.

    A candidate that could not be made or scored has its `problem`, and is never the best; a question of which none is left
    has `best` null. `asked` says who answers and who chooses: kept beside `out`; `accepted` is called where they are those
    of before. Raises AssayError for n below 1, an unusable file, or an output of other questions, policies or reward models;
    Unreached, after the questions that could be answered, where a server left some unanswered.
    """
    if n < 1:
        raise AssayError(f"best of {n}: give -n 1 or more")
    prompts = kept(questions(path, store, answer_field=answer_field, ask=ask))
    with alone(out):
        check_output(out, {**(asked or {}), "questions": digest([p.id for p in prompts])}, "answers")
        accepted()
        return _answered(out, prompts, n, answers, scorer, say)


def _answered(
    out: Path, prompts: Sequence[Prompt], n: int, answers: Answers, scorer: Scorer, say: Callable[[str], None]
) -> str:
    done, losses = _done(out, prompts, n), list[Loss]()
    parts = [prompts[at : at + PART] for at in range(0, len(prompts), PART)]
    with out.open("a", encoding="utf-8") as file:
        for number, part in enumerate(parts):
            todo = [p for p in part if p.id not in done]
            if not todo:
                continue
            try:
                groups = answers(todo, n, number)
            except Unreached as failed:
                losses += failed.losses
                if failed.silent:
                    break
                continue
            rows = list(_ranked(todo, groups, scorer))
            file.write("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
            file.flush()
            os.fsync(file.fileno())
            done |= {r["id"]: r for r in rows}
            say(f"{len(done):,} of {len(prompts):,} questions")
    if losses:
        raise Unreached(losses)
    rows = list(done.values())
    gains = [r["reward"] - r["mean_reward"] for r in rows if r["best"] is not None]
    problems = Counter(c["problem"] for r in rows for c in r["candidates"] if c["problem"])
    told = f"{len(rows):,} questions, best of {n}"
    if gains:
        told += f", reward of the best {np.mean(gains):+.3f} above the mean of its candidates"
    told += f"; {problems.total():,} candidates without a reward -> {out}"
    if cut := sum(c.get("cut", False) for r in rows for c in r["candidates"]):
        chosen = sum(r["best"] is not None and all(c["problem"] or c.get("cut") for c in r["candidates"]) for r in rows)
        told += (
            f"\n{cut:,} candidates were cut off by the limit of tokens; of {chosen:,} questions none ended, and one of "
            "these is the best (longer answers: --sampler.max-tokens)"
        )
    return told + "".join(f"\nfailed: {count:,} times: {reason}" for reason, count in problems.most_common())


def _ranked(prompts: Sequence[Prompt], groups: Sequence[Sequence[Said]], scorer: Scorer) -> Iterator[dict[str, Any]]:
    flat = [
        (i, k, (*p.messages, assistant(one.text)))
        for i, (p, group) in enumerate(zip(prompts, groups, strict=True)) for k, one in enumerate(group)
        if not one.problem
    ]  # fmt: skip
    rewards = np.asarray(scorer([c for *_, c in flat]), dtype=np.float64) if flat else np.zeros(0)
    found = {(i, k): float(x) for (i, k, _), x in zip(flat, rewards, strict=True)}
    refused = getattr(scorer, "refused", {})
    why = {(i, k): f"no reward: {refused[c]}" for i, k, c in flat if c in refused}
    for i, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        told = []
        for k, one in enumerate(group):
            finite = np.isfinite(found.get((i, k), np.nan))
            problem = one.problem or ("" if finite else why.get((i, k), "no reward"))
            cut = {"cut": True} if one.cut and not problem else {}
            told.append({"text": one.text, "reward": found[i, k] if finite else None, "problem": problem, **cut})
        scored = [(found[i, k], c["text"], "cut" in c) for k, c in enumerate(told) if not c["problem"]]
        best = max(scored, key=lambda c: (not c[2], c[0]), default=None)
        yield {
            "id": prompt.id, "question": prompt.messages[-1].content, "best": best and best[1], "reward": best and best[0],
            "mean_reward": float(np.mean([x for x, *_ in scored])) if scored else None, "candidates": told,
        }  # fmt: skip


def _done(out: Path, prompts: Sequence[Prompt], n: int) -> dict[str, dict[str, Any]]:
    """The lines that are there already, by question; a torn last line is cut off."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        return {}
    data = out.read_bytes()
    if not data.endswith(b"\n"):
        os.truncate(out, data.rfind(b"\n") + 1)
    known, found = {p.id for p in prompts}, {}
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            fits = row["id"] in known and len(row["candidates"]) == n
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise AssayError(f"{out}, line {number}: not of this run (other questions, or another n); give a new --out")
        found[row["id"]] = row
    return found
