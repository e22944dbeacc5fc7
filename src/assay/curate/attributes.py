"""The five preference attributes of a pair (paper A, section 3.2), by rules or by an LLM.

The paper gives no prompt and no schema, so both are ours: `prompts/attributes.md` asks for one JSON object, and what
does not parse is kept as an `AttributesProblem`, never guessed. `rule_attributes` needs no model: it reads what the
user *explicitly demands* (a length, a word, a format, an ending, ... in the spirit of IFEval, Zhou et al. 2023) and is
blind to everything that is only implied.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources

from assay.chat import Chat, Reply, Request
from assay.outage import Unreached, ask_all
from assay.records import Attributes, Conversation, Message, Pair, Response

CATEGORIES = (
    "Information seeking", "Coding & Debugging", "Advice seeking", "Math", "Creative writing", "Reasoning",
    "Planning", "Data analysis", "Editing", "Role playing", "Brainstorming", "Other",
)  # fmt: skip
"""The twelve task categories of paper A3, Table 8 (the taxonomy of Magpie, Xu et al. 2024)."""
OBJECTIVITY = ("objective", "subjective")
CONTROVERSIALITY = ("low", "medium", "high")
_TEXT = {"type": "string"}
SCHEMA = json.dumps({
    "type": "object", "additionalProperties": False,
    "required": ["category", "objectivity", "controversiality", "desired", "guideline"],
    "properties": {
        "category": {"type": "string", "enum": CATEGORIES}, "objectivity": {"type": "string", "enum": OBJECTIVITY},
        "controversiality": {"type": "string", "enum": CONTROVERSIALITY},
        "desired": {"type": "array", "items": _TEXT}, "guideline": _TEXT,
    },
})  # fmt: skip
"""The form of an answer, for servers that can hold a model to one."""

_N = r"(?P<n>\d+|one|two|three|four|five|six|seven|eight|nine|ten)"
_UNIT = r"(?P<unit>word|sentence|character|letter|line|paragraph|item|bullet|point|step|page)s?"
_MOST = r"at most|no more than|not more than|up to|under|fewer than|less than|maximum of|max|within"
_LEAST = r"at least|no fewer than|no less than|more than|minimum of|over"
_QUOTED = r"[\"“‘'`«](?P<word>[^\"”’'`»\n]{1,40})[\"”’'`»]"
_NOT = r"(?:do not|don't|don’t|never|avoid|without|not to|must not|refrain from|exclude)"
_THE_WORD = r"(?:the\s+)?(?:words?|phrase|term|keywords?)?\s*"
_WITH = r"\w*\s+(?:\w+\s+){0,4}?with\s+(?:the\s+)?(?:\w+\s+)?"
_LANGUAGE = (
    r"(?P<language>english|french|german|spanish|italian|portuguese|dutch|russian|polish|turkish|arabic|hebrew|hindi|"
    r"bengali|urdu|chinese|mandarin|japanese|korean|vietnamese|thai|indonesian|greek|latin|swedish|norwegian|danish|"
    r"finnish|czech)\b"
)
# (pattern, the quality that it demands). Each match is taken out of the text before the next pattern looks, so that
# "do not use the word" is not "use the word": a pattern stands before those that match a part of it.
_CHECKABLE: tuple[tuple[str, str], ...] = (
    (rf"(?:{_MOST})\s+{_N}\s+{_UNIT}", "is short: at most {n} {unit}s"),
    (rf"(?:{_LEAST})\s+{_N}\s+{_UNIT}", "is long: at least {n} {unit}s"),
    (rf"(?:exactly|in|of|only|using|with)\s+{_N}\s+(?:short\s+|brief\s+)?{_UNIT}", "has exactly {n} {unit}s"),
    (rf"{_N}-{_UNIT}\b", "has about {n} {unit}s"),
    (r"bullet(?:ed)?[- ](?:point )?lists?|bullet points?|bullets|unordered list", "answers with a bulleted list"),
    (r"(?:numbered|ordered|enumerated) lists?|number (?:each|the) (?:item|step|point)s?",
     "answers with a numbered list"),
    (rf"(?:begin|start|open){_WITH}{_QUOTED}", 'begins with "{word}"'),
    (rf"(?:end|finish|conclude){_WITH}{_QUOTED}", 'ends with "{word}"'),
    (r"(?:end|finish|conclude|close)\w*\s+(?:\w+\s+){0,4}?(?:with|by)\s+(?:asking\s+)?(?:a|one)\s+question",
     "ends with a question"),
    (rf"{_NOT}\s+(?:(?:us|mention|includ|say|contain|writ)\w*\s+)?{_THE_WORD}{_QUOTED}", 'avoids the word "{word}"'),
    (rf"(?:us|includ|mention|contain|say)\w*\s+{_THE_WORD}{_QUOTED}", 'uses the word "{word}"'),
    (rf"{_NOT}\s+(?:(?:us|mention|includ|contain|writ)\w*\s+)?(?:any\s+)?(?:digits|numbers|numerals|figures)",
     "avoids digits and numbers"),
    (r"(?:mention|includ|us|giv|cit|contain|provid)\w*\s+(?:\w+\s+){0,3}?(?:numbers?|digits?|figures?|statistics)"
     r"(?:,?\s+written in digits)?", "contains digits or numbers"),
    (rf"{_NOT}\s+(?:us\w*\s+)?(?:any\s+)?(?P<mark>commas?|exclamation marks?|question marks?|emojis?|markdown)",
     "avoids {mark}"),
    (r"(?:in|to|all|only)\s+(?:all\s+)?(?:lower ?case|small letters)", "is written in lower case"),
    (r"(?:in|to|all|only)\s+(?:all\s+)?(?:upper ?case|capital letters|caps)", "is written in capital letters"),
    (r"(?:as|in|into|return|output|valid)\s+(?:a\s+)?(?:valid\s+)?(?P<format>json|xml|yaml|csv|html|latex|markdown)\b",
     "is formatted as {format}"),
    (r"(?:as|in|with|make|create|draw)\s+a\s+(?:\w+\s+)?table\b", "answers with a table"),
    (rf"(?:in|into|to|using)\s+{_LANGUAGE}", "is written in {language}"),
)  # fmt: skip
_SOFT: tuple[tuple[str, str], ...] = (
    (r"step[- ]by[- ]step|show (?:your|the) (?:work|steps|reasoning)", "goes step by step"),
    (r"(?:brief|briefly|short|concise|concisely|succinct|quick|summar\w+|tl;?dr)\b", "is brief"),
    (r"(?:detailed|in[- ]depth|comprehensive|thorough\w*|elaborate|extensive)\b", "is detailed"),
    (r"(?:child|kid|five[- ]year[- ]old|eli5|beginner|layman|simple (?:terms|words|language)|simply)\b",
     "uses simple language"),
    (r"(?:examples?|for instance)\b", "gives examples"),
    (r"(?:sources?|references?|citations?|cite)\b", "names its sources"),
    (r"(?P<tone>formal|informal|polite|friendly|funny|humorous|witty|professional|persuasive|poetic)\b",
     "is {tone} in tone"),
)  # fmt: skip
_CATEGORY_SIGNS: tuple[tuple[str, str], ...] = (
    (r"```|\b(?:python|javascript|java|c\+\+|sql|bash|regex|function|code|compile|debug|stack trace|api|unit tests?)\b",
     "Coding & Debugging"),
    (r"\b(?:solve|integral|derivative|equation|probability|prove|theorem|calculate|compute)\b|\d\s*[-+*/^=×]\s*\d",
     "Math"),
    (r"\b(?:pretend|role-?play|act as|you are (?:a|an|the)\b|stay in character)", "Role playing"),
    (r"\b(?:rewrite|rephrase|paraphrase|proofread|edit|correct the|translate|summari[sz]e|shorten)\b", "Editing"),
    (r"\b(?:brainstorm|ideas for|list of ideas|suggest (?:names|titles|some)|come up with)\b", "Brainstorming"),
    (r"\b(?:dataset|data set|csv|spreadsheet|trend in|analy[sz]e (?:the|this) (?:data|table|results))\b",
     "Data analysis"),
    (r"\b(?:riddle|puzzle|logic|deduce|if all\b.*\bthen|infer|what follows)\b", "Reasoning"),
    (r"\b(?:itinerary|schedule|plan (?:a|my|for)|roadmap|meal plan|agenda)\b", "Planning"),
    (r"\b(?:write|compose|draft)\s+(?:\w+\s+){0,3}?"
     r"(?:story|poem|song|note|essay|letter|speech|script|haiku|novel|blog)\b", "Creative writing"),
    (r"\b(?:advice|should (?:i|a|we|you)|recommend\w*|how (?:can|do) i\b|tips|help me (?:decide|choose))",
     "Advice seeking"),
    (r"\?|\b(?:what|why|how|who|when|where|which|tell me|explain|describe|define|compare)\b", "Information seeking"),
)  # fmt: skip
_OPEN_ENDED = {"Creative writing", "Role playing", "Brainstorming", "Advice seeking", "Planning", "Other"}
_HIGH = r"\b(?:abortion|gun control|election|religio\w+|god|immigra\w+|racis\w+|gender|genocide|terroris\w+|suicide)\b"
_MEDIUM = (
    r"\b(?:politic\w*|government|law(?:yer|suit)?|drugs?|diet|vaccin\w*|invest\w*|ethic\w*|moral\w*|climate|war)\b"
)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesProblem:
    """Attributes that could not be had: the chat failed, or its answer was not the JSON that was asked for."""

    pair_id: str
    by: str
    problem: str


def last_user_text(prompt: Conversation) -> str:
    """What the user asked last: the message that a demand is read from."""
    return next((m.content for m in reversed(prompt) if m.role == "user"), prompt[-1].content if prompt else "")


def rule_attributes(pair: Pair) -> Attributes:
    """Attributes from the prompt's words alone: deterministic, offline, the same for both responses (by="rules")."""
    text = last_user_text(pair.prompt)
    checkable, rest = _demands(_CHECKABLE, text)
    desired = (*checkable, *_demands(_SOFT, rest)[0])
    lower = text.lower()
    category = next((c for pattern, c in _CATEGORY_SIGNS if re.search(pattern, lower)), "Other")
    high, medium = re.search(_HIGH, lower), re.search(_MEDIUM, lower)
    return Attributes(
        pair_id=pair.id,
        category=category,
        objectivity="objective" if checkable or category not in _OPEN_ENDED else "subjective",
        controversiality="high" if high else "medium" if medium else "low",
        desired=desired or ("is correct and helpful",),
        guideline=_guideline(category, desired),
        by="rules",
    )


