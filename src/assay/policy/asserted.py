"""Whether a sentence asserts a word of a picture, or only has it: a word counts where one of a few frames holds it.

"There is a red circle", "it is red", "colour: red", "the red circle lies ...", "A red circle on a white field." No frame
holds "circles are round", "we can cross out the circle", "red stands for stop": what is in none is no claim. So forms that
nobody thought of are missed claims, not invented ones.
"""

import re

_GAP = (
    r"(?:(?:(?!(?:of|for|from|about|that|who|than|as|if|is|are|was|were|be|has|have|to|but)\b)[\w'*-]+"
    r"|(?:pairs?|sets?|rows?|parts?|half|most|all|one|out|top|bottom|side|middle|cent(?:re|er)|corner|kind|colou?rs?|shapes?)"
    r" of|that of)[\s,*:\"(]+)"
)
"""A word between what asserts and what is asserted: none that begins a clause, and "of" after parts alone."""
_SEES = re.compile(
    r"\b(?:there(?:'s| is| are| was| were| must be| has to be)"
    r"|(?:i|we|you|one)(?: can| do| also| clearly| just| only)*(?: see| notice| find| spot| count| observe| identify"
    r"| recogni[sz]e| have|(?:'m| am|'re| are) (?:looking at|seeing))"
    r"|shows?|contains?|depicts?|displays?|consists? of|includes?|features?|has|have|having|holds?|fill(?:s|ed)?"
    r"|with(?= (?:an?|the|one|two|three|its)\b)|next to|besides?|left of|right of"
    r"|below|above|around|inside|behind|overlap(?:s|ping)|touch(?:es|ing)|looking at|i\.e\.|called"
    rf"|turns out)\b[\s,*]+{_GAP}{{0,8}}$",
    re.I,
)
_IS = re.compile(
    r"(?:\b(?:is|are|was|were|looks?|appears?|seems?|be|been|makes?|becomes|remains|leaves|equals)\b|(?<!let)'s\b"
    rf"|(?<![\w ])\s*=)[\s,*]+{_GAP}{{0,8}}$",
    re.I,
)
_NAMED = re.compile(
    r"\b(?:shapes?|colou?rs?|objects?|figures?|answer|background|outline|border|inside|fill)\b[\s*_]*(?:->|→|[:=–-])\W*"
    rf"{_GAP}{{0,8}}$",
    re.I,
)
_THE = re.compile(
    r"(?:^|[,(]|\b(?:on|in|at|and|so|as|that|here|given|i\.e\.|or)\b)[\s*\"-]*(?:the|this|that|its|both|all|every|each|one|two"
    rf"|three|four|only|left|right|small|large)\b[\s,*]+{_GAP}{{0,3}}$",
    re.I,
)
_A = re.compile(r"^\W*(?:an?|one|two)\b[\w ]*$", re.I)
_PLACED = re.compile(
    r"[^.;]*?\b(?:stands?|sits?|lies?|is|are|fills?|covers?|has|takes?|points?|overlaps?|touch(?:es)?|was|were|appears?|'s)\b"
    r"[\w ]*\b(?:in|on|at|to|here|there|below|above|left|right|beside|visible|corner|middle)\b",
    re.I,
)
"""After "a small square": where it is."""
_LISTED = re.compile(
    r"(?:[\s,*-]|\b(?:and|an?|the|one|two|three|also|or|both|in|filled|next|to|whose|which|plus)\b|\w+ly\b){0,12}", re.I
)
"""Between two words of which the first is asserted."""
_CLAUSE = re.compile(
    r"[;:.!?]|,(?= (?:and|but|so|because|which|while|it|its|i|we|the|there|that)\b)"
    r"|\b(?:but|because|since|while|although|though|hence|thus|therefore|and find)\b",
    re.I,
)
_VERB = re.compile(
    r"\b(?:is|are|was|were|be|been|can|could|may|might|must|will|would|should|do|does|did|has|have|had|i|we|you|they"
    r"|(?!(?:some)?things?\b|this\b|its\b|(?:shape|colou?r|object|figure)s\b)\w+(?:ed|ing|s))\b|n't|'s|'re|'m",
    re.I,
)


def asserted(text: str, word: re.Match[str], begin: int, words: re.Pattern[str], last: int | None) -> bool:
    """Whether a frame of the sentence holds this match of `words`. `begin`: what stands before it is taken back; `last`:
    where the word before it ends, if that is asserted."""
    at = word.start()
    clause = max([begin, *(m.end() for m in _CLAUSE.finditer(text, begin, at))])
    before = text[clause:at]
    if any(frame.search(before) for frame in (_SEES, _IS, _THE)) or _NAMED.search(text[begin:at]):
        return True
    if last is not None and _LISTED.fullmatch(text, last, at):
        return True
    if _A.search(before) and _PLACED.match(text, word.end()):
        return True
    return _VERB.search(words.sub(" ", text[clause:])) is None
