"""The letter of a choice, as a person would read it: one, or none."""

import re

from assay.bench.policy.beside import CHOOSING, known
from assay.bench.policy.characters import written

LONGEST = 1_000
"""Characters of an answer that are looked at; a longer one chooses none."""
_CJK = "\u2e80-\u9fff"
_ALONE = re.compile(rf"(?<![^\W{_CJK}])(?<!')([A-Z])(?![^\W{_CJK}]|['#]|[-+]+(?!\w)|-[A-Za-z])")
"""A capital that stands alone; a letter of another alphabet beside it makes a word (Cyrillic), Chinese does not."""
_MARK = re.compile(
    r"[\s*\"'([{<]*(?:(?:the\s+)?(?:(?:final|correct|right|best)\s+)?(?:answer|option|choice)s?\s*(?:is\b|:"
    r"|-)?\s*[*\"'([{<]*)*"
    r"(?P<letter>[A-Za-z])\s*[*\"'>\]}]*(?P<mark>\s*[).:]|\s*$)",
    re.I,
)
_OPTION = re.compile(r"\W*(?:(?:answer|option|choice)\W+)+(?:is\W+)?([a-z])\b", re.I)
_CLAUSE = re.compile(r"[,;:.!?\n](?:\s*but\b)?|[^\x00-\x7f]|\b(?:so|thus|hence|therefore|then|because|since)\b", re.I)
_NEGATED = re.compile(r"(?:[不非]要?是?选?|排除|除了?|淘汰|去掉|可能是?|也许是?|[❌✗✘])\s*[*\"'([{<]*$")
_RELATIVE = re.compile(r"\b(?:that|which|who) (?:is|are|was|were|does|do|can|has|have)(?:n't| not)\b|\bcannot\b")
_CONTRARY = re.compile(
    r"\b(?:not|never|no|neither|rule|eliminate|eliminated|exclude|excluded|except|unlike|rather|instead|doubt|if|unless"
    r"|without|before|after|between|starts?|begins?|ends?|(?:wrong|incorrect|worst|bad)\s+(?:answer|option|choice|one))\b"
    r"|n't\b",
    re.I,
)
"""What denies the letter that a clause names; "the wrong statement is B" may be what was asked."""
_DENIED = re.compile(
    r"\s*[*\"')\]}>.:(-]*\s*(?:is|are|was|isn't|aren't|cannot|can't|can)?\s*"
    r"(?:\b(?:not|never|n't|wrong|incorrect|false|excluded|eliminated|impossible|fails)\b|isn't|aren't|can't|cannot\b"
    r"|do(?:es)?(?:n't| not)\b|(?:can |must )?be (?:ruled|eliminated|excluded)"
    r"|(?:选?项)?[是也都]?(?:错|不|非|误|有误|无法|未|以外|之外|排除|吗)|[❌✗✘]|(?:an? )?(?:trap|distractor|decoy)\b)",
    re.I,
)
_FORMULA = re.compile(r"\s*[=+*/^<>_\\]|\s*-\s*[\d(]|\(|\s+\([-\d.,\s]*\)")
_VERB = r"(?:is|was|are|because|since|as|and|or|must|would|should|seems|fits|it|being|due|so|then|but|if)"
_NOUNY = re.compile(rf"[ ]+(?!{_VERB}\b)[A-Za-z]{{2,}}")
"""A noun behind A or I, which makes it an article or a number ("A dog", "I think")."""
_CONTRAST = re.compile(
    r"(?P<before>^(?i:not)\s+(?:option\s+)?\(?([A-Z])\)?[,;]?\s+but\s+(?=\S))"
    r"|(?<=\S)[,;]?\s*\(?\s*(?:and |but )?(?:not|rather than|instead of)\s+(?:option\s+)?\(?([A-Z])\b\)?\)?(?=\W*$)"
)
_NEXT = re.compile(
    r"\W*(?:or|and|to|through|nor|vs|versus|或|和)\W*(?:not\s+)?(?:the\s+)?(?:option|choice|answer)?\W*[A-Za-z]\b"
    r"|\s*[/,&;|~-]\s*\(?[A-Za-z]\b(?!\s*[A-Za-z])",
    re.I,
)
"""Another letter right behind the first: a list, or a hedge."""
_TURNED = re.compile(
    r"(?:\b(?i:or|else|otherwise|maybe|perhaps|possibly|alternatively|if(?: not)?|(?:could|may|might)(?: also)? be)\b|[/|])"
    r"\W*(?:(?i:then|option|choice|the answer is|answer)\W*)*([A-Z])\b(?!')"
)
"""Another letter that shall count as well."""
_LETTERS = re.compile(r"[\W_]*(?:[A-Za-z][\W_]+)*[A-Za-z][\W_]*")
_WHY = re.compile(r"[,;.]?\s+(?:because|since|as)\b", re.I)