def _demands(table: tuple[tuple[str, str], ...], text: str) -> tuple[tuple[str, ...], str]:
    """The qualities that `text` demands, in the order of `table`, and what is left of the text."""
    found: list[str] = []
    for pattern, quality in table:
        pattern = rf"\b(?:{pattern})"
        for match in re.finditer(pattern, text, re.IGNORECASE):
            found.append(quality.format(**{k: (v or "").strip() for k, v in match.groupdict().items()}))
        text = re.sub(pattern, " ", text, flags=re.IGNORECASE)
    return tuple(dict.fromkeys(found)), text


def _guideline(category: str, desired: tuple[str, ...]) -> str:
    otherwise = _TIE_BREAK.get(category, "the more correct and more helpful answer")
    if not desired:
        return f"Prefer {otherwise}."
    return f"Prefer the response that {'; that '.join(desired)}. If neither or both do, prefer {otherwise}."


def attribute_text(pair: Pair, attributes: Attributes) -> str:
    """The text of (x, a) that is embedded for retrieval (paper A3, section 3.3): never the responses.

    The template is ours. The desired qualities and the guideline come first, so that an encoder with a short window
    still sees them when the conversation is long.
    """
    conversation = "\n".join(m.content if m.role == "user" else f"{m.role}: {m.content}" for m in pair.prompt)
    kind = f"{attributes.category}, {attributes.objectivity}, {attributes.controversiality} controversiality"
    return f"Desired: {'; '.join(attributes.desired)}\n{attributes.guideline}\n{kind}\n{conversation}"


