"""Which words may stand beside an answer and leave it as it is.

What is not known here makes the number of another answer ("350 excluding shipping", "a number close to 350"): a list of what
changes a number would never be whole. Allowed behind it: a unit, what is counted (a plural), where and for what, and closing
words ("in total", "each"); before it: a name with a colon, or a sentence that ends in a verb of having or being.
"""

import re
from collections.abc import Sequence

from assay.bench.policy.arithmetic import Number, Token
from assay.bench.policy.words import unit_of


def words_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


CHANGERS = words_of(
    "bound bounds limit estimate estimated estimates guess guessed wrong incorrect false previous former factorial"
    " squared cubed doubled tripled halved double triple twice thrice half reciprocal inverse opposite negative root"
    " roots power powers multiple modulo mod base plus minus less short shy odd ish unless none neither not never nor"
    " cannot except besides excluding including almost nearly hardly barely scarcely approaching somewhere nowhere off"
    " unlike without dozens scores halves tenths hundredths thousandths hundreds thousands millions billions lakhs"
    " crores squares cubes binary octal hexadecimal hex times tops tens thirds fourths fifths sixths sevenths eighths"
    " ninths elevenths twelfths fails misses exceeds earliest latest most least"
)
"""Words that make another number of the one they stand beside, deny it, or take it back."""
_COUNTABLE = words_of("roots powers squares cubes bounds limits estimates scores")
"""Those of them that are counted where they stand behind a number."""
APPROXIMATE = words_of("about approximately roughly around approx circa approximate")
_CLOSE = words_of(
    "in total altogether overall combined together each apiece left remaining more extra additional exactly precisely"
    " only just long tall wide high deep thick old away ago later earlier apart per every daily weekly monthly yearly"
    " annually hourly older younger taller shorter longer larger bigger heavier faster smaller fewer cheaper ad ce"
    " celsius fahrenheit needed required used sold made bought earned saved spent paid rounded also too now today"
    " tomorrow then so again correct indeed here there such possible different distinct ways respectively units unit"
    " alone done remained stayed th st nd rd square cubic obviously clearly certainly definitely answer final result"
)
_DETERMINERS = words_of(
    "the a an his her its their our my your this these those them that all both another any one us him"
)
_PLACES = words_of("in of on for at per during within across among inside a an every each")
_BE = words_of("is are was were be been remain remains")
_STOPS = words_of(
    "if when while until and or but than as with from to by before after over under above below beyond between past"
    " toward towards against though although however which who whose where what since because versus vs into onto out"
    " up down upon via through perhaps maybe possibly probably some no far close near next it's like yet still dozen"
    " make makes"
)
_MANY = words_of(
    "people men women children feet teeth mice geese sheep fish deer dice data staff yen yuan won pence cattle police"
    " bacteria vertices indices matrices radii criteria phenomena kids bps mph kph wpm rpm bpm ppm"
)
_BEFORE = words_of(
    "is are was were be been being currently now still also already equals equal exactly precisely only just the"
    " total answer result value sum number amount therefore thus hence so then has have had having needs need needed"
    " takes take took costs cost sold sells sell makes make made earns earn earned gets get got pays pay paid spends"
    " spend spent saves save saved weighs weigh weighed gives give gave yields becomes remains remain shows show"
    " displays contains contain contained receives receive received reads read runs run ran walks walk walked travels"
    " travel travelled traveled drives drive drove buys buy bought eats eat ate uses use used won wins scored scores"
    " collected collects sees see saw owes owe owed leaves leave left obtain obtained obtains find found finds"
    " measures measure lasts last lasted holds hold year rs usd us eur gbp inr cad aud hkd both all these those"
    " another at for costing totalling totaling earning requires require wants want lost loses gained gains baked"
    " bakes planted plants produced produces raised raises donated drank drinks picked picks caught sent sends wrote"
    " writes count counts counted own owns charged charges charge worth namely say says that's it's index line page"
    " row column position"
)
MEASURES = words_of(
    "total sum answer value temperature length distance cost price speed area volume weight height age average mean"
    " median profit amount score probability number count width depth mass result angle perimeter rate time duration"
    " capacity density income salary fee loss gain balance radius diameter remainder residue quotient current voltage"
    " power force pressure energy difference output"
)
_CHANGE = words_of(
    "grew grows grow rose rises rise increased increases increase fell falls fall decreased decreases decrease"
    " dropped drops declined declines improved improves shrank"
)
_ARRIVES = words_of(
    "equal equals comes came come adds add up amounts amount sums sum equivalent simplifies reduces evaluates rounds"
    " leads corresponds converges tends simplify reduce evaluate rounded simplified total totals back identical"
)
ARRIVING = (
    _BEFORE | MEASURES | _DETERMINERS | APPROXIMATE
    | words_of(
        "of by in with to that therefore thus indeed hence roots solutions zeros or here answered facing reaches reach"
        " approximately always find finding option choice choose pick select so only giving form as point points pair"
        " vector matrix interval set line equation coordinates expression ratio fraction range domain function polynomial"
    )
)  # fmt: skip
"""Words that lead on to an answer which is marked."""
_STARTS = words_of("us started starts start ended ends end began begins up left leaves")
_TORN = words_of("or either maybe perhaps possibly if unless nobody no may might could used when whether until")
"""Words with which a sentence tells no number for sure."""
_OPEN = words_of(
    "could might may would should must wouldn't couldn't didn't don't doesn't isn't aren't wasn't weren't can't won't"
)
"""Verbs behind a number that leave open what is told of it, or deny it."""
_SURE = words_of(
    "get got count counted find found have had see saw obtain obtained calculate conclude know can would need am"
    " spent paid bought end ended"
)
"""What somebody does who tells a number."""
_PART = re.compile(r".*(?:teen|tie|dred|sand|lion|if|six|seven|eigh|nin|four|ten|eleven|twelf)th(?<!month)s?")
"""A part of a whole ("sixteenths")."""
_PARTICIPLE = re.compile(r".{3,}(?:ing|ed|ish|fold|ward)")
_COMPARED = re.compile(
    r"(?!remainder|number|other|another|over|under|after|either|neither|rather|never|whether|quarter|minister)[a-z]{3,}er"
)
"""Comparatives, which say of what the number is a difference ("15 pounds lighter"); no "than" goes with them."""
_CJK = re.compile(r"[\u3400-\u9fff]+")
_CJK_CHANGES = re.compile(
    r"[不非未没无约近超余几除比或倍半的多底阶]|至少|至多|以上|以下|左右|上下|以内|以外|大于|小于|少于|高于|低于|最少|最大|最小|大概|可能"
    r"|也许|平方根|倒数|相反|之间|到|错|吗|假设|如果|若|减|加|乘|其他|次方|之后|之前|之外|零下|开外|出头"
)
_CJK_NOUN = re.compile(r"[\u3400-\u9fff]{1,6}")
_MONIES = words_of("money euros sterling yen rupees")
MOST = 4
"""Unknown words of what is counted, and of where it is."""


