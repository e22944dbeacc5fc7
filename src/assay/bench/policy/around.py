"""Whether what stands around a final answer leaves it as it is, in its sentence and behind it.

Nothing is trusted that is not known. Before "the answer is" stand words that lead on to it ("so", "we conclude that");
before a box a clause that ends in a verb of being or having, "=", a colon or what is measured; behind an answer, in its
sentence, a unit or a noun, where and for what, a reason, or that it is what was asked. What follows may explain, and not
take it back.
"""

import re

from assay.bench.policy import beside
from assay.bench.policy.beside import HEDGES, OPEN, OPERATORS, known, words_of
from assay.bench.policy.characters import written
from assay.bench.policy.letters import letter
from assay.bench.policy.quantities import quantity

NEAR = 400
"""Characters behind an answer in which it may be taken back."""
_CLAUSE = re.compile(
    r"[.,;:!?](?=[\s*$\"'\\]|$)|\n|\b(?:then|so|but|hence|thus|therefore|because|since|as|and)\b|[，。；：、]", re.I
)
_LIMITS = words_of("not never most least than between")
_MODAL = OPEN | words_of("not never also")
"""Words right before a verb of being that leave open, or deny, that it is."""
_FILL = words_of("then it the answer is be not could may might also but and even just")
_CJK_OPENER = re.compile(
    r"[\s*#>【\[(\"'：:]*(?:(?:综上(?:所述)?|所以|因此|因而|于是|那么|由此|故而?|可得|得到?|可知|最后"
    r"|最终|正确|本题|该题|此题|这道题|题目|我们|则|即"
    r"|的|解|答|最佳|标准|参考|为|也就是说|从而|选择?|应|该|正确的?)[\s*，,：:]*)*"
)
_STRIPPED = re.compile(
    r"(?:[\s$*&{\"'`_>#]|\\[$\[,;:! ]|\\\("
    r"|\\(?:displaystyle|q?quad|large|bf|bold|text(?:bf|it)?|math(?:bf|rm|bb))(?![A-Za-z])"
    r"|\\begin\{[a-z]+\*?\}(?:\{[^{}]*\})?|\\[!,])+$"
)
"""What stands right before an answer and only sets its looks."""
_RELATION = re.compile(
    r"(?<![<>])(?<!\D!)=$|\\(?:equiv|approx|in|implies|Rightarrow|Longrightarrow|rightarrow|therefore|iff|quad"
    r"|end\{[a-z]+\*?\})$|[-=]>$"
    r"|[:：.!。,，;；\]}|~]$"
)
_END = re.compile(
    r"(?<!\bi)(?<!\.e)[.!?](?=[\s$*)\"'\]}\\]|$)|[。！？；;]|\n(?=\s*(?:[-*#>|~]|\d+[.)]|[A-Z【\u3400-\u9fff])|\s*\n)|\\\](?=\s*[A-Z])"
)
_CLOSED = re.compile(
    r"^(?:[\s$*`\"')\]}&~]|\|(?=[\s|]*$)|\\[\])!,; ]|\\\\|\\(?:end|begin)\{[a-z]+\*?\}|</?\w+>|,(?=\s*$))+"
)
_ATTACHED = re.compile(r"\^\s*\{?\s*\\circ\s*\}?|%|\\?%|\(?\s*\\?(?:p|b)?mod(?![A-Za-z])[\s{(]*\d+[\s})]*|'+(?=\s|$)")
_FORMULA = re.compile(r"[-+*/^_!<>\d\\({\[]|(?i:times|plus|minus|divided|squared|cubed)\b|[a-z](?=$|\s*[=^+*])")
_DASH = re.compile(r"^-{1,3}\s+(?=[A-Za-z])|^[-–—]+(?=\s*[a-z]{3})")
_TURN = re.compile(
    r"^\W*(?:but\W+)?(?:it\W+)?(?:or|else|otherwise|alternatively|maybe|perhaps|possibly|if not)\b|\b(?:may|might|could)"
    r"\s+(?:\w+\s+){0,2}?be\b|^\W*[/|]|\b(?:alternative|another(?: possible)?|other) (?:answer|solution|option)\b"
    r"|\balso\s+(?:be|possible|valid|correct|right|works?|fits?|acceptable)\b",
    re.I,
)
_LIKE = re.compile(
    r"\W*(?i:(?:(?:it|the|answer|option|choice|is|be|then|you|might|may|could|say|even|just|like|about|perhaps|maybe)\W+)*)"
    r"\W*(?:(?-i:[A-Z])(?![\w'])(?! [a-z])|[a-z]\)|\d|\\(?:boxed|fbox)|answer>|x\s*=)"
)
"""What looks like an answer, with words that lead to it."""
_TAKEN_BACK = re.compile(
    r"(?:^|[.,!?)\n，。])\W*(?:hmm+|wait|actually|correction|sorry|oops|scratch that|on (?:second|closer|further) \w+"
    r"|on reflection|on the other hand|or rather|apologies|hold on|edit:|update:|just kidding|i mean\b|or should\b"
    r"|no,? (?:it|that|the|this)\b|不对|等等|更正)(?![A-Za-z])"
    r"|^[^\w\n]*(?:but|however|no|nope|yet|although|though)\b(?! (?:only after|not\b))|^[\s$*]*\?"
    r"|\b(?:kidding|my mistake|i was wrong|i made an? (?:error|mistake)|i (?:misread|miscounted|forgot|overlooked)"
    r"|(?:forget|ignore) what|(?:disregard|ignore|forget|retract|withdraw|strike|redo) (?:this|that|the|it|my)"
    r"|changed my mind|ought to be|take (?:that|it) back|no idea|not sure|i doubt|i do(?: not|n't) (?:think|know|trust)"
    r"|(?-i:[A-H]) (?:also |is also )?(?:fits|works|holds|is (?:correct|right|true|possible))"
    r"|(?:this|that|it) (?:is|was) (?:only|just|merely|still|for)|cannot be right"
    r"|(?:this|that|it|which|answer|above)\b[^.\n]{0,20}\b(?:wrong|incorrect|a mistake|an error|not (?:right|correct))"
    r"|should (?:be|have been)\b(?=\W*[-$\\(]*\d)|correct (?:would|should) be"
    r"|to (?:get|find|obtain|give|reach|arrive at) the (?:\w+ )?(?:answer|result|total|solution)"
    r"|(?:correct|actual|real|true|right|proper) (?:value|result|number|one|option|choice|answer)s? (?:is|was|would))\b",
    re.I,
)
"""What begins to take an answer back."""
_SAYS = re.compile(
    r"\b(?:it'?s|is|are|be|that'?s|says|said)\s+(?:actually\s+|really\s+)?([-$\\(]*\d[\d.,]*)"
    r"(?=\W*(?:$|[.!\n]|and\b))",
    re.I,
)
"""Another number that a later sentence tells."""
_CHECKED = re.compile(r"\b(?:check|verify|confirm|correct|right|indeed|yes)", re.I)


