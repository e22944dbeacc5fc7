"""Whether judges are any better than a coin: what they say of pairs that people verified, and how often they turn the labels
of sources over.

Some gold is put to the judges as any pair is: with examples of other questions only. What they say of it is kept apart
(table `checks`) and labels nothing. Held gold is not put to them: judges are asked about no held question.
"""

import numpy as np
import polars as pl

from assay.curate.book import Book, judged
from assay.curate.material import VOTES
from assay.curate.shares import Share, share
from assay.errors import AssayError
from assay.figures import beside_a_coin, told
from assay.order import draws
from assay.records import Judge, Judgement
from assay.run import Run
from assay.statistics import Estimate, interval

TELLS = 80
"""Independent questions, of gold pairs that judges decided, from which they must be shown to be above a coin. (At 80 a judge
that is right in 70 % is taken for a coin once in 25 times, at 50 once in five.)"""
HINTS = 12
"""Of fewer, down to so many, it is enough that they agree more often than not. (At 12 a coin is stopped in six of ten times,
a judge that is right in 70 % in one of eight, in 80 % in one of fifty; at 40 a coin in six of ten, the others in one of 150
and never.)"""


class Check:
    """The judges of stage 1 against people's gold."""

    def __init__(self, run: Run, book: Book, judge: Judge, most: int, examples: int) -> None:
        self.run, self.book, self.judge, self.most, self.examples = run, book, judge, most, examples

    def ask(self, turn: str) -> None:
        """Put gold that they have not seen yet to the judges, at most `most` pairs in all turns. Raises Unreached where a
        server did not answer."""
        table, shard = self.run.table("checks", Judgement), f"stage1-{turn}"
        if table.done(shard):
            return
        seen = table.frame(columns=["pair_id"])["pair_id"]
        gold = self._gold().filter(~pl.col("pair_id").is_in(seen.implode()))
        order = np.argsort(draws(gold["pair_id"].to_list(), "check"))[: max(0, self.most - len(seen))]
        known = list(self.book.material.known(gold[order]).values())
        table.write(shard, judged(self.judge, self.book.gold_shown().cases(known, self.examples)))

    def agreement(self) -> Share:
        """How often they agree with people, of the gold pairs that they decided."""
        said = self.run.table("checks", Judgement).frame(columns=["pair_id", "better"]).drop_nulls("better")
        both = self._gold().join(said, on="pair_id")
        return share([both.select("question_id", hit=pl.col("better") == pl.col("chosen"))])

    def stop(self, at_chance: bool) -> None:
        """Raises AssayError for judges that are not above chance, as far as the gold tells, unless `at_chance`."""
        found = self.agreement()
        if found is None or found["clusters"] < HINTS or at_chance:
            return
        estimate = Estimate(**found)  # type: ignore[arg-type]
        many = estimate.clusters >= TELLS
        if (interval(estimate)[0] if many else estimate.value) <= 0.5:
            says = "not shown to be better than a coin" if many else "no more often than a coin, as far as so few tell"
            raise AssayError(
                f"the judges agree with people's gold on {told(estimate)}: {says}, so their labels would do harm. Use "
                "other judges or none in another --out (without any, the labels of sources are kept or dropped, and never "
                "turned round), or go on with these: --at-chance"
            )

    def tell(self, turn: str) -> None:
        """Say and keep, once, how often they agree with people, and how many of the sources' labels they turned over until
        now."""
        if self.run.has(f"stage1/judges-{turn}"):
            return
        kept = self.run.once(f"stage1/judges-{turn}", self._numbers)
        agrees, turned = (Estimate(**kept[k]) if kept[k] else None for k in ("agreement", "overturned"))
        says = "were not compared with people's gold"
        if agrees:
            says = f"agree with people's gold on {told(agrees)}{beside_a_coin(agrees)}"
        self.run.say(f"judges {says}; they turned over {told(turned) if turned else 'none'} of the sources' labels")

    def _numbers(self) -> dict[str, object]:
        words = self.book.words().select(VOTES).filter(pl.col("kind").is_in(["llm", "offline"]))
        labels = self.book.labels().filter(
            pl.col("tier") == "silver", pl.col("pair_id").is_in(words["pair_id"].implode())
        )
        had = labels.filter(pl.col("chosen").is_not_null() & ~pl.col("reason").str.ends_with("the source has no label"))
        turned = share([had.select("question_id", hit=pl.col("fate") == "relabelled")])
        return {"asked": len(words), "agreement": self.agreement(), "overturned": turned}

    def _gold(self) -> pl.DataFrame:
        return self.book.gold().sort("pair_id")
