"""Labelled pairs as other tools read them: `assay reward export --to trl | openrlhf | llamafactory | jsonl`.

Each is JSON lines, one pair a line, which `assay pool add` reads again. Beside the conversation stand the pair's id and what
is known of its label: `tier`, `fate`, `reason`, `certainty`, `strength`, and `votes`, those for the chosen and those for the
rejected response by kind of judge. None is called `margin`: TRL and OpenRLHF would put a column of this name into the loss.

trl            prompt, chosen, rejected as messages (TRL's explicit prompts)
openrlhf       chosen, rejected as whole conversations (--apply_chat_template, no prompt_key)
llamafactory   ShareGPT's turns with chosen and rejected, and a dataset_info.json that names the columns
jsonl          prompt, chosen, rejected as plain texts; pairs that need more are left out
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from assay.curate.material import VOTES
from assay.curate.prepare import Slice
from assay.curate.views import LabelSet, joined
from assay.engine import Engine
from assay.errors import AssayError
from assay.pipeline.finished import export, labels_of
from assay.pipeline.settings import Tool
from assay.records import Conversation, Judgement, Label, Preference
from assay.store import Place
from assay.tables import Table, records, remove, sibling

FILE, INFO = "pairs.jsonl", "dataset_info.json"
PICTURES = "it shows pictures, of which this form has none (--to parquet keeps their ids)"


class Unfit(Exception):
    """Why a pair cannot be said in a tool's form."""


