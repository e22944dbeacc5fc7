"""Does a small language model learn to judge by examples? A low-rank adapter on SmolLM2-135M, trained on gold in context.

    python benchmarks/context_judge.py --out runs/context-judge       # hours on one core; it resumes
    python benchmarks/context_judge.py --out runs/context-judge --pandalm DIR    # also on PandaLM (its files in DIR)

A judge sees k gold pairs of other questions with people's verdicts, the nearest last, and then the pair to decide; it says A
or B, whichever it finds likelier, in both orders. The adapter learns the verdicts of all pairs in such episodes. With
`--flips` a share of the episodes has all verdicts turned over: then nothing but the examples tells which way is meant.

Gold is of the kinds of demand that the embedded pool knows. It is asked about pairs of these kinds (other questions), of the
three kinds that it has never seen (examples are then pairs of these kinds, of other questions), and about PandaLM's. Each is
asked without examples, with the nearest, and with the nearest whose verdicts are turned over: a judge that uses examples
falls, one that does not stays. `gold-ridge` has the same k examples, and all of the gold (64 nearest).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.records import Pair, question_id
from assay.tables import write_text

GOLD, TESTS, EXAMPLES = 500, 100, 4
TOKENS = 64
"""Of a question, and of each answer, that are shown."""
RANK, LR, BATCH, EVERY = 16, 5e-4, 8, 10
WAYS = ("none", "nearest", "turned over")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A pair whose better answer is known."""

    pair: Pair
    first: bool

    @property
    def question(self) -> str:
        return question_id(self.pair.prompt)

    @property
    def better(self) -> str:
        return self.pair.responses[0 if self.first else 1].id

    def over(self) -> Known:
        """The same with the other verdict."""
        return replace(self, first=not self.first)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """Pairs to decide, and for each its examples, the nearest first."""

    name: str
    asked: list[Known]
    gold: list[Known]
    near: list[list[int]]
    embed: Any

    def shown(self, at: int, k: int) -> list[Known]:
        return [self.gold[i] for i in self.near[at][:k]]


