"""Which words may stand beside an answer and leave it as it is.

What is not known here makes the number of another answer ("350 excluding shipping", "a number close to 350"): a list of what
changes a number would never be whole. Allowed behind it: a unit, what is counted (a plural), where and for what, and closing
words ("in total", "each"); before it: a name with a colon, or a sentence that ends in a verb of having or being. Each class
of words is listed once, here, for all rules.
"""

import re
from collections.abc import Sequence

from assay.bench.policy.arithmetic import Number, Token
from assay.bench.policy.words import unit_of


def words_of(words: str, *others: frozenset[str]) -> frozenset[str]:
    """These words, with those of other classes."""
    return frozenset(words.split()).union(*others)


def forms(verbs: str) -> frozenset[str]:
    """Regular verbs with their forms: "need" gives needs and needed."""
    return frozenset(f for v in verbs.split() for f in (v, f"{v}s", f"{v}d" if v.endswith("e") else f"{v}ed"))


# Words that take an answer away, whatever stands beside it.
HEDGES = words_of("or else otherwise alternatively maybe perhaps possibly if unless nor either neither vs versus")
"""They put another answer beside the one that is told, or leave it open."""
OPEN = words_of(
    "could might may cannot wouldn't couldn't didn't don't doesn't isn't aren't wasn't weren't can't won't shouldn't"
)
"""Verbs that leave open what is told, or deny it."""
WRONG = words_of(
    "bound bounds estimate estimates estimated guess guessed wrong wrongly incorrect incorrectly false mistake mistakes"
    " mistaken mistakenly erroneous typo misprint slip trap naive naively decoy placeholder impossible"
)
"""What an answer is called that is none."""
CHANGERS = WRONG | words_of(
    "limit previous former factorial squared cubed doubled tripled halved double triple twice thrice half reciprocal"
    " inverse opposite negative root roots power powers multiple modulo mod base plus minus less short shy odd ish unless"
    " none neither not never nor cannot except besides excluding including almost nearly hardly barely scarcely"
    " approaching somewhere nowhere off unlike without dozens scores halves tenths hundredths thousandths hundreds"
    " thousands millions billions lakhs crores squares cubes binary octal hexadecimal hex times tops tens thirds fourths"
    " fifths sixths sevenths eighths ninths elevenths twelfths fails misses exceeds earliest latest most least"
)
"""Words that make another number of the one they stand beside, deny it, or take it back."""
COUNTABLE = words_of("roots powers squares cubes bounds limits estimates scores mistakes")
"""Those of them that are counted where they stand behind a number."""
OPERATORS = words_of(
    "but though although however except squared cubed doubled tripled halved plus minus provided assuming roughly"
    " never doubt unlikely excluded rejected replaced multiplied divided increased decreased limit maximum doubtful"
    " case ish something assumed supposed suppose assume below negative nope wait sorry least most used would should"
    " must ?",
    HEDGES,
    OPEN,
    WRONG,
)
"""Words behind an answer that change it, deny it, or put another beside it."""
OTHERS = "different|other|another|previous|similar|simpler|easier|related|earlier"
"""Which question it is whose answer is not asked."""
DISOWNED = WRONG | words_of("old previous former earlier another if ?")
"""Words that make an answer somebody else's, or none, in what is said of it."""
TORN = HEDGES | OPEN | words_of("nobody no used when whether until")
"""Words with which a sentence before a number tells none for sure."""
SUPPOSED = words_of(
    "if suppose supposing assume assuming let unless whether imagine pretend say were had contradiction"
)
"""How a sentence begins that only supposes."""
# Words that leave an answer as it is.
BEING = words_of("is are was were be")
REMAINING = BEING | words_of("been remain remains")
APPROXIMATE = words_of("about approximately roughly around approx circa approximate")
ADVERBS = words_of(
    "so then hence thus therefore altogether finally overall ultimately indeed now also clearly obviously certainly"
    " definitely exactly precisely only just"
)
DETERMINERS = words_of(
    "the a an his her its their our my your this these those them that all both another any one us him"
)
PLACES = words_of("in of on for at to from per during within across among inside a an every each")
CLOSE = ADVERBS - {"finally", "ultimately", "hence", "thus", "therefore"} | words_of(
    "in total combined together each apiece left remaining more extra additional long tall wide high deep thick old away"
    " ago later earlier apart per every daily weekly monthly yearly annually hourly older younger taller shorter longer"
    " larger bigger heavier faster smaller fewer cheaper ad ce celsius fahrenheit needed required used sold made bought"
    " earned saved spent paid rounded today tomorrow too again correct here there such possible different distinct ways"
    " respectively units unit alone done remained stayed th st nd rd square cubic answer final result"
)
"""Closing words behind a number ("in total", "each", "long")."""
STOPS = words_of(
    "when while until and but than as with by before after over under above below beyond between past toward towards"
    " against though although however which who whose where what since because into onto out up down upon via through"
    " probably some no far close near next it's like yet still dozen make makes would should must",
    HEDGES,
    OPEN,
    APPROXIMATE,
)
"""Words behind a number with which the sentence goes on to something else."""
PLURALS = words_of(
    "people men women children feet teeth mice geese sheep fish deer dice data staff yen yuan won pence cattle police"
    " bacteria vertices indices matrices radii criteria phenomena kids bps mph kph wpm rpm bpm ppm"
)
MEASURES = words_of(
    "total sum answer value temperature length distance cost price speed area volume weight height age average mean"
    " median profit amount score probability number count width depth mass result angle perimeter rate time duration"
    " capacity density income salary fee loss gain balance radius diameter remainder residue quotient current voltage"
    " power force pressure energy difference output"
)
BEFORE = BEING | (ADVERBS - {"certainly", "clearly", "obviously", "definitely", "finally", "overall"}) | forms(
    "need earn save weigh yield remain show display contain receive walk travel use score collect owe obtain measure"
    " last require want gain bake plant produce raise donate pick count own charge equal total cost wait"
) | words_of(
    "been being currently still already the answer result value sum number amount has have had having takes take took"
    " sold sells sell makes make made gets get got pays pay paid spends spend spent gives give gave becomes reads read"
    " runs run ran travelled drives drive drove buys buy bought eats eat ate won wins sees see saw leaves leave left find"
    " found finds holds hold year rs usd us eur gbp inr cad aud hkd both all these those another at for costing"
    " totalling totaling earning lost loses drank drinks caught sent sends wrote writes worth namely say says that's it's"
    " index line page row column position"
)  # fmt: skip
"""Words right before a number that tell it: verbs of being, having and doing, and what is counted."""
CHANGE = forms("increase decrease decline improve") | words_of(
    "grew grows grow rose rises rise fell falls fall dropped drops shrank"
)
"""Verbs that "by" and a number follow."""
ARRIVES = words_of(
    "equal equals comes came come adds add up amounts amount sums sum equivalent simplifies reduces evaluates rounds"
    " leads corresponds converges tends simplify reduce evaluate rounded simplified total totals back identical"
)
"""Words that "to" and what they come to follow."""
STARTS = words_of("us started starts start ended ends end began begins up left leaves")
"""Words that "with" and a number follow."""
GIVES = words_of("take takes took cost costs gave give gives leave leaves earns earn needs")
ARRIVING = BEFORE | MEASURES | DETERMINERS | APPROXIMATE | words_of(
    "of by in with to that indeed roots solutions zeros or here answered facing reaches reach always find finding option"
    " choice choose pick select giving form as point points pair vector matrix interval set line equation coordinates"
    " expression ratio fraction range domain function polynomial est ist es de beträgt"
    " satisfy called named dated labelled labeled"
)  # fmt: skip
"""Words that lead on to an answer which is marked."""
SURE = words_of(
    "get got count counted find found have had see saw obtain obtained calculate conclude know can would need am"
    " spent paid bought end ended"
)
"""What "I" may do who tells a number."""
HOLDS = words_of(
    "satisfies gives has makes fits meets matches yields equals solves works as this its plus represents was does"
)
"""Verbs that an answer may be the subject of."""
SAID_OF = words_of(
    "correct right already in equal possible prime even odd positive needed required left sold there what's",
    DETERMINERS,
    ADVERBS,
)
"""What an answer may be said to be."""
REASON = words_of(
    "because since as so which where whose hence therefore thus giving making satisfying independent for when"
)
OPENERS = words_of(
    "and which that this it means shows gives implies follows we i get gets find conclude see know have has"
    " obtain can our my in conclusion summary total short as result consequently but yet again ok okay well alright"
    " yes great let's put state give with to from because of step accordingly here hereby verify check confirm"
    " verified confirmed done given submit your option think believe say would must answering answer final correct the"
    " best single exact simplified quick required i'm sure confident all above below desired asked leaving an round"
    " rounded follow following next arrive at on after using looking clear us there me actually really donc ainsi"
    " alors daher somit deshalb entonces luego por lo tanto par conséquent folglich",
    ADVERBS,
    BEING - {"were"},
)
"""Words that lead on to "the answer is", and leave it told."""
CHOOSING = OPENERS - words_of("but after all below") | words_of(
    "a answers options choice letter it's i'd i'll will choose chose chosen pick picked select selected choosing go going"
    " feel right statement alternative image figure picture graph diagram shape panel should probably likely most mark"
    " marked for by here's correctly appropriate suitable closest accurate matching possible one reasonable solution"
    " surely am left remains leaves are question ans re bet since corresponds"
)
"""Words that may stand before a letter that is chosen, in its clause."""

