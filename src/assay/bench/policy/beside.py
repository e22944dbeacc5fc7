"""Which words may stand beside an answer and leave it as it is.

What is not known here makes the number of another answer ("350 excluding shipping", "a number close to 350"): a list of what
changes a number would never be whole. Allowed behind it: a unit, what is counted (a plural), where and for what, and closing
words ("in total", "each"); before it: a name with a colon, or a sentence that ends in a verb of having or being.
"""

import re
from collections.abc import Sequence

from assay.bench.policy.arithmetic import Number, Token
from assay.bench.policy.vocabulary import (
    ADVERBS,
    APPROXIMATE,
    ARRIVES,
    BEFORE,
    BEING,
    CHANGE,
    CHANGERS,
    CJK_CHANGES,
    CLOSE,
    COUNTABLE,
    DETERMINERS,
    DISOWNED,
    GIVES,
    HOLDS,
    MEASURES,
    OPERATORS,
    PLACES,
    PLURALS,
    REASON,
    REMAINING,
    SAID_OF,
    STARTS,
    STOPS,
    SURE,
    TORN,
    words_of,
)
from assay.bench.policy.words import unit_of

_PART = re.compile(r".*(?:teen|tie|dred|sand|lion|if|six|seven|eigh|nin|four|ten|eleven|twelf)th(?<!month)s?")
"""A part of a whole ("sixteenths")."""
_PARTICIPLE = re.compile(r".{3,}(?:ing|ed|ish|fold|ward)")
_COMPARED = re.compile(
    r"(?!remainder|number|other|another|over|under|after|either|neither|rather|never|whether|quarter|minister)[a-z]{3,}er"
)
"""Comparatives, which say of what the number is a difference ("15 pounds lighter"); no "than" goes with them."""
_CJK = re.compile(r"[\u3400-\u9fff]+")
MOST = 4
"""Unknown words of what is counted, and of where it is."""


def counted(tokens: Sequence[Token], value: Number) -> str | None:
    """What these words behind a number say is counted ("" where nothing is named); None where they may change it."""
    words = _ASIDE.sub("", " ".join(t.text for t in tokens if t.text not in "\"'*$")).split()
    state, unknown, noun, said_of, of = "noun", 0, "", False, False
    for at, word in enumerate(words):
        text, after = word.lower(), "".join(words[at + 1 : at + 2]).lower()
        if not word[0].isalpha():
            state = state if state == "object" else "closed"
        elif _CJK.search(word):
            if CJK_CHANGES.search(word) or len(word) > 6:
                return None
        elif (text in CHANGERS and text not in COUNTABLE) or _PART.fullmatch(text):
            return None
        elif text in REMAINING:
            state, said_of, unknown, of = "closed", True, 0, of or after == "the"
        elif text in PLACES or (text in DETERMINERS and state != "closed"):
            state, unknown, of = "object", 0, of or text == "of"
        elif (
            text in CLOSE | DETERMINERS
            or (text == "too" and not after)
            or _COMPARED.fullmatch(text)
            or unit_of(word)
            or (text, state) == ("and", "object")
        ):
            pass
        elif (text in STOPS and word != "May") or text == "too" or (state == "noun" and _changing(text, after)):
            return None
        else:
            unknown += 1
            if unknown > MOST or (state == "closed" and not ((noun or of) and said_of and unknown <= 2)):
                return None
            if state == "noun" and _plural(noun) and not _plural(text):
                state = "object"
            noun = text if state == "noun" else noun
    return noun if not noun or _plural(noun) or -1 <= value <= 1 else None


_ASIDE = re.compile(
    r"(?: from (?:now|today)|(?<=s) and \w+s)$|^times(?: as \w+(?: \w+)?$|$|(?= (?:in|a|per|each|every|during)\b))",
    re.I,
)
"""What leaves a number as it is though its words would not elsewhere: "3 days from now", "cats and dogs", "5 times a week"."""


def _changing(text: str, after: str) -> bool:
    """Whether a word is a participle that may change the number before it ("350 reduced"), not one of a noun's ("350 ordered
    pairs")."""
    return bool(_PARTICIPLE.fullmatch(text)) and not (text.endswith("ed") and _plural(after))