def exams(folder: Path | None) -> tuple[list[Known], list[list[int]], list[Exam]]:
    """Gold to learn from with each pair's nearest others, and what is asked afterwards."""
    from assay.judges.embedders import EmbedderConfig, load_embedder
    from assay.pipeline.pools import constraint_pool

    pool = constraint_pool()
    embed = load_embedder(EmbedderConfig(embedder_layers=0))
    rng = np.random.default_rng(0)

    def known(ids: Sequence[str]) -> list[Known]:
        return [Known(pair=pool.pairs[i], first=pool.truth[i] == pool.pairs[i].responses[0].id) for i in ids]

    seen, unseen = (known(sorted(i for i in pool.pairs if (i in pool.unseen) is wanted)) for wanted in (False, True))
    questions = rng.permutation(sorted({k.question for k in seen}))
    apart = set(questions[: len(questions) // 4])
    gold = sample(rng, [k for k in seen if k.question not in apart], GOLD)
    asked = sample(rng, [k for k in seen if k.question in apart], TESTS)
    found = [exam("seen kinds", asked, gold, embed), exam("unseen kinds", sample(rng, unseen, TESTS), unseen, embed)]
    if folder is not None:
        from assay.formats.human_sets import read_human_sets

        people = [
            Known(pair=p.pair, first=p.better == p.pair.responses[0].id)
            for _, p, _ in read_human_sets(folder, ("pandalm",)) if p.better
        ]  # fmt: skip
        found.append(exam("PandaLM", sample(rng, people, TESTS), people, embed))
    return gold, exam("", gold, gold, embed).near, found


def sample(rng: Any, known: list[Known], n: int) -> list[Known]:
    return [known[int(i)] for i in rng.permutation(len(known))[:n]]


def exam(name: str, asked: list[Known], gold: list[Known], embed: Any) -> Exam:
    from assay.curate.attributes import retrieval_text
    from assay.curate.retrieve import nearest_gold

    vectors = [embed([retrieval_text(k.pair) for k in part]) for part in (asked, gold)]
    near = nearest_gold(*vectors, 64, [k.question for k in asked], [k.question for k in gold])
    return Exam(name=name, asked=asked, gold=gold, near=near, embed=embed)


class Speaker:
    """SmolLM2 that reads episodes. `adapter`: a folder with an adapter; `trained`: a new one."""

    def __init__(self, adapter: Path | None = None, trained: bool = False) -> None:
        import peft
        import torch

        from assay.models import load_generator

        self.model, self.tokenizer = load_generator("smollm2")
        told = [self.ids(v) for v in (" A", " B")]
        if [len(t) for t in told] != [1, 1] or told[0] == told[1]:
            raise AssertionError(f"the verdicts are not one token each: {told}")
        self.verdicts = [t[0] for t in told]
        if adapter is not None:
            self.model = peft.PeftModel.from_pretrained(self.model, str(adapter))
        elif trained:
            torch.manual_seed(0)
            config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
            self.model = peft.get_peft_model(self.model, config)

    def ids(self, text: str, most: int | None = None) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids[:most])

    def part(self, known: Known, swap: bool) -> list[int]:
        """The tokens of a pair up to where its verdict stands."""
        answers = [r.text for r in known.pair.responses]
        one, other = reversed(answers) if swap else answers
        asked = known.pair.prompt[-1].content
        found = self.ids("Question: ") + self.ids(asked, TOKENS)
        for letter, answer in (("A", one), ("B", other)):
            found += self.ids(f"\nAnswer {letter}: ") + self.ids(answer.strip(), TOKENS)
        return [*found, *self.ids("\nBetter answer:")]

    def episode(self, shown: list[Known], swaps: Sequence[bool], over: bool) -> tuple[list[int], list[int], list[int]]:
        """(tokens, where each verdict is told, which it is): of all shown pairs, in this order."""
        tokens, places, said = list[int](), list[int](), list[int]()
        for known, swap in zip(shown, swaps, strict=True):
            tokens += self.part(known, swap)
            places.append(len(tokens) - 1)
            said.append(int(known.first == swap) ^ over)
            tokens += [self.verdicts[said[-1]], *self.ids("\n\n")]
        return tokens, places, said

    def half(self) -> Any:
        """Products in bfloat16 where the processor has instructions for it."""
        import torch

        from assay.devices import computes_in_half

        return torch.autocast("cpu", torch.bfloat16, enabled=computes_in_half("auto"))

    def scores(self, hidden_TD: Any) -> Any:
        """(T, 2) what it thinks of "A" and of "B", in fp32."""
        return hidden_TD.float() @ self.model.get_output_embeddings().weight[self.verdicts].float().T

    @property
    def inner(self) -> Any:
        """Its layers, without the head."""
        return self.model.get_decoder()

    def margin(self, asked: Known, examples: list[Known], over: bool, rng: Any) -> float:
        """How much likelier it finds the first response the better one, over both orders. Examples: the nearest last."""
        import torch

        before, *_ = self.episode(examples, [bool(x) for x in rng.integers(2, size=len(examples))], over)
        found = 0.0
        with torch.inference_mode():
            with self.half():
                kept = self.inner(torch.tensor([before]), use_cache=True).past_key_values if before else None
            for swap in (False, True):
                with self.half():
                    told = self.inner(
                        torch.tensor([self.part(asked, swap)]),
                        past_key_values=copy.deepcopy(kept),
                        use_cache=bool(before),
                    )
                one, two = self.scores(told.last_hidden_state[0, -1:])[0].log_softmax(-1).tolist()
                found += (two - one) if swap else (one - two)
        return found


def learn(folder: Path, gold: list[Known], near: list[list[int]], steps: int, flips: float) -> Path:
    """Train the adapter; a killed training goes on from its last tenth step. Returns its folder."""
    import torch

    done = folder / "adapter"
    if done.exists():
        return done
    kept = folder / "state.pt"
    speaker = Speaker(trained=True)
    speaker.model.train()
    weights = [p for p in speaker.model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=LR, weight_decay=0.0)
    first = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        first = int(state["step"])
        optimiser.load_state_dict(state["optimiser"])
        with torch.no_grad():
            for weight, value in zip(weights, state["weights"], strict=True):
                weight.copy_(value)
    for step in range(first, steps):
        rng = np.random.default_rng([7, step])
        start, losses, right = time.process_time(), list[float](), list[float]()
        for group in optimiser.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / 5) * (1 - step / steps)
        for _ in range(BATCH):
            at = int(rng.integers(len(gold)))
            shown = [*(gold[i] for i in reversed(near[at][:EXAMPLES])), gold[at]]
            swaps = [bool(x) for x in rng.integers(2, size=len(shown))]
            tokens, places, said = speaker.episode(shown, swaps, bool(rng.random() < flips))
            with speaker.half():
                hidden_TD = speaker.inner(torch.tensor([tokens]), use_cache=False).last_hidden_state[0]
            scores = speaker.scores(hidden_TD[places])
            loss = torch.nn.functional.cross_entropy(scores, torch.tensor(said))
            (loss / BATCH).backward()
            losses.append(float(loss.detach()))
            right.append(float(scores[-1].argmax() == said[-1]))
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        print(f"step {step + 1}/{steps}  loss {np.mean(losses):.3f}  last verdict right {np.mean(right):.2f}  "
              f"{time.process_time() - start:.0f} CPU s", file=sys.stderr, flush=True)  # fmt: skip
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            new = folder / "state.pt.new"
            torch.save({"step": step + 1, "optimiser": optimiser.state_dict(), "weights": weights}, new)
            new.replace(kept)
    speaker.model.save_pretrained(folder / "adapter.new")
    (folder / "adapter.new").rename(done)
    return done


