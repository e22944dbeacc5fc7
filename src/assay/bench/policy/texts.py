"""Short answers in words: what makes two of them the same, and the letter of a choice."""

import re

from assay.bench.policy.characters import written
from assay.bench.policy.quantities import quantity
from assay.bench.policy.words import digits_for_words

_SPELLINGS = (
    "grey/gray", "colour/color", "colours/colors", "coloured/colored", "centre/center", "metre/meter",
    "metres/meters", "litre/liter", "litres/liters", "theatre/theater", "aluminium/aluminum", "sulphur/sulfur",
    "favourite/favorite", "neighbour/neighbor", "labour/labor", "behaviour/behavior", "defence/defense",
    "organise/organize", "organised/organized", "analyse/analyze", "catalogue/catalog", "programme/program",
    "tyre/tire", "moustache/mustache", "traveller/traveler", "jewellery/jewelry", "honour/honor", "flavour/flavor",
    "fibre/fiber", "plough/plow", "harbour/harbor", "towards/toward",
)  # fmt: skip
_ONE_SPELLING = dict(pair.split("/") for pair in _SPELLINGS)
_SAID = re.compile(
    r"(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+)?(?:(?:final|correct|right)\s+)?answer\s*(?:is\b\s*:?|:)\s*", re.I
)
_WORD = re.compile(
    r"(?P<number>(?:(?<![\w)])[-+])?(?:\d[\d,]*(?:[.:]\d+)*|\.\d+))|(?P<short>(?:[^\W\d_]\.){2,}|[^\W\d_]\.[^\W\d_]\b\.?)"
    r"|(?P<word>[^\W\d_][^\W_]*(?:'[^\W\d_]+)*(?:[+#]+(?!\w)|-(?![\w\s]))?)|(?P<sign>[-+*/=<>^%#&@$€£¥~|\\_]|\S)"
)
_LOUD = frozenset("+*/=<>^%#&@€£¥~|\\_-")
"""Signs that mean something; others are punctuation."""
_ARTICLES = frozenset(["a", "an", "the"])
_NO_NOUN = frozenset(["is", "are", "was", "or", "and", "because", "not"])


def plain(text: str) -> str:
    """Lower case, one spelling, without punctuation and articles; operators stay, and numbers keep their sign and point.

    "A" is an article only before a word: "vitamin A" keeps its letter.
    """
    said = digits_for_words(written(text).replace("\\infty", " infinity ").replace("\\$", "$"))
    said = re.sub(
        r"(?<=[^\W\d_])[-/](?=[^\W\d_]{2})", " ", _SAID.sub("", said.lower(), 1) if _SAID.match(said) else said.lower()
    )
    parts = [(m.lastgroup or "", m[0]) for m in _WORD.finditer(said)]
    kept = []
    for index, (kind, part) in enumerate(parts):
        after = parts[index + 1] if index + 1 < len(parts) else ("", "")
        if part in _ARTICLES and after[0] in ("word", "number") and len(after[1]) > 1 and after[1] not in _NO_NOUN:
            continue
        if kind == "number":
            kept.append(
                part.replace(",", "") if re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", part) else part.rstrip(",")
            )
        elif kind == "short":
            kept.append(part.replace(".", ""))
        elif kind == "word":
            kept.append(_ONE_SPELLING.get(part, part))
        elif part in _LOUD:
            kept.append(part)
    return " ".join(kept) or said.strip()


def same_text(given: str, right: str) -> bool:
    """Are two short answers the same in words? A single letter is a choice; numbers and amounts are compared as such."""
    one, other = plain(given), plain(right)
    if one == other:
        return True
    if re.fullmatch(r"\W*[A-Za-z]\W*", right) and not re.search(r"[-+*=<>^#%$]", right):
        return letter(given) is not None and letter(given) == letter(right)
    first, second = quantity(given), quantity(right)
    if first is None or second is None or first.rest or second.rest:
        return False
    return first.equals(second)


