"""Part B's stages on a user's own model and questions: what they have in common, and adapter alignment.

Each makes the engine first, for it takes this process's device; questions are read once for all processes (`shared`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from assay.errors import AssayError, CannotRead
from assay.identity import of_file
from assay.images import ImageStore
from assay.locks import together
from assay.policy.config import AS_THEY_ARE, HERE, AskConfig, FitConfig, PolicyConfig, SamplerConfig, VllmConfig
from assay.records import Rejection
from assay.rollouts import Prompt
from assay.tables import sibling
from assay.tuning.questions import asked_so, captions, read, reason_of
from assay.tuning.reward_model import Judge, RolloutRewards
from assay.tuning.shared import Shared

LONG = 200
"""Characters from which a right answer in words is told of: hardly any answer will equal it."""


def questions(
    path: Path, store: ImageStore, left: Counter[str] | None = None, answer_field: str = "", ask: AskConfig = AS_THEY_ARE
) -> list[Prompt]:  # fmt: skip
    """The questions of a file or folder, put as `ask` says; what was refused is printed by reason, and counted in `left`.
    Raises AssayError when none is left."""
    prompts, rejections = read(path, store, answer_field)
    told(path, rejections, left)
    if long := sum(p.kind == "text" and len(p.answer) > LONG for p in prompts):
        print(f"{path}: {long:,} answers are texts of over {LONG} characters: only the same words count as right")
    if ask.system and (own := sum(p.messages[0].role == "system" for p in prompts)):
        print(f"{path}: {own:,} questions bring a system prompt of their own, which stays")
    return asked_so(prompts, ask)


def content(path: Path) -> str:
    """A digest of the files of questions; of what is no path here (a data set's name on a hub) the name."""
    return of_file(path) if path.exists() else str(path)


def told(path: Path, rejections: Sequence[Rejection], left: Counter[str] | None = None) -> None:
    """Print why rows were refused, and how many."""
    counts = Counter(map(reason_of, rejections))
    first = {reason_of(r): r.row for r in reversed(rejections)}
    for reason, n in counts.most_common():
        print(f"{path}: {n:,} rows left out, row {first[reason]:,} the first: {reason}")
    if left is not None:
        left.update(counts)


def opened(
    model: str,
    settings: PolicyConfig,
    sampling: SamplerConfig,
    store: ImageStore,
    seed: int = 0,
    answer_start: str = "",
    vllm: VllmConfig = HERE,
    within: Path | None = None,
    say: Callable[[str], None] = print,
    trains: bool = True,
) -> tuple[Any, Any]:
    """A policy and what draws its answers (vLLM reads it from a folder in `within`). Of servers' answers the policy is an
    outline without weights, unless it `trains`: then they take its weights over."""
    from assay.policy.model import load_policy
    from assay.policy.sampler import make_sampler

    if vllm.vllm and not trains:
        from assay.policy.vllm_servers import outline

        policy = outline(model, settings, store)
        return policy, make_sampler(vllm, policy, sampling, store, seed, answer_start)
    policy = load_policy(model, settings, store, trains=trains)
    if not policy.packed:
        drawn = "" if vllm.backend == "vllm" else ", and answers drawn by transformers' generate"
        say(f"batches are padded{drawn}: {policy.reason}")
    return policy, make_sampler(vllm, policy, sampling, store, seed, answer_start, within)


def room(policy: Any) -> int:
    """The places that the language model has for a prompt and its answer."""
    from assay import vision

    return getattr(vision.language_model(policy.inner).config, "max_position_embeddings", None) or 1 << 30


def fitting(
    prompts: Sequence[Prompt],
    policy: Any,
    sampler: Any,
    answer: int,
    left: Counter[str] | None = None,
    shared: Shared | None = None,
) -> list[Prompt]:
    """The prompts that the model can read, with room for an answer of so many tokens; those that are left out are printed by
    reason, and counted in `left`. The ids of prompts that several processes need are made once, in `shared`."""
    if not prompts:
        return []
    most, reasons = room(policy) - answer, list[str]()
    longer = f"longer than {most:,} tokens with their pictures"
    if shared is not None:
        rows = shared.ids(len(prompts), lambda i: [sampler.prompt_ids(prompts[i])])
        reasons = [why or (longer if len(ids[0]) > most else "") for why, ids in rows]
        if hasattr(sampler, "rendered"):
            known = {p.id: ids[0] for p, why, (_, ids) in zip(prompts, reasons, rows, strict=True) if not why}
            sampler.rendered.filed = {**sampler.rendered.filed, **known}
    else:
        for prompt in prompts:
            try:
                reasons.append(longer if len(sampler.prompt_ids(prompt)) > most else "")
            except CannotRead as error:
                reasons.append(str(error))
    counts, say = Counter(filter(None, reasons)), teller(shared)
    for reason, n in counts.most_common():
        first = prompts[reasons.index(reason)].messages[-1].content
        say(f"{n:,} questions left out: {reason} (the first: {' '.join(first.split())[:60]!r})")
    if left is not None:
        left.update(counts)
    kept = [p for p, reason in zip(prompts, reasons, strict=True) if not reason]
    if not kept:
        raise AssayError("no question is left that this model can read")
    return kept


def legible(
    scorer: RolloutRewards | Judge, prompts: Sequence[Prompt], shared: Shared, left: Counter[str] | None = None
) -> list[Prompt]:
    """The prompts that a reward model can read an answer to, found out once; reasons are printed, and counted in `left`."""

    def work() -> tuple[list[int], Counter[str]]:
        counts = Counter[str]()
        kept = {p.id for p in scorer.readable(prompts, counts)}
        return [i for i, p in enumerate(prompts) if p.id in kept], counts

    kept, counts = shared.lead(work)
    if left is not None:
        left.update(counts)
    return [prompts[i] for i in kept]


def teller(shared: Shared | None) -> Callable[[str], None]:
    """What prints on rank 0 alone."""
    return print if shared is None or shared.engine.lead else lambda _: None


def answer_tokens(policy: Any, text: str) -> tuple[int, ...]:
    """An answer's tokens, and the end. Raises CannotRead for one that holds the mark of a picture, or half a character."""
    from assay.render import encodable, picture_mark

    if (mark := picture_mark(policy.processor)) and mark in text:
        raise CannotRead(f"the answer contains {mark}, which stands for a picture")
    return (*policy.tokenizer(encodable(text), add_special_tokens=False)["input_ids"], policy.turn_end)


def run_align(
    model: str, path: Path, out: Path, config: FitConfig, settings: PolicyConfig, request: str, answer_start: str,
    trackers: Sequence[str], system: str = "",
) -> str:  # fmt: skip
    """Adapter alignment: learn to say what is in pictures. Returns how it went, in words."""
    from assay.policy.mpo import Comparison, fit
    from assay.step import Engine

    engine = Engine(settings.precision, config.clip, settings.shard)
    store = ImageStore(sibling(out, ".images"))

    def reading() -> dict[str, list[Prompt]]:
        shown, rejections = captions(path, store, request)
        told(path, rejections)
        return {"captions": asked_so([p for p, _ in shown], AskConfig(system=system))}

    with together(engine, out), Shared(engine, sibling(out, ".questions")) as shared:
        say, prompts = teller(shared), shared.questions(reading)["captions"]
        policy, sampler = opened(model, settings, SamplerConfig(), store, config.seed, answer_start, say=say)

        def tokens(i: int) -> list[Sequence[int]]:
            caption = prompts[i].answer.removeprefix(answer_start)
            return [answer_tokens(policy, caption), sampler.prompt_ids(prompts[i])]

        made, most, left = [], room(policy), Counter[str]()
        for prompt, (reason, ids) in zip(prompts, shared.ids(len(prompts), tokens), strict=True):
            if not reason and sum(map(len, ids)) <= most:
                made.append(Comparison(prompt=ids[1], images=prompt.images, chosen=ids[0]))
            else:
                left[reason or f"longer than {most:,} tokens with their pictures"] += 1
        for reason, n in left.most_common():
            say(f"{n:,} captions left out: {reason}")
        done = fit(out, config, policy, made, print, trackers, engine=engine)
    return f"{done.examples:,} captions, {done.steps:,} steps, loss {done.loss:.3f} -> {out}"