def ask(folder: Path, name: str, adapter: Path | None, found: list[Exam]) -> list[dict[str, Any]]:
    """Rows of what a speaker says of each exam, without examples, with them, and with their verdicts turned over."""
    speaker: Speaker | None = None
    rows = []
    for part in found:
        for way in WAYS:
            kept = folder / f"{name}-{part.name}-{way}.json".replace(" ", "-")
            if not kept.exists():
                speaker = speaker or Speaker(adapter)
                speaker.model.eval()
                right = []
                for at, known in enumerate(part.asked):
                    rng = np.random.default_rng([11, at])
                    shown = [] if way == WAYS[0] else part.shown(at, EXAMPLES)[::-1]
                    margin = speaker.margin(known, shown, way == WAYS[2], rng)
                    right.append(0.5 if margin == 0 else float((margin > 0) == known.first))
                write_text(kept, json.dumps(right))
            rows.append(row(name, part, way, json.loads(kept.read_text())))
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


def ridges(part: Exam) -> list[dict[str, Any]]:
    """`gold-ridge` with as many examples, and with all that it wants."""
    from assay.curate.offline import NEIGHBOURS, gold_ridge_judge
    from assay.records import Attributes, Case, Example

    def nothing(pair: Pair) -> Attributes:
        return Attributes(
            pair_id=pair.id, category="", objectivity="", controversiality="", desired=(), guideline="", by=""
        )

    def example(known: Known) -> Example:
        return Example(pair=known.pair, attributes=nothing(known.pair), better=known.better)

    rows = []
    for examples in (EXAMPLES, NEIGHBOURS):
        judge = gold_ridge_judge(part.embed, examples=examples)
        for way in WAYS[1:]:
            cases = [
                Case(
                    pair=known.pair, attributes=nothing(known.pair),
                    examples=tuple(example(k.over() if way == WAYS[2] else k) for k in part.shown(at, examples)),
                )
                for at, known in enumerate(part.asked)
            ]  # fmt: skip
            right = [float(j.better == k.better) for j, k in zip(judge(cases), part.asked, strict=True)]
            rows.append(row(f"gold-ridge, {examples} examples", part, way, right))
    return rows


def row(name: str, part: Exam, way: str, right: list[float]) -> dict[str, Any]:
    from assay.figures import told
    from assay.statistics import mean

    return {
        "judge": name,
        "on": part.name,
        "examples": way,
        "right": told(mean(right, [k.question for k in part.asked])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pandalm", type=Path, help="a folder with people's sets, of which PandaLM's is read")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--flips", type=float, nargs="+", default=[0.5, 0.0])
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    options.out.mkdir(parents=True, exist_ok=True)
    gold, near, found = exams(options.pandalm)
    rows = list(itertools.chain.from_iterable(map(ridges, found)))
    for flips in options.flips:
        folder = options.out / f"flips-{flips:g}"
        folder.mkdir(exist_ok=True)
        adapter = learn(folder, gold, near, options.steps, flips)
        rows += ask(folder, f"adapter, {flips:.0%} turned over", adapter, found)
    rows += ask(options.out, "SmolLM2 as it is", None, found)
    print("| judge | asked about | examples | right |\n|---|---|---|---|")
    for r in rows:
        print(f"| {r['judge']} | {r['on']} | {r['examples']} | {r['right']} |")


if __name__ == "__main__":
    main()