_STANDS = re.compile(
    r"[\s*\"')\]}>]*(?:$|(?-i:[A-Z][a-z])|[^\w\s]|[^\x00-\x7f]"
    r"|(?:is|was|must be|has to be|seems to be|seems|looks|would be|should be|will be)\s+(?:clearly |definitely"
    r" |indeed |also )?"
    r"(?:the\b|right|correct|true|best|it\b|my\b|our\b|what (?!i\b)|most\b|smallest|largest|greatest|least\b|equal)"
    r"|(?:and|so|not|rather|instead|because|since|as|which|fits|matches|works|holds|satisfies|here|with"
    r"|only|wins|has|best|remains|it is)\b)",
    re.I,
)
"""What may follow a letter that is chosen: nothing, a mark, or words that say that it is right."""
_SEVERAL = re.compile(
    r"\W*(?i:(?:the )?(?:(?:correct|right|true) )?(?:answer|option|choice|statement)s?(?: is| are|:)? *"
    r"|[因此所以本题应故正确的]*(?:选项?|答案)[:是为]? *)?"
    r"(?P<all>[A-J](?:(?:[\s,;&()*、和与]|\band\b)*[A-J])+)(?: are (?:correct|right|true))?\W*"
)
_REJECTED = re.compile(
    r"^[^\w]*[A-Z][)\].]*\s*\?\s*(?:no|nope|wrong)\b\W*|^between\b[^.;]*?,\s*(?=I\s+(?:choose|pick|say|take)\b)", re.I
)
"""Letters that are only considered: "B? No, C", "Between B and C, I choose B"."""


def letter(text: str) -> str | None:
    """The one letter that a text chooses: "b", "(b)", "b) Paris", "option b", "B because ...", "I think B".

    None where several are named ("A or B", "A/B/C/D"), where the letter is denied, belongs to a name ("Plan B") or a formula
    ("E = mc^2"), or is a word ("A Dog").
    """
    if len(text) > LONGEST:
        return None
    said = _REJECTED.sub("", _uncontrasted(re.sub(r"(?<=[A-Za-z])\s*\\ldots|[{}]", " ", written(text)).strip()))
    why = _WHY.search(said)
    if why and _ALONE.search(said[: why.start()]):
        said = said[: why.start()]
    alone = [m for m in _ALONE.finditer(said) if not _word(said, m)]
    first = _MARK.match(said) or _OPTION.match(said)
    if first is None:
        told = [m for m in alone if not _denied(said, m.start(), m.end())]
        sure = len({m[1] for m in told}) == 1 and any(_stands(said, m) for m in told)
        return told[0][1] if sure and not _torn(said, told[0][1]) else None
    chosen, after = first[1].upper(), said[first.end() :]
    others = set(re.findall("[a-z]", after.lower())) - {first[1].lower()}
    marked = {m[1] for m in alone if re.match(r"[\s*\"'>\]}]*[).:](?!-\w)", said[m.end() :])} - {chosen}
    listed = marked or _NEXT.match(after) or (others and _LETTERS.fullmatch(after))
    denied = _denied(said, first.start(1), first.end(1)) or re.search(r"\bnot\b", first[0], re.I)
    goes_on = _goes_on(first["mark"] + after if first.re is _MARK else after)
    return chosen if goes_on and not (denied or listed or _torn(said, chosen)) else None


def letters(text: str) -> str | None:
    """The letters of a choice of several, in order ("A, C and D" is ACD); None where anything else stands beside them."""
    told = _SEVERAL.fullmatch(written(text))
    found = re.findall("[A-J]", told["all"].replace("and", "")) if told else []
    return "".join(sorted(found)) if found and len(set(found)) == len(found) else None


def _uncontrasted(said: str) -> str:
    """A text without the letter that is set against another: "B, not A", "not A but B"; "" for "B, not B"."""
    cut = _CONTRAST.sub("", said)
    denied = {x for m in _CONTRAST.finditer(said) for x in m.groups()[1:] if x}
    return "" if denied & set(_ALONE.findall(cut)) else cut


def _stands(said: str, match: re.Match[str]) -> bool:
    """Whether a letter is named as the choice: by the words before it, and by none behind it that would take it back."""
    *earlier, clause = _CLAUSE.split(re.sub(r"[\s*\"'(\[{<:]+$", "", said[: match.start()]))
    if not clause.strip() and re.search(r":[\s*\"'(\[{<]*$", said[: match.start()]):
        clause = earlier[-1]
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", clause.lower())
    if re.search(r"[\d\\=+]|\b[B-HJ-Z]\b|\bA\b(?!\s+[a-z])", clause):
        return False
    free = words and words[-1] in ("is", "are") and words[0] in ("the", "it")
    led = not _CONTRARY.search(_RELATIVE.sub("", clause)) if free else all(w in CHOOSING for w in words)
    return led and _goes_on(said[match.end() :])


def _goes_on(after: str) -> bool:
    """Whether what stands behind a letter lets it stand: nothing, the text of its option, or words that say it is right."""
    said = re.sub(r"^[\s*\"'\]}>]+", "", after)
    return said[:1] in tuple(").:") or bool(_STANDS.match(after) and known(said))


def _torn(said: str, chosen: str) -> bool:
    """Whether another letter than the chosen one shall count as well."""
    return any(m[1] != chosen for m in _TURNED.finditer(said))


def _word(said: str, match: re.Match[str]) -> bool:
    """Whether a capital letter is a word, or part of a formula: "A dog", "I think", "E = mc^2"."""
    after = said[match.end() :]
    if match[1] in "AI" and (_NOUNY.match(after) or (match[1] == "I" and re.match(r" +[a-z]", after))):
        return True
    formula = _FORMULA.match(after) and not re.match(r"\s*[/+]\s*[A-Z](?![A-Za-z])", after)
    return bool(formula) or said[: match.start()].rstrip().endswith(("=", "^", "*"))


def _denied(said: str, start: int, end: int) -> bool:
    return bool(_NEGATED.search(said[:start]) or _DENIED.match(said[end:]))