def export_for(
    source: str | Path, out: Path, name: str, tool: Tool, engine: Engine | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> int:  # fmt: skip
    """Write `labels_of` for a tool into the new folder `out`, and return how many pairs it has.

    Pairs that the form cannot say are left out, and told with their reasons. The folder appears when it is whole. Raises
    AssayError where it is there already, and where no pair can be said.
    """
    if out.exists() and any(out.iterdir()):
        raise AssayError(f"{out}: not empty; export into a new folder")
    beside = sibling(out, ".partial")
    if beside.exists() and {p.name for p in beside.iterdir()} - {"index", "sets", "views", "out"}:
        raise AssayError(f"{beside} is there already and is no unfinished export; choose another --out")
    labels = labels_of(source, name, Place.of(beside.absolute()), engine)
    made, left, written = beside / "out", Counter[str](), 0
    remove(made)
    made.mkdir(parents=True)
    with (made / FILE).open("w", encoding="utf-8") as file:
        for preference, told in _rows(labels, Place.of(source)):
            try:
                row = FORMS[tool](preference)
            except Unfit as unfit:
                left[str(unfit)] += 1
                continue
            file.write(json.dumps(row | told, ensure_ascii=False) + "\n")
            written += 1
    for reason, count in left.most_common():
        say(f"{count:,} pairs left out: {reason}")
    if not written:
        raise AssayError(f"{source}: no pair of '{name}' can be written for {tool}; the reasons are above")
    if tool == "llamafactory":
        (made / INFO).write_text(json.dumps({"assay": _INFO}, indent=2) + "\n", encoding="utf-8")
    if out.exists():
        out.rmdir()
    made.rename(out)
    remove(beside)
    return written


def _rows(labels: LabelSet, source: Place) -> Iterator[tuple[Preference, dict[str, Any]]]:
    """Each labelled pair with what is known of its label, a shard in memory at a time."""
    run = (source / "config.json").exists()
    seed = source / "seed-0" / "tables"
    settled = Table(seed / "labels", Label) if run else None
    judged = Table(seed / "judgements", Judgement).frame(columns=VOTES) if run else None
    for part in (p for p in labels.material.slices if p.name in labels.files):
        found = joined((part, labels.files[part.name]))
        ids = pl.Series(found["pair_id"].to_pylist())
        known = {r["pair_id"]: r for r in _labels(settled, part, ids).iter_rows(named=True)} if settled else {}
        votes = labels.material.pool.votes(part.part, VOTES)
        votes = votes if judged is None else pl.concat([votes, judged], how="vertical_relaxed")
        said = votes.filter(pl.col("pair_id").is_in(ids.implode())).partition_by("pair_id", as_dict=True)
        for preference in records(Preference, found):
            label = known.get(preference.pair_id)
            own = said.get((preference.pair_id,))
            yield (
                preference,
                {
                    "pair_id": preference.pair_id,
                    "tier": label["tier"] if label else "wild",
                    "fate": label["fate"] if label else "kept",
                    "reason": label["reason"] if label else "the label of its sources",
                    "certainty": preference.certainty,
                    "strength": preference.margin,
                    "votes": _tally(own.iter_rows(named=True), preference) if own is not None else {},
                },
            )


def _labels(table: Table[Label], part: Slice, ids: pl.Series) -> pl.DataFrame:
    """The labels of a shard's pairs: those of stage 1, and those that stage 2 made of this shard."""
    names = [n for n in ("stage1", f"stage2-{part.key}") if table.done(n)]
    columns = ["pair_id", "tier", "fate", "reason"]
    if not names:
        return table.empty(columns)
    return table.frame(*names, columns=columns).filter(pl.col("pair_id").is_in(ids.implode()))


def _tally(rows: Iterable[Mapping[str, Any]], of: Preference) -> dict[str, list[float]]:
    """For each kind of judge the votes for the chosen and for the rejected response; failures are none."""
    found: dict[str, list[float]] = {}
    for row in (r for r in rows if r["better"] is not None):
        both = found.setdefault(row["kind"], [0.0, 0.0])
        mine = 0 if row["better"] == of.chosen.id else 1
        both[mine] += row["votes"] * row["confidence"]
        both[1 - mine] += row["votes"] * (1 - row["confidence"])
    return {kind: [round(n, 6) for n in both] for kind, both in sorted(found.items())}


def _messages(turns: Conversation) -> list[dict[str, Any]]:
    if any(m.images for m in turns):
        raise Unfit(PICTURES)
    return [m.chat() for m in turns]


def _tools(of: Preference) -> dict[str, Any]:
    tools = next((m.tools for m in of.prompt if m.tools), "")
    return {"tools": json.loads(tools)} if tools else {}


def _trl(of: Preference) -> dict[str, Any]:
    return {
        "prompt": _messages(of.prompt), "chosen": _messages(of.chosen.messages), "rejected": _messages(of.rejected.messages),
        **_tools(of),
    }  # fmt: skip


def _openrlhf(of: Preference) -> dict[str, Any]:
    if _tools(of):
        raise Unfit("it names tools, of which OpenRLHF's template is told none")
    both = (_messages((*of.prompt, *r.messages)) for r in (of.chosen, of.rejected))
    return dict(zip(("chosen", "rejected"), both, strict=True))


def _llamafactory(of: Preference) -> dict[str, Any]:
    turns = [*of.prompt, *of.chosen.messages, *of.rejected.messages]
    if any(m.images for m in turns):
        raise Unfit(PICTURES)
    if len(of.chosen.messages) > 1 or len(of.rejected.messages) > 1:
        raise Unfit("a response has several turns, of which this form has one")
    if any(m.role == "tool" or m.tool_calls or m.tools or m.reasoning for m in turns):
        raise Unfit("it has tools or reasoning, which this form has no place for")
    system = [m.content for m in of.prompt if m.role == "system"]
    talk = [m for m in of.prompt if m.role != "system"]
    if len(system) > 1 or (system and of.prompt[0].role != "system"):
        raise Unfit("it has a system turn that is not its first")
    if [m.role for m in talk] != ["user", "assistant"] * (len(talk) // 2) + ["user"]:
        raise Unfit("its turns are not those of user and assistant by turns, ending with the user")
    names = {"user": "human", "assistant": "gpt"}
    said = {
        "conversations": [{"from": names[m.role], "value": m.content} for m in talk],
        "chosen": {"from": "gpt", "value": of.chosen.text}, "rejected": {"from": "gpt", "value": of.rejected.text},
    }  # fmt: skip
    return {"system": system[0], **said} if system else said


def _jsonl(of: Preference) -> dict[str, Any]:
    turns = (*of.prompt, *of.chosen.messages, *of.rejected.messages)
    if [m.role for m in turns] != ["user", "assistant", "assistant"]:
        raise Unfit("it is not one question and one answer; --to trl has whole conversations")
    if any(m.images or m.tool_calls or m.tools or m.reasoning for m in turns):
        raise Unfit("it has pictures, tools or reasoning; --to trl and --to parquet have them")
    return {"prompt": of.prompt[0].content, "chosen": of.chosen.text, "rejected": of.rejected.text}


FORMS: dict[str, Callable[[Preference], dict[str, Any]]] = {
    "trl": _trl, "openrlhf": _openrlhf, "llamafactory": _llamafactory, "jsonl": _jsonl,
}  # fmt: skip
_INFO = {
    "file_name": FILE, "ranking": True, "formatting": "sharegpt",
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system"},
}  # fmt: skip


def exported(
    source: str | Path, out: Path, name: str, tool: Tool, engine: Engine | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> int:  # fmt: skip
    """Write the labels as Parquet preferences, which trainings here stream, or for another tool."""
    return export(source, out, name, engine) if tool == "parquet" else export_for(source, out, name, tool, engine, say)