CJK_CHANGES = re.compile(
    r"[不非未没无约近超余几除比或倍半的多底阶]|至少|至多|以上|以下|左右|上下|以内|以外|大于|小于|少于|高于|低于|最少|最[大小](?!值|[^为是]{1,4}[为是]$)|大概|可能"
    r"|也许|平方根|倒数|相反|之间|到|错|吗|假设|如果|若|减|加|乘|其他|次方|之后|之前|之外|零下|开外|出头"
)
"""Chinese that changes a number beside it."""
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
        elif text in CLOSE | DETERMINERS or _COMPARED.fullmatch(text) or unit_of(word):
            if text == "too" and after:
                return None
        elif (text in STOPS and word != "May") or (state == "noun" and _changing(text, after)):
            if (text, state) != ("and", "object"):
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
    r"(?: from (?:now|today)|(?<=s) and \w+s| over (?:the|an?)(?:(?: \w+)? (?:hour|day|week|month|year|period)s?)?)$"
    r"|^times(?: as \w+(?: \w+)?$|$|(?= (?:in|a|per|each|every|during)\b))",
    re.I,
)
"""What leaves a number as it is here, though not elsewhere: "days from now", "cats and dogs", "5 times a week"."""


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
    changing = CHANGERS | TORN | APPROXIMATE if whole else CHANGERS | TORN
    if {"would", "been"} <= {*said} or any(w in changing or w.endswith("n't") for w in said):
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
    led_by = any(w in _LEADS.get(said[-1], ()) for w in before) and [*said] != ["up", "to"]
    return said[-1] not in _LEADS or led_by or said[-4:-1] == ["by", "a", "factor"]


