"""Attributes of a pair by rules: what the user *explicitly demands* (a length, a word, a format, an ending, ... in the
spirit of IFEval, Zhou et al. 2023), blind to everything that is only implied. No model, a tenth of a millisecond."""

import re
from dataclasses import dataclass

from assay.records import Attributes, Conversation, Pair

_N = r"(?P<n>\d+|one|two|three|four|five|six|seven|eight|nine|ten)"
_UNITS = "word|sentence|character|letter|line|paragraph|item|bullet|point|step|page"
_UNIT = rf"(?P<unit>{_UNITS})s?"
_MOST = r"at most|no more than|not more than|up to|under|fewer than|less than|maximum of|max|within"
_LEAST = r"at least|no fewer than|no less than|more than|minimum of|over"
_QUOTED = r"[\"“‘'`«](?P<word>[^\"”’'`»\n]{1,40})[\"”’'`»]"
_QUOTES = "\"|“|‘|'|`|«"
_NEVER = "do not|don't|don’t|never|avoid|without|not to|must not|refrain from|exclude"
_NOT = rf"(?:{_NEVER})"
_THE_WORD = r"(?:the\s+)?(?:words?|phrase|term|keywords?)?\s*"
_WITH = r"\w*\s+(?:\w+\s+){0,4}?with\s+(?:the\s+)?(?:\w+\s+)?"
_LANGUAGES = (
    "english|french|german|spanish|italian|portuguese|dutch|russian|polish|turkish|arabic|hebrew|hindi|bengali|urdu|chinese|"
    "mandarin|japanese|korean|vietnamese|thai|indonesian|greek|latin|swedish|norwegian|danish|finnish|czech"
)
_TONES = "formal|informal|polite|friendly|funny|humorous|witty|professional|persuasive|poetic"
_FORMATS = "json|xml|yaml|csv|html|latex|markdown"


@dataclass(frozen=True, slots=True)
class _Sign:
    """A pattern and what it is a sign of. A text that it matches holds, in lower case, one of the texts of each of `needs`:
    looking for these first costs a tenth."""

    pattern: re.Pattern[str]
    of: str
    needs: tuple[tuple[str, ...], ...]

    def may(self, lower: str) -> bool:
        for texts in self.needs:
            for text in texts:
                if text in lower:
                    break
            else:
                return False
        return True


def _signs(*rows: tuple[str, ...], demands: bool = True) -> tuple[_Sign, ...]:
    """Of rows (pattern, what it is a sign of, texts of which it needs one, each between two |, ...)."""
    return tuple(
        _Sign(re.compile(rf"\b(?:{pattern})", re.IGNORECASE) if demands else re.compile(pattern), of,
              tuple(tuple(texts.split("|")) for texts in needs))
        for pattern, of, *needs in rows
    )  # fmt: skip