_ALONE = re.compile(r"(?<![A-Za-z0-9_'])([A-Z])(?![A-Za-z0-9_'#]|[-+]+(?!\w)|-[A-Za-z])")
_MARK = re.compile(
    r"[\s*\"'([{<]*(?:(?:the\s+)?(?:(?:final|correct|right|best)\s+)?(?:answer|option|choice)s?\s*(?:is\b|:|-)?\s*[*\"'([{<]*)*"
    r"(?P<letter>[A-Za-z])\s*[*\"'>\]}]*(?P<mark>\s*[).:]|\s*$)",
    re.I,
)
_OPTION = re.compile(r"\W*(?:(?:answer|option|choice)\W+)+(?:is\W+)?([a-z])\b", re.I)
_BEFORE = re.compile(
    r"(?:^|[,;:.!?\n]|[^\x00-\x7f]|\b(?:option|choice|answer|letter|is|be|it's|pick|picked|choose|chose|select|selected|choosing|"
    r"say|think|believe|with|for|therefore|so|thus|hence|then|definitely|probably|clearly|likely|just|only|mark|marked|correct))"
    r"\s*[*\"'([{<]*\s*$",
    re.I,
)
_NEGATED = re.compile(
    r"(?:\b(?:not|isn't|rather than|instead of|unlike|except)|n't(?:\s+be)?|[不非]是?选?)"
    r"\s*(?:option|choice|answer)?\s*[*\"'([{<]*$",
    re.I,
)
_DENIED = re.compile(
    r"\s*[*\"')\]}>.]*\s*(?:is|are|was|isn't|aren't|cannot|can't|can)?\s*"
    r"(?:\b(?:not|n't|wrong|incorrect|false|excluded|impossible)\b|isn't|aren't|can't)",
    re.I,
)
_FORMULA = re.compile(r"\s*[=+*/^<>_\\]|\s*-\s*[\d(]|\s*\(")
_VERB = r"(?:is|was|are|because|since|as|and|or|must|would|should|seems|fits|it|being|due|so|then|but|if)"
_NOUNY = re.compile(rf"[ ]+(?!{_VERB}\b)[A-Za-z]{{2,}}")
_NEXT = re.compile(
    r"\W*(?:or|and|to|through|nor|vs|versus|或|和)\W*(?:the\s+)?(?:option|choice|answer)?\W*[A-Za-z]\b"
    r"|\s*[/,&;|~-]\s*\(?[A-Za-z]\b(?!\s*[A-Za-z])",
    re.I,
)
"""Another letter right behind the first: a list, or a hedge."""
_LETTERS = re.compile(r"[\W_]*(?:[A-Za-z][\W_]+)*[A-Za-z][\W_]*")
_WHY = re.compile(r"[,;.]?\s+(?:because|since|as)\b", re.I)


def letter(text: str) -> str | None:
    """The one letter that a text chooses: "b", "(b)", "b) Paris", "option b", "B because ...", "I think B".

    None where several are named ("A or B", "A/B/C/D"), where the letter is denied, belongs to a name ("Plan B") or a formula
    ("E = mc^2"), or is a word ("A Dog").
    """
    said = re.sub(r"(?<=[A-Za-z])\s*\\ldots|[{}]", " ", written(text)).strip()
    if "\n" in said:
        head, *rest = (x.strip() for x in said.split("\n") if x.strip())
        if chosen := letter(head):
            return None if any(_MARK.fullmatch(x) for x in rest) else chosen
    why = _WHY.search(said)
    if why and _ALONE.search(said[: why.start()]):
        said = said[: why.start()]
    alone = [m for m in _ALONE.finditer(said) if not _word(said, m)]
    first = _MARK.match(said) or _OPTION.match(said)
    if first is None:
        told = [m for m in alone if not _denied(said, m)]
        sure = len({m[1] for m in told}) == 1 and any(_BEFORE.search(said[: m.start()]) for m in told)
        return told[0][1] if sure else None
    after = said[first.end() :]
    denied = _denied(said, first, first.end(1)) or (first.re is _OPTION and re.search(r"\bnot\b", first[0], re.I))
    marked = any(
        re.match(r"\s*[*\"'>\]}]*\s*[).:]", said[m.end() :])
        for m in alone
        if m.start() >= first.end() and m[1] != first[1].upper()
    )
    listed = _NEXT.match(after) or (after and _LETTERS.fullmatch(after))
    return None if denied or marked or listed else first[1].upper()


def _word(said: str, match: re.Match[str]) -> bool:
    """Whether a capital letter is a word, or part of a formula: "A dog", "I think", "E = mc^2"."""
    after = said[match.end() :]
    if match[1] in "AI" and (_NOUNY.match(after) or (match[1] == "I" and re.match(r" +[a-z]", after))):
        return True
    before = said[: match.start()].rstrip()
    return bool(_FORMULA.match(after) and not re.match(r"\s*[/+]\s*[A-Z](?![A-Za-z])", after)) or before.endswith(
        ("=", "^", "*")
    )


def _denied(said: str, match: re.Match[str], end: int = 0) -> bool:
    return bool(_NEGATED.search(said[: match.start(1)])) or bool(_DENIED.match(said[end or match.end() :]))
