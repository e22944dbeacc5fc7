"""LLM judges, guided by gold examples: self-consistency inside a model, then a merge across models (paper A3, 3.3).

The prompt is the protocol that people follow, with the sentences on tools removed (A2, D.2-D.3), at most eight gold
examples with their attributes, and the target at the end; the responses are "Candidate 1" and "Candidate 2" in random
order. The paper leaves open the number of samples, the form of the answer, the merge rule and ties: here each model votes
`samples` times, each time with a cache entry of its own; every second sample shows the reverse of the order before it, so
that a preference for a position cancels out; the majority of a model's votes is its verdict, the majority of the
verdicts is the judgement, and a tie at either level is a problem, not a vote.

A vote is read as a person would read it, and only from what is said as a verdict: in its own line at the end, or in the
object that was asked for. What is cut off, quoted, contradicted, or said in a thought that does not end is a problem.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import resources
from math import exp, log
from typing import Literal, get_args

from assay.curate.attributes import (
    asking,
    attribute_request,
    conversation_text,
    fenced,
    fill_prompt,
    prompt_text,
    response_text,
)
from assay.errors import AssayError
from assay.llm.batches import BatchServer
from assay.llm.chat import Chat, Request
from assay.llm.outage import PART, Loss, Unreached, loss_of
from assay.llm.parsing import after_thoughts, objects
from assay.llm.replies import Reply
from assay.records import Attributes, Case, Example, Judge, Judgement, Pair, Response, digest, user

MAX_EXAMPLES = 8
"""At most eight examples guide a judge (paper A2, D.2)."""
Form = Literal["text", "json", "verdict"]
"""A judge's answer: a reason and a verdict line, a JSON object (held to its schema by servers that can), a verdict line."""
VERDICTS = ("1", "2", "tie", "cannot decide")
SCHEMA = json.dumps({
    "type": "object", "additionalProperties": False, "required": ["reason", "verdict"],
    "properties": {"reason": {"type": "string", "maxLength": 2000}, "verdict": {"type": "string", "enum": VERDICTS}},
})  # fmt: skip
_TOOLS = re.compile(r"<!-- tools -->\n(.*?)<!-- end -->\n", re.DOTALL)
_SIDE = (
    r"(?:the\s+)?(?:(?:candidate|response|answer|option|assistant|output|候选|回答|回复|答案)[\s_#*]*)?(?P<side>[12])"
    r"(?:\.0+)?(?:\s+(?:is|wins|was)\b(?:\s+(?:the|much|slightly|clearly|far|a|bit|better|best|winner|one|stronger))*)?"
)
_SAID = re.compile(
    rf"(?:{_SIDE}|(?P<tie>tie|tied|a tie|draw|equal|平局)|(?P<none>cannot decide|can't decide|can’t decide|无法判断))\W*",
    re.IGNORECASE,
)
_LINE = re.compile(
    r"^\W*(?:(?:my|the|final|overall|so|thus|therefore)\W+)*(?:verdict|裁决|判决)(?P<mark>[\s*_]*[:：=–—-]|\s+is\b|为|是)?"
    r"(?P<said>.*)$", re.IGNORECASE,
)  # fmt: skip
UNFINISHED = "a thought that does not end"
_KEYS = ("verdict", "final_verdict", "final verdict", "裁决", "判决")


def protocol_for(attributes: Attributes, *, tools: bool) -> str:
    """The protocol's principles and the sections that apply to this task; without `tools`, no word about them.

    What rules guessed of a task (by="rules") is no ground for an order to use a tool: then the principles alone, which offer
    them, speak of tools.
    """
    sections = re.split(r"(?=^## )", prompt_text("protocol"), flags=re.MULTILINE)
    sections = [
        _TOOLS.sub(r"\1" if tools and (attributes.by != "rules" or s.startswith("## Principles")) else "", s)
        for s in sections
    ]
    wanted = (
        "## Principles", f"## Objectivity: {attributes.objectivity}",
        f"## Controversiality: {attributes.controversiality}", f"## Category: {attributes.category}",
    )  # fmt: skip
    return "\n\n".join(s.strip() for s in (sections[0], *(s for s in sections if s.splitlines()[0] in wanted)))


