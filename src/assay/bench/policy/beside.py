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
    " celsius fahrenheit needed required used sold made bought earned saved spent paid rounded also now today"
    " tomorrow then so again correct indeed here there such possible different distinct ways respectively units unit"
    " alone done remained stayed th st nd rd square cubic obviously clearly certainly definitely answer final result"
)
_DETERMINERS = words_of(
    "the a an his her its their our my your this these those them that all both another any one us him"
)
_PLACES = words_of("in of on for at to per during within across among inside a an every each")
_BE = words_of("is are was were be been remain remains")
_STOPS = words_of(
    "if when while until and or but than as with from by before after over under above below beyond between past"
    " toward towards against though although however which who whose where what since because versus vs into onto out"
    " up down upon via through perhaps maybe possibly probably some no far close near next it's like yet still dozen"
    " make makes could might may would should must wouldn't couldn't didn't don't doesn't isn't aren't wasn't weren't"
    " can't won't about approximately roughly around approx circa approximate"
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
            if _CJK_CHANGES.search(word) or len(word) > 6:
                return None
        elif (text in CHANGERS and text not in _COUNTABLE) or _PART.fullmatch(text):
            return None
        elif text in _BE:
            state, said_of, unknown, of = "closed", True, 0, of or after == "the"
        elif text in _PLACES or (text in _DETERMINERS and state != "closed"):
            state, unknown, of = "object", 0, of or text == "of"
        elif text in _CLOSE | _DETERMINERS or (text == "too" and not after) or _COMPARED.fullmatch(text) or unit_of(word) or (text, state) == ("and", "object"):
            pass
        elif (text in _STOPS and word != "May") or text == "too" or (state == "noun" and _changing(text, after)):
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
    r"(?: from (?:now|today)|(?<=s) and \w+s)$|^times(?: as \w+(?: \w+)?$|$|(?= (?:in|a|per|each|every|during)\b))", re.I
)
"""What leaves a number as it is though its words would not elsewhere: "3 days from now", "cats and dogs", "5 times a week"."""


def _changing(text: str, after: str) -> bool:
    """Whether a word is a participle that may change the number before it ("350 reduced"), not one of a noun's ("350 ordered
    pairs")."""
    return bool(_PARTICIPLE.fullmatch(text)) and not (text.endswith("ed") and _plural(after))


def _plural(word: str) -> bool:
    return word in _MANY or (word.endswith("s") and not word.endswith(("ss", "us", "is")))


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
        return not _CJK_CHANGES.search("".join(t.text for t in words).replace("的", ""))
    mark = next((t.text for t in reversed(tokens) if t.text not in "$€£¥₹\"'*([-~|" and t.text != "\\approx"), "")
    if mark in ("=", ":"):
        return len(words) < 12
    if mark == ",":
        return said[0] in _ADVERBIAL or said[-1] in _ADVERBS
    return arrives(said) and (said[-1] in _BEFORE | APPROXIMATE | _DETERMINERS | _PREPOSED or given(said))


_ADVERBIAL = words_of("according based overall looking using from")
_ADVERBS = words_of("so then hence thus therefore total altogether is finally overall ultimately indeed")
_PREPOSED = words_of("of to with by in")
_GIVES = words_of("take takes took cost costs gave give gives leave leaves earns earn needs")


def given(said: Sequence[str]) -> bool:
    """Whether words end in somebody to whom a number is given: "it takes Ben", "it will cost the school"."""
    return any(w in _GIVES for w in said[-3:-1])


_LEADS = {"by": _CHANGE, "of": MEASURES, "to": _ARRIVES, "with": _STARTS}


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
    return not any(t.text.lower() in (_UNDER if numbers else _UNDER | _BE) or _CJK_CHANGES.search(t.text) for t in tokens)


OPERATORS = words_of(
    "or nor if unless but though although however except bound bounds estimate estimates guess wrong incorrect false"
    " mistaken trap placeholder impossible squared cubed doubled tripled halved plus minus provided assuming maybe"
    " perhaps possibly roughly could might cannot never doubt unlikely otherwise else either neither versus vs"
    " excluded rejected replaced multiplied divided increased decreased limit maximum doubtful case isn't aren't can't"
    " doesn't won't wasn't don't didn't ish something assumed supposed suppose assume below negative nope wait sorry"
    " least most would should may must used ?"
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
_OBJECT = words_of("the a an our my its this")
_REASON = words_of(
    "because since as so which where whose hence therefore thus giving making satisfying independent for when"
)


def known(said: str) -> bool:
    """Whether the words behind an answer are known to leave it as it is."""
    if _CJK_DENIES.search(said):
        return False
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|[,?]", re.sub(r"\\[A-Za-z]+", " ", said).lower())
    for at, word in enumerate(words):
        after, behind = "".join(words[at + 1 : at + 2]), _DISOWNED & {*words[at + 1 :]}
        if word == "not":
            return at == 0 or words[at - 1] in (",", "and")
        if word in OPERATORS or (word == "no" and words[at - 1 : at] in ([], [","])):
            return False
        if word in BEING:
            return (after in _SAID_OF or (at > 0 and after not in OPERATORS | {"what", "not"} and (at > 1 or after != "too"))) and not behind
        if word in _REASON:
            return not behind
        if word.endswith("s") and after in _OBJECT and word not in _HOLDS | _PLACES:
            return False
    return True


_CJK_DENIES = re.compile(
    r"左右|以上|以下|以内|不对|错|[的之]?[一二两三四五六七八九十]?(?:倍|半)|吗|或|如果|除非|不成立|不正确|不是(?!\s*[A-Z\d])|也可能"
)