# Each match is taken out of the text before the next pattern looks, so that "do not use the word" is not "use the word": a
# pattern stands before those that match a part of it.
_CHECKABLE = _signs(
    (rf"(?:{_MOST})\s+{_N}\s+{_UNIT}", "is short: at most {n} {unit}s", _MOST, _UNITS),
    (rf"(?:{_LEAST})\s+{_N}\s+{_UNIT}", "is long: at least {n} {unit}s", _LEAST, _UNITS),
    (rf"(?:exactly|in|of|only|using|with)\s+{_N}\s+(?:short\s+|brief\s+)?{_UNIT}", "has exactly {n} {unit}s",
     _UNITS, "exactly|in|of|only|using|with"),
    (rf"{_N}-{_UNIT}\b", "has about {n} {unit}s", "-" + _UNITS.replace("|", "|-")),
    (r"bullet(?:ed)?[- ](?:point )?lists?|bullet points?|bullets|unordered list", "answers with a bulleted list",
     "bullet|unordered list"),
    (r"(?:numbered|ordered|enumerated) lists?|number (?:each|the) (?:item|step|point)s?",
     "answers with a numbered list", "numbered list|ordered list|enumerated list|number each|number the"),
    (rf"(?:begin|start|open){_WITH}{_QUOTED}", 'begins with "{word}"', "begin|start|open", "with", _QUOTES),
    (rf"(?:end|finish|conclude){_WITH}{_QUOTED}", 'ends with "{word}"', "end|finish|conclude", "with", _QUOTES),
    (r"(?:end|finish|conclude|close)\w*\s+(?:\w+\s+){0,4}?(?:with|by)\s+(?:asking\s+)?(?:a|one)\s+question",
     "ends with a question", "question", "with|by", "end|finish|conclude|close"),
    (rf"{_NOT}\s+(?:(?:us|mention|includ|say|contain|writ)\w*\s+)?{_THE_WORD}{_QUOTED}", 'avoids the word "{word}"',
     _NEVER, _QUOTES),
    (rf"(?:us|includ|mention|contain|say)\w*\s+{_THE_WORD}{_QUOTED}", 'uses the word "{word}"',
     _QUOTES, "us|includ|mention|contain|say"),
    (rf"{_NOT}\s+(?:(?:us|mention|includ|contain|writ)\w*\s+)?(?:any\s+)?(?:digits|numbers|numerals|figures)",
     "avoids digits and numbers", "digits|numbers|numerals|figures", _NEVER),
    (r"(?:mention|includ|us|giv|cit|contain|provid)\w*\s+(?:\w+\s+){0,3}?(?:numbers?|digits?|figures?|statistics)"
     r"(?:,?\s+written in digits)?", "contains digits or numbers",
     "number|digit|figure|statistics", "mention|includ|us|giv|cit|contain|provid"),
    (rf"{_NOT}\s+(?:us\w*\s+)?(?:any\s+)?(?P<mark>commas?|exclamation marks?|question marks?|emojis?|markdown)",
     "avoids {mark}", "comma|exclamation mark|question mark|emoji|markdown", _NEVER),
    (r"(?:in|to|all|only)\s+(?:all\s+)?(?:lower ?case|small letters)", "is written in lower case",
     "lower case|lowercase|small letters"),
    (r"(?:in|to|all|only)\s+(?:all\s+)?(?:upper ?case|capital letters|caps)", "is written in capital letters",
     "upper case|uppercase|capital letters|caps"),
    (rf"(?:as|in|into|return|output|valid)\s+(?:a\s+)?(?:valid\s+)?(?P<format>{_FORMATS})\b",
     "is formatted as {format}", _FORMATS),
    (r"(?:as|in|with|make|create|draw)\s+a\s+(?:\w+\s+)?table\b", "answers with a table", "table"),
    (rf"(?:in|into|to|using)\s+(?P<language>{_LANGUAGES})\b", "is written in {language}", _LANGUAGES),
)  # fmt: skip
_SOFT = _signs(
    (r"step[- ]by[- ]step|show (?:your|the) (?:work|steps|reasoning)", "goes step by step", "step|show"),
    (r"(?:brief|briefly|short|concise|concisely|succinct|quick|summar\w+|tl;?dr)\b", "is brief",
     "brief|short|concise|succinct|quick|summar|tldr|tl;dr"),
    (r"(?:detailed|in[- ]depth|comprehensive|thorough\w*|elaborate|extensive)\b", "is detailed",
     "detailed|depth|comprehensive|thorough|elaborate|extensive"),
    (r"(?:child|kid|five[- ]year[- ]old|eli5|beginner|layman|simple (?:terms|words|language)|simply)\b",
     "uses simple language", "child|kid|five|eli5|beginner|layman|simple|simply"),
    (r"(?:examples?|for instance)\b", "gives examples", "example|for instance"),
    (r"(?:sources?|references?|citations?|cite)\b", "names its sources", "source|reference|citation|cite"),
    (rf"(?P<tone>{_TONES})\b", "is {tone} in tone", _TONES),
)  # fmt: skip
_CATEGORY_SIGNS = _signs(
    (r"```|\b(?:python|javascript|java|c\+\+|sql|bash|regex|function|code|compile|debug|stack trace|api|unit tests?)\b",
     "Coding & Debugging", "```|python|java|c++|sql|bash|regex|function|code|compile|debug|stack trace|api|unit test"),
    (r"\b(?:solve|integral|derivative|equation|probability|prove|theorem|calculate|compute)\b|\d\s*[-+*/^=×]\s*\d",
     "Math", "solve|integral|derivative|equation|probability|prove|theorem|calculate|compute|-|+|*|/|^|=|×"),
    (r"\b(?:pretend|role-?play|act as|you are (?:a|an|the)\b|stay in character)", "Role playing",
     "pretend|play|act as|you are|stay in character"),
    (r"\b(?:rewrite|rephrase|paraphrase|proofread|edit|correct the|translate|summari[sz]e|shorten)\b", "Editing",
     "rewrite|rephrase|paraphrase|proofread|edit|correct the|translate|summari|shorten"),
    (r"\b(?:brainstorm|ideas for|list of ideas|suggest (?:names|titles|some)|come up with)\b", "Brainstorming",
     "brainstorm|ideas|suggest|come up with"),
    (r"\b(?:dataset|data set|csv|spreadsheet|trend in|analy[sz]e (?:the|this) (?:data|table|results))\b",
     "Data analysis", "dataset|data set|csv|spreadsheet|trend in|analy"),
    (r"\b(?:riddle|puzzle|logic|deduce|if all\b.*\bthen|infer|what follows)\b", "Reasoning",
     "riddle|puzzle|logic|deduce|if all|infer|what follows"),
    (r"\b(?:itinerary|schedule|plan (?:a|my|for)|roadmap|meal plan|agenda)\b", "Planning",
     "itinerary|schedule|plan a|plan my|plan for|roadmap|meal plan|agenda"),
    (r"\b(?:write|compose|draft)\s+(?:\w+\s+){0,3}?"
     r"(?:story|poem|song|note|essay|letter|speech|script|haiku|novel|blog)\b", "Creative writing", "write|compose|draft"),
    (r"\b(?:advice|should (?:i|a|we|you)|recommend\w*|how (?:can|do) i\b|tips|help me (?:decide|choose))",
     "Advice seeking", "advice|should|recommend|how can i|how do i|tips|help me"),
    (r"\?|\b(?:what|why|how|who|when|where|which|tell me|explain|describe|define|compare)\b", "Information seeking"),
    demands=False,
)  # fmt: skip
_OPEN_ENDED = {"Creative writing", "Role playing", "Brainstorming", "Advice seeking", "Planning", "Other"}
_CONTROVERSIAL = _signs(
    (r"\b(?:abortion|gun control|election|religio\w+|god|immigra\w+|racis\w+|gender|genocide|terroris\w+|suicide)\b", "high",
     "abortion|gun control|election|religio|god|immigra|racis|gender|genocide|terroris|suicide"),
    (r"\b(?:politic\w*|government|law(?:yer|suit)?|drugs?|diet|vaccin\w*|invest\w*|ethic\w*|moral\w*|climate|war)\b",
     "medium", "politic|government|law|drug|diet|vaccin|invest|ethic|moral|climate|war"),
    demands=False,
)  # fmt: skip
_TIE_BREAK = {
    "Coding & Debugging": "the code that is correct and complete",
    "Math": "the correct final answer, then the sounder derivation",
    "Reasoning": "the valid argument",
    "Creative writing": "the more original and better written text",
    "Role playing": "the answer that stays in character",
    "Brainstorming": "the more varied and useful ideas",
    "Editing": "the edit that keeps the meaning and changes only what was asked",
    "Planning": "the plan that can be carried out",
    "Data analysis": "the conclusion that the data support",
    "Advice seeking": "the safer and more useful advice",
}


