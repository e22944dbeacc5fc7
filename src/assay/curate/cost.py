"""What stage 2 costs, told before it runs, and what its labels gained, told after.

Before: pairs, tokens, hours of a GPU, requests to judges and their price, and the budget of paper A (A3, appendix F),

    B = c_H |gold| + c_L1 |silver| + c_L2 |stage 2|

at its illustrative $0.50, $0.05 and $0.01 a pair. After: the points of accuracy that each million pairs gained, and the
paper's rule to stop, below about 0.3 of them. What is counted, what is measured and what is assumed is said beside each
number: no number of the paper's own run is behind the assumptions.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from assay.curate.annotate import MAX_EXAMPLES, judge_request
from assay.curate.book import Asked
from assay.curate.material import Material
from assay.curate.prepare import SplitConfig, uses
from assay.curate.rules import rule_attributes
from assay.curate.shards import Pool
from assay.curate.stage1 import Stage1Config
from assay.order import draws
from assay.records import Case, Example, Pair
from assay.statistics import Z95
from assay.store import Place
from assay.tables import Table, read_frame, records, stream_shard

SAMPLE, SHARDS = 256, 8
"""Pairs on which lengths are measured, from so many shards."""
STOP = 0.3
"""Points for each million pairs below which the paper stops (A3, appendix F)."""
Count = Callable[[Sequence[Pair]], int]
"""How many tokens a reward model reads of pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What nobody knows before it runs. Prices of a pair are the paper's illustration; the rate is 40 % of an H800's 989
    TFLOP/s of dense bf16 at the 14 GFLOP that a model of 8 billion weights (7 of them active) takes for a token."""

    tokens_per_s: float = 28_000.0
    """Tokens that one reward model reads on one GPU."""
    chars_per_token: float = 4.0
    """Where there is no tokenizer."""
    judged: float = 0.87
    """The share of stage 2's pairs whose fate hangs on judges: about 5 of the paper's 39 million passed unasked (A2, 3.3).
    The first shards tell it, once they are scored."""
    reply_tokens: int = 200
    gold: float = 0.50
    silver: float = 0.05
    wild: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """The judges of a run: how many, votes of each for a pair, gold examples in a prompt, and the price in dollars of a
    million tokens in and out ((0, 0): not told)."""

    judges: int = 1
    samples: int = 3
    examples: int = MAX_EXAMPLES
    price: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What stage 2 is of: pairs, characters of their messages, some of them as a sample; `judged` of the `scored` pairs hang
    on judges (0 of 0: none is scored yet). `counted` says how."""

    pairs: int
    chars: int
    sample: tuple[Pair, ...]
    counted: str
    scored: int = 0
    judged: int = 0


def of_pool(pool: Pool, split: SplitConfig) -> Size:
    """Of a pool that no run has touched: one pass over its index. Pairs that share text with benchmarks, or whose sources do
    not decide, are still among them."""
    pairs, chars, found = 0, 0, list[tuple[Place, pl.DataFrame]]()
    for shard in (s for s in pool.shards if s.pairs):
        columns = ["pair_id", "question_id", "askable", "chars"]
        index = read_frame(pool.table("index").file(shard.name), columns).with_row_index("row")
        unseen = pool.votes(shard.part, ["question_id"], "unseen")["question_id"]
        wild = index.filter(uses(pool, split, index, unseen) == "stage2")
        pairs, chars = pairs + len(wild), chars + int(wild["chars"].sum())
        found.append((pool.table("pairs").file(shard.name), _drawn(wild)))
    return Size(pairs=pairs, chars=chars, sample=_sample(found), counted="counted; before decontamination")


def of_material(material: Material, seed: Place | None = None) -> Size:
    """Of a run that is prepared: exactly the pairs that stage 2 scores. `seed`: the folder of one seed's tables, from which
    it is read how many of the pairs that are scored hang on judges."""
    pairs, chars, scored, judged, found = 0, 0, 0, 0, list[tuple[Place, pl.DataFrame]]()
    asked = Table(seed / "asked", Asked) if seed is not None else None
    for part, frame in material.frames(["pair_id", "row", "chars", "original"], "stage2"):
        wild = frame.filter(pl.col("original").is_not_null())
        pairs, chars = pairs + len(wild), chars + int(wild["chars"].sum())
        found.append((part.pairs, _drawn(wild)))
        if asked is not None and asked.done(f"stage2-{part.key}"):
            scored, judged = scored + len(wild), judged + len(asked.frame(f"stage2-{part.key}", columns=["pair_id"]))
    return Size(pairs=pairs, chars=chars, sample=_sample(found), counted="counted", scored=scored, judged=judged)


