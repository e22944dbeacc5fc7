"""The answer of a text that marks none: what it is, where it is nothing else, or what its last sentence tells for sure."""

import re

from assay.bench.policy.around import follows, leads, stays, turned
from assay.bench.policy.beside import APPROXIMATE, HEDGES, MEASURES, OPEN, OTHERS, SUPPOSED, WRONG, words_of
from assay.bench.policy.letters import letter, letters
from assay.bench.policy.quantities import quantity

_LONGEST = 60
"""Characters of a text that is its own answer."""
_FRAME = re.compile(r"^```\w*\n|\n?```$|^[\s$]*(?:\\therefore|\\Rightarrow|[⇒→∴]|[-=]>)\s*")
_OPTION = re.compile(r"\W*([A-H])(?:[.)]?\W*|[.)][^\n]{1,60})\n+(?=\S)")
"""An option on the first line, before what is said of it."""
_OPTIONS = re.compile(r"^\W*[A-H](?:\W*$|[.)])", re.M)
_YES = re.compile(r"\W*(?:yes|no)\b\**(?:[.!](?=\s|$)|,[^.\n]*\.?)", re.I)
_ASIDE = re.compile(
    r"\W*(?:i hope|hope (?:this|that)|let me know|feel free|if you (?:have|need|would|want)|please|is there anything"
    r"|would you like|good luck|happy to|thank you|thanks|(?:check|verification|note|remark|explanation)\W*:)",
    re.I,
)
"""Sentences behind the last one that counts."""
_OPEN = "|".join(sorted((HEDGES | OPEN | SUPPOSED) - words_of("or say were had vs")))
_UNSURE = re.compile(
    rf"\b(?!(?-i:May\b))(?:{_OPEN}|think|guess|believe|probably|unclear|not|nobody|assumes?|need to|(?<!will )have to"
    r"|find (?:when|where|out|the)|(?:first|next|second) (?:step|part|one)|no means|would (?:need|require)"
    rf"|answer\s*(?:is|was|[:=])|(?:{OTHERS})\s+(?:\w+\s+)?(?:question|problem|exercise))\b"
    r"|n't\b|^\W*or\b|[?？]",
    re.I,
)
"""What makes a last sentence no conclusion; one that marks its answer, and did not count by that, is none either."""
_TORN = re.compile(r"\b(?:or|yes|no|maybe|perhaps|if|unless|answer)\b|[?？]", re.I)
"""What stands behind a yes or no that is none."""
_WHOLE = re.compile(r"[.!。．*`]$|选\W*[A-J]+$|(?:[\d)}]|\b[a-z])\s*=[^=]*\d\W*$")
_SHORT = re.compile(r"(?=.{1,80}$).*\b(?:is|are|was|were|has|have|costs|takes)\b")
_BOLD = re.compile(r"\*\*([^*]{1,60})\*\*")
_FORMULA = re.compile(r"(?<!\\)\$\$?((?:[^$\\]|\\.){1,200})(?<!\\)\$\$?")
_JOINT = re.compile(r"\s*,?\s*(?:and|or)?\s*")
"""What stands between the members of a list."""
_ABOUT = re.compile(rf"\b(?:{'|'.join(APPROXIMATE)})\W*$", re.I)
_NAMED = re.compile(r"(?:\(|\b(?:matches|is|corresponds to) )(?:option|choice) \(?([A-H])\)?\W*$", re.I)
"""How a last sentence names an option behind its text."""
_ASSIGNED = re.compile(r"[^=\d]*[a-z]{2}\s*=")
_LAST = re.compile(
    r"\b(?:so|therefore|thus|hence|which means|then|finally)\b,?\s*|\bin (?:total|conclusion|summary|short)[,:]\s*"
    r"|,\s+(?:and\s+(?=\$)|(?=(?:the|there|it|he|she|they|we|you|each|i)\s))",
    re.I,
)
"""After what the last clause of a sentence begins."""
_PICKED = re.compile(
    r"\b[A-H]\W* is (?:the )?(?:true|correct|right|best)\b|\b(?:option|choice|choose|pick|select)\b|选", re.I
)
_STATED = re.compile(
    r"(?:it's|(?:the|it|this|that|they|these|h[ie][sr]|their|its) [^,;:()=]{0,80}?\b(?:is|are|was|were|reads)) "
    r"(?P<said>(?!not\b|no\b)[^,;:()=?]{1,40}|\d{1,2}:\d\d)(?: \((?!or\b)[^()?]*\))?",
    re.I,
)
"""A sentence that says of one thing what it is."""
_SUBJECT = re.compile(
    r"(?P<said>\*\*[^*]{1,40}\*\*|(?!(?:It|This|That|He|She|We|They|There|You|I|What|Here|If|So|One|Neither|None|No)\b)"
    r"[A-Z][\w'-]*(?: [A-Z][\w'-]*){0,3})(?= (?:is|was|has|had) (?:the|an?) )"
)
"""A name of which a sentence says that it is what was asked."""


