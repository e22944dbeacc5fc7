r"""What answer a text gives, and whether it is the right one: rules that benchmarks and RL share.

An answer is looked for in <answer> tags, then in \boxed{}, then after "####", then after "the answer is"; a text that is
nothing but a letter, a number or a word is its own. A text without any has no clear final answer, which MPO's construction
of pairs counts as wrong (MPO paper, section 3.1).
"""

import re

from assay.bench.policy.arithmetic import approximate
from assay.bench.policy.formulas import same_formula, squeezed
from assay.bench.policy.letters import letter
from assay.bench.policy.quantities import Quantity, quantity
from assay.bench.policy.texts import plain, same_text
from assay.rollouts import AnswerKind

_TAGS = re.compile(r"<(?P<tag>answer|final_answer)>(?P<inside>(?:(?!<(?P=tag)>).)*?)</(?P=tag)>", re.S | re.I)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?P<inside>[^\n#]*\S)[ \t]*$", re.M)
_IS = r"(?:is|equals|will be|would be|must be|should be|turns out to be|comes (?:out )?to)\b"
_SAID = re.compile(
    rf"(?:\b(?:final|correct|right|best)\s+(?:answer|option|choice|result)(?=[* \t]*(?:{_IS}|[:=(\n]))"
    rf"|the\s+(?:answer|option|choice)(?:\s+(?:to\s+(?![^\n.:]{{0,60}}\b(?:different|other|another|previous"
    rf"|related|similar|easier)\b)[^\n.:]{{1,80}}?"
    rf"|(?:that )?we (?:seek|want|need)))?\s*(?=(?:{_IS}|[:=]))"
    r"|\banswer\s*(?=is\b|[:=])|\btl;?dr\b\s*(?=[:=])|^[#* \t]+answer[* \t]*$|[【\[]?答案[】\]]?(?:应该)?(?:是|为)?)"
    rf"[\s:=*]*(?:{_IS})?(?:,? (?:of course|therefore|thus|then|indeed|simply|clearly|obviously|hence),?(?="
    rf" ))?[\s:=*]*(?=\S)",
    re.I | re.M,
)
_SUPPOSED = re.compile(
    r"\b(?:if|suppos\w+|assum\w+|unless|whether|were|claim\w*|would (?:say|think|guess)|thought|example"
    r"|hypothetical\w*|wrong|incorrect"
    r"|previous|student\w*|not|never|pretend|imagine|sample|maybe|perhaps|possibly|guess|alternat\w+|other"
    r"|another|old|their|partial|intermediate|different)\b|'s\s*$|n't\b|不|错|假|如果|若|可能|也许",
    re.I,
)
"""What makes "the answer is 12" in its clause no statement of the answer."""
_CLAUSE = re.compile(r"[.,;:!?\n](?=\s|$)|\b(?:then|so|but|hence|thus|therefore)\b|[，。；]")
_LATE = re.compile(
    r"^[#>*|\- \t]*(?:ans(?:wer)?|solution|result|réponse(?: finale)?|antwort|respuesta|答)\b[* \t]*[.:=-][:=*"
    r" \t]*(?P<inside>\S[^\n]*)$"
    r"|\b(?:the (?:final )?(?:solution|result|value)|the (?:required|desired|requested) (?:\w+ )?\w+|la"
    r" réponse(?: finale)?|die antwort"
    rf"|la respuesta(?: correcta| final)?)\s+(?:{_IS}|est|ist|es|lautet)\s*:?\s*(?P<told>\S[^\n]*)$"
    r"|(?:^|[.\n]\s*|\bso |\bget |\bobtain )(?P<first>[^\n.]{1,30}?)\s+(?:is|as) (?:the|my|our) (?:final "
    r"|correct )?answer\b[.!]?\s*$"
    r"|[\"'](?:final_)?answer[\"']\s*:\s*(?P<json>[^\n,}]+)",
    re.I | re.M,
)
"""Marks that are looked for where there is no other: "Result: 12", "12 is the answer", {"answer": 12}."""
_CHOSEN = re.compile(r"\b(?:option|choice)\s*\(?([A-Z])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b", re.I)
_A = re.compile(r"\n[ \t]*A:[ \t]*(?P<inside>[^\n]*\d[^\n]*)\s*$")
"""The last line of GSM8K's own models."""
_BOLD = re.compile(r"\n[ \t>]*\*\*(?P<inside>\(?[A-Z]\)?|[-$]*\d[\d.,/]*[^*\n]{0,20})\*\*\.?\s*$")
"""A last line that is nothing but a letter or a number in bold."""
_TABLE = re.compile(r"^[ \t]*\|.*\|[ \t]*$", re.M)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*")
_CASE = re.compile(r"\b(?:case|part)\s*\(?(?:[2-9b-e]|ii+|two|three)\b[^.\n]*$", re.I)
"""The second of several cases, each with a box of its own."""
_ATTACHED = re.compile(
    r"(?:\$?\s*\\?%|\$?\s+(?:hundred|thousand|million|billion|trillion|dozen|percent)\b|[A-Za-z]+[23]?)(?!\s*[{}])"
)
"""What stands right behind a box and belongs to it: more digits, a scale, a sign of percent."""
_LOOSE = re.compile(r"-?(?:\d[\d,.]*\d|\d|\\?[A-Za-z]+)")
_TURN = (
    r"(?:\b(?:or|else|if not)\b|\b(?:alternatively|otherwise|maybe|perhaps|possibly)"
    r"|\b(?:may|might|could)\s+(?:also\s+)?be\b|[/|])"
)
"""What leads from one answer to another that shall count as well."""
_FILL = r"(?:(?:but|it|and|however|the answer)\W+)*"
_HINGE = re.compile(
    rf"(?:\b[A-Z]\b|\b[-\d.]*\d\b|\}}|</answer>|\))[\s.,;$*)]*{_FILL}{_TURN}(?:\W*{_TURN})*[^\w\\#<]*(?:then\W*)?$",
    re.I,
)
"""Another answer before this one, and what makes both count ("A, or ")."""
_TOO = re.compile(rf"[ \t,$*)]*(?P<gap>[\s.,;:$*)]*){_FILL}{_TURN}(?:\W*{_TURN})*\s*(?:then\W*)?", re.I)
_LIKE = re.compile(
    r"\W*(?i:(?:it|the\s+answer|answer|option|choice)\W*)?(?:is\W*)?(?:[A-Z]\b|[a-z]\)|\d|\\(?:boxed|fbox)|answer>|#|x\s*=)"
)
_ALSO = re.compile(
    r"\b(?:alternative|another(?: possible)?) (?:answer|solution|option)\b|\balso\s+(?:be|possible|valid"
    r"|correct|right|works?|fits?|acceptable)\b",
    re.I,
)
_AND = re.compile(
    r"[ \t,$*)]*(?:and|&)\W{0,4}(?i:the answer is\W*|answer\W*|option\W*)?(?:[A-Z]\b|\d|\\boxed|<answer|####|x\s*=)"
)
_DENIED = re.compile(r"\W*(?:is|was|would be)\s+(?:wrong|incorrect|not\b|false|impossible)", re.I)
_TAKEN_BACK = re.compile(
    r"\b(?:wait|kidding|oops|scratch that|on second thought|i mean|my mistake|i was wrong|correction)\b"
    r"|\bno,? (?:it|that|wait)\b"
    r"|^\W*no\b\W",
    re.I,
)
_JOINT = re.compile(r"[\s$,;]*(?:,|;|\band\b|\bor\b)?[\s$,;]*(?:[a-z]\w?\s*=\s*)?", re.I)
"""What stands between the boxes of one list."""
_RECONSIDERED = re.compile(
    r"(?:^|[.!?)\n])\W*(?:hmm+|wait|actually|correction|sorry|oops|scratch that|on second thought|on reflection"
    r"|or rather|apologies"
    r"|hold on|edit:|update:|my mistake|(?:but|oh|ah|no)\b,? (?:wait|no|actually)|不对|等等|更正)(?![A-Za-z])"
    r"|^[^\w\n]*(?:but|however|no|yet|although|though)\b(?! (?:only after|not\b))|^[\s$]*\?",
    re.I,
)
"""A sentence behind the answer that begins to take it back: any that reconsiders, and the very next one that turns."""
_CHECKED = re.compile(r"\b(?:check|verify|confirm)", re.I)
_CONDITION = re.compile(
    r"[\s$.,*)\]]*(?:only\s+)?\b(?:if|unless|provided|assuming|in case)\b|[\s$,]*(?:如果|除非)", re.I
)
"""What makes the answer one of several cases."""
_DANGLING = re.compile(r"(?:\b(?:times|plus|minus|of|and|or|by|than|the|an|is|divided)|[-+*/=^(\\{])\s*$", re.I)
"""How an answer ends that is broken off."""


def final_answer(text: str) -> str | None:
    """The last final answer of a text, stripped; None where there is none, an empty one, or one that is taken back.

    What stands before a closing </think> is thought, not an answer; an unfinished tag gives none. Boxes that are listed
    ("\\boxed{2} and \\boxed{5}") are one answer, a list.
    """
    said = re.split(r"</think>", text, flags=re.I)[-1]
    if re.search(r"<think>", said, re.I):
        said = re.split(r"<think>", said, flags=re.I)[0]
    said = said.replace("：", ":")
    found = next((f for read in (_tagged, _boxed, _marked, _told) if (f := read(said)) is not None), None)
    if found is None:
        return _bare(said)
    later = _told(said)
    if later is not None and later[1] >= found[2] and _contrary(found[0], later[0]):
        found = later
    inside, start, end = found
    before, after = _TABLE.sub("", said[:start]), said[end:]
    taken = _hedged(inside, before, after) or _reconsidered(inside, after) or bool(_DENIED.match(after))
    return None if taken else inside.strip() or None


def _contrary(one: str, other: str) -> bool:
    """Whether two answers can be read as numbers, or as letters, and are not the same."""
    first, second = quantity(one), quantity(other)
    if first is not None and second is not None:
        return not (first.equals(second) or second.equals(first))
    return letter(one) is not None and letter(other) is not None and letter(one) != letter(other)


_OUTSIDE = re.compile(
    r"(?:(?<![A-Za-z\s])[-+*/^<>_]|(?<=[A-Za-z\s]) ?[-+*/^<>_](?=$)|[<>^*/+]|\\(?:cdot|times|pm|mp|div|le|ge"
    r"|leq|geq|ne|neq|lt|gt|sqrt(?:\[\w+\])?|frac|over"
    r"|not)|[\d)]|(?<![A-Za-z\\])[A-Za-z])(?:\{[^{}]*\})?\{?$"
)
"""An operator or a factor in front of a box."""
_BOUNDED = re.compile(
    r"(?:\b(?:not|never|cannot|at (?:least|most)|(?:more|less|fewer|greater|larger|smaller|higher|lower) than"
    r"|up to|half(?: of)?|double|twice"
    r"|triple|thrice|(?:root|multiple|factor|third|quarter|fraction|percent) of|over|under|below|above|beyond"
    r"|minus|maybe|perhaps|possibly"
    r"|probably|either|neither|between|nearly|almost|wrong|incorrect|exceeds?)|n't|不|约|至少|至多|超过)"
    r"\s*(?:be|equal(?: to)?|exactly|the|an?|is|answer|just|only)?[\s:]*$",
    re.I,
)
_ASSUMED = re.compile(r"\b(?:assum\w+|suppos\w+|if|pretend|imagine)\b[^.!?\n]*\banswer\b[^.!?\n,]*$", re.I)
_ABOUT = re.compile(r"\b(?:about|approximately|roughly|around|approx\.?)\s*$|约\s*$", re.I)
_BESIDE = re.compile(
    r"[ \t]*[^.!?\n]{0,60}?\b(?:bounds?|limit|estimate|at (?:least|most)|or (?:more|less|so|fewer)|wrong"
    r"|incorrect|maximum|guess)\b",
    re.I,
)
_INSIDE = re.compile(r"\d|\s*(?:[-+*/^_!](?=[\s$]*[\w\\({])(?!\s*[A-Za-z]{2})|\\(?:cdot|times|pm|div)(?![A-Za-z]))")


def _bound(inside: str, before: str, after: str) -> bool:
    """Whether what stands around a box is part of the answer, and changes it: "at most", a factor, an exponent."""
    before, after = (
        re.sub(r"(?:[\s$*:]|\\[(\[,;])+$", "", before[-NEAR:]),
        re.sub(r"^(?:[ \t$]|\\[)\]])+", "", after[:NEAR]),
    )
    if _ASSUMED.search(before) or _OUTSIDE.search(before) or _BOUNDED.search(before) or _INSIDE.match(after):
        return True
    return bool(_ABOUT.search(before) and re.fullmatch(r"\W*\d+\W*", inside)) or bool(_BESIDE.match(after))


def _reconsidered(answer: str, after: str) -> bool:
    """Whether what follows takes the answer back, or makes it one of several cases; to check it again and find it so is
    neither ("Let me double-check: 3 x 4 = 12")."""
    if _CONDITION.match(after):
        return True
    turn = _RECONSIDERED.search(after[: 2 * NEAR])
    if turn is None:
        return False
    again = re.findall(r"-?\d[\d,]*(?:\.\d+)?", after[turn.end() :])
    sure = _CHECKED.search(after, turn.end()) and again
    return not (sure and (one := quantity(answer)) is not None and (two := quantity(again[-1])) and one.equals(two))


NEAR = 200
"""Characters beside a final answer in which another is looked for."""
Found = tuple[str, int, int]
"""A final answer, "" where it is taken back, with where it begins (its mark) and ends."""


def _hedged(answer: str, before: str, after: str) -> bool:
    """Whether another answer shall count as well ("7, or perhaps 8"); the same amount again is none ("3/4, or 75%")."""
    if _HINGE.search(before[-60:]) or _ALSO.search(after[:NEAR]) or _AND.match(after):
        return True
    after = after[:NEAR]
    turn = _TOO.match(after)
    if turn is None:
        return False
    other = after[turn.end() :]
    if turn["gap"] and not _LIKE.match(other):
        return False
    one, again = quantity(answer), quantity(_SAID.sub("", re.split(r"[.;]\s|\n", other.lstrip())[0]))
    return one is None or again is None or not one.equals(again)


def _several(line: str) -> bool:
    """Whether a line goes on, in another sentence, to another answer that shall count as well ("7. Or 8")."""
    turns = re.finditer(rf"[.;]\s*{_FILL}{_TURN}", line[:NEAR], re.I)
    return any(_hedged(line[: m.start()], "", line[m.start() :]) for m in turns)


def _tagged(text: str) -> Found | None:
    """What stands in the last <answer> tags; a list of those that nothing parts from it."""
    found = list(_TAGS.finditer(text))
    if not found:
        return None
    inside, start = found[-1]["inside"], found[-1].start()
    for before in found[-2::-1]:
        if not _JOINT.fullmatch(text[before.end() : start]):
            break
        inside, start = (
            (f"{before['inside']}, {inside}" if before["inside"].strip() != inside.strip() else inside),
            before.start(),
        )
    return inside, start, found[-1].end()


def _marked(text: str) -> Found | None:
    """What follows the last "####" (GSM8K), where it is a number, or the last line: elsewhere it marks a heading."""
    found = list(_HASHES.finditer(text))
    if not found:
        return None
    inside = found[-1]["inside"].strip()
    number = quantity(inside)
    good = not text[found[-1].end() :].strip() or (number is not None and not number.rest)
    return ("" if _several(inside) else inside, found[-1].start(), found[-1].end()) if good else None


def _told(text: str) -> Found | None:
    """What follows the last "the answer is"; "" where it is taken back; None where nothing is told."""
    marks = [m for m in _SAID.finditer(text) if not _supposed(text, m.start())]
    if not marks:
        return _told_late(text)
    start, end = marks[-1].span()
    line = text[end:].split("\n", 1)[0]
    rest = re.split(r"[.,!;]", line, maxsplit=1)[1:]
    turned = re.search(r"(?<=[\w)}$*]{2})[.;!?]\s+|(?<=\d)[.;!?]\s+", line)
    taken = (
        (rest and _TAKEN_BACK.search(rest[0]) and not _CHECKED.search(line))
        or _several(line)
        or _DANGLING.search(line.rstrip("* "))
        or (turned and _reconsidered(line[: turned.start()], line[turned.end() :] + text[end + len(line) :]))
        or (len(marks) > 1 and _one_more(text[marks[-2].end() : start].strip(" .*\n"), line.strip(" .*")))
    )
    return "" if taken else line.strip().rstrip(".。").strip(" *"), start, end + len(line)


def _supposed(text: str, at: int) -> bool:
    """Whether what is told at a place of a text is only supposed, or denied, in its clause."""
    return bool(_SUPPOSED.search(_CLAUSE.split(text[max(0, at - NEAR) : at])[-1]))


def _one_more(before: str, line: str) -> bool:
    """Whether an answer is the next of a row ("Answer: A", "Answer: B"): nothing between them says why there are two."""
    return not re.search(r"[\n?]", before) and not _TAKEN_BACK.search(before) and _contrary(before, line)


def _told_late(text: str) -> Found | None:
    """What is told by the marks that count where there is no other; of these, a last line in bold is the last."""
    if late := list(_LATE.finditer(text)):
        last = late[-1]
        inside = next(x for x in last.groups() if x is not None).strip().rstrip(".。}|").strip(" *\"'`$")
        return "" if _supposed(text, last.start()) else inside, last.start(), last.end()
    chosen = {x.upper() for x in _CHOSEN.findall(text)}
    if chosen:
        return (chosen.pop() if len(chosen) == 1 else "", 0, len(text))
    last_line = _A.search(text) or _BOLD.search(text)
    return (last_line["inside"].strip(), last_line.start(), last_line.end()) if last_line else None


def _bare(text: str) -> str | None:
    """A text that is nothing but a letter, a number or a word."""
    said = re.sub(r"^```\w*\n|\n?```$", "", text.strip()).strip()
    if (
        not said
        or len(said) > 60
        or "\n" in said
        or "<" in said
        or _BOX.search(said)
        or re.match(r"[^=]*:[^=]*=", said)
    ):
        return None
    number = quantity(said)
    one = re.fullmatch(r"[*\"'(\[]*[^\W_][\w'-]*[*\"')\].!。]*", said)
    return said.rstrip(".。") if one or letter(said) or (number is not None and not number.rest) else None


def _boxed(text: str) -> Found | None:
    """The content of the \\boxed{...} that begins last among those whose braces are balanced, with those that are listed
    before it, and where it ends; one pass over the text."""
    marks, boxes = dict[int, int](), list[tuple[int, int, int, int]]()
    for m in _BOX.finditer(text):
        if text.startswith("{", m.end()):
            marks[m.end() + 1] = m.start()
        elif after := _LOOSE.match(text, m.end()):
            boxes.append((m.start(), m.end(), after.end(), after.end()))
    open_ = list[int]()
    for at, sign in ((m.start(), m[0]) for m in re.finditer(r"[{}]", text)) if marks else ():
        if sign == "{":
            open_.append(at + 1)
        elif open_:
            start = open_.pop()
            if start in marks:
                boxes.append((marks[start], start, at, at + 1))
    if not boxes:
        return None
    boxes.sort()
    begin, start, stop, end = boxes[-1]
    inside = text[start:stop]
    for mark, start, stop, close in boxes[-2:-26:-1]:
        between = text[close:begin] if close <= begin else ""
        if not _JOINT.fullmatch(between):
            break
        joint, again = (
            re.sub(r"[A-Za-z]\w?\s*=|\$", "", between).strip() or ",",
            text[start:stop].strip() == inside.strip(),
        )
        begin, inside = mark, inside if again else f"{text[start:stop]} {joint} {inside}"
    if _DENIED.match(text, end):
        return None
    taken = _TAKEN_BACK.match(text[end : end + 30].lstrip(" $.,;!"))
    cases = boxes[:-1] and begin == boxes[-1][0] and _CASE.search(text[max(0, begin - 80) : begin])
    if cases and text[boxes[-2][1] : boxes[-2][2]].strip() != inside.strip():
        return "", begin, end
    if inside.strip() and (attached := _ATTACHED.match(text, end)):
        inside, end = f"{inside}{attached[0].replace('$', '')}", attached.end()
    return "" if taken or _bound(inside, text[:begin], text[end:]) else inside, begin, end


def same(given: str, right: str, kind: AnswerKind) -> bool:
    """Is `given` the answer `right`? Never raises, whatever the text.

    number: one number (`quantities`), exactly where it is whole, else to six digits. math: `formulas`. choice: one letter.
    text: the same words, or the same amount.
    """
    if kind == "math":
        return same_formula(given, right)
    if kind == "number":
        one, other = quantity(given), quantity(right)
        return one is not None and other is not None and one.equals(other)
    if kind == "choice":
        chosen = letter(given)
        return chosen is not None and chosen == letter(right)
    return same_text(given, right)


def correct(text: str, right: str, kind: AnswerKind) -> bool:
    """Is the final answer of a whole text the right one? Reward, evaluation and monitor all ask here; "" is no answer."""
    answer = final_answer(text)
    return answer is not None and bool(right) and same(answer, right, kind)


def normalised(answer: str, kind: AnswerKind) -> str:
    """A final answer so written that those which `same` takes for equal are equal, as a rule; of formulas, numbers alone.
    For counting how answers agree; whether one is right is `same`'s to say."""
    value = quantity(answer, formula=kind == "math") if kind != "choice" else None
    if value is not None and (kind != "text" or not value.rest):
        return _key(value)
    if kind == "choice":
        return letter(answer) or plain(answer)
    return squeezed(answer) if kind == "math" else plain(answer)


def _key(value: Quantity) -> str:
    number = value.value * (value.unit[1] if value.unit else 1)
    return str(number) if getattr(number, "denominator", 0) == 1 else f"{approximate(number):.6g}"
