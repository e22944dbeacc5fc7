"""Label Studio tasks as JSON (what its export writes and its import reads), and the labelling interface for them.

Its `<Pairwise>` has no tie, so ties and "cannot decide" are a `<Choices>` beside it; a task that its annotator cancelled was
skipped, and is no judgement. Who judged is `completed_by` (an id, or an object with an email) in its exports; in ours it is
in the result's `meta`, which Label Studio keeps, because its import refuses annotators that it does not know. `lead_time` is
seconds. Judgements of machines are predictions, as many as there are; tokens and rounds have no place.
"""

from collections.abc import Mapping
from typing import Any

from assay.curate.entries import Context, Entry, RowProblem, attributes_of, chat, identify, labels, shown_texts
from assay.records import Judgement

CONFIG = """<View>
  <Header value="Which response is better? Judge by the guideline."/>
  <Text name="guideline" value="$guideline"/>
  <Paragraphs name="prompt" value="$prompt" layout="dialogue" nameKey="role" textKey="content"/>
  <Pairwise name="better" toName="response_1,response_2"/>
  <View style="display: grid; grid-template-columns: 1fr 1fr; column-gap: 1em">
    <Text name="response_1" value="$response_1"/>
    <Text name="response_2" value="$response_2"/>
  </View>
  <Choices name="undecided" toName="response_1" choice="single-radio">
    <Choice value="tie"/>
    <Choice value="cannot decide"/>
  </Choices>
  <TextArea name="rationale" toName="response_1" placeholder="Why?"/>
</View>
"""
"""The labelling interface: paste it under Settings, Labeling Interface, Code."""
_UNDECIDED = ("tie", "cannot decide")
_SIDES = ("left", "right")
_TEXTS = (("response_1", "response_2"), ("text1", "text2"), ("answer1", "answer2"))


def row(entry: Entry) -> dict[str, Any]:
    """One task, with judgements by people as annotations and by machines as predictions."""
    one, other = shown_texts(entry)
    data = {
        "pair_id": entry.pair.id, "response_1_id": entry.shown[0], "response_2_id": entry.shown[1],
        "prompt": chat(entry.pair), "response_1": one, "response_2": other, "guideline": "", **labels(entry.attributes),
    }  # fmt: skip
    people = [j for j in entry.judgements if j.kind == "human" and (j.better or j.problem in _UNDECIDED)]
    machines = [j for j in entry.judgements if j.kind in ("llm", "offline", "rm") and j.better]
    return {
        "data": data,
        "annotations": [
            {"result": _result(j, entry), "lead_time": j.seconds, "was_cancelled": False, "ground_truth": False}
            for j in people
        ],
        "predictions": [{"result": _result(j, entry), "model_version": j.by, "score": j.confidence} for j in machines],
    }  # fmt: skip


def _result(j: Judgement, entry: Entry) -> list[dict[str, Any]]:
    if j.better:
        side = _SIDES[entry.shown.index(j.better)]
        result = [_item("better", "pairwise", {"selected": side})]
    else:
        result = [_item("undecided", "choices", {"choices": [j.problem]})]
    if j.rationale:
        result.append(_item("rationale", "textarea", {"text": [j.rationale]}))
    return [{**item, "meta": {"by": j.by}} for item in result]


def _item(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    """One result. Label Studio's import wants `to_name` to be one object, also of a `<Pairwise>`, which has two."""
    return {"from_name": name, "to_name": "response_1", "type": kind, "value": value}


def entry(task: Any, context: Context) -> Entry:
    """One exported task: ours, or one whose data has prompt (or question) and two texts that a `<Pairwise>` compared."""
    if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
        raise RowProblem("not a task with data; export as JSON, not as JSON-MIN")
    data = task["data"]
    names = next((n for n in _TEXTS if n[0] in data and n[1] in data), None)
    texts = [data[n] for n in names or ()]
    pair, shown = identify(data, data.get("prompt", data.get("question")), texts, context)
    found = [_judgement(a, pair.id, shown, context) for a in _rows(task, "annotations")]
    found += [_prediction(p, pair.id, shown, context) for p in _rows(task, "predictions")]
    return Entry(
        pair=pair, shown=shown, attributes=attributes_of(data, pair, context), judgements=tuple(j for j in found if j)
    )


def _rows(task: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = task.get(name) or []
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise RowProblem(f"its {name} are not a list of objects")
    return rows


def _judgement(
    annotation: Mapping[str, Any], pair_id: str, shown: tuple[str, str], context: Context
) -> Judgement | None:
    if annotation.get("was_cancelled"):
        return None
    lead = annotation.get("lead_time")
    verdict = _verdict(annotation, shown, context)
    if verdict is None:
        return None
    seconds = float(lead) if isinstance(lead, int | float) and lead >= 0 else 0.0
    return Judgement(
        pair_id=pair_id, by=_who(annotation, context), kind="human", shown=shown, seconds=seconds,
        rationale="\n".join(_values(annotation, "textarea", "text")), **verdict,
    )  # fmt: skip


def _prediction(
    prediction: Mapping[str, Any], pair_id: str, shown: tuple[str, str], context: Context
) -> Judgement | None:
    verdict = _verdict(prediction, shown, context)
    if verdict is None:
        return None
    by, score = str(prediction.get("model_version") or "label-studio"), prediction.get("score")
    return Judgement(
        pair_id=pair_id, by=by, kind="rm" if by.startswith("rm:") else "llm", shown=shown,
        confidence=float(score) if isinstance(score, int | float) and 0.5 <= score <= 1 else 1.0,
        rationale="\n".join(_values(prediction, "textarea", "text")), **verdict,
    )  # fmt: skip


def _verdict(annotation: Mapping[str, Any], shown: tuple[str, str], context: Context) -> dict[str, Any] | None:
    sides = [s for s in _values(annotation, "pairwise", "selected") if s in _SIDES]
    undecided = [c for c in _values(annotation, "choices", "choices") if c in _UNDECIDED]
    if len(sides) + len(undecided) != 1:
        what = "says both a side and undecided" if sides and undecided else "says no side"
        context.problem(f"an annotation {what}")
        return None
    if undecided:
        return {"better": None, "problem": undecided[0]}
    return {"better": shown[_SIDES.index(sides[0])], "problem": ""}


def _values(annotation: Mapping[str, Any], kind: str, key: str) -> list[str]:
    """The values of all results of one type, as a flat list of texts."""
    result = annotation.get("result")
    items = [r for r in result if isinstance(r, dict) and r.get("type") == kind] if isinstance(result, list) else []
    values = [i["value"].get(key) for i in items if isinstance(i.get("value"), dict)]
    return [str(v) for value in values for v in (value if isinstance(value, list) else [value]) if v is not None]


def _who(annotation: Mapping[str, Any], context: Context) -> str:
    result = annotation.get("result")
    metas = [r.get("meta") for r in result if isinstance(r, dict)] if isinstance(result, list) else []
    ours = next((str(m["by"]) for m in metas if isinstance(m, dict) and m.get("by")), "")
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("email", by.get("id"))
    theirs = "" if by is None else str(by)
    return (
        context.users.get(theirs)
        or ours
        or (f"label-studio:{theirs}" if theirs.isdigit() else theirs)
        or "label-studio"
    )