def last_user_text(prompt: Conversation) -> str:
    """What the user asked last: the message that a demand is read from."""
    return next((m.content for m in reversed(prompt) if m.role == "user"), prompt[-1].content if prompt else "")


def rule_attributes(pair: Pair) -> Attributes:
    """Attributes from the prompt's words alone: deterministic, offline, the same for both responses (by="rules")."""
    text = last_user_text(pair.prompt)
    checkable, rest = _demands(_CHECKABLE, text)
    desired = (*checkable, *_demands(_SOFT, rest)[0])
    lower = text.lower()
    category = _first(_CATEGORY_SIGNS, lower) or "Other"
    return Attributes(
        pair_id=pair.id,
        category=category,
        objectivity="objective" if checkable or category not in _OPEN_ENDED else "subjective",
        controversiality=_first(_CONTROVERSIAL, lower) or "low",
        desired=desired or ("is correct and helpful",),
        guideline=_guideline(category, desired),
        by="rules",
    )


def _first(signs: tuple[_Sign, ...], lower: str) -> str:
    """What the first sign that a text has is of; "" where it has none."""
    return next((s.of for s in signs if s.may(lower) and s.pattern.search(lower)), "")


def _demands(signs: tuple[_Sign, ...], text: str) -> tuple[tuple[str, ...], str]:
    """The qualities that `text` demands, in the order of `signs`, and what is left of the text."""
    found: list[str] = []
    lower = _folded(text)
    for sign in signs:
        if sign.may(lower) and (matches := list(sign.pattern.finditer(text))):
            found += (sign.of.format(**{k: (v or "").strip() for k, v in m.groupdict().items()}) for m in matches)
            text = sign.pattern.sub(" ", text)
            lower = _folded(text)
    return tuple(dict.fromkeys(found)), text


def _folded(text: str) -> str:
    """In lower case, and with every letter that a pattern without regard to case takes for i or s as that letter."""
    return text.lower() if text.isascii() else text.replace("İ", "i").lower().replace("ı", "i").replace("ſ", "s")


def _guideline(category: str, desired: tuple[str, ...]) -> str:
    otherwise = _TIE_BREAK.get(category, "the more correct and more helpful answer")
    if not desired:
        return f"Prefer {otherwise}."
    return f"Prefer the response that {'; that '.join(desired)}. If neither or both do, prefer {otherwise}."