def _drawn(wild: pl.DataFrame) -> pl.DataFrame:
    """A shard's random share of the sample: `row`, and `place`, its draw."""
    place = pl.Series(draws(wild["pair_id"].to_list(), "cost"), dtype=pl.Float64)
    return wild.select("row").with_columns(place=place).sort("place").head(SAMPLE)


def _sample(found: Sequence[tuple[Place, pl.DataFrame]]) -> tuple[Pair, ...]:
    """The pairs of the lowest draws of all, or of some shards where there are many: the text of these alone is read."""
    step = max(1, len(found) // SHARDS)
    some = [frame.with_columns(at=pl.lit(n)) for n, (_, frame) in enumerate(found) if n % step == 0 and len(frame)]
    if not some:
        return ()
    least = pl.concat(some).sort("place").head(SAMPLE)
    pairs = list[Pair]()
    for (n,), rows in least.group_by("at", maintain_order=True):
        wanted = rows["row"].sort().to_numpy()
        for part in stream_shard(found[int(str(n))][0], ["prompt", "responses"], wanted):
            pairs += records(Pair, part)
    return tuple(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What stage 2 comes to. `tokens` is what one reward model reads, `gpu_hours` are both models'; `asked` pairs are put to
    judges in `requests`, of `tokens_in` and `tokens_out` in all; `dollars` is their price (None: none was told). `gold` and
    `silver` are what stage 1 has labelled, `budget` is the paper's B in dollars. `told`: how each number is known."""

    pairs: int
    chars: int
    tokens: int
    gpu_hours: float
    asked: int
    requests: int
    tokens_in: int
    tokens_out: int
    dollars: float | None
    gold: int
    silver: int
    budget: float
    told: Mapping[str, str]

    def lines(self) -> list[str]:
        """For people."""
        told = self.told
        price = "not known without --price" if self.dollars is None else f"${self.dollars:,.2f} ({told['price']})"
        return [
            f"stage 2: {self.pairs:,} pairs, {_short(self.chars)} characters ({told['pairs']})",
            f"  scoring: {_short(self.tokens)} tokens ({told['tokens']}) by two reward models: {self.gpu_hours:,.1f} "
            f"GPU-hours ({told['rate']})",
            f"  judging: {self.asked:,} pairs ({told['judged']}), {self.requests:,} requests ({told['requests']}): "
            f"{_short(self.tokens_in)} tokens in, {_short(self.tokens_out)} out ({told['prompts']})",
            f"  LLM cost: {price}",
            f"  the paper's B = {told['budget']} = ${self.budget:,.2f}",
        ]  # fmt: skip


def forecast(
    size: Size, first: Stage1Config, judging: Judging | None = None, assumed: Assumed | None = None,
    count: tuple[str, Count] | None = None, labelled: tuple[int, int] | None = None, offline: bool = True,
) -> Forecast:  # fmt: skip
    """What stage 2 costs.

    Args:
        size: What it is of.
        first: The sizes of stage 1, which bound gold and silver.
        judging: The judges that are servers (None: there are none).
        assumed: What else nobody knows yet.
        count: The name of a tokenizer, and what counts by it.
        labelled: Gold and silver, where stage 1 is done.
        offline: Without `judging`, the offline judge of this machine judges, which asks no server; else nobody does.
    """
    assumed = assumed or Assumed()
    ratio, by = assumed.chars_per_token, f"{assumed.chars_per_token:g} characters a token, assumed: no tokenizer"
    if count is not None and (read := count[1](size.sample)):
        ratio = sum(p.chars for p in size.sample) / read
        by = f"{ratio:.2f} characters a token, measured on {len(size.sample)} pairs with the tokenizer of {count[0]}"
    share, how = assumed.judged, f"{assumed.judged:.0%}, assumed"
    if size.scored:
        share, how = (
            size.judged / size.scored,
            f"{size.judged / size.scored:.1%} of the {size.scored:,} that are scored",
        )
    if not judging and not offline:
        share, how = 0.0, "there is no judge: none is flipped"
    tokens, asked = round(size.chars / ratio), round(size.pairs * share) if size.sample else 0
    each = judging.judges * judging.samples if judging else 0
    prompt = _prompt(size.sample, judging.examples) / ratio if judging and size.sample else 0.0
    sent, back = round(asked * each * prompt), asked * each * assumed.reply_tokens
    price = judging.price if judging else (0.0, 0.0)
    gold, silver = labelled or most_labelled(first)
    budget = assumed.gold * gold + assumed.silver * silver + assumed.wild * size.pairs
    return Forecast(
        pairs=size.pairs, chars=size.chars, tokens=tokens, gpu_hours=2 * tokens / assumed.tokens_per_s / 3600,
        asked=asked, requests=asked * each, tokens_in=sent, tokens_out=back, gold=gold, silver=silver, budget=budget,
        dollars=(sent * price[0] + back * price[1]) / 1e6 if any(price) or not judging else None,
        told={
            "pairs": size.counted, "tokens": by, "judged": how,
            "rate": f"at {assumed.tokens_per_s:,.0f} tokens a second and GPU, assumed",
            "requests": f"{judging.judges} judges x {judging.samples} votes" if judging else "no server is asked",
            "prompts": f"{prompt:,.0f} each with {judging.examples} examples, {assumed.reply_tokens} of a reply assumed"
                       if judging else "none",
            "price": f"${price[0]:g} in and ${price[1]:g} out a million" if judging else "no server is asked",
            "budget": f"${assumed.gold:.2f} x {gold:,} gold + ${assumed.silver:.2f} x {silver:,} silver + "
                      f"${assumed.wild:.2f} x {size.pairs:,} of stage 2"
                      f"{'' if labelled else ', gold and silver at most'} (illustrative prices, A3 appendix F)",
        },
    )  # fmt: skip


def most_labelled(first: Stage1Config) -> tuple[int, int]:
    """The most that stage 1 has people (gold) and judges (silver) label."""
    people = round(first.gold_share * first.per_iteration)
    judges = (
        first.per_iteration - people + round(first.held_share * people)
    )  # held pairs are drawn beside the retrieved
    return first.seed_gold + first.iterations * people, first.seed_silver + first.iterations * judges


def _prompt(sample: Sequence[Pair], examples: int) -> float:
    """The mean of the characters of a judge's prompts about pairs of the sample, with the next ones as examples."""
    shown = [Example(pair=p, attributes=rule_attributes(p), better=p.responses[0].id) for p in sample[:64]]
    total = 0
    for n, e in enumerate(shown):
        some = tuple(shown[(n + k) % len(shown)] for k in range(1, 1 + min(examples, len(shown) - 1)))
        request, _ = judge_request(Case(pair=e.pair, attributes=e.attributes, examples=some), "judge", 0, 0)
        total += sum(len(m.content) for m in request.messages)
    return total / len(shown)


def _short(n: float) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if n >= size:
            return f"{n / size:,.3g} {unit}"
    return f"{n:,.0f}"


# -- after ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What `name` has over the smaller set `over`: `more` pairs, and `points` of accuracy for each million of them, with the
    standard error of that. The two models answer the same pairs, so the error, which takes them for independent, is at most
    too large."""

    name: str
    over: str
    more: int
    points: float
    se: float

    @property
    def verdict(self) -> str:
        """Whether the paper would stop here."""
        low, high = self.points - Z95 * self.se, self.points + Z95 * self.se
        if high < STOP:
            return f"below {STOP:g}: the paper stops here"
        return (
            f"above {STOP:g}: the paper goes on"
            if low > STOP
            else f"not told apart from {STOP:g}, where the paper stops"
        )

    def line(self) -> str:
        low, high = self.points - Z95 * self.se, self.points + Z95 * self.se
        return (
            f"{self.name} over {self.over}: {self.points:+,.1f} points ({low:+,.1f} to {high:+,.1f}) for each million of "
            f"the {self.more:,} pairs that it has more; {self.verdict}"
        )


def gains(results: Mapping[str, Mapping[str, Any]]) -> list[Gain]:
    """The gains from set to set, from a run's steps (`Run.results()`: sets/NAME with `pairs` and `accuracy`)."""
    steps = [(name, results[f"sets/{name}"]) for name in ("stage1", "filtered", "flipped") if f"sets/{name}" in results]
    made = []
    for (over, before), (name, after) in itertools.pairwise(steps):
        more = after["pairs"] - before["pairs"]
        if more > 0:
            gain = after["accuracy"]["value"] - before["accuracy"]["value"]
            error = math.hypot(after["accuracy"]["se"], before["accuracy"]["se"])
            made.append(Gain(name=name, over=over, more=more, points=1e8 * gain / more, se=1e8 * error / more))
    return made
