"""One way to write what Unicode and LaTeX write in many: digits, signs, spaces, superscripts, fractions."""

import re
import unicodedata
from functools import lru_cache

_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
_SUB = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", "0123456789+-=()", strict=True))
_GONE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff\u2705\u2713\u2714\u220e\u2611\U0001f300-\U0001faff]"
)
_NAMED = {
    **dict.fromkeys("−‐‑‒–—―﹣－⁃", "-"), **dict.fromkeys("×✕✖⨯", r"\times "), **dict.fromkeys("·⋅∙•", r"\cdot "),
    "÷": r"\div ", **dict.fromkeys("⁄∕", "/"), "√": r"\sqrt ", "∛": r"\sqrt[3]", "∞": r"\infty ", "π": r"\pi ",
    "∅": r"\emptyset ", "∪": r"\cup ", "∩": r"\cap ", "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "∈": r"\in ",
    "→": r"\to ", "∠": r"\angle ", "△": r"\triangle ", "∘": r"\circ ", "′": "'", "″": "''", "∣": "|", "∼": "~", "٪": "%",
    "‰": "/1000 ", "♯": "#", "♭": "b",
    "٫": ".", "٬": ",", "。": ".", "、": ",", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "‚": "'", "`": "'",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "θ": r"\theta ", "φ": r"\phi ", "ω": r"\omega ", "λ": r"\lambda ",
}  # fmt: skip
_RAISED = re.compile(f"[{''.join(_SUPER)}]+")
_LOWERED = re.compile(f"[{''.join(_SUB)}]+")
_ODD = re.compile(r"[^\x00-\x7f]")


@lru_cache(4096)
def folded(text: str) -> str:
    """`text` with ASCII digits, signs and spaces; superscripts as ^{2}, "1½" as "1 1/2", symbols by their LaTeX names."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda m: "^{" + "".join(_SUPER[c] for c in m[0]) + "}", _GONE.sub("", text))
    text = _LOWERED.sub(lambda m: "_{" + "".join(_SUB[c] for c in m[0]) + "}", text)
    text = re.sub(r"√(\d+(?:\.\d+)?)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<=\d)\s?(?=[¼½¾⅐-⅞↉])", " ", text)
    return _ODD.sub(lambda m: _plain(m[0]), unicodedata.normalize("NFC", text))


def _plain(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if character.isspace():
        return " "
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    return "".join(_NAMED.get(c, c) for c in unicodedata.normalize("NFKC", character))


_WRAP = re.compile(
    r"\\(?:boxed|fbox|framebox|text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|mathbb|mbox|hbox|bm|boldsymbol|"
    r"operatorname\*?|emph|ensuremath)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\b\s*")
_SPACE = re.compile(r"(?<!\\)\\[,;: \n]|\\q?quad\b|\\hspace\*?\{[^{}]*\}|\\[hv]?phantom\{[^{}]*\}|(?<=[^\s\\])~(?=\S)")
_LAYOUT = re.compile(
    r"\\(?:displaystyle|textstyle|limits|bf|rm|it|(?:left|right|middle|[bB]igg?[lrm]?)\.?)(?![A-Za-z])"
)
_TAGS = re.compile(r"</?(?:b|i|u|em|strong|p|br|code|span|div|font|tt)\s*/?>")
_DOLLAR = "\x01"
"""Stands for a dollar that is money (`\\$`) while those that mark a formula are taken away."""


@lru_cache(4096)
def written(text: str) -> str:
    """A formula or an answer without what only sets its looks: boxes, fonts, spaces, sizes of brackets, dollars around."""
    text = (
        folded(text)
        .replace(r"\!", "")
        .replace("{,}", ",")
        .replace(r"\%", "%")
        .replace(r"\degree", r"^\circ ")
        .replace(r"\$", _DOLLAR)
    )
    text = _TAGS.sub(" ", text.replace("`", " ")).rstrip("\\ ")
    text = re.sub(r"(\*\*|__)(?=\S)(.*?\S)\1", r"\2", text, flags=re.S)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = _LAYOUT.sub(" ", _SPACE.sub(" ", text))
    before = ""
    while before != text:
        before, text = text, _WRAP.sub(r" \1 ", text)
    text = re.sub(r"\\[\[\]()]", " ", _BOX.sub(" ", text))
    if text.count("$") % 2 == 0:
        text = text.replace("$", " ")
    text = re.sub(r"[^\S\n]+", " ", text.replace(_DOLLAR, "$")).strip()
    return text.lstrip(":; ").rstrip(".;:, \n") or text
