"""Number words as digits, and units of measure by their kind and size."""

import re
import unicodedata
from fractions import Fraction

_ONES = {w: n for n, w in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
))}  # fmt: skip
_TENS = {
    w: 10 * n for n, w in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], 2)
}
_POWERS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
          "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "eighth": 8, "eighths": 8,
          "tenth": 10, "tenths": 10}  # fmt: skip
_SMALL = "|".join([*_ONES, *_TENS])
_WORDS_RUN = rf"(?:{_SMALL}|dozen)(?:[\s-]+(?:and\s+)?(?:{_SMALL}|{'|'.join(_POWERS)}))*"
_RUN = re.compile(
    r"\b(?:(?P<minus>minus|negative)\s+)?"
    r"(?P<run>(?:an?\s+(?=(?:hundred|thousand|million|billion|dozen|half|third|quarter)\b))?"
    rf"(?:{_SMALL}|{'|'.join(_POWERS)}|dozen|half|third|quarter)"
    rf"(?:(?:[\s-]+(?:and\s+(?:an?\s+)?)?|\s+point\s+|(?<=thousand),\s+|(?<=million),\s+"
    rf"|(?<=billion),\s+)(?:{_SMALL}|{'|'.join(_POWERS)}|{'|'.join(_PARTS)}|dozen))*)\b",
    re.I,
)
_BESIDE = re.compile(rf"(?<=\()(?:{_WORDS_RUN})(?=\))|^\s*(?:{_WORDS_RUN})(?=\s*\()", re.I)
"""Number words that tell a number in digits again, or are told again."""
_LEAD = re.compile(r"\W*(?:(?:the|final|answer|is|it|there|are|about|approximately|exactly|only|just)\b\W*)*", re.I)
"""Words before which a number word is the first."""


def digits_for_words(text: str) -> str:
    """`text` with its number words as digits ("twenty-one apples" is "21 apples"); where it has digits of its own, only
    those in brackets ("12 (twelve)") and those that stand before a bracket.

    "one", "half" and the like stand for a number only at the beginning: "the red one" has none.
    """
    if not text.isascii():
        text = _CHINESE_PART.sub(_chinese_part, text)
        text = _CHINESE.sub(_chinese, re.sub(rf"负(?=[\d{_NUMERALS}])", "-", text))
    text = _HALF_A.sub(lambda m: f"{12 // 2 if m[1].lower() == 'dozen' else _POWERS[m[1].lower()] // 2}", text)
    if re.fullmatch(r"\W*nil\W*", text, re.I):
        return "0"
    if re.search(r"\d", text):
        return _BESIDE.sub(lambda m: _value(m[0].lower()) or m[0], text)

    def digits(match: re.Match[str]) -> str:
        said = match["run"].lower()
        value = None if _LONE.fullmatch(said) and not _LEAD.fullmatch(text, 0, match.start()) else _value(said)
        return match[0] if value is None else ("-" if match["minus"] else "") + value

    return _RUN.sub(digits, text)


_LONE = re.compile("one|dozen|(?:a )?(?:half|third|quarter)")
"""Words that are numbers only where they are all of an answer."""
_HALF_A = re.compile(r"\bhalf\s+an?\s+(hundred|thousand|million|billion|trillion|dozen)\b", re.I)
_NUMERALS = "零〇一二两三四五六七八九十百千万亿"
_CHINESE_PART = re.compile(rf"(百|千|[{_NUMERALS}]+|\d+)分之([{_NUMERALS}]+|[\d.]+)")
"""百分之二十 (20 %), 三分之二 (2/3)."""


def _chinese_part(match: re.Match[str]) -> str:
    below, above = (_CHINESE.sub(_chinese, x) for x in match.groups())
    return f"{above}%" if match[1] in ("百", "一百", "100") else f"{above}/{1000 if match[1] == '千' else below}"


_CHINESE = re.compile(
    rf"()([\d.]+(?:[百千万亿](?![克米瓦卡])[\d.]*)+)|^(\W*)([{_NUMERALS}]+)(?=[个只元人天年月岁次米块名件种条张度分秒小]?\W*$|[个只元人天岁次米块][^\W\d])"
)
"""Digits with a Chinese scale anywhere (1.5万), a numeral in characters where it is the answer (十二, 十二个)."""


