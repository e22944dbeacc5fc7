"""The benchmarks that evalscope runs, and their questions from the files that are published, in the fields that it reads.

    DIR/NAME/...        a snapshot of the data set as its hub has it (Parquet, JSON lines), or the authors' own files

A file belongs to a benchmark by its path: aime24, ifeval, olympiadbench, mathvision (testmini), mmmu (validation), mmmu-pro,
mathvista (testmini), livecodebench, humaneval. What cannot be read is an error that names file, row and field: a benchmark
with a question left out is another benchmark.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay.bench.files import KINDS, Row, found, rows
from assay.bench.reasoning.rows import Absent
from assay.errors import AssayError

AIME24_KEY = (
    23, 25, 33, 45, 55, 73, 80, 104, 104, 110, 113, 116, 127, 197, 204, 211, 236, 294, 315, 321, 371, 385, 468, 480, 540,
    601, 699, 721, 809, 902,
)  # fmt: skip
"""The published answers of AIME 2024 I and II, in order of size: one public copy of the data set has three others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`record`: as evalscope reads it; in a list of questions its pictures are empty (`without_pictures`). `part`: of
    several runs of one benchmark (MMMU-Pro's two forms)."""

    id: str
    record: Mapping[str, Any]
    expected: str = ""
    subset: str = ""
    part: str = ""
    text: str = ""


_PACKED = (".csv", ".tsv", ".xlsx", ".zip", ".tar", ".tgz", ".xz", ".bz2")
"""Files that people have and that are not read: said where nothing else is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """`dataset`: evalscope's name. `files`: what a file's path must match. `whole`: questions of the published benchmark, by
    part. `arguments`: evalscope's for this data set. `metric`: its headline."""

    name: str
    dataset: str
    files: str
    leave: str = "(?!)"
    split: str
    home: str
    whole: int
    read: Callable[[Row], Question]
    metric: str = "acc"
    more: tuple[str, ...] = ()
    """Other numbers that evalscope gives for each answer."""
    pictures: bool = False
    by_subset: bool = False
    programs: bool = False
    """Its answers are programs: their tests stay here, for the sandbox."""
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    """evalscope's extra_params of each part."""

    def questions(self, data: Path, window: str = "") -> list[Question]:
        """All questions of the folder, in the order of its files, without their pictures. Raises Absent where there are
        none, AssayError where one cannot be read, or is there twice."""
        made, seen, words = list[Question](), dict[tuple[str, str], Path](), dict[bytes, Path]()
        for row, question in self.each(data):
            if before := seen.get(place := (question.part, question.id)):
                raise AssayError(
                    f"{self.name}: question {question.id} occurs twice, in {before} and {row.file}; are these two copies "
                    "of it? leave one"
                )
            text = hashlib.blake2b(" ".join(question.text.split()).encode(), digest_size=12).digest()
            if not self.pictures and words.setdefault(text, row.file) != row.file:
                raise AssayError(
                    f"{self.name}: question {question.id} of {row.file} stands in {words[text]} too, under another name "
                    "perhaps; are these two copies of it? leave one"
                )
            seen[place] = row.file
            if not window or _within(str(question.record.get("contest_date") or ""), window):
                made.append(without_pictures(question))
        if not made:
            raise AssayError(f"{self.name}: no question {f'within {window}' if window else 'in its files'}")
        return made

    def each(self, data: Path) -> Iterator[tuple[Row, Question]]:
        """The rows of the folder as questions, one in memory at a time: tests and pictures may be larger than it. Raises
        Absent where there are none."""
        if not (files := self.paths(data)):
            others = [
                f
                for f in data.rglob("*.*")
                if f.suffix.lower() in _PACKED and self._mine(str(f.relative_to(data)).lower())
            ]
            there = f"; {others[0]} is of a kind that is not read ({', '.join(KINDS)} are)" if others else ""
            raise Absent(
                f"{self.name}: no files of it in {data} (their path must match {self.files}){there}; {self.home}"
            )
        yield from ((row, self.read(row)) for file in files for row in rows(file))

    def paths(self, data: Path) -> list[Path]:
        """Its files."""
        return [f for f in found(data) if self._mine(str(f.relative_to(data)).lower())]

    def _mine(self, path: str) -> bool:
        return re.search(self.files, path) is not None and re.search(self.leave, path) is None

    def flaws(self, questions: list[Question]) -> list[str]:
        """What is known to be wrong with copies of this data set."""
        if self.name != "aime24" or len(questions) != self.whole:
            return []
        here = sorted(int(q.expected) for q in questions if q.expected.isdigit())
        off = Counter(here) - Counter(AIME24_KEY)
        return [f"this copy has answers that are not the published ones: {', '.join(map(str, off))}"] if off else []


def without_pictures(question: Question) -> Question:
    """The same with empty pictures: what a list of all questions can hold."""
    shown = {k for k, v in question.record.items() if isinstance(v, dict) and "bytes" in v}
    empty = {k: {"bytes": b"", "path": None} for k in shown}
    return replace(question, record={**question.record, **empty}) if shown else question


def _within(date: str, window: str) -> bool:
    """Whether an ISO date lies in FIRST:LAST, both included."""
    first, _, last = window.partition(":")
    return (not first or date[: len(first)] >= first) and (not last or date[: len(last)] <= last)


def _aime(row: Row) -> Question:
    """The hub has copies with Problem and Answer, and with the answer in a box as the solution (math-ai/aime24)."""
    row = replace(row, value={k.lower(): v for k, v in row.value.items()})
    text = row.text("problem" if "problem" in row.value else "question")
    name = "answer" if "answer" in row.value or "solution" not in row.value else "solution"
    told = row.get(name)
    told = int(told) if isinstance(told, float) and told.is_integer() else told  # pandas makes them so
    answer = re.sub(r"\\(?:boxed|framebox)\{\s*(\d+)\s*\}", r"\1", str(told).strip().strip("$"))
    if not re.fullmatch(r"\d+", answer, re.ASCII):
        row.fail((name,), f"expected a whole number, found {answer[:40]!r}")
    return Question(
        id=_id(row, text), record={"problem": text, "answer": str(int(answer))}, expected=str(int(answer)), text=text
    )


def _ifeval(row: Row) -> Question:
    text, names = row.text("prompt"), row.texts("instruction_id_list")
    kwargs = row.get("kwargs")
    if not isinstance(kwargs, list) or len(kwargs) != len(names):
        row.fail(("kwargs",), f"expected {len(names)} objects, one for each instruction")
    record = {"key": row.get("key"), "prompt": text, "instruction_id_list": list(names), "kwargs": kwargs}
    return Question(id=str(row.get("key")), record=record, expected=", ".join(names), text=text)


def _olympiad(row: Row) -> Question:
    text, answers = row.text("question"), row.texts("final_answer")
    value = row.value
    record: dict[str, Any] = {
        "id": str(row.get("id")), "question": text, "final_answer": list(answers),
        "is_multiple_answer": bool(value.get("is_multiple_answer")), "unit": value.get("unit") or "",
        "answer_type": value.get("answer_type") or "Numerical", "error": value.get("error"),
        "language": value.get("language") or "English", "subject": value.get("subject") or "Math",
        "question_type": value.get("question_type") or "Open-ended", "subfield": value.get("subfield") or "",
        "context": value.get("context") or "", "solution": [],
    } | {k: _picture(row, k) for k in value if re.fullmatch(r"image_\d", k) and value[k]}  # fmt: skip
    return Question(
        id=record["id"], record=record, expected=",".join(answers), subset=record["subfield"], text=text
    )  # fmt: skip


def _mathvision(row: Row) -> Question:
    text, options = row.text("question"), row.get("options")
    if not isinstance(options, list):
        row.fail(("options",), "expected a list")
    picture = _picture(row, "decoded_image" if row.value.get("decoded_image") else "image")
    record: dict[str, Any] = {
        "id": str(row.get("id")), "question": text, "options": options, "answer": str(row.get("answer")),
        "solution": "", "level": row.count("level"), "subject": row.value.get("subject") or "", "image": "",
        "decoded_image": picture,
    }  # fmt: skip
    return Question(
        id=record["id"], record=record, expected=record["answer"], subset=f"level {record['level']}",
        text=_with_options(text, options),
    )  # fmt: skip


_MMMU = ("explanation", "img_type", "topic_difficulty", "subfield")


def _mmmu(row: Row) -> Question:
    kind = row.text("question_type")
    if kind not in ("multiple-choice", "open"):
        row.fail(("question_type",), f"expected multiple-choice or open, found {kind!r}")
    record: dict[str, Any] = {
        "id": row.text("id"), "question": row.text("question"), "options": row.text("options"),
        "answer": str(row.get("answer")), "question_type": kind, **{k: str(row.value.get(k) or "") for k in _MMMU},
    }  # fmt: skip
    record |= {f"image_{i}": _picture(row, f"image_{i}") for i in range(1, 8) if row.value.get(f"image_{i}")}
    parts = record["id"].split("_")
    subject = "_".join(parts[1:-1]) or str(row.value.get("subject") or "")
    return Question(
        id=record["id"], record=record, expected=record["answer"], subset=subject,
        text=_with_options(record["question"], _listed(row)),
    )  # fmt: skip


STANDARD, VISION = "standard (10 options)", "vision"


def _mmmu_pro(row: Row) -> Question:
    """The hub has three forms in folders of their names; the standard one with 4 options is no part of the total."""
    part = VISION if "vision" in str(row.file).lower() else STANDARD
    record: dict[str, Any] = {
        "id": row.text("id"), "options": row.text("options"), "answer": row.text("answer"),
        "subject": row.text("subject"), **{k: str(row.value.get(k) or "") for k in _MMMU[:3]},
    }  # fmt: skip
    if part == VISION:
        record["image"] = _picture(row, "image")
    else:
        record["question"] = row.text("question")
        record |= {f"image_{i}": _picture(row, f"image_{i}") for i in range(1, 8) if row.value.get(f"image_{i}")}
    return Question(
        id=record["id"], record=record, expected=record["answer"], subset=part, part=part,
        text=_with_options(str(record.get("question", "")), _listed(row)),
    )  # fmt: skip


def _mathvista(row: Row) -> Question:
    pid, value = str(row.get("pid")), row.value
    record: dict[str, Any] = {
        "question": row.text("question"), "decoded_image": _picture(row, "decoded_image"), "image": "",
        "choices": list(value.get("choices") or []), "unit": value.get("unit"), "precision": value.get("precision"),
        "answer": row.text("answer"), "question_type": row.text("question_type"),
        "answer_type": row.text("answer_type"), "pid": pid, "metadata": {"pid": pid},
    }  # fmt: skip
    meta = value.get("metadata")
    subset = str(meta.get("task") or "") if isinstance(meta, dict) else ""
    text = _with_options(record["question"], record["choices"])
    return Question(id=pid, record=record, expected=record["answer"], subset=subset, text=text)


def _livecodebench(row: Row) -> Question:
    """Its tests stay out of evalscope's hands: they are for the sandbox."""
    record: dict[str, Any] = {
        "question_content": row.text("question_content"), "starter_code": str(row.value.get("starter_code") or ""),
        "contest_date": str(row.get("contest_date")), "public_test_cases": "[]", "private_test_cases": "[]",
        "metadata": str(row.value.get("metadata") or "{}"), "question_id": str(row.get("question_id")),
    }  # fmt: skip
    return Question(
        id=record["question_id"], record=record, subset=str(row.value.get("difficulty") or ""),
        text=record["question_content"],
    )  # fmt: skip


def _humaneval(row: Row) -> Question:
    record: dict[str, Any] = {
        "task_id": row.text("task_id"), "prompt": row.text("prompt"), "entry_point": row.text("entry_point"),
        "canonical_solution": "", "test": "",
    }  # fmt: skip
    return Question(id=record["task_id"], record=record, text=record["prompt"])


def _with_options(text: str, options: Sequence[object]) -> str:
    """A question as it is asked, for a judge as well: a letter says nothing to who does not see what it stands for."""
    return "\n\n".join(filter(None, (text, "\n".join(f"{chr(65 + n)}) {o}" for n, o in enumerate(options)))))


def _listed(row: Row) -> list[object]:
    """MMMU's options, which are a list in a text."""
    try:
        told = ast.literal_eval(row.text("options"))
    except (ValueError, SyntaxError):
        told = None
    if not isinstance(told, list):
        row.fail(("options",), f"expected a list in a text, found {row.text('options')[:40]!r}")
    return told


def _id(row: Row, text: str) -> str:
    for name in ("id", "problem_id"):
        if row.value.get(name) is not None:
            return str(row.value[name])
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _picture(row: Row, name: str) -> dict[str, Any]:
    """A picture of a hub's row ({bytes, path}), or the file that it names beside the row's own."""
    value = row.value.get(name)
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return {"bytes": value["bytes"], "path": None}
    path = value.get("path") if isinstance(value, dict) else value
    if not isinstance(path, str):
        row.fail((name,), "expected a picture or its path")
    file = row.file.parent / path
    if not file.is_file():
        row.fail((name,), f"no picture {file}")
    return {"bytes": file.read_bytes(), "path": None}


_HUB = "hf download {} --repo-type dataset --local-dir DIR/{}"
TASKS: dict[str, Task] = {
    t.name: t
    for t in (
        Task(
            name="aime24", dataset="aime24", files=r"aime.?(20)?24", split="I and II, 30 questions",
            home=_HUB.format("math-ai/aime24", "aime24"), whole=30, read=_aime,
        ),
        Task(
            name="ifeval", dataset="ifeval", files=r"ifeval", split="all prompts", metric="prompt_level_strict",
            home=_HUB.format("google/IFEval", "ifeval"), whole=541, read=_ifeval,
            more=("prompt_level_strict", "prompt_level_loose", "inst_level_strict", "inst_level_loose"),
        ),
        Task(
            name="olympiadbench", dataset="olympiad_bench", files=r"olympiad.?bench",
            leave=r"(tp_(to|mm)|oe_mm|oe_to_(?!maths_en_comp))",  # the hub has 18 subsets in files of their names
            split="open questions, mathematics, English, text (OE_TO_maths_en_COMP)", whole=674, read=_olympiad,
            home=_HUB.format("Hothan/OlympiadBench", "olympiadbench"),
        ),
        Task(
            name="mathvision", dataset="math_vision", files=r"math.?(vision|v\b).*testmini", split="testmini", whole=304,
            read=_mathvision, pictures=True, home=_HUB.format("MathLLMs/MathVision", "mathvision"),
        ),
        Task(
            name="mmmu", dataset="mmmu", files=r"mmmu(?!.?pro).*validation", leave=r"mmmu.?pro", split="validation",
            whole=900, read=_mmmu, pictures=True, home=_HUB.format("MMMU/MMMU", "mmmu"),
        ),
        Task(
            name="mmmu-pro", dataset="mmmu_pro", files=r"mmmu.?pro.*(10 options|vision)", split="standard-10 and vision",
            whole=3_460, read=_mmmu_pro, pictures=True, by_subset=True, home=_HUB.format("MMMU/MMMU_Pro", "mmmu-pro"),
            extra={STANDARD: {"dataset_format": STANDARD}, VISION: {"dataset_format": VISION}},
        ),
        Task(
            name="mathvista", dataset="math_vista", files=r"math.?vista.*testmini", leave=r"annot_testmini",
            split="testmini", whole=1_000, read=_mathvista, pictures=True,
            home=_HUB.format("AI4Math/MathVista", "mathvista"),
        ),
        Task(
            name="livecodebench", dataset="live_code_bench", files=r"live.?code.?bench", split="code generation",
            whole=0, read=_livecodebench, programs=True,
            home=_HUB.format("livecodebench/code_generation_lite", "livecodebench"),
        ),
        Task(
            name="humaneval", dataset="humaneval", files=r"human.?eval", leave=r"human.?eval.?(plus|\+|x|pack)",
            split="all problems", whole=164, read=_humaneval, programs=True,
            home=_HUB.format("openai/openai_humaneval", "humaneval"),
        ),
    )
}  # fmt: skip
"""By name. `livecodebench` has no number of its own: it is that of a window of dates."""