def counted(tokens: Sequence[Token], value: Number) -> str | None:
    """What these words behind a number say is counted ("" where nothing is named); None where they may change it."""
    words = _times(
        [t for t in tokens if t.text not in "\"'*$" and not (t.text == "from" and tokens[-1].text in ("now", "today"))]
    )
    state, unknown, noun, spoken, spoken_of, of = "noun", 0, "", False, False, False
    for at, token in enumerate(words):
        text, last = token.text.lower(), at + 1 == len(words)
        if token.kind != "word":
            if text in ",;:.!?()[]" and state != "object":
                if not _settled(noun, value):
                    return None
                state = "closed"
            continue
        if _CJK.search(token.text):
            if _CJK_CHANGES.search(token.text) or not _CJK_NOUN.fullmatch(token.text):
                return None
            continue
        if (
            (text in CHANGERS and text not in _COUNTABLE)
            or text in APPROXIMATE
            or (text in _OPEN and token.text != "May")
            or _PART.fullmatch(text)
        ):
            return None
        if text in _BE:
            if not _settled(noun, value) or (last and not text.startswith("remain")):
                return None
            state, spoken_of, unknown = "closed", True, 0
            of = of or (not last and words[at + 1].text.lower() == "the")
        elif text == "and" and _plural(noun) and at + 2 == len(words) and _plural(words[-1].text.lower()):
            return None if words[-1].text.lower() in CHANGERS | _STOPS else noun
        elif text in _PLACES or text in _DETERMINERS:
            if text == "of" and state == "noun" and noun and not _plural(noun) and value != 1:
                return None
            if last and text in ("of", "the", "a", "an", "for", "at", "on"):
                return None
            if state == "noun" and not _settled(noun, value):
                return None
            of = of or text == "of"
            state, unknown = ("object", 0) if state != "closed" or text in _PLACES else (state, unknown)
        elif text == "too" and not last:
            return None
        elif text in _CLOSE or _COMPARED.fullmatch(text) or (unit_of(token.text) and state != "object"):
            if state == "noun" and not _settled(noun, value):
                return None
            spoken = True
        elif text == "and" and state == "object" and not last:
            if words[at + 1].text.lower() in _CLOSE | _STOPS | CHANGERS:
                return None
        elif text == "to" and not last and words[at + 1].text.lower() not in _STOPS | _BE:
            state, unknown = "object", 0
        elif text in _STOPS or (state == "noun" and _changing(words, at)):
            return None
        else:
            unknown += 1
            if (
                (state == "closed" and not ((noun or of) and spoken_of and unknown <= 2))
                or unknown > MOST
                or (state == "noun" and spoken and unknown > 2)
            ):
                return None
            if state == "noun" and _plural(noun) and not _plural(text):
                state = "object"
            noun = text if state == "noun" else noun
    return noun if _settled(noun, value) else None


