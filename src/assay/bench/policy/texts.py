"""Short answers in words: what makes two of them the same."""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from assay.bench.policy.characters import written
from assay.bench.policy.letters import letter
from assay.bench.policy.quantities import quantity
from assay.bench.policy.words import digits_for_words

_SPELLINGS = (
    "grey/gray", "colour/color", "colours/colors", "coloured/colored", "centre/center", "metre/meter",
    "metres/meters", "litre/liter", "litres/liters", "theatre/theater", "aluminium/aluminum", "sulphur/sulfur",
    "favourite/favorite", "neighbour/neighbor", "labour/labor", "behaviour/behavior", "defence/defense",
    "organise/organize", "organised/organized", "analyse/analyze", "catalogue/catalog", "programme/program",
    "tyre/tire", "moustache/mustache", "traveller/traveler", "jewellery/jewelry", "honour/honor", "flavour/flavor",
    "fibre/fiber", "plough/plow", "harbour/harbor", "towards/toward", "nope/no", "yep/yes", "yeah/yes", "mt/mount",
    "是的/是", "对的/对", "不是的/不是",
)  # fmt: skip
_ONE_SPELLING = dict(pair.split("/") for pair in _SPELLINGS)
_SAID = re.compile(r"^(?:so,? )?(?:the\s+)?(?:final\s+)?answer\s*(?:is\b\s*:?|:)\s*", re.I)
_WORD = re.compile(
    r"(?P<number>(?:(?<![\w)])[-+])?(?:\d[\d,]*(?:[.:]\d+)*|\.\d+))|(?P<short>(?:[^\W\d_]\.){2,}[^\W\d_]?\b"
    r"|(?:[^\W\d_]\.)+[^\W\d_]\b\.?)"
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
    if _brackets(text):
        text = text.replace(",", ", ")
    said = re.sub(r"\b([A-Z])\.\s+(?=[A-Z]\b\.?\s*[A-Z])", r"\1", _CLOCK.sub(_hour, text))
    said = digits_for_words(_chemical(written(said)).replace("\\infty", " infinity ").replace("\\$", "$"))
    said = re.sub(r"\bnon[- ](?=[^\W\d_]{3})", "non", said, flags=re.I)
    said = re.sub(r"(?<=[^\W\d_])[-/](?=[^\W\d_]{2})", " ", _SAID.sub("", said.lower()))
    parts = [(m.lastgroup, m[0]) for m in _WORD.finditer(said)]
    kept = []
    for (kind, part), (_, after) in zip(parts, [*parts[1:], ("", "")], strict=False):
        if part in _ARTICLES and len(after) > 1 and after not in _NO_NOUN:
            continue
        if kind == "number":
            grouped = re.fullmatch(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", part)
            kept.append(part.replace(",", "") if grouped else part.rstrip(","))
        elif kind == "short":
            kept.append(part.replace(".", ""))
        elif kind == "word":
            kept.append(_ONE_SPELLING.get(part, part))
        elif part in _LOUD:
            kept.append(part)
    return " ".join(kept) or said.strip()


def _chemical(text: str) -> str:
    """Indices and charges as they are typed (CO_{2} is CO2, Fe^{2+} is Fe2+), comparisons in ASCII, Latin letters bare."""
    text = re.sub(r"(?<=[A-Za-z)])\s*_\s*(?:\{\s*(\d+)\s*\}|(\d))", r"\1\2", text)
    text = re.sub(r"(?<=[A-Za-z\d)])\s*\^\s*\{?\s*(\d*\s?[+-])\s*\}?", r"\1", text)
    for sign, names in ((">=", r"\\geq?(?:slant)?"), ("<=", r"\\leq?(?:slant)?"), ("!=", r"\\neq?")):
        text = re.sub(rf"{names}(?![A-Za-z])", sign, text)
    return unicodedata.normalize("NFC", re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", text)))


def same_text(given: str, right: str) -> bool:
    """Are two short answers the same in words? A single letter is a choice; numbers and amounts are compared as such.

    Other words may stand around: "The function is linear" is linear, "Yes, they are" is yes, "left, not right" is left.
    Things that "and" joins may come in any order, where none comes twice ("yes, no, yes").
    """
    wanted = plain(right)
    if _capitals(given, right) or _brackets(given) != _brackets(right) != "":
        return False
    if any(_alike(plain(x), wanted, x) for x in (given, *_cores(written(given), written(right)))):
        return True
    one, other = (
        sorted(map(plain, re.split(r",?\s+and\s+|\s*[&,]\s*", written(t), flags=re.I))) for t in (given, right)
    )
    free = len(set(one)) == len(one) and not {"yes", "no", "true", "false"} & {*one} and not _brackets(right)
    if (one == other and free) or moment(given) == moment(right) is not None:
        return True
    if re.fullmatch(r"[^\w\-+*=<>^#%$]*[A-Za-z][^\w\-+*=<>^#%$]*", right):
        return letter(given) == letter(right) is not None
    first, second = quantity(given), quantity(right)
    return bool(first and second and not (first.rest or second.rest) and first.equals(second))


def _brackets(text: str) -> str:
    """The brackets around a whole text, "" where there are none."""
    said = text.strip(" $.`")
    return found if "," in said and (found := said[0] + said[-1]) in ("[]", "()", "{}") else ""


def _alike(one: str, other: str, given: str) -> bool:
    """Equal, or one noun in singular and plural (HTTPS is none of HTTP)."""
    shorter, longer = sorted((one, other), key=len)
    plural = longer == shorter + "s" and not given.isupper() and re.fullmatch(r"(?!new$)[a-z]{2,}[a-rtv-z]", shorter)
    return one == other or bool(plural)


_ELEMENTS = frozenset(("co", "cs", "hf", "ni", "os", "pb", "po", "sc", "sn"))
"""Symbols of one element which in capitals are those of two."""
_GENES = re.compile(r"(?:([A-Za-z])(?i:\1))+")


def _capitals(given: str, right: str) -> bool:
    """Whether two answers are different by their capitals alone: Co and CO, genes such as Aa and AA."""
    one, other = (re.sub(r"\W", "", t) for t in (given, right))
    named = _GENES.fullmatch(other) or (one.lower() in _ELEMENTS and one.istitle() != other.istitle())
    return bool(named) and one != other and one.lower() == other.lower()


_CLOCK = re.compile(r"\b(?:(half)\s+past|(?:a\s+)?quarter\s+(past|to))\s+(\w+)\b", re.I)


def _hour(match: re.Match[str]) -> str:
    """ "Half past three" as 3:30."""
    hour, past = digits_for_words(match[3]), (match[1] or match[2]).lower()
    if not re.fullmatch(r"[1-9]|1[0-2]", hour):
        return match[0]
    return f"{(int(hour) - 2) % 12 + 1}:45" if past == "to" else f"{hour}:{'30' if past == 'half' else '15'}"


_YES = re.compile(r"(yes|no|true|false)\b\s*[-,.;:!](?!\s*\d)\s*(.+)", re.I | re.S)
_BUT = r"\b(?:yes|maybe|perhaps|or|unless|but|if|actually|doubt|otherwise|sometimes|partly|idea)\b|[?]"
_CONTRARY = r"(?!(?:not?|never|neither|none|nothing|wrong|false|incorrect|opposite|contrary|former|other|un\w+)\b)"
_CORES = tuple(re.compile(core, re.I) for core in (
    rf"(?:(?:it|that|he|she)'s|(?:it|this|that|they|these|the(?: {_CONTRARY}[\w-]+){{1,3}}) (?:is|are|was|were)) (.+)",
    rf"(?:{_CONTRARY}[\w'-]+ ?){{1,3}}: (.+)",
    r"not [^,;]+?,? but ([^,;]+)",
    r"([^,;(]+)[,;(]\s*(?:and |but )?not [^,;()]+\)?",
    r"(?:on|in|at|to) (?!the\b(?! \w+$))(.+)",
    r"(.+?),?\s+(?:because|since)\b.*",
    r"(?:it|they) (\w+)",
    r"\w+(?:ed|en|nt|un|de) by (.+)",
    r"(?:it|this) (can ?not\b.*)",
))  # fmt: skip
"""Sentences around a short answer: "The function is linear", "left, not right", "in Paris", "red because ..."."""


def _cores(given: str, right: str) -> Iterator[str]:
    """What an answer comes to without its sentence, each way that it may be cut."""
    if (yes := _YES.fullmatch(given)) and re.fullmatch(r"\W*(?:yes|no|true|false)\W*", right, re.I):
        against = _BUT + (r"|\b(?:no|not|never|false)\b|n't\b" if yes[1].lower() in ("yes", "true") else r"|\btrue\b")
        if not re.search(against, yes[2], re.I):
            yield yes[1]
    yield from (m[1] for core in _CORES if (m := core.fullmatch(given)))


_DATES = ("%B %d %Y", "%b %d %Y", "%d %B %Y", "%d %b %Y", "%Y-%m-%d", "%I:%M %p", "%H:%M")


def moment(text: str) -> tuple[str, str] | None:
    """A date or a time of day as it sorts; None for other texts and for those of two readings (3/4/2021, 5:30)."""
    said = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|[,.]|\b(?:the|of|at)\b", " ", written(text).lower())
    said = re.sub(r"\bin (?:morning)\b", "am", re.sub(r"\bin (?:afternoon|evening)\b", "pm", " ".join(said.split())))
    said = re.sub(r"(?<=\d)\s*([ap])\s?m\b", r" \1m", " ".join(said.split()))
    for form in _DATES:
        with suppress(ValueError):
            found = datetime.strptime(said, form)
            if form != "%H:%M" or found.hour > 12:
                return ("time", f"{found:%H:%M}") if "%M" in form else ("date", f"{found:%Y-%m-%d}")
    return None