_UNDER = (
    CHANGERS - {"not", "less"} | OPEN | words_of("before after without if unless until only assuming provided should ?")
)
"""Words that put what stands in brackets under a condition."""


def remarks(tokens: Sequence[Token]) -> bool:
    """Whether what stands in brackets behind a number only tells of it: arithmetic, another spelling, what is counted."""
    under = _UNDER if any(t.kind == "number" for t in tokens) else _UNDER | REMAINING
    return not any(t.text.lower() in under or CJK_CHANGES.search(t.text) for t in tokens)


_OBJECT = words_of("the a an our my its this")


def known(said: str) -> bool:
    """Whether the words behind an answer are known to leave it as it is."""
    if _CJK_DENIES.search(said):
        return False
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?|[,?]", re.sub(r"\\[A-Za-z]+|(?<=\w )May\b", " ", said).lower())
    for at, word in enumerate(words):
        after, behind = "".join(words[at + 1 : at + 2]), DISOWNED & {*words[at + 1 :]}
        if word == "not":
            return at == 0 or words[at - 1] in (",", "and")
        if word in OPERATORS or (word == "no" and words[at - 1 : at] in ([], [","])):
            return False
        if word in BEING:
            denied = at == 0 or after in OPERATORS | {"what", "not"} or (at == 1 and after == "too")
            return (after in SAID_OF or not denied) and not behind
        if word in REASON:
            return not behind
        if word.endswith("s") and after in _OBJECT and word not in HOLDS | PLACES:
            return False
    return True


_CJK_DENIES = re.compile(
    r"左右|以上|以下|以内|不对|错|[的之]?[一二两三四五六七八九十]?(?:倍|半)|吗|或|如果|除非|不成立|不正确|不是(?!\s*[A-Z\d])|也可能"
)