def _changing(words: Sequence[Token], at: int) -> bool:
    """Whether a word is a participle that may change the number before it ("350 reduced"), not one of a noun's ("350 ordered
    pairs")."""
    text, after = words[at].text.lower(), words[at + 1].text.lower() if at + 1 < len(words) else ""
    return bool(_PARTICIPLE.fullmatch(text)) and not (text.endswith("ed") and _plural(after) and after not in _STOPS)


def _times(words: list[Token]) -> list[Token]:
    """Words behind "times": it is what is counted alone or before "as many", and else a product left undone."""
    if not words or words[0].text.lower() != "times":
        return words
    after = [t.text.lower() for t in words[1:] if t.kind == "word"]
    if after[:1] == ["as"] and len(after) < 4:
        return []
    freely = not after or after[0] in _CLOSE or after[0] in ("in", "a", "per", "each", "every", "during")
    return words[1:] if freely else words


def _plural(word: str) -> bool:
    return word in _MANY or (word.endswith("s") and not word.endswith(("ss", "us", "is")))


def _settled(noun: str, value: Number) -> bool:
    """Whether what is counted may be: more than one of a plural, one or a part of anything, or nothing named."""
    return not noun or _plural(noun) or -1 <= value <= 1


def led(tokens: Sequence[Token], whole: bool) -> bool:
    """Whether these words before a number leave it as it is. `whole`: it is written as a whole number, which is no rounding
    of another: "about 12" is none."""
    words = [t for t in tokens if t.kind == "word"]
    if not words:
        return True
    said = [t.text.lower() for t in words]
    if said[0] in ("my", "your") and not {"answer", "result", "total", "calculation", "final"} & {*said}:
        return False
    if "i" in said[:-1] and said[said.index("i") + 1] not in _SURE:
        return False
    if (
        {"would", "been"} <= {*said}
        or any(w in CHANGERS or w in _TORN or w.endswith("n't") for w in said)
        or (whole and any(w in APPROXIMATE for w in said))
    ):
        return False
    if _CJK.search(words[-1].text):
        return not _CJK_CHANGES.search("".join(t.text for t in words).replace("的", "")) or (
            said[-1] in ("约",) and not whole
        )
    mark = next((t.text for t in reversed(tokens) if t.text not in "$€£¥₹\"'*([-~|" and t.text != "\\approx"), "")
    if mark in ("=", ":"):
        return len(words) < 12
    if mark == "." and said[-1] in ("rs", "approx", "ca", "no"):
        return led(words[:-1], whole)
    if mark in (".", ";", "?", "!"):
        return all(w in _BEFORE or w in ("rs", "approx", "eq", "ca", "no") for w in said)
    if mark == ",":
        return said[0] in _ADVERBIAL or said[-1] in words_of(
            "so then hence thus therefore total altogether is finally overall ultimately indeed"
        )
    return (
        arrives(said)
        and (said[-1] != "in" or len(said) < 11)
        and (
            said[-1] in _BEFORE | APPROXIMATE | _DETERMINERS | _PREPOSED
            or given([t.text for t in words])
            or (unit_of(said[-1]) or ("",))[0] in _MONIES
        )
    )


_ADVERBIAL = words_of("according based overall looking using from")
_PREPOSED = words_of("of to with by in")
_GIVES = words_of("take takes took cost costs gave give gives leave leaves earns earn needs")


def given(said: Sequence[str]) -> bool:
    """Whether words end in somebody to whom a number is given: "it takes Ben", "it will cost the school"."""
    return (len(said) > 1 and said[-1].istitle() and said[-2] in _GIVES) or (
        len(said) > 2 and said[-2] in ("the", "her", "his", "their") and said[-3] in _GIVES
    )