def bare(text: str) -> str | None:
    """A text that is nothing but a letter, a number or a word, or begins with a letter on a line of its own."""
    said = _FRAME.sub("", text.strip()).strip()
    if (first := _OPTION.match(said)) and stays(first[1], said[first.end() :]):
        return None if _OPTIONS.search(said, first.end()) else first[1]
    if len(said) > _LONGEST or re.search(r"[\n<]|\w\W*\s\*\*\w|\\(?:boxed|fbox|framebox)\b|^[^=]*:[^=]*=", said):
        return None
    number = quantity(said)
    one = re.fullmatch(r"[*\"'(\[]*[^\W_][\w'-]*[*\"')\].!。]*", said)
    counted = number and not _UNSURE.search(said) and (not number.rest or re.fullmatch(r"[*$]*\d[^.;:,?!=]*\.?", said))
    phrase = re.fullmatch(r"[A-Z][^\d:=]*\.", said) and len(said.split()) < 5
    stated = phrase and not (_UNSURE.search(said) or _STATED.match(said))
    return said.rstrip(".。") if one or counted or stated or letter(said) else None


def concluded(text: str) -> str | None:
    """What the last sentence tells: one number or letter, yes or no, what one thing is, or one thing in bold."""
    if (yes := _YES.match(text)) and not _TORN.search(text[yes.end() : 200]):
        return yes[0].replace("*", "").strip() if stays(yes[0], text[yes.end() :]) else None
    lines = [x.strip() for x in text.split("\n") if re.search(r"\w", x)]
    sentences = [x for line in lines[-3:] for x in re.split(r"(?<=[\w)*%$\]}][.!?])\s+(?=[*\"']*[A-Z])", line)]
    while sentences and _ASIDE.match(sentences[-1]):
        sentences.pop()
    if len(lines) > 1 and re.fullmatch(r"\W*[A-J]\W*", lines[-1]) and not _OPTIONS.search("\n".join(lines[:-1])):
        return None if turned(text[: text.rindex(lines[-1])], lines[-1]) else lines[-1]
    last = re.sub(r"\s*[^\x00-\x7f\u3000-\uffef]+$", "", sentences[-1]) if sentences else ""
    if not _ended(last, len(lines) == 1) or _UNSURE.search(last):
        return None
    if last.startswith("$$") and len(sentences) > 1:
        last = f"{sentences[-2]} {last}"
    elif len(sentences) > 1 and turned(sentences[-2] + "\n", last):
        return None
    if (yes := _YES.match(last)) and not _TORN.search(last[yes.end() :]):
        return yes[0].replace("*", "").strip()
    if re.fullmatch(r"\*\*[^*]{1,40}\*\*\.?", last):
        return last.strip(" *.")
    if (option := _NAMED.search(last)) and not any(w in last.lower().split() for w in WRONG):
        return option[1]
    if (strong := _listed(last, _BOLD)) is not None:
        return strong or None
    if _ASSIGNED.match(last):
        return None
    last = re.sub(r"^\*\*[^*]{1,30}:\*\*\s*|^\*\*[^*]{1,30}\*\*:\s*", "", last)
    clause = _LAST.split(last)[-1].strip(" *").rstrip(".。")
    if quantity(clause) or (_PICKED.search(clause) and (letter(clause) or letters(clause))):
        return clause
    if formula := _listed(last, _FORMULA):
        return formula
    stated = _STATED.fullmatch(clause)
    if stated and not re.search(r"\bor\b", clause):
        return stated["said"]
    alone = len(lines) == len(sentences) == 1 and _SUBJECT.match(last)
    return alone["said"].strip("*") if alone and follows(alone["said"], last[alone.end() :]) else None


def _listed(last: str, mark: re.Pattern[str]) -> str | None:
    """What is marked last in a sentence, with what is listed before it; "" where the sentence does not lead to it; None
    where nothing is marked behind the sentence's beginning, or other things in bold as well."""
    found = [m for m in mark.finditer(last) if m.start()]
    if not found:
        return None
    first = len(found) - 1
    while first and _JOINT.fullmatch(last[found[first - 1].end() : found[first].start()]):
        first -= 1
    if first and mark is _BOLD:
        return None
    inside, before = ", ".join(m[1].strip() for m in found[first:]), last[: found[first].start()]
    about = inside.isdigit() and _ABOUT.search(before)
    fine = (
        not about and leads(before, inside) and follows(inside, last[found[-1].end() :]) and not turned(before, inside)
    )
    return inside if fine else ""


def _ended(last: str, alone: bool) -> bool:
    """Whether a last sentence is not broken off: it has its full stop, or is a sum, a number, or a label with one."""
    label, colon, _ = last.partition(":")
    named = colon and any(w in MEASURES - {"score"} for w in label.lower().split())
    number = quantity(last)
    return bool(_WHOLE.search(last) or named or (number and not number.rest) or (alone and _SHORT.match(last)))