def told(before: str, mark: str = "") -> bool:
    """Whether what stands before "the answer is" in its sentence leaves it told: nothing, or words that lead on to it; and
    no condition before an answer that "would be"."""
    clause = _CLAUSE.split(before[-NEAR:])[-1]
    if "would be" in mark and re.search(r"\b(?:if|had|were|unless)\b", re.split(r"[.!?]\s|\n", before)[-1], re.I):
        return False
    if re.search(r"[\u3400-\u9fff]", clause):
        return bool(_CJK_OPENER.fullmatch(clause))
    return all(w in beside.OPENERS for w in _words(clause))


def _turning(clause: str) -> bool:
    """Whether a clause is nothing but words that make what follows another answer, or none."""
    words = _words(clause)
    return (
        all(w in HEDGES | _FILL for w in words) and any(w in HEDGES for w in words) and not re.search(r"[\d=]", clause)
    )


def turned(before: str, inside: str) -> bool:
    """Whether what stands right before an answer makes it one of several ("7, or", "if not, then", "7 /"): unless it is the
    same amount again."""
    bare = _STRIPPED.sub("", before[-NEAR:])
    if bare.endswith(("|", "/")):
        return not bare.split("\n")[-1].startswith("|")
    part = next((x for x in reversed(re.split(r"\n|[.,;:!?]+(?=\s|$)|[，。；]", bare)) if x.strip(" *$|")), "")
    if not (_turning(part) or re.search(r"\S\s*\bor\W*(?:[a-z]\w?\s*=?)?\W*$", part)):
        return False
    last = re.split(r"[$=\s]", re.sub(r"\s*[A-Za-z]+\s*$", "", bare).rstrip(" $,;\n"))[-1]
    return not _again(inside, last)


