"""What a text asserts about a picture, by words: claims of a closed vocabulary, and "I can't see the image".

Definitions are ours; the paper reports a hallucination rate (B3 Table 3) without saying what is counted or how it is found.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from assay.policy.asserted import asserted
from assay.rollouts import Prompt


def vocabulary(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The words that claims are looked for: all facts and absent things of these prompts, in small letters, sorted."""
    return tuple(sorted({w.lower() for p in prompts for w in (*p.facts, *p.absent)}))


def reasoning(text: str) -> str:
    """The part of an answer that reasons: what stands before </think> or <answer>, or all of it without such a template."""
    return re.split(r"</think>|<answer>", text, maxsplit=1)[0]


_QUOTE = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|`[^`\n]*`|(?<!\w)'[^'\n]*'(?!\w)")
_ASKS = re.compile(
    r"\b(?:whether|if(?! (?:we|you|i|one) (?:look|zoom|count|check)\b)|(?:question|task|goal|user|prompt|instruction) "
    r"(?:is|was|says|mentions|wants|needs|speaks|tells)|ask(?:s|ed|ing)?|(?:task|goal|question|instruction):)(?!\w)",
    re.I,
)
_WRONG = (
    r"(?:wrong|false|incorrect|mistaken|impossible|unlikely|implausible|absent|missing|nowhere|excluded|eliminated|removed"
    r"|erased|deleted|replaced|imaginary|gone|out)"
)
_NOT = re.compile(
    r"\b(?:not(?! only)|zero|0(?![.,]\d)|no(?! (?:doubt|question|wonder))|none|nothing(?! but)|nobody|never|neither|nor"
    r"|cannot|hardly|barely|without(?! (?:an?y? )?(?:doubt|question))"
    r"|lack(?:s|ed|ing)?|absen(?:t|ce)|missing|free of|less|lost|loses|used to"
    r"|formerly|instead of|rather than|as opposed to|opposite of|contrary to|unlike|except|excluding"
    r"|(?:any|every)thing but|all but|other than|in vain|different from|too\b[^,.;]*? to be|far from"
    r"|(?:prefer|choose|pick|call|take)\b[^,.]*?\bover|rul(?:e|es|ed|ing) out"
    r"|exclud(?:e|es|ed)"
    r"|eliminat(?:e|es|ed|ing)|reject(?:s|ed|ing)?|dismiss(?:es|ed)?|discard(?:s|ed)?|den(?:y|ies|ied)"
    r"|doubt(?:s|ed|ful)?(?<!no doubt)(?<!a doubt)(?<!any doubt)|fail(?:s|ed)? to|mistakes?|mistook|confus(?:e|es|ed|ing)"
    r"|unlikely|impossible|false|wrong(?:ly)?|incorrect(?:ly)?|mistaken(?:ly)?|error)\b|n't\b",
    re.I,
)
_HEDGE = re.compile(
    r"\b(?:could|might|may|maybe|perhaps|possib(?:le|ly)|potential(?:ly)?|probabl[ey]|likely|would|should|either|almost"
    r"|nearly|guess(?:es|ed|ing)?|wonder(?:s|ed|ing)?|said|suppos(?:es?|ed|ing)|assum(?:es?|ed|ing|ptions?)"
    r"|imagin(?:es?|ed|ing)"
    r"|suspect(?:s|ed|ing)?|expect(?:s|ed|ing)?|consider(?:s|ing|ed)?|presum(?:es?|ed|ing|ably)|bet(?:s|ting)?|hunch"
    r"|hop(?:es?|ing)"
    r"|usual(?:ly)?|typical(?:ly)?|generally|in general|normally|often|sometimes|from (?:far|afar|a distance)"
    r"|according to|(?:was|were|been) told|claims? that|caption|reads"
    r"|(?:in|of) (?:most|many|some|such|other) (?:\w+ )?(?:pictures?|images?|photos?|figures?|cases?|tasks?)|wrote"
    r"|answer key|(?:previous|first|initial|earlier|old|other) (?:answer|choice|reading)|shaped like|let \w+ (?:be|denote)"
    r"|unsure|uncertain|unclear|hard to|difficult to|between|similar to"
    r"|compared (?:to|with)|closer? to|more (?:\w+ )?than|appears?(?= \w+ only)|resembl(?:e|es|ing)|remind(?:s|ed)?"
    r"|tempt(?:ed|ing)|as if|in case of"
    r"|look(?:ing)? for|search(?:ing)? for|check(?:ing)? (?:for|that)|needs? to|ha(?:ve|s) to|wants? to|tr(?:y|ies|ying) to"
    r"|let (?:me|us)|let's|some (?:say|think)|one (?:says|thinks)|statement|sentence|assertion"
    r"|at first|first glance|first (?:impression|thought|look|guess|took|saw|said|read)|first,? i (?:see|saw|notice)"
    r"|took (?:it|this|that)|initial(?:ly)?|original(?:ly)?|earlier|previously|thought|believed"
    r"|(?:looked|seemed|appeared)(?: like| to be)?)\b(?:\s*:)?"
    r"|^\W*(?:think of|find|look|name|describe|choose|pick|draw|count)\b|^\W*wher(?:e|ever) there\b"
    r"|^\W*(?:to be (?!precise|sure|honest|clear|fair|exact|specific)|(?:were|had|should) (?:it|this|that|the|there)\b)",
    re.I,
)
_LISTS = re.compile(
    r"\b(?:options?|choices?|candidates?|alternatives?|possibilit(?:y|ies)|hypothe(?:sis|ses)|words?|to choose from)\b",
    re.I,
)
_TURN = re.compile(
    r"[:()]|\b(?:(?<!thing )(?<!all )but|instead(?! of)|rather(?! than)|however|although|though|because|since|so|now"
    r"|in fact|therefore|clearly|hence|thus|(?:in|close) (?:truth|reality|up)|and (?:find|found|see|saw))\b",
    re.I,
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|shows?|contains?|stands?|lies|see|find|count|must be|leaves|remains)\b|'s\b"
    r"|^\s*(?:on|in|at|to|with) the\b",
    re.I,
)
"""What begins another statement after a comma."""
_BE = r"(?:is|are|was|were|does|do|did|can|could|would|will|has|have|seems?|looks?|must)"
_AFTER = re.compile(
    rf"(?:\s+\w+){{0,2}}?(?:\s+{_BE}(?:n't|not|\s+not|\s+never)\s+(?:be\s+)?(?:an?\s+|the\s+)?(?:there|present|visible|shown|seen"
    r"|in\b|appear|exist|correct|right|true|possible|fit|match|apply|work|answer|option|case|it\b|what\b|found|used"
    r"|mentioned"
    r"|plausible|occur)"
    r"|(?:\s+(?:would|could|might|may|should)\b|\s+out\b(?! of)|-like\b)"
    r"|\s+(?:hypothesis|theory|idea|option|guess)\b|\s+exists? only\b"
    r"|,?\s+(?:I|we) (?:can't|cannot|can not|don't|do not|didn't|did not) (?:see|find) (?:one|it|any|that|them)\b"
    r"|\s+(?:that|which)\b[^,;:.]*? (?:does not|doesn't|do not|don't) (?:exist|appear)"
    r"|\s+(?:is|are|was|were) (?:what|asked|wanted|mentioned|named|meant|(?:the|an?) (?:colou?r|shape))\b"
    rf"|\s+must be an? (?:artefact|artifact|illusion|reflection|shadow|mistake|error)"
    rf"|\s+(?:{_BE}|can be|could be|would be|must be|has been|have been|seems? to be)"
    rf"(?:\s+(?:both|clearly|also|very|then|thus|an?))*\s+(?:{_WRONG}|ruled out|error)\b"
    rf"|\s*[:,–—-]+\s*(?:that|which|this)\s+(?:is|was)\s+(?:an?\s+)?(?:{_WRONG}|error|mistake)"
    r"|\s*[:–—-]+\s*(?:no|not|wrong)\b|,\s+(?:wrongly|mistakenly|incorrectly)\b"
    r"|\s+(?:at first|initially|originally|at first glance)\b)",
    re.I,
)
"""What denies a word that stands before it."""
_ANY = re.compile(
    r"(?:\s+with\b[^,;:.]*?|\s+and \w+)?\s+(?:has|have|means?|makes?|(?:is|are) (?:called|defined))\b(?! been)", re.I
)
"""After "a circle", what is said of any."""
_ONE = re.compile(r"(?:^|[,;])\W*(?:\w+ and )?(?:an? |any |every )?$", re.I)
_MERE = re.compile(
    r"(?:/|\bor\b) ?(?:an? |the )?(?:\w+ )?$|(?:^|[\s(])[A-H][).:] ?(?:an? |the )?$|\b(?:says?|said|called) (?:an? |the )?$",
    re.I,
)
"""Before one of several words that may be, or a mere word: "blue or red", "(A) red", "they say red"."""
_CORRECTS = (
    r"(?:oh|no|wait|hold on|actually|sorry|correction|scratch that|hmm+|on second thought|i mean(?:t)?|let me re\w+)"
)
_BACK = re.compile(
    r"(?:,|\.\.\.|\s[–—-]+|[–—])\s*(?:(?:no|oh|hmm+)\s*[,–—-]|(?!no\b|oh\b|hmm)" + _CORRECTS + r"\b)"
    r"(?:[\s,–—-]*" + _CORRECTS + r"\b[\s,–—-]*)*",
    re.I,
)
"""Within a sentence: what stands before it is taken back."""
_AGAIN = re.compile(rf"\W*(?:(?:but|or|and)\s+)?{_CORRECTS}\b", re.I)
"""A sentence that begins so takes back the one before it."""
_PAUSE = re.compile(
    r"\W*(?:hmm+\W+)?(?:let me|let's|i(?:'ll| will| should| need to)|double|check|look(?:ing)?)\b[^,]*$", re.I
)
"""A sentence that only says that one looks again: what is taken back is the one before it."""


def claims_in(text: str, words: Sequence[str], question: str = "") -> tuple[str, ...]:
    """The distinct words of a closed vocabulary that a text asserts, in order; "circles" is "circle".

    No claims are: what is negated or excluded ("no red", "rather than red", "red can be ruled out"), what might be ("could
    be red", "red or blue"), a first thought that is taken back ("at first I thought it was red", "it is red. Wait, no"),
    whole questions, what follows "if", "whether" or "the question asks", what is quoted from `question` (in quotation marks,
    or four of its words in a row), and what stands in no frame that asserts (`policy.asserted`). A rule of thumb for
    English, not a parser: it would rather miss a claim than invent one.
    """
    if not words:
        return ()
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"</?\w+>", "\n", text.replace("’", "'")))
    longest = sorted(map(re.escape, words), key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(longest)})(?:e?s)?\b", re.I)
    lower = {w.lower(): w for w in words}
    quoted = _quoted(text, question)
    found: list[tuple[set[str], bool]] = []
    order: dict[str, None] = {}
    for sentence in _SENTENCE.finditer(text):
        if _AGAIN.match(sentence[0]) and (before := [said for said, pause in found if said or not pause]):
            before[-1].clear()
        claims = set[str]()
        found.append((claims, bool(_PAUSE.match(sentence[0]))))
        if sentence[0].endswith("?"):
            continue
        asks = _ASKS.search(sentence[0])
        said, last = _Sentence(sentence[0], pattern), None
        for match in pattern.finditer(sentence[0], said.begin, asks.start() if asks else len(sentence[0])):
            at = sentence.start() + match.start()
            if (
                any(a <= at < b for a, b in quoted)
                or said.denies(match)
                or not asserted(sentence[0], match, said.begin, pattern, last)
            ):
                last = None
                continue
            last = match.end()
            claims.add(lower[match[1].lower()])
            order.setdefault(lower[match[1].lower()])
    kept = set().union(*(claims for claims, _ in found))
    return tuple(w for w in order if w in kept)


_SENTENCE = re.compile(r"(?:[^.!?;\n]|\.{2,}){1,600}(?!\w)[.!?;\n]?")
"""Never long, so that a text without stops takes no longer to read than its length."""


class _Sentence:
    """A sentence, and where in it negations, hedges, contrasts and the like stand. What is before `begin` is taken back."""

    def __init__(self, text: str, pattern: re.Pattern[str]) -> None:
        self.text = text
        self.begin = max((b.end() for b in _BACK.finditer(text)), default=0)
        self.negations, self.hedges, self.lists, self.turns = (
            [m.end() for m in kind.finditer(text, self.begin)] for kind in (_NOT, _HEDGE, _LISTS, _TURN)
        )
        word = rf" ?,? ?(?:and|or)? ?(?:an? |the )?(?:(?!{pattern.pattern})\w+ )?{pattern.pattern}"
        self.others = re.compile(rf"(?:{word}){{0,4}} ?(?:/|,? ?\bor\b)", re.I)

    def denies(self, match: re.Match[str]) -> bool:
        """Whether a negation, a hedge or another choice reaches a word: from before to a contrast, a negation also no
        further than a comma after which another statement begins; or from after it."""
        at, near = match.start(), self.text[max(self.begin, match.start() - 60) : match.start()]
        if _AFTER.match(self.text, match.end()) or self.others.match(self.text, match.end()) or _MERE.search(near):
            return True
        if _ANY.match(self.text, match.end()) and _ONE.search(near):
            return True
        if any(end <= at for end in self.lists):
            return True
        turn = max((end for end in self.turns if end <= at), default=self.begin)
        if any(turn <= end <= at for end in self.hedges if end):
            return True
        last = max((end for end in self.negations if turn < end <= at), default=None)
        if last is None:
            return False
        first = self.text.find(",", last, at)
        return first < 0 or _VERB.search(self.text[first + 1 : at]) is None


def _quoted(text: str, question: str) -> list[tuple[int, int]]:
    """Where a text repeats the question: quotation marks around a part of it, or a run of four of its words."""
    asked = [w.lower() for w in re.findall(r"\w+", question)]
    spans = []
    for quote in _QUOTE.finditer(text):
        inner = re.findall(r"\w+", quote[0].lower())
        if inner and f" {' '.join(inner)} " in f" {' '.join(asked)} ":
            spans.append(quote.span())
    run = min(4, len(asked))
    runs = {tuple(asked[i : i + run]) for i in range(len(asked) - run + 1)} if run else set()
    said = list(re.finditer(r"\w+", text))
    for i in range(len(said) - run + 1 if run else 0):
        if tuple(w[0].lower() for w in said[i : i + run]) in runs:
            spans.append((said[i].start(), said[i + run - 1].end()))
    return spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What answers asserted about pictures: of `claims`, `false` ones name what is known to be absent, and `unchecked` ones
    what is known neither way; `spoke` answers claimed anything. `marks` says of each answer whether it made a false claim,
    None where nothing is known of its picture; `named` which share of its prompt's facts it asserted, None where there are
    none: an answer that says nothing invents nothing, so the one is worth little without the other. `checked`: of each
    answer its false claims, and its claims that can be checked."""

    claims: int
    false: int
    unchecked: int
    spoke: int
    marks: tuple[bool | None, ...]
    named: tuple[float | None, ...]
    checked: tuple[tuple[int, int], ...]

    @property
    def answers(self) -> int:
        """Answers to pictures of which something is known; the others are left out."""
        return sum(m is not None for m in self.marks)

    @property
    def rate(self) -> float | None:
        """The hallucination rate: the share of answers with at least one false claim, None where none can be checked. This
        definition is ours; the paper gives none."""
        return sum(m is True for m in self.marks) / self.answers if self.answers else None


def check_claims(prompts: Sequence[Prompt], texts: Sequence[str]) -> Claims:
    """Check the claims of the reasoning of each answer against its prompt's `facts` and `absent`.

    A word that is in both counts as a fact. Without a think template the final answer is part of the reasoning, and a wrong
    colour is a false claim. Raises ValueError when the lists differ in length.
    """
    words = vocabulary(prompts)
    claims = false = unchecked = spoke = 0
    marks: list[bool | None] = []
    named: list[float | None] = []
    checked: list[tuple[int, int]] = []
    for prompt, text in zip(prompts, texts, strict=True):
        if not prompt.facts and not prompt.absent:
            marks.append(None)
            named.append(None)
            checked.append((0, 0))
            continue
        said = claims_in(reasoning(text), words, prompt.messages[-1].content)
        facts, absent = ({w.lower() for w in given} for given in (prompt.facts, prompt.absent))
        other = [w for w in said if w not in facts]
        wrong = sum(w in absent for w in other)
        claims, false, unchecked = claims + len(said), false + wrong, unchecked + len(other) - wrong
        spoke += len(said) > 0
        marks.append(wrong > 0)
        named.append(sum(f in said for f in facts) / len(facts) if facts else None)
        checked.append((wrong, len(said) - len(other) + wrong))
    return Claims(
        claims=claims, false=false, unchecked=unchecked, spoke=spoke, marks=tuple(marks), named=tuple(named),
        checked=tuple(checked),
    )  # fmt: skip


_PICTURE = r"(?:images?|pictures?|photos?|figures?|diagrams?|charts?|graphs?|visuals?|attachments?)"
_WHICH = r"(?:(?:the|an?|any|this|that|your|actual|provided|attached)\s+)*"
_TO_SEE = (
    r"\s(?:here|attached|provided|given|at all|to (?:look|see|view|analy[sz]e|examine|inspect|refer|work)|for me|so\b|and\b"
    r"|in (?:your|the|this|our) (?:message|prompt|question|input|chat|conversation|request)"
    r"|with (?:your|the|this) (?:message|question))"
)
_BLIND = re.compile(
    rf"(?:can't|can\s*not|couldn't|could not|unable to|not able to)\s+(?:actually\s+|directly\s+|really\s+)?"
    rf"(?:see|view|access|look at|perceive)\s+{_WHICH}{_PICTURE}\b"
    rf"|\bno\s+{_PICTURE}\s+(?:(?:is|was|were|has been|have been)\s+)?"
    rf"(?:provided|attached|given|included|available|shown|uploaded|supplied)"
    rf"|\b{_PICTURE}\s+(?:is|was|are|were|has|have)(?:n't|\s+not)\s+(?:been\s+)?"
    rf"(?:provided|attached|given|included|available|shown|uploaded|supplied|visible)"
    rf"|\b(?:no|don't have|do not have|without)\s+(?:any\s+|direct\s+|visual\s+)*access to\s+{_WHICH}{_PICTURE}\b"
    rf"|\bwithout\s+(?:seeing|viewing|being able to see)\s+{_WHICH}{_PICTURE}\b"
    rf"|\b(?:there(?:'s|\s+is|\s+was)\s+no|there\s+(?:isn't|wasn't|is\s+not|was\s+not)\s+(?:an?|any)"
    rf"|(?:I|we)\s+(?:see|find|have|got|received|was given)\s+no"
    rf"|(?:I|we)\s+(?:do not|don't|did not|didn't|cannot|can't)\s+(?:(?:actually|really)\s+)?(?:see|have|find|get|receive)"
    rf"\s+(?:an?|any))\s+{_PICTURE}\s*(?:$|[.,;:!?)]|{_TO_SEE})"
    rf"|\b{_PICTURE}\s+(?:is|was|are|were|seems? to be)\s+(?:missing|blank|empty|not loaded)\b"
    rf"|\b{_PICTURE}\s+(?:did not|didn't|failed to|does not|doesn't)\s+"
    rf"(?:load|come through|arrive|appear|show up|display|open)\b"
    rf"|\b(?:as|am|'m)\s+(?:only\s+)?an?\s+text[- ](?:based|only)\s+(?:AI|(?:language\s+)?model|assistant)\b",
    re.I,
)


def cannot_see(text: str) -> bool:
    """Whether an answer says that there is no picture to look at: "can't see the image", "no image provided", "as a
    text-based model" (R1V3, Table 5: 47 of 900 MMMU answers, inherited from R1V2)."""
    return _BLIND.search(" ".join(text.replace("’", "'").split())) is not None
