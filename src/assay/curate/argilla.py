"""Argilla 2 records as JSON: what `dataset.records.to_json` writes and `from_json` reads, and the settings of their dataset.

People's judgements are responses, which name users by UUID: `user_id` gives a name's, and the reader takes names for UUIDs.
Argilla keeps one suggestion a question, so of the machines' judgements only the one with the most votes goes out. It has no
place for seconds, tokens or rounds. Its "discarded" answers are judgements that cannot decide.
"""

from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from assay.curate.entries import Context, Entry, RowProblem, attributes_of, chat, identify, labels, shown_texts
from assay.records import Judgement, Kind

BETTER, RATIONALE = "better", "rationale"
CHOICES = ("response_1", "response_2", "tie", "cannot decide")


def settings() -> dict[str, Any]:
    """The settings of a dataset for these records, as `argilla.Settings.from_json` takes them."""
    option = {"response_1": "Response 1", "response_2": "Response 2", "tie": "Tie", "cannot decide": "Cannot decide"}
    return {
        "guidelines": "Which response is better? Judge by the guideline of this conversation.",
        "fields": [
            _field("prompt", "Conversation", "chat", use_markdown=True),
            *(_field(f"response_{n}", f"Response {n}", "text", use_markdown=True) for n in (1, 2)),
            {**_field("about", "Attributes", "text", use_markdown=False), "required": False},
        ],
        "questions": [
            {"name": BETTER, "title": "Which response is better?", "description": None, "required": True, "settings": {
                "type": "label_selection", "options": [{"value": v, "text": t} for v, t in option.items()],
                "visible_options": None}},
            {"name": RATIONALE, "title": "Why?", "description": None, "required": False,
             "settings": {"type": "text", "use_markdown": False}},
        ],
        "vectors": [], "metadata": [], "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1}, "mapping": None,
    }  # fmt: skip


def _field(name: str, title: str, kind: str, **more: object) -> dict[str, Any]:
    return {"name": name, "title": title, "required": True, "settings": {"type": kind, **more}}


def user_id(name: str) -> str:
    """The UUID that stands for an annotator's name: the name itself where it is a UUID, else one made from it."""
    try:
        return str(UUID(name))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"assay:annotator:{name}"))


def row(entry: Entry) -> dict[str, Any]:
    """One record."""
    about = labels(entry.attributes)
    one, other = shown_texts(entry)
    fields = {"prompt": chat(entry.pair), "response_1": one, "response_2": other}
    if about:
        fields["about"] = "\n".join(f"{name}: {text}" for name, text in about.items() if name != "attributes_by")
    ids = {"pair_id": entry.pair.id, "response_1_id": entry.shown[0], "response_2_id": entry.shown[1]}
    people = [j for j in entry.judgements if j.kind == "human"]
    machines = [j for j in entry.judgements if j.kind in ("llm", "offline", "rm") and j.better]
    responses = {
        BETTER: [{"value": _choice(j, entry), "user_id": user_id(j.by)} for j in people if _choice(j, entry)],
        RATIONALE: [
            {"value": j.rationale, "user_id": user_id(j.by)} for j in people if j.rationale and _choice(j, entry)
        ],
    }
    suggestions = {}
    if machines:
        best = max(machines, key=lambda j: (j.votes, j.confidence))
        suggestions[BETTER] = {"value": _choice(best, entry), "score": best.confidence, "agent": best.by}
    return {
        "id": entry.pair.id, "fields": fields, "metadata": {**ids, **about}, "suggestions": suggestions,
        "responses": {q: r for q, r in responses.items() if r}, "vectors": {}, "_server_id": None,
    }  # fmt: skip


def _choice(j: Judgement, entry: Entry) -> str | None:
    if j.better is None:
        return j.problem if j.problem in CHOICES else None
    return CHOICES[entry.shown.index(j.better)]


def entry(record: Any, context: Context) -> Entry:
    """One exported record, ours or another with the fields prompt, response_1, response_2 and the question "better"."""
    if not isinstance(record, dict) or not isinstance(record.get("fields"), dict):
        raise RowProblem("not a record with fields")
    fields, metadata = record["fields"], record.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise RowProblem("its metadata is not an object")
    texts = [fields.get("response_1"), fields.get("response_2")]
    pair, shown = identify(metadata, fields.get("prompt"), texts, context)
    responses = record.get("responses") or {}
    reasons = {_user(r): r.get("value") for r in _answers(responses, RATIONALE)}
    people = [_human(r, pair.id, shown, reasons.get(_user(r)), context) for r in _answers(responses, BETTER)]
    suggestions = record.get("suggestions")
    machine = _machine(suggestions.get(BETTER) if isinstance(suggestions, Mapping) else None, pair.id, shown)
    return Entry(
        pair=pair, shown=shown, attributes=attributes_of(metadata, pair, context),
        judgements=tuple(j for j in (*people, machine) if j),
    )  # fmt: skip


def _answers(responses: Any, question: str) -> list[dict[str, Any]]:
    found = responses.get(question) or [] if isinstance(responses, Mapping) else None
    if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
        raise RowProblem(f"its responses to '{question}' are not a list of answers")
    return found


def _user(response: Mapping[str, Any]) -> str:
    return str(response.get("user_id"))


def _human(
    response: Mapping[str, Any], pair_id: str, shown: tuple[str, str], reason: object, context: Context
) -> Judgement | None:
    value = "cannot decide" if response.get("status") == "discarded" else response.get("value")
    if response.get("status") == "draft":
        return None
    if value not in CHOICES:
        context.problem(f"the answer {value!r} is none of {', '.join(CHOICES)}")
        return None
    who = _user(response)
    return Judgement(
        pair_id=pair_id, by=context.users.get(who, who), kind="human", shown=shown, **_verdict(value, shown),
        rationale=reason if isinstance(reason, str) else "",
    )  # fmt: skip


def _machine(suggestion: Any, pair_id: str, shown: tuple[str, str]) -> Judgement | None:
    if not isinstance(suggestion, dict) or suggestion.get("value") not in CHOICES or not suggestion.get("agent"):
        return None
    score = suggestion.get("score")
    confidence = float(score) if isinstance(score, int | float) and 0.5 <= score <= 1 else 1.0
    by, verdict = str(suggestion["agent"]), _verdict(suggestion["value"], shown)
    kind: Kind = "rm" if by.startswith("rm:") else "llm"
    return Judgement(pair_id=pair_id, by=by, kind=kind, shown=shown, confidence=confidence, **verdict)


def _verdict(value: str, shown: tuple[str, str]) -> dict[str, Any]:
    at = CHOICES.index(value)
    return {"better": shown[at], "problem": ""} if at < 2 else {"better": None, "problem": value}