def _chinese(match: re.Match[str]) -> str:
    lead, said = (x for x in match.groups() if x is not None)
    total = section = digit = Fraction(0)
    for part in re.findall(r"\d+(?:\.\d+)?|[^\d.]", said.replace("两", "二")):
        value = Fraction(part if part[0].isdigit() else unicodedata.numeric(part))
        if part[0].isdigit() or value < 10:
            digit = value
        elif value < 10_000:
            section, digit = section + (digit or 1) * value, Fraction(0)
        else:
            total, section = (total * (value if value > 10**5 else 1) + (section + digit) * value), Fraction(0)
            digit = Fraction(0)
    found = total + section + digit
    return lead + str(found if found.denominator == 1 else float(found))


_CHINESE_WORDS = (("至少", " at least "), ("至多", " at most "), ("不是", " not "), ("大约", " about "), ("约", " about "),
                  ("或", " or "), ("到", " to "), ("至", " to "), ("和", " and "))  # fmt: skip
_CHINESE_UNITS = {
    "千米": "km", "公里": "km", "厘米": "cm", "毫米": "mm", "分米": "dm",
    "米": "m", "千克": "kg", "公斤": "kg", "毫克": "mg", "克": "g",
    "毫升": "ml", "升": "l", "小时": "hours", "分钟": "minutes", "秒": "seconds", "天": "days", "角": "jiao", "元": "yuan",
}  # fmt: skip
_CHINESE_UNIT = re.compile(rf"(?<=\d)\s*(平方|立方)?({'|'.join(_CHINESE_UNITS)})(?!度)")
_CHINESE_POWERS = {"平方": "square", "立方": "cubic"}


def in_latin(text: str) -> str:
    """Chinese beside digits set apart, its connecting words in English."""
    if text.isascii():
        return text
    text = _CHINESE_UNIT.sub(lambda m: f" {_CHINESE_POWERS.get(m[1] or '', '')} {_CHINESE_UNITS[m[2]]} ", text)
    for word, english in _CHINESE_WORDS:
        text = text.replace(word, english)
    return re.sub(r"(?<=[\u3400-\u9fff])(?=[\d-])|(?<=\d)(?=[\u3400-\u9fff])", " ", text)


_SPLIT = re.compile(r"[\s,-]+(?:(?:and|an?)\s+)*|^an?\s+")
_WITH_PART = re.compile(rf"(?:(.+?)\s+and\s+)?((?:\S+[\s-])??(?:{'|'.join(_PARTS)}))(?:\s+({'|'.join(_POWERS)}))?")


def _value(said: str) -> str | None:
    """A run of number words as digits or a fraction, None for one that is no number ("two three")."""
    whole, point, after = said.partition(" point ")
    if point:
        base, digits = _value(whole), [str(_ONES.get(w, "no")) for w in _SPLIT.split(after)]
        return f"{base}.{''.join(digits)}" if base and base.isdigit() and all(len(d) == 1 for d in digits) else None
    if parts := _WITH_PART.fullmatch(said):
        count, part = _value(parts[1]) if parts[1] else "0", _fraction(parts[2])
        if count is None or part is None or (parts[1] and part >= 1):
            return None
        return str((Fraction(count) + part) * _POWERS.get(parts[3], 1))
    words = [w for w in _SPLIT.split(said) if w]
    sizes = [_ONES.get(word, _TENS.get(word, 0)) for word in words]
    century = len(words) in (2, 3) and 13 <= sizes[0] <= 20 and words[1] not in _POWERS
    if century and (year := re.fullmatch(r"[1-9]\d", _value(" ".join(words[1:])) or "")):
        return f"{sizes[0]}{year[0]}"
    total = group = 0
    for word, size in zip(words, sizes, strict=True):
        if word == "dozen":
            total, group = total + 12 * (group or 1), 0
        elif word == "hundred":
            group = 100 * (group or 1)
        elif word in _POWERS:
            total, group = total + (group or 1) * _POWERS[word], 0
        elif group % 100 and not (group % 100 in _TENS.values() and size < 10):
            return None
        else:
            group += size
    return str(total + group)


def _fraction(said: str) -> Fraction | None:
    """ "three quarters" is 3/4."""
    *count, part = _SPLIT.split(said)
    above = _value(" ".join(count)) if any(count) else "1"
    return Fraction(int(above), _PARTS[part]) if above and above.isdigit() else None