def shown_order(pair: Pair, *salt: object) -> tuple[str, str]:
    """The ids of the responses in the random order in which they are presented: the same for the same `salt`."""
    first, second = (r.id for r in pair.responses)
    swap = int(digest(["order", pair.id, *salt])[0], 16) % 2 == 1
    return (second, first) if swap else (first, second)


def judge_request(
    case: Case, model: str, sample: int, seed: int, form: Form = "text"
) -> tuple[Request, tuple[str, str]]:
    """The request for one vote, and the order in which it shows the target's responses."""
    order = shown_order(case.pair, seed, model, sample - sample % 2)
    order = order if sample % 2 == 0 else (order[1], order[0])
    examples = []
    for number, example in enumerate(case.guides[:MAX_EXAMPLES], 1):
        shown = shown_order(example.pair, seed, model, sample, case.pair.id)
        verdict = f"Verdict: {shown.index(example.better) + 1}"
        examples.append(f"## Example {number}\n\n{_task(example.pair, example.attributes, shown)}\n\n{verdict}")
    fields = {
        "protocol": protocol_for(case.attributes, tools=False),
        "examples": "\n\n".join(examples) or "There are none for this conversation.",
        "target": _task(case.pair, case.attributes, order),
        "answer": prompt_text(f"judge_{form}").rstrip("\n"),
    }
    schema = SCHEMA if form == "json" else ""
    return Request(messages=(asking(case.pair, fill_prompt("judge", fields)),), sample=sample, schema=schema), order


def prompts_version() -> str:
    """A digest of how judges, and the LLM that describes pairs, are asked: all texts in `prompts/`, and the requests that
    are made of them for a case of our own."""
    pair = Pair.of((user("Which?"),), Response.of("This."), Response.of("That."))
    about = Attributes(
        pair_id=pair.id, category="Other", objectivity="objective", controversiality="low", desired=("short", "true"),
        guideline="Decide.", by="",
    )  # fmt: skip
    case = Case(
        pair=pair, attributes=about, examples=(Example(pair=pair, attributes=about, better=pair.responses[0].id),)
    )
    asked = [judge_request(case, "", 0, 0, form)[0] for form in get_args(Form)]
    requests = [[r.messages[0].content, r.schema] for r in (*asked, attribute_request(pair))]
    folder = resources.files("assay.curate").joinpath("prompts")
    files = sorted((file.name, file.read_text(encoding="utf-8")) for file in folder.iterdir())
    return digest([requests, files])[:16]


def _task(pair: Pair, attributes: Attributes, order: tuple[str, str]) -> str:
    parts = [
        fenced("conversation", conversation_text(pair.prompt)),
        f"Task: {attributes.category}, {attributes.objectivity}, {attributes.controversiality} controversiality\n"
        f"Desired: {'; '.join(attributes.desired)}\nGuideline: {attributes.guideline}",
        *(
            f"Candidate {n}:\n{fenced(f'candidate_{n}', response_text(pair.response(i)))}"
            for n, i in enumerate(order, 1)
        ),
    ]
    return "\n\n".join(parts)


def read_vote(pair: Pair, order: tuple[str, str], reply: Reply, by: str, form: Form = "text") -> Judgement:
    """One raw vote from one reply; a failed, cut, unreadable or contradictory reply is a judgement with a problem."""
    shown = [m.content for r in pair.responses for m in r.messages] + [m.content for m in pair.prompt]
    verdict, reason = _read_json(reply.text, shown) if form == "json" else _read_text(reply.text)
    better = order[int(verdict) - 1] if verdict in ("1", "2") and not reply.problem else None
    problem = "" if better else reply.problem or verdict or "unparsable"
    return Judgement(
        pair_id=pair.id, better=better, by=by, kind="llm", shown=order, problem=problem, tokens=reply.tokens,
        rationale=reason, seconds=reply.seconds, confidence=reply.confidence if better else 1.0,
    )  # fmt: skip