@cache
def prompt_text(name: str) -> str:
    """The text of `prompts/<name>.md`."""
    return resources.files("assay.curate").joinpath(f"prompts/{name}.md").read_text(encoding="utf-8")


def fill_prompt(name: str, fields: Mapping[str, str]) -> str:
    """The text of `prompts/<name>.md` with each {field} replaced; text that is filled in is not read again."""
    return re.sub(r"\{(\w+)\}", lambda m: fields.get(m[1], m[0]), prompt_text(name))


def fenced(tag: str, text: str) -> str:
    """`text` between <tag> and </tag>; a closing tag inside it is broken up, so that no text can end its own fence."""
    return f"<{tag}>\n{text.replace(f'</{tag}', f'< /{tag}')}\n</{tag}>"


def conversation_text(messages: Conversation) -> str:
    """Messages as people and judges read them: each under the name of its role."""
    return "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages)


def response_text(response: Response) -> str:
    """A response as people and judges read it: bare when it is one message."""
    return response.text if len(response.messages) == 1 else conversation_text(response.messages)


def attribute_request(pair: Pair) -> Request:
    """The chat request that asks an LLM for the attributes of `pair`; the responses stand in their canonical order."""
    first, second = (response_text(r) for r in pair.responses)
    fields = {
        "categories": ", ".join(CATEGORIES),
        "conversation": fenced("conversation", conversation_text(pair.prompt)),
        "responses": f"{fenced('response_1', first)}\n\n{fenced('response_2', second)}",
    }
    return Request(messages=(asking(pair, fill_prompt("attributes", fields)),), schema=SCHEMA)