def arrives(said: Sequence[str]) -> bool:
    """Whether words whose last is a preposition lead to what is told ("a total of", "equal to"); true of all others."""
    *before, last = said
    if last == "by":
        return any(w in _CHANGE for w in before)
    if last == "of":
        return bool(before) and (before[-1] in MEASURES or before[-3:] == ["by", "a", "factor"])
    if last == "to":
        return bool(before) and before[-1] in _ARRIVES and before != ["up"]
    if last == "with":
        return bool(before) and (before[-1] in _STARTS or before[-1] == "us")
    return True


_UNDER = words_of("before after without if unless until only assuming provided")
"""Words that put what stands in brackets under a condition."""


def remarks(tokens: Sequence[Token]) -> bool:
    """Whether what stands in brackets behind a number only tells of it: arithmetic, another spelling, what is counted."""
    words = [t for t in tokens if t.kind == "word"]
    if any(t.text.lower() in _UNDER for t in words) or any(t.text == "?" for t in tokens):
        return False
    if any(_CJK_CHANGES.search(t.text) for t in words):
        return False
    if any(t.kind == "number" for t in tokens):
        return not any(t.text.lower() in CHANGERS - {"not"} for t in words)
    return not any(t.text.lower() in (CHANGERS | _BE) - {"not", "less"} for t in words)


OPERATORS = words_of(
    "or nor if unless but though although however except bound bounds estimate estimates guess wrong incorrect false"
    " mistaken trap placeholder impossible squared cubed doubled tripled halved plus minus provided assuming maybe"
    " perhaps possibly roughly could might cannot never doubt unlikely otherwise else either neither versus vs"
    " excluded rejected replaced multiplied divided increased decreased limit maximum doubtful case isn't aren't can't"
    " doesn't won't wasn't don't didn't ish something assumed supposed suppose assume below negative"
)
"""Words behind an answer that change it, deny it, or put another beside it."""
_DISOWNED = words_of(
    "old bound bounds estimate estimates guess wrong incorrect false mistaken trap placeholder impossible previous"
    " former earlier another if ?"
)
BEING = words_of("is are was were be")
_HOLDS = words_of(
    "satisfies gives has makes fits meets matches yields equals solves works as this its plus represents was does"
)
"""Verbs that an answer may be the subject of."""
_SAID_OF = words_of(
    "the a an our my your its his her their this that these those correct right indeed also already in therefore thus"
    " equal exactly possible prime even odd positive needed required left sold there clearly only then what's both all"
    " one"
)
"""What an answer may be said to be."""
_REASON = words_of(
    "because since as so which where whose hence therefore thus giving making satisfying independent for when"
)


def known(said: str) -> bool:
    """Whether the words behind an answer are known to leave it as it is."""
    if _CJK_DENIES.search(said):
        return False
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|[,?]|\d+", re.sub(r"\\[A-Za-z]+", " ", said).lower())
    for at, word in enumerate(words):
        after = words[at + 1] if at + 1 < len(words) else ""
        if word == "and" and words[at + 1 :] == ["we", "are", "done"]:
            return True
        if word == "not":
            return at == 0 or words[at - 1] in (",", "and")
        if word in ("no", "nope", "wait", "sorry") and (at == 0 or words[at - 1] == ","):
            return False
        if word == "?" or word in OPERATORS or (word == "times" and after.isdigit()):
            return False
        if at < 4 and word in ("would", "should", "may", "must", "used"):
            return False
        if word in ("least", "most") and at and words[at - 1] == "at":
            return False
        if (
            at < 4
            and word.endswith("s")
            and after in ("the", "a", "an", "our", "my", "its", "this")
            and word not in BEING | _HOLDS | _PLACES
        ):
            return False
        if word in BEING:
            good = after in _SAID_OF or (
                at > 0 and after not in OPERATORS | {"what", "not"} and not (at < 2 and after == "too")
            )
            return good and not _DISOWNED & {*words[at + 1 :]}
        if word in _REASON:
            return not _DISOWNED & {*words[at + 1 :]}
    return True


_CJK_DENIES = re.compile(
    r"左右|以上|以下|以内|不对|错|[的之]?[一二两三四五六七八九十]?(?:倍|半)|吗|或|如果|除非|不成立|不正确|不是(?!\s*[A-Z\d])|也可能"
)