def _read_text(text: str) -> tuple[str, str]:
    """(verdict, reason) of an answer whose last line is a verdict; "" where it is not, or where another line differs."""
    said = after_thoughts(text)
    if said is None:
        return UNFINISHED, text.strip()
    lines = [line for line in said.splitlines() if re.search(r"\w", line)]
    if len(lines) == 1 and re.fullmatch(r"\W*[12]\W*", lines[0]):
        return re.sub(r"\W", "", lines[0]), ""
    found = [_on_line(line) for line in lines]
    told = {v for v in found if v is not None}
    verdict = told.pop() if lines and len(told) == 1 and found[-1] else ""
    return verdict, "\n".join(line for line, v in zip(lines, found, strict=True) if v is None).strip()


def _on_line(line: str) -> str | None:
    """The verdict that a line gives; "" for one that names none or two, None for a line that is no verdict."""
    found = _LINE.match(line)
    if found is None:
        return None
    known = _known(found["said"])
    return known if known or found["mark"] else None


def _read_json(text: str, shown: Sequence[str] = ()) -> tuple[str, str]:
    """(verdict, reason) of the JSON object in a text; "" and the text where there is none, or several that differ.

    Amid prose an object counts only when it has both fields and is no quotation of what was `shown`.
    """
    found = objects(text)
    if found is None:
        return UNFINISHED, text.strip()
    told = []
    for one in found:
        reason, given = one.data.get("reason", one.data.get("理由")), [one.data[k] for k in _KEYS if k in one.data]
        complete = given and (isinstance(reason, str) or (one.whole and reason is None))
        if complete and (one.whole or not any(one.source in s for s in shown)):
            told.append((_known(given[0]) or "" if len(given) == 1 else "", str(reason or "").strip()))
    ends = text.rpartition(found[-1].source)[2] if found else ""
    if not told or len({v for v, _ in told}) > 1 or not told[-1][0] or re.search(r"[{\"']verdict", ends, re.IGNORECASE):
        return "", text.strip()
    return told[-1]


def _known(said: object) -> str | None:
    """The verdict that a text or a number names; "" for a text that names none or two, None for what is no text."""
    if isinstance(said, bool) or not isinstance(said, str | int | float):
        return None
    found = _SAID.fullmatch(re.sub(r"^[\s*_`\"'“”‘’#(<\[]+|[\s*_`\"'“”‘’)>\].,;:!。]+$", "", str(said)))
    return "" if found is None else found["side"] or ("tie" if found["tie"] else "cannot decide")


def ask_ahead(
    chats: Sequence[Chat], cases: Sequence[Case], *, samples: int, seed: int, form: Form = "text"
) -> None:  # fmt: skip
    """Ask the chats that answer in providers' batches for all votes at once: a batch takes hours, however small it is.
    What they say is in their caches then."""

    def ask(chat: Chat) -> None:
        chat.complete([judge_request(c, chat.name, s, seed, form)[0] for c in cases for s in range(samples)])

    waiting = [c for c in chats if isinstance(c, BatchServer)]
    with ThreadPoolExecutor(max(1, len(waiting))) as pool:
        list(pool.map(ask, waiting))


def llm_votes(
    chats: Sequence[Chat], cases: Sequence[Case], *, samples: int = 3, seed: int = 0, form: Form = "text"
) -> list[Judgement]:
    """The raw votes: for each case in order, for each chat, `samples` judgements (len(cases) * len(chats) * samples).

    All chats are asked at the same time. The order of the responses depends on (seed, pair, model, sample) alone, so a
    resumed run makes the same requests, which the cache answers. Raises Unreached, with all that came in the cache, where a
    server did not answer: a vote that is missing is no vote.
    """
    names = [c.name for c in chats]
    if not chats or samples < 1 or len(set(names)) != len(names):
        raise AssayError(f"an LLM judge needs chats with different names and samples >= 1, got {names}, {samples}")

    ask_ahead(chats, cases, samples=samples, seed=seed, form=form)

    def ask(chat: Chat, part: Sequence[Case]) -> tuple[list[Judgement], Loss | None]:
        asked = [(c.pair, *judge_request(c, chat.name, s, seed, form)) for c in part for s in range(samples)]
        replies = chat.complete([request for _, request, _ in asked])
        votes = zip(asked, replies, strict=True)
        read = [read_vote(pair, order, reply, f"llm:{chat.name}", form) for (pair, _, order), reply in votes]
        return read, loss_of(chat, replies)

    votes: list[Judgement] = []
    losses: list[Loss] = []
    for at in range(0, len(cases), PART):
        part = cases[at : at + PART]
        with ThreadPoolExecutor(len(chats)) as pool:
            told = list(pool.map(partial(ask, part=part), chats))
        losses += [loss for _, loss in told if loss is not None]
        if any(loss.silent for loss in losses):
            break
        votes += [v for i in range(len(part)) for own, _ in told for v in own[i * samples : (i + 1) * samples]]
    if losses:
        raise Unreached(losses)
    return votes