_MEASURES = """
length: mm millimeter millimetre 1/1000, cm centimeter centimetre 1/100, dm decimeter 1/10, m meter metre 1
length: km kilometer kilometre 1000, inch inche 127/5000, ft foot feet 381/1250, yd yard 1143/1250, mi mile 201168/125
length: nm nanometer 1/1000000000, um µm μm micrometer 1/1000000
mass: mg milligram 1/1000, g gram gramme 1, kg kilogram kilo 1000, t ton tonne 1000000
mass: lb lbs 45359237/100000, oz ounce 45359237/1600000
time: ms millisecond 1/1000, s sec second 1, min minute 60, h hr hour 3600, day 86400, week 604800
time: stunden heure hora 3600, minuten minuto 60, sekunden seconde segundo 1, tage jour 86400
months: month 1, yr year 12, decade 120, century 1200
volume: ml milliliter millilitre 1/1000, cl 1/100, l liter litre 1, gal gallon 473176473/125000000
money: dollar usd $ 1, cent ¢ 1/100; euros: euro eur € 1; sterling: £ gbp 1; rupees: rupee ₹ 1
yen: yen ¥ yuan rmb 1, jiao 1/10
unit: unit c f 1; angle: degree deg ° 1; radians: radian rad 1; astronomic: au 1; temperature: kelvin k 1
energy: j joule 1, cal calorie 523/125, kcal 4184; work: wh 1, kwh 1000; electronvolts: ev 1
force: n newton 1; pressure: pa pascal 1, atm 101325; bars: bar 1; psi: psi 1; substance: mol mole 1
power: w watt 1, kw 1000; horses: hp 1; voltage: v volt 1; current: ampere amp a 1; resistance: ohm Ω 1
charge: coulomb 1; frequency: hz hertz 1, khz 1000, mhz 1000000; turns: rpm 1; loudness: db 1
length per time^1: mph 1397/3125, kph kmph 5/18
data: byte 1, bit 1/8, kb 1000, mb 1000000, gb 1000000000
"""
"""A kind of measure, the names of its units, and how much of its own unit each is."""
_UNITS = {
    name: (kind, Fraction(part.split()[-1]))
    for kind, parts in (line.split(": ") for line in re.split(r"\n|; ", _MEASURES.strip()))
    for part in parts.split(", ")
    for name in part.split()[:-1]
}
_PREFIXES = {"n": "1e-9", "u": "1e-6", "µ": "1e-6", "μ": "1e-6", "m": "1e-3", "c": "1e-2", "d": "1e-1", "k": "1e3",
             "M": "1e6", "G": "1e9", "T": "1e12"}  # fmt: skip
_BASES = {
    base: _UNITS[name]
    for base, name in (("m", "m"), ("g", "g"), ("s", "s"), ("J", "j"), ("N", "n"), ("W", "w"), ("V", "v"), ("A", "amp"),
                       ("L", "l"), ("l", "l"), ("Pa", "pa"), ("Hz", "hz"), ("eV", "ev"), ("Wh", "wh"), ("mol", "mol"))
}  # fmt: skip
_SI = re.compile(r"(?P<prefix>[nuµμmkMGT]|[cd](?=[mlL]$))(?P<base>Pa|Hz|eV|Wh|mol|[mgsJNWVLlA])")
"""Units of the SI with a prefix, whose capitals count: mW is no MW."""
_SHORT = frozenset("mgshlLJNVWACFK")
"""Units of one letter, which are letters of formulas as well."""


def unit_of(word: str, letters: bool = True) -> tuple[str, Fraction, int] | None:
    """What a word measures, how much of that kind's own unit it is, and its exponent ("cm2": 2); None for other words.
    `letters`: a single letter may be one."""
    match = re.fullmatch(r"([^\W\d_]+|[$€£¥₹¢°])([23])?", word)
    if match is None:
        return None
    name = match[1]
    if (si := _SI.fullmatch(name)) is not None:
        kind, size = _BASES[si["base"]]
        return kind, size * Fraction(_PREFIXES[si["prefix"]]), int(match[2] or 1)
    if len(name) == 1 and name.isalpha():
        if not letters or name not in _SHORT:
            return None
        found = _UNITS.get(name.lower())
    else:
        found = _UNITS.get(name.lower()) or _UNITS.get(name.lower().removesuffix("s" * (len(name) > 2)))
    return None if found is None else (found[0], found[1], int(match[2] or 1))