def leads(before: str, inside: str) -> bool:
    """Whether what stands before a box in its sentence leaves it as it is."""
    bare = _STRIPPED.sub("", before[-NEAR:])
    sentence = re.split(r"[.!?](?=\s)|[。！？]|\n\s*\n|\\\]", bare)[-1]
    clause = _CLAUSE.split(sentence.rstrip(" :：,"))[-1]
    if not bare or not _tells(sentence, clause, bare):
        return not bare
    if relation := _RELATION.search(bare):
        if relation[0] in "}]" and not re.search(r"\\(?:end|begin)\{[^{}]*\}$|\\\]$", bare):
            return False
        return not (relation[0] in ",:" and any(w in _LIMITS for w in _words(clause)[-3:]))
    if re.search(r"[\u3400-\u9fff]$", bare):
        return not beside.CJK_CHANGES.search(clause[-6:].replace("的", ""))
    words = _words(clause) or _words(sentence)
    if re.search(r"\n\s*\n", before[-NEAR:][len(bare) :]):
        changed = beside.CHANGERS | beside.TORN | _LIMITS
        return not (any(w in changed for w in words) or re.search(r"[-+*/<>^({\[]$", bare))
    if not words or not re.search(r"(?<!\\)\b[^\W\d_]+(?:'[^\W\d_]+)?$", bare):
        return False
    being = max((i for i, w in enumerate(words) if w in beside.BEING), default=-1)
    if being > len(words) - 3 and any(w in _MODAL for w in words[max(0, being - 2) : being]):
        return False
    if words[-1] in ("when", "if", "for"):
        return bool(re.search(r"[<>=]|\\(?:le|ge|ne|in)", inside))
    return (words[-1] in beside.ARRIVING or beside.given(words)) and (
        not re.search(r"\d", inside) or beside.arrives(words)
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", re.sub(r"\\[A-Za-z]+", " ", text).lower())


def _tells(sentence: str, clause: str, bare: str) -> bool:
    """Whether a clause tells something, and neither supposes it nor reports it of somebody."""
    if _words(sentence)[:1] and _words(sentence)[0] in beside.SUPPOSED and not re.search(r"[,，]|\bthen\b", sentence):
        return False
    marks = re.split(r"\b(?:answer|option|choice)s?\b|答案", bare.rstrip(" :"))
    if re.search(r"\b(?:answer|option|choice)s?\b|答案", clause) and not told(marks[-2]):
        return False
    return not re.search(r"\bno way\b|(?<!least )\b(?:lower|upper) (?:limit|bound)\b", clause) and not any(
        w in beside.WRONG for w in _words(clause)
    )


def follows(inside: str, after: str) -> bool:
    """Whether what stands behind an answer, in its sentence and after it, leaves it as it is."""
    end = _END.search(after)
    part, rest = (after[: end.start()], after[end.end() :]) if end else (after, "")
    if (end and end[0] == "?") or part.lstrip(" $*").startswith("?"):
        return False
    return _goes_on(inside, part[: 2 * NEAR]) and stays(inside, rest)


def _goes_on(inside: str, part: str) -> bool:
    """Whether a sentence goes on after its answer with words that are known to leave it as it is."""
    said = _CLOSED.sub("", written(_CLOSED.sub("", part)) if part.strip() else "")
    said = _CLOSED.sub("", _DASH.sub("", said)).strip(" $")
    if not said:
        return True
    if attached := _ATTACHED.match(said):
        return _goes_on(inside, said[attached.end() :])
    other = re.search(r"\bi\.e\.,? (\d+\b)(?!\s*\^)", said)
    if said[0] in "/|" or (other and not _again(inside, other[1])):
        return False
    if said.startswith(r"\approx"):
        return quantity(inside) is None or quantity(f"{inside} {said}") is not None
    if said.startswith("="):
        return bool(re.fullmatch(r"=\s*(?:[A-Za-z]|\\[a-z]+\s*[A-Z]+)\s*", said)) or _again(inside, said[1:])
    if letter(inside) is None:
        if said.startswith("(") and (close := said.find(")")) > 0:
            return _remark(inside, said[1:close]) and _goes_on(inside, said[close + 1 :])
        if _FORMULA.match(said):
            return False
        if more := re.match(
            r"[,;:]?\s*(?:(?:and|or|&|i\.e\.|that is|或者?|即|和)[\s,:]*)?(?=[-$(]*(?:\d|\\frac|\\sqrt))", said
        ):
            return _again(inside, said[more.end() :])
    return not re.match(r"[,;]?\s*(?:and|&)\s*\(?[B-Z]\b|[,;/]\s*\(?[A-Z]\b(?!\s+[a-z])", said) and known(said)


def _again(inside: str, said: str) -> bool:
    """Whether the same amount is told again."""
    one, other = quantity(inside), quantity(re.split(r",\s|[.;](?:\s|$)|\)", said)[0].strip())
    return one is not None and other is not None and one.agrees(other)


def _remark(inside: str, said: str) -> bool:
    """Whether what stands in brackets behind an answer only tells of it."""
    words = _words(said)
    if words[:1] == ["not"]:
        return not _again(inside, said[4:])
    if _again(inside, re.sub(r"^\W*(?:or|i\.e\.|that is)?\W*(?:equivalently|about)?\s*", "", said)):
        return True
    if words and words[0] in ("since", "because", "as"):
        return known(said)
    return bool(words) and not any(w in OPERATORS | HEDGES | beside.BEING for w in words)


def stays(inside: str, rest: str) -> bool:
    """Whether the sentences behind an answer do not take it back, nor tell another that shall count as well."""
    rest = re.sub(r"(?im)^(\W*(?:or|else|otherwise|alternatively|maybe|perhaps)\W*)\n+", r"\1 ", rest[:NEAR])
    for sentence in re.split(r"[.;!?](?=\s)|\n", rest):
        turn = _TURN.search(sentence)
        other = turn and (
            _LIKE.match(sentence, turn.end()) or ("also" in turn[0].lower() and re.search(r"\d", sentence))
        )
        if turn and other and not _again(inside, sentence[turn.end() :].lstrip(" ,:")):
            return False
    if any(not _again(inside, said[1]) for said in _SAYS.finditer(rest)):
        return False
    for turn in _TAKEN_BACK.finditer(rest):
        again = re.findall(r"-?\d[\d,]*(?:\.\d+)?|(?<![A-Za-z])[A-Z](?![A-Za-z'])", rest[turn.start() :])
        same = again and (_again(inside, again[-1]) or letter(inside) == letter(again[-1]) is not None)
        if not (same and _CHECKED.search(rest, turn.start())):
            return False
    return True
