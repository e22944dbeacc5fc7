"""Protocol cards: what a number was measured with, and whether it may stand under the paper's name.

Paper B (section 5.1 and Table 1): at most 64K tokens, answers in boxes, the mean of 5 runs (pass@1), a judge of OpenAI for
equivalence where answers are free. Its temperature, prompts, judge's prompt, LiveCodeBench's window and BFCL's version are
not stated: a number here is never more than "by what the paper states", and what is not stated is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from assay.records import digest

PAPER = {
    "aime24": 78.9, "livecodebench": 63.6, "livebench": 73.2, "ifeval": 82.9, "bfcl": 66.3, "mmmu": 73.6, "mathvista": 74.0,
    "olympiadbench": 62.6, "mathvision": 49.0, "mmmu-pro": 52.0,
}  # fmt: skip
"""Skywork R1V2-38B's numbers (paper B, version 3, Table 1), in percent."""
PAPER_TOKENS, PAPER_REPEATS = 65_536, 5
JUDGED = frozenset({"aime24", "mmmu", "mathvista", "olympiadbench", "mathvision", "mmmu-pro"})
"""Benchmarks whose answers the paper lets a judge compare."""
OWN_LIMIT = "a limit of its own"
UNSTATED = {
    "livecodebench": "its window of dates", "bfcl": "its version (v3 by its date)", "livebench": "its release",
    "ifeval": "which of the four rates", "olympiadbench": "which subsets",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Who compared answers, and how it was asked. `prompt`: a digest; `own_prompt`: it is the user's and not Assay's."""

    name: str
    url: str = ""
    temperature: float | None = None
    max_tokens: int = 0
    prompt: str = ""
    own_prompt: bool = False

    @property
    def id(self) -> str:
        """What tells its verdicts from others' (what its limit cuts is no verdict, whatever the limit)."""
        return digest([self.name, self.url, self.temperature, self.prompt])[:8]

    @property
    def how(self) -> str:
        """How it answers; it is shown no pictures."""
        drawn = (
            ""
            if self.temperature is None
            else f"temperature {self.temperature:g}, at most {self.max_tokens:,} tokens, "
        )
        whose = "a prompt of one's own" if self.own_prompt else "Assay's prompt"
        return f"{drawn}no pictures, {whose}, digest {self.prompt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What one number was measured with. `questions`: that the data here hold; `published`: of the published benchmark
    (0: it depends on the window). `prompt`: one question's, as it was sent, pictures left out."""

    benchmark: str
    library: str
    release: str
    split: str
    questions: int
    published: int
    prompt: str
    temperature: float | None
    """None: the server takes none, and draws at its own."""
    max_tokens: int
    repeats: int
    seed: int
    extractor: str
    judge: str = "none: the rule alone"
    window: str = ""
    asked: int = 0
    """Of the questions in the data those that were asked (0: all)."""
    measure: str = "accuracy"
    by_subset: bool = False
    subsets: tuple[str, ...] = ()
    """Subsets that the total is the plain mean of, all of which must be there."""
    cut_is_wrong: bool = False
    """Whether an answer that the limit cut is wrong whatever stands in it (calls, programs); else it is scored as it is."""
    asked_here: bool = True
    """Else its prompts, temperature and limits are those of whoever asked, and not known here."""
    server: tuple[str, ...] = ()
    """What the server did otherwise than it was asked, in words."""
    extracts: bool = True
    """Whether an answer is read out of the text (IFEval judges the text itself)."""
    judges: tuple[Judge, ...] = ()
    """Those whose verdicts stand beside the rule's."""
    answers: str = ""
    """A digest of the file of answers that this is the card of."""
    flaws: tuple[str, ...] = ()
    """What is known to be wrong with this copy of the data."""

    @staticmethod
    def of(told: Mapping[str, Any]) -> Card:
        """The card that `as_json` wrote. Raises TypeError for anything else."""
        known = {f.name for f in fields(Card)}
        kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items() if k in known}
        kept["judges"] = tuple(Judge(**j) for j in told.get("judges", ()))
        return Card(**kept)

    def differs(self) -> list[str]:
        """Where this is not what the paper states."""
        if not self.asked_here:
            return ["asked elsewhere, by what settings is not known here"]
        found = []
        if self.max_tokens < PAPER_TOKENS:
            found.append(f"{self.max_tokens:,} tokens at most, the paper 64K")
        if self.repeats != PAPER_REPEATS:
            found.append(f"{self.repeats} answer{'s' * (self.repeats > 1)} a question, the paper 5")
        if self.repeats > 1 and self.temperature == 0:
            found.append("temperature 0, at which repeats are one answer")
        found += self.server
        if self.benchmark in JUDGED and self.judge.startswith("none"):
            found.append("no judge of equivalence, the paper one of OpenAI")
        if self.benchmark == "bfcl":
            found.append("v4's data, where the paper's time had v3's")
        if 0 < self.asked < self.questions:
            found.append(f"{self.asked:,} of {self.questions:,} questions asked")
        if self.published and self.questions != self.published:
            found.append(f"{self.questions:,} questions in the data, the published set {self.published:,}")
        return found

    @property
    def cut_at(self) -> str:
        """Where answers were cut, in words."""
        own = any(OWN_LIMIT in told for told in self.server)
        return f"{self.max_tokens:,} tokens{', or at a limit of the server,' * own}"

    def line(self) -> str:
        """The protocol in one line."""
        window = f", {self.window}" if self.window else ""
        if not self.asked_here:
            return f"{self.library}, asked elsewhere; {self.split} ({self.release}); its own extractor and ground truth"
        drawn = "the model's own temperature" if self.temperature is None else f"temperature {self.temperature:g}"
        server = "".join(f"; {told}" for told in self.server)
        return (
            f"{self.library}; {self.split}{window} ({self.release}); {drawn}, at most {self.max_tokens:,} tokens, "
            f"{self.repeats} answer{'s' * (self.repeats > 1)} a question, seed {self.seed}; extractor: {self.extractor}; "
            f"judge: {self.judge}{server}"
        )

    def lines(self) -> list[str]:
        """What the server did otherwise, whether the number may be held beside the paper's, and the prompt."""
        paper, server = PAPER.get(self.benchmark), list(self.server)
        if paper is None:
            return [*server, *([f"prompt: {self.prompt}"] if self.prompt else [])]
        differs = self.differs()
        judged = self.benchmark in JUDGED
        unstated = ["temperature", "prompts", *(["its judge and the judge's prompt"] if judged else [])]
        unstated += [UNSTATED[self.benchmark]] if self.benchmark in UNSTATED else []
        told = (
            f"not the paper's protocol ({'; '.join(differs)}): not to be held beside its {paper}" if differs else
            f"{'rule, then judge, is ' if judged else ''}by what the paper states (its R1V2-38B: {paper}); it does not "
            f"state {', '.join(unstated)}"
        )  # fmt: skip
        return [*server, told, *([f"prompt: {self.prompt}"] if self.prompt else [])]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "differs": self.differs(), "paper": PAPER.get(self.benchmark)}


def shortened(prompt: str, question: str, most: int = 400) -> str:
    """A prompt with its question left out: what of it is the benchmark's."""
    text = " ".join(prompt.replace(question, "{question}").split()) if question else " ".join(prompt.split())
    return text if len(text) <= most else f"{text[: most - 4]} ..."
