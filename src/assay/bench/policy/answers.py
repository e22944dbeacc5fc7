r"""What answer a text gives, and whether it is the right one: rules that benchmarks and RL share.

An answer is looked for in <answer> tags, then in \boxed{}, then after "####", then after "the answer is"; a text that is
nothing but a letter, a number or a word is its own. A text without any has no clear final answer, which MPO's construction
of pairs counts as wrong (MPO paper, section 3.1).
"""

import re

from assay.bench.policy.arithmetic import approximate
from assay.bench.policy.around import NEAR, follows, leads, stays, told, turned
from assay.bench.policy.beside import OTHERS
from assay.bench.policy.conclusions import bare, concluded
from assay.bench.policy.formulas import same_formula, squeezed
from assay.bench.policy.letters import letter, letters
from assay.bench.policy.quantities import quantity
from assay.bench.policy.texts import plain, same_text
from assay.rollouts import AnswerKind

_TAGS = re.compile(r"<(?P<tag>answer|final_answer)>(?P<inside>(?:(?!<(?P=tag)>).)*?)</(?P=tag)>", re.S | re.I)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?P<inside>[^\n#]*\S)[ \t]*$", re.M)
_IS = r"(?:is|are|equals|will be|would be|must be|should be|turns out to be|comes (?:out )?to)\b"
_SAID = re.compile(
    rf"(?:\b(?:final|correct|right|best)\s+(?:answer|option|choice|result)s?(?=[* \t]*(?:{_IS}|[:=(\n]))"
    rf"|the\s+(?:answer|option|choice)s?(?:\s+to\s+(?![^\n.:]{{0,60}}\b(?:{OTHERS})\b)[^\n.:]{{1,80}}?"
    rf"|\s+we (?:seek|want|need))?\s*(?=(?:{_IS}|[:=]))"
    r"|\banswers?\s*(?=is\b|[:=])|\btl;?dr\b\s*(?=[:=])|^[#* \t]+answer[* \t]*$"
    r"|[【\[]?答案[】\]]?(?:应该)?(?:是|为)?)"
    rf"[\s:=*]*(?:{_IS})?(?:,? (?:of course|therefore|thus|then|indeed|simply|clearly),?(?= ))?[\s:=*]*(?=\S)",
    re.I | re.M,
)
_LATE = re.compile(
    r"^[#>*|\- \t]*(?:ans(?:wer)?|final|solution|result|réponse(?: finale)?|antwort|respuesta|答え?|ответ|답|정답"
    r"|resposta|risposta|svar|jawaban)\b[* \t]*[.:=-][:=* \t]*(?P<inside>(?=[^\n]*\w)\S[^\n]*)$"
    r"|\b(?:the (?:final )?(?:solution|result|value)|the (?:required|desired|requested) (?:\w+ )?\w+|(?:die|das|la|le|el|a)"
    r"(?: richtige)? (?:antwort|ergebnis|réponse|résultat|respuesta|resultado|risposta|resposta)"
    r"(?: correct[ea]| finale?| corretta)?)"
    rf"\s+(?:{_IS}|est|ist|es|è|é|lautet)(?: la)?\s*:?\s*(?P<told>\S[^\n]*)$"
    r"|\bthe (?:most|best|closest)[\w ]{0,20}? (?:one|option|choice|match|description) (?:is|would be)\s*:?\s*"
    r"(?P<pick>\S[^\n]*)$|[\"'](?:final_)?answer[\"']\s*:\s*(?P<json>[^\n,}]+)"
    r"|(?:^|[.\n]\s*|\bso |\bget |\bobtain )(?P<first>[^\n.]{1,30}?)\s+(?:is|as) (?:the|my|our) (?:final |correct )?"
    r"answer\b[.!]?\s*$|\b(?:option|choice)\s*\(?(?P<option>[A-Z])\)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
    r"(?!\s+(?:only|if|unless|when))",
    re.I | re.M,
)
"""Marks that are looked for where there is no other: "Result: 12", "12 is the answer", {"answer": 12}, "B is right"."""
_A = re.compile(r"\n[ \t*]*A:[ \t*]*(?P<inside>[^\n]*\d[^\n]*)\s*$")
"""The last line of GSM8K's own models."""
_BROKEN = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{[^{}]*$")
_TABLE = re.compile(r"^[ \t]*\|.*\|[ \t]*$", re.M)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*")
_CASE = re.compile(r"\b(?:case|part)\s*\(?(?:[2-9b-e]|ii+|two|three)\b[^.\n]*$", re.I)
"""The second of several cases, each with a box of its own."""
_ATTACHED = re.compile(
    r"(?:\$?\s*\\?%|\$?\s+(?:hundred|thousand|million|billion|trillion|dozen|percent)\b|[A-Za-z]+[23]?)(?!\s*[{}])"
)
"""What stands right behind a box and belongs to it: more digits, a scale, a sign of percent."""
_LOOSE = re.compile(r"-?(?:\d[\d,.]*\d|\d|\\?[A-Za-z]+)")
_JOINT = re.compile(r"[\s$,;]*(?:,|;|\band\b|\bor\b)?[\s$,;]*(?:[a-z]\w?\s*=\s*)?", re.I)
"""What stands between the boxes of one list."""
_MOST = 24
"""Boxes that may be one list."""
_DANGLING = re.compile(r"(?:\b(?:times|plus|minus|of|and|or|by|than|the|an|is|divided)|[-+*/=^(\\{])\s*$", re.I)
"""How an answer ends that is broken off."""
_SENTENCE = re.compile(r"(?:(?<=[\w)}$*%\]\"']{2})|(?<=[\d)}]))[.;!](?=[\s*]|$)|[;?](?=[\s*]|$)|[。！？；](?=.)")
"""The end of a sentence; a letter and a full stop mark an option."""
_TOKENS = re.compile(r"<\|[\w ]{1,30}\|>|</s>|~~[^~\n]+~~")


def final_answer(text: str) -> str | None:
    """The last final answer of a text, stripped; None where there is none, an empty one, or one that is taken back.

    What stands before a closing </think> is thought, not an answer; an unfinished tag gives none. Boxes that are listed
    ("\\boxed{2} and \\boxed{5}") are one answer, a list. Where nothing is marked, the last sentence counts if it tells one
    number or letter, yes or no, or has one thing in bold.
    """
    said = re.split(r"<think>", re.split(r"</think>", text, flags=re.I)[-1], flags=re.I)[0]
    said = _TOKENS.sub("", said.replace("：", ":"))
    found = next((f for read in (_tagged, _boxed, _marked, _told) if (f := read(said)) is not None), None)
    if found is None:
        return bare(said) or concluded(said)
    later = _told(said)
    if later is not None and later[1] >= found[2] and _contrary(found[0], later[0]):
        found = later
    inside, start, end = found
    if inside.rstrip(" .*$").endswith(("?", "？")):
        return None
    if turned(_TABLE.sub("", said[:start]), inside):
        return None
    if any(_contrary(inside, said[m.end() :].split("\n", 1)[0]) for m in _SAID.finditer(said, end)):
        return None
    return (inside.strip() or None) if follows(inside, _BROKEN.sub("", said[end:])) else None


def _contrary(one: str, other: str) -> bool:
    """Whether two answers can be read as numbers, or as letters, and are not the same."""
    first, second = quantity(one), quantity(other)
    if first is not None and second is not None:
        return not first.agrees(second)
    chosen = [letter(x) or letters(x) for x in (one, other)]
    return None not in chosen and chosen[0] != chosen[1]


Found = tuple[str, int, int]
"""A final answer, "" where it is taken back, with where it begins (its mark) and ends."""


def _tagged(text: str) -> Found | None:
    """What stands in the last <answer> tags; a list of those that nothing parts from it."""
    found = [(m.start(), m["inside"], m.end()) for m in _TAGS.finditer(text)]
    return _led(text, *_joined(text, found)) if found else None


def _joined(text: str, found: list[tuple[int, str, int]]) -> Found:
    """The last of several marked answers, with those that are listed before it."""
    begin, inside, end = found[-1]
    listed = 1
    for mark, before, close in found[-2::-1]:
        between, again = text[close:begin], before.strip() == inside.strip()
        if not _JOINT.fullmatch(between) or listed > _MOST:
            break
        joint = re.sub(r"[A-Za-z]\w?\s*=|\$", "", between).strip() or ","
        begin, inside, listed = mark, inside if again else f"{before} {joint} {inside}", listed + (not again)
    return inside, begin, end


def _led(text: str, inside: str, begin: int, end: int) -> Found:
    """A marked answer, where its sentence leads to it."""
    return inside if leads(_TABLE.sub("", text[:begin]), inside) else "", begin, end


def _marked(text: str) -> Found | None:
    """What follows the last "####" (GSM8K), where it is a number, or the last line: elsewhere it marks a heading."""
    *_, last = [None, *_HASHES.finditer(text)]
    if last is None or (text[last.end() :].strip() and ((number := quantity(last["inside"])) is None or number.rest)):
        return None
    return _cut(last["inside"], "", *last.span())


def _told(text: str) -> Found | None:
    """What follows the last "the answer is"; "" where it is taken back; None where nothing is told."""
    marks = [m for m in _SAID.finditer(text) if told(text[max(0, m.start() - NEAR) : m.start()], m[0])]
    if not marks:
        return _told_late(text)
    start, end = marks[-1].span()
    line = text[end:].split("\n", 1)[0]
    if len(marks) > 1 and _one_more(text[marks[-2].end() : start].strip(" .*\n"), line.strip(" .*")):
        return "", start, end + len(line)
    return _cut(line, text[end + len(line) :], start, end + len(line))


def _cut(line: str, after: str, start: int, end: int) -> Found:
    """The first sentence of what is told on a line, where nothing behind it takes it back."""
    stop = _SENTENCE.search(line)
    if stop and (stop[0] in "?？" or not stays(line[: stop.start()], line[stop.end() :] + after)):
        return "", start, end
    inside = line[: stop.start()] if stop else line
    if (option := re.match(r"\W*[A-Z]\b(?=[.)])", inside)) and not stays(
        option[0], "." + inside[option.end() :] + after
    ):
        return "", start, end
    if stop is None and _DANGLING.search(line.rstrip("* ")):
        return "", start, end
    inside = inside.strip().rstrip(".。:}" if inside.count("}") > inside.count("{") else ".。:").strip(" *")
    return inside.replace("**", "") if inside.count("**") % 2 else inside, start, end


def _one_more(before: str, line: str) -> bool:
    """Whether an answer is the next of a row ("Answer: A", "Answer: B"): nothing between them takes the first back."""
    first, *rest = _SENTENCE.split(before, maxsplit=1)
    option = re.match(r"\W*[A-Z]\b", first)
    kept = stays(option[0] if option else first, ". " + (first[option.end() :] if option else "".join(rest)))
    return not re.search(r"[\n?]", before) and kept and _contrary(before, line)


def _told_late(text: str) -> Found | None:
    """What is told by the marks that count where there is no other; of these, GSM8K's last line is the last."""
    if late := list(_LATE.finditer(text)):
        last = late[-1]
        line = next(x for x in last.groups() if x is not None)
        inside, start, end = _cut(line.strip("|"), text[last.end() :], last.start(), last.end())
        return inside.strip(" *\"'`$|") if last["first"] or told(text[:start]) else "", start, end
    last_line = _A.search(text)
    return (last_line["inside"], *last_line.span()) if last_line else None


def _boxed(text: str) -> Found | None:
    """What stands in the last \\boxed{...}, with those that are listed before it and with what is attached to it."""
    found = _boxes(text)
    if not found:
        return None
    inside, begin, end = _joined(text, found)
    other = begin == found[-1][0] and found[:-1] and found[-2][1].strip() != inside.strip()
    if other and _CASE.search(text[max(0, begin - 80) : begin]):
        return "", begin, end
    if inside.strip() and (attached := _ATTACHED.match(text, end)):
        inside, end = f"{inside}{attached[0].replace('$', '')}", attached.end()
    return _led(text, inside, begin, end)


def _boxes(text: str) -> list[tuple[int, str, int]]:
    """Where each \\boxed{...} with balanced braces begins, its content and where it ends, in order; in one pass."""
    marks, found, open_ = dict[int, int](), list[tuple[int, str, int]](), list[int]()
    for m in _BOX.finditer(text):
        if text.startswith("{", m.end()):
            marks[m.end()] = m.start()
        elif after := _LOOSE.match(text, m.end()):
            found.append((m.start(), after[0], after.end()))
    for brace in re.finditer(r"[{}]", text) if marks else ():
        if brace[0] == "{":
            open_.append(brace.start())
        elif open_ and (start := open_.pop()) in marks:
            found.append((marks[start], text[start + 1 : brace.start()], brace.end()))
    return sorted(found)


def same(given: str, right: str, kind: AnswerKind) -> bool:
    """Is `given` the answer `right`? Never raises, whatever the text.

    number: one number (`quantities`), exactly where it is whole, else to six digits. math: `formulas`. choice: one letter,
    or all of several. text: the same words, or the same amount.
    """
    if kind == "math":
        return same_formula(given, right)
    if kind == "number":
        one, other = quantity(given), quantity(right)
        return one is not None and other is not None and one.equals(other)
    if kind == "choice":
        return letter(given) == letter(right) is not None or letters(given) == letters(right) is not None
    return same_text(given, right)


def correct(text: str, right: str, kind: AnswerKind) -> bool:
    """Is the final answer of a whole text the right one? Reward, evaluation and monitor all ask here; "" is no answer."""
    answer = final_answer(text)
    return answer is not None and bool(right) and same(answer, right, kind)


def normalised(answer: str, kind: AnswerKind) -> str:
    """A final answer so written that those which `same` takes for equal are equal, as a rule; of formulas, numbers alone.
    For counting how answers agree; whether one is right is `same`'s to say."""
    if kind == "choice":
        return letter(answer) or letters(answer) or plain(answer)
    value = quantity(answer, formula=kind == "math")
    if value is None or (kind == "text" and value.rest):
        return squeezed(answer) if kind == "math" else plain(answer)
    number = value.value * (value.unit[1] if value.unit else 1)
    return str(number) if getattr(number, "denominator", 0) == 1 else f"{approximate(number):.6g}"