def asking(pair: Pair, text: str) -> Message:
    """A user's message about a pair, with the pictures that belong to it."""
    parts = (*pair.prompt, *(m for r in pair.responses for m in r.messages))
    return Message(role="user", content=text, images=tuple(dict.fromkeys(i for m in parts for i in m.images)))


def llm_attributes(chat: Chat, pairs: Sequence[Pair]) -> list[Attributes | AttributesProblem]:
    """The attributes of each pair by one LLM, in order; what it answered wrongly comes back as a problem with a reason.

    Raises Unreached, with all that came in the cache, where the server did not answer.
    """
    replies = ask_all(chat, (attribute_request(p) for p in pairs))
    return [_read_reply(p, r, f"llm:{chat.name}") for p, r in zip(pairs, replies, strict=True)]


def _described(chat: Chat, pairs: Sequence[Pair]) -> list[Attributes | AttributesProblem] | Unreached:
    try:
        return llm_attributes(chat, pairs)
    except Unreached as failed:
        return failed


def shared_attributes(
    chats: Sequence[Chat], pairs: Sequence[Pair]
) -> tuple[dict[str, Attributes], list[AttributesProblem]]:
    """The pairs dealt out over several LLMs, by content; what one cannot describe goes to the next. By pair id; pairs that
    are missing were beyond all of them, and every failure on the way is among the problems. What a server did not answer
    goes to no other, or an outage would decide who describes a pair: it raises Unreached."""
    found: dict[str, Attributes] = {}
    problems: list[AttributesProblem] = []
    for turn in range(len(chats)):
        left = [p for p in pairs if p.id not in found]
        dealt: list[list[Pair]] = [[] for _ in chats]
        for pair in left:
            dealt[(int(pair.id[:8], 16) + turn) % len(chats)].append(pair)
        with ThreadPoolExecutor(len(chats)) as pool:
            told = list(pool.map(_described, chats, dealt))
        if losses := [loss for t in told if isinstance(t, Unreached) for loss in t.losses]:
            raise Unreached(losses)
        for answer in (a for t in told if not isinstance(t, Unreached) for a in t):
            if isinstance(answer, Attributes):
                found[answer.pair_id] = answer
            else:
                problems.append(answer)
    return found, problems


def _read_reply(pair: Pair, reply: Reply, by: str) -> Attributes | AttributesProblem:
    if reply.problem:
        return AttributesProblem(pair_id=pair.id, by=by, problem=reply.problem)
    try:
        return parse_attributes(pair.id, reply.text, by)
    except ValueError as error:
        return AttributesProblem(pair_id=pair.id, by=by, problem=f"unparsable: {error}")


def json_object(text: str) -> dict[str, object]:
    """The one JSON object that a text is, bare or in a code fence. Raises ValueError where it is anything else."""
    block = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    data = json.loads(block[1] if block else text)
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")
    return data


def parse_attributes(pair_id: str, text: str, by: str) -> Attributes:
    """Attributes from an LLM's answer: one JSON object, bare or in a code fence. Raises ValueError with the reason."""
    data = json_object(text)
    desired, guideline = data.get("desired"), data.get("guideline")
    if not isinstance(desired, list) or not desired or not all(isinstance(d, str) and d.strip() for d in desired):
        raise ValueError("`desired` must be a list of texts")
    if not isinstance(guideline, str) or not guideline.strip():
        raise ValueError("`guideline` must be a text")
    return Attributes(
        pair_id=pair_id,
        category=_one_of(data, "category", CATEGORIES),
        objectivity=_one_of(data, "objectivity", OBJECTIVITY),
        controversiality=_one_of(data, "controversiality", CONTROVERSIALITY),
        desired=tuple(d.strip() for d in desired),
        guideline=guideline.strip(),
        by=by,
    )


def _one_of(data: dict[str, object], field: str, allowed: tuple[str, ...]) -> str:
    value = data.get(field)
    match = next((a for a in allowed if isinstance(value, str) and a.lower() == value.strip().lower()), None)
    if match is None:
        raise ValueError(f"`{field}` is {value!r}, not one of {', '.join(allowed)}")
    return match