def _plural(word: str) -> bool:
    return word in PLURALS or (word.endswith("s") and not word.endswith(("ss", "us", "is")))


def led(tokens: Sequence[Token], whole: bool) -> bool:
    """Whether these words before a number leave it as it is. `whole`: it is written as a whole number, which is no rounding
    of another: "about 12" is none."""
    words = [t for t in tokens if t.kind == "word"]
    if not words:
        return True
    said = [t.text.lower() for t in words]
    if said[0] in ("my", "your") and not {"answer", "result", "total", "calculation", "final"} & {*said}:
        return False
    if "i" in said[:-1] and said[said.index("i") + 1] not in SURE:
        return False
    if (
        {"would", "been"} <= {*said}
        or any(w in CHANGERS or w in TORN or w.endswith("n't") for w in said)
        or (whole and any(w in APPROXIMATE for w in said))
    ):
        return False
    if _CJK.search(words[-1].text):
        return not CJK_CHANGES.search("".join(t.text for t in words).replace("的", ""))
    mark = next((t.text for t in reversed(tokens) if t.text not in "$€£¥₹\"'*([-~|" and t.text != "\\approx"), "")
    if mark in ("=", ":"):
        return len(words) < 12
    if mark == ",":
        return said[0] in _ADVERBIAL or said[-1] in ADVERBS | {"is", "total"}
    return arrives(said) and (said[-1] in BEFORE | APPROXIMATE | DETERMINERS | _PREPOSED or given(said))


_ADVERBIAL = words_of("according based overall looking using from")
_PREPOSED = words_of("of to with by in")


def given(said: Sequence[str]) -> bool:
    """Whether words end in somebody to whom a number is given: "it takes Ben", "it will cost the school"."""
    return any(w in GIVES for w in said[-3:-1])


_LEADS = {"by": CHANGE, "of": MEASURES, "to": ARRIVES, "with": STARTS}


def arrives(said: Sequence[str]) -> bool:
    """Whether words whose last is a preposition lead to what is told ("a total of", "equal to"); true of all others."""
    before = said[:-1] if said[-1] == "by" else said[-2:-1]
    led_by = any(w in _LEADS.get(said[-1], ()) for w in before) and before != ["up"]
    return said[-1] not in _LEADS or led_by or said[-4:-1] == ["by", "a", "factor"]


_UNDER = CHANGERS - {"not", "less"} | words_of("before after without if unless until only assuming provided ?")
"""Words that put what stands in brackets under a condition."""


def remarks(tokens: Sequence[Token]) -> bool:
    """Whether what stands in brackets behind a number only tells of it: arithmetic, another spelling, what is counted."""
    numbers = any(t.kind == "number" for t in tokens)
    return not any(
        t.text.lower() in (_UNDER if numbers else _UNDER | REMAINING) or CJK_CHANGES.search(t.text) for t in tokens
    )


_OBJECT = words_of("the a an our my its this")


def known(said: str) -> bool:
    """Whether the words behind an answer are known to leave it as it is."""
    if _CJK_DENIES.search(said):
        return False
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|[,?]", re.sub(r"\\[A-Za-z]+", " ", said).lower())
    for at, word in enumerate(words):
        after, behind = "".join(words[at + 1 : at + 2]), DISOWNED & {*words[at + 1 :]}
        if word == "not":
            return at == 0 or words[at - 1] in (",", "and")
        if word in OPERATORS or (word == "no" and words[at - 1 : at] in ([], [","])):
            return False
        if word in BEING:
            return (
                after in SAID_OF or (at > 0 and after not in OPERATORS | {"what", "not"} and (at > 1 or after != "too"))
            ) and not behind
        if word in REASON:
            return not behind
        if word.endswith("s") and after in _OBJECT and word not in HOLDS | PLACES:
            return False
    return True


_CJK_DENIES = re.compile(
    r"左右|以上|以下|以内|不对|错|[的之]?[一二两三四五六七八九十]?(?:倍|半)|吗|或|如果|除非|不成立|不正确|不是(?!\s*[A-Z\d])|也可能"
)