def llm_judge(chats: Sequence[Chat], *, samples: int = 3) -> Judge:
    """The preference-aware judge of the paper: `llm_votes`, merged case by case. Raises Unreached, as these do."""

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        votes, each = llm_votes(chats, cases, samples=samples), len(chats) * samples
        return [merge(votes[i : i + each]) for i in range(0, len(votes), each)]

    return judge


def merge(votes: Sequence[Judgement]) -> Judgement:
    """One judgement from the raw votes on one pair: each model's own majority first, then the majority of the models.

    The confidence is the winner's share at the level that decided: of the models that have a verdict, or of the votes
    where only one has. Failed votes count for nobody; a model whose votes tie has no verdict; without any verdict, or
    with as many against as for, the judgement is a problem.
    """
    models: dict[str, list[Judgement]] = defaultdict(list)
    for vote in votes:
        models[vote.by].append(vote)
    verdicts = [own_verdict(own, by) for by, own in models.items()]
    heard = [v for v in verdicts if v.better]
    name = "llm:" + "+".join(by.removeprefix("llm:") for by in models)
    merged = replace(heard[0], by=name) if len(heard) == 1 else majority_of(heard or verdicts, name)
    return replace(merged, votes=len(votes), tokens=sum(v.tokens for v in votes), seconds=sum(v.seconds for v in votes))


def own_verdict(votes: Sequence[Judgement], by: str) -> Judgement:
    """A model's verdict on one pair: the majority of its votes; where they tie, the side with the greater log odds in all,
    for a model that says how sure it is. Two orders of one pair then cancel a lean to a position."""
    plain = majority_of(votes, by)
    if plain.problem != "tie":
        return plain
    odds: dict[str, float] = defaultdict(float)
    for vote in (v for v in votes if v.better):
        sure = min(max(vote.confidence, 0.5), 1 - 1e-6)
        odds[vote.better or ""] += log(sure / (1 - sure))
    if len(odds) < 2:  # nobody voted: what they said is "tie"
        return plain
    (one, most), (_, least) = sorted(odds.items(), key=lambda row: -row[1])
    if most - least < 1e-9:
        return plain
    reason = next(v.rationale for v in votes if v.better == one)
    share = 1 / (1 + exp(least - most))
    return replace(plain, better=one, problem="", confidence=share, rationale=reason)


def majority_of(votes: Sequence[Judgement], by: str) -> Judgement:
    """The majority of judgements on one pair; failures abstain, and name the problem when nobody voted."""
    assert len({v.pair_id for v in votes}) == 1, "votes on different pairs cannot be merged"
    counts = Counter(v.better for v in votes if v.better)
    ranked = counts.most_common()
    tie = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
    if tie or not ranked:
        problem = "tie" if tie else Counter(v.problem for v in votes).most_common(1)[0][0]
        return Judgement(pair_id=votes[0].pair_id, better=None, by=by, kind="llm", problem=problem, confidence=0.5)
    winner = ranked[0][0]
    reason = next(v.rationale for v in votes if v.better == winner)
    return Judgement(
        pair_id=votes[0].pair_id, better=winner, by=by, kind="llm", rationale=reason,
        confidence=ranked[0][1] / counts.total(),
    )  # fmt: skip
