"""Small folders of the reasoning benchmarks, in the schemas of the published ones; the questions are our own.

`RIGHT` has the right answer of each question, by a text that stands in its prompt ("" for those that are a picture alone).
"""

import base64
import io
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image, ImageDraw
from pyarrow import parquet

COUNTS = {
    "aime24": 3, "ifeval": 4, "olympiadbench": 4, "mathvision": 2, "mmmu": 3, "mmmu-pro": 4, "mathvista": 3,
    "livecodebench": 2, "humaneval": 2,
}  # fmt: skip
WRONG = "WRONG, so Wrong"
RIGHT: dict[str, str] = {
    "six times seven": "It is \\boxed{42}.", "seven less than nine": "It is $\\boxed{2}$.", "ten squared": "\\boxed{100}",
    "about rivers": "Rivers run to the sea. They carve valleys.", "about small letters": "all of this is small.",
    "about three days": "Day one was wet. Day two was dry. Day three was windy.", "about a crossing": '"A bridge stands."',
    "half of one": "So \\boxed{\\frac{1}{2}}.", "square of $x+1$": "\\boxed{x^2+2x+1}",
    "pair of one and two": "\\boxed{(1,2)}",
    "both roots of $x^2=9$": "\\boxed{3,-3}",
    "How many dots are drawn": "I count \\boxed{3}.", "Which letter is drawn": "ANSWER: B",
    "colour of the left shape": "ANSWER: A", "taller bar": "ANSWER: C", "Count the bars": "ANSWER: 12",
    "ten ways to say it": "ANSWER: J", "tenth of the list": "ANSWER: D",
    "Answer the following multiple choice question in image": "ANSWER: B",
    "shape is widest": "ANSWER: B", "number of apples": "\\boxed{7}", "length of the line": "\\boxed{1.5}",
    "double of the number": "```python\nprint(2 * int(input()))\n```",
    "sum of a list": "```python\nclass Solution:\n    def total(self, a):\n        return sum(a)\n```",
    "Twice of the word": "```python\ndef twice(word):\n    return word + word\n```",
    "Whether a list is in order": "    return a == sorted(a)\n",
}  # fmt: skip


def reply(text: str) -> str:
    """The right answer to a prompt."""
    return next(answer for part, answer in RIGHT.items() if part in text)


def picture(n: int) -> dict[str, Any]:
    """A picture as hubs keep it in Parquet: its bytes, and a path."""
    image = Image.new("RGB", (48, 32), "white")
    ImageDraw.Draw(image).rectangle((4, 4, 4 + 5 * n, 24), fill="navy")
    held = io.BytesIO()
    image.save(held, "PNG")
    return {"bytes": held.getvalue(), "path": f"picture-{n}.png"}


def write(folder: Path) -> Path:
    """All nine under `folder`, each in a folder of its name."""
    _lines(folder / "aime24" / "test.jsonl", [
        {"id": i, "problem": f"What is {t}?", "answer": a, "url": ""}
        for i, (t, a) in enumerate((("six times seven", "042"), ("seven less than nine", "2"), ("ten squared", "100")))
    ])  # fmt: skip
    _lines(folder / "ifeval" / "input_data.jsonl", [
        _ifeval(1, "Write about rivers. Use no commas.", ["punctuation:no_comma"], [{}]),
        _ifeval(2, "Write about small letters, in small letters.", ["change_case:english_lowercase"], [{}]),
        _ifeval(3, "Write about three days, in at least three sentences.", ["length_constraints:number_sentences"],
                [{"relation": "at least", "num_sentences": 3}]),
        _ifeval(4, "Write about a crossing, in quotation marks, with the word bridge.",
                ["keywords:existence", "startend:quotation"], [{"keywords": ["bridge"]}, {}]),
    ])  # fmt: skip
    _lines(folder / "olympiadbench" / "OE_TO_maths_en_COMP.jsonl", [
        _olympiad(1, "What is half of one?", ["$\\frac{1}{2}$"]),
        _olympiad(2, "What is the square of $x+1$?", ["$x^2+2x+1$"], "Expression"),
        _olympiad(3, "Give the pair of one and two.", ["(1,2)"], "Tuple"),
        _olympiad(4, "Give both roots of $x^2=9$.", ["3,-3"], "Numerical", True),
    ])  # fmt: skip
    _pictured(folder)
    tests = [{"input": "4\n", "output": "8\n", "testtype": "stdin"}]
    calls = [{"input": "[1, 2]", "output": "3", "testtype": "functional"}]
    _lines(folder / "livecodebench" / "test6.jsonl", [
        _code("p1", "Print the double of the number.", "", tests, {}, "2025-01-04T00:00:00"),
        _code("p2", "Return the sum of a list.", "class Solution:\n    def total(self, a):\n        ", calls,
              {"func_name": "total"}, "2025-03-01T00:00:00"),
    ])  # fmt: skip
    _lines(folder / "humaneval" / "test.jsonl", [
        _human(0, "twice", "word: str", "Twice of the word", "'ab'", "'abab'"),
        _human(1, "ordered", "a: list", "Whether a list is in order", "[1, 3, 2]", "False"),
    ])  # fmt: skip
    return folder


def _human(n: int, entry: str, named: str, told: str, given: str, expected: str) -> dict[str, Any]:
    prompt = f'def {entry}({named}):\n    """ {told}. """\n'
    test = f"def check(candidate):\n    assert candidate({given}) == {expected}\n"
    return {"task_id": f"HumanEval/{n}", "prompt": prompt, "entry_point": entry, "canonical_solution": "", "test": test}


def _pictured(folder: Path) -> None:
    place = folder / "mathvision"
    (place / "images").mkdir(parents=True)
    for n in (1, 2):
        (place / "images" / f"{n}.png").write_bytes(picture(n)["bytes"])
    _lines(place / "testmini.jsonl", [
        {"id": "1", "question": "How many dots are drawn?\n<image1>", "options": [], "answer": "3", "solution": None,
         "level": 1, "subject": "counting", "image": "images/1.png"},
        {"id": "2", "question": "Which letter is drawn?\n<image1>", "options": ["A", "B", "C", "D", "E"], "answer": "B",
         "solution": None, "level": 2, "subject": "logic", "image": "images/2.png"},
    ])  # fmt: skip
    _parquet(folder / "mmmu" / "Art" / "validation-00000-of-00001.parquet", [
        _mmmu("validation_Art_1", "<image 1> What is the colour of the left shape?", ["blue", "red"], "A"),
        _mmmu("validation_Art_2", "Which is the taller bar in <image 1>?", ["p", "q", "<image 2>", "s"], "C", 2),
        _mmmu("validation_Art_3", "Count the bars of <image 1>.", [], "12"),
    ])  # fmt: skip
    ten = [f"way {i}" for i in range(10)]
    standard = [
        {**_mmmu("test_Art_1", "<image 1> Which of ten ways to say it is meant?", ten, "J"), "subject": "Art"},
        {**_mmmu("test_Math_2", "Which is the tenth of the list in <image 1>?", ten, "D"), "subject": "Math"},
    ]
    _parquet(folder / "mmmu-pro" / "standard (10 options)" / "test-00000-of-00001.parquet", standard)
    _parquet(folder / "mmmu-pro" / "standard (4 options)" / "test-00000-of-00001.parquet", standard)
    _parquet(folder / "mmmu-pro" / "vision" / "test-00000-of-00001.parquet", [
        {"id": f"test_Art_{n}", "image": picture(n), "options": str(ten), "answer": "B", "subject": "Art"} for n in (1, 2)
    ])  # fmt: skip
    _parquet(folder / "mathvista" / "data" / "testmini-00000-of-00001.parquet", [
        _mathvista("1", "Which shape is widest?", ["round", "square"], "square", "multi_choice", "text"),
        _mathvista("2", "What is the number of apples?", None, "7", "free_form", "integer"),
        _mathvista("3", "What is the length of the line?", None, "1.5", "free_form", "float", 1.0),
    ])  # fmt: skip


def _ifeval(key: int, prompt: str, names: list[str], kwargs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"key": key, "prompt": prompt, "instruction_id_list": names, "kwargs": kwargs}


def _olympiad(n: int, question: str, answers: list[str], kind: str = "Numerical", many: bool = False) -> dict[str, Any]:
    return {
        "id": n, "subfield": "Algebra", "context": None, "question": question, "solution": ["Seen."],
        "final_answer": answers, "is_multiple_answer": many, "unit": None, "answer_type": kind, "error": None,
    }  # fmt: skip


def _mmmu(name: str, question: str, options: list[str], answer: str, pictures: int = 1) -> dict[str, Any]:
    shown = {f"image_{i}": picture(i) if i <= pictures else None for i in range(1, 8)}
    return {
        "id": name, "question": question, "options": str(options), "explanation": "", "img_type": "['Plots']",
        "answer": answer, "topic_difficulty": "Easy", "subfield": "Drawing", **shown,
        "question_type": "multiple-choice" if options else "open",
    }  # fmt: skip


def _mathvista(
    pid: str,
    question: str,
    choices: list[str] | None,
    answer: str,
    kind: str,
    answers: str,
    precision: float | None = None,
) -> dict[str, Any]:
    return {
        "pid": pid, "question": question, "image": f"images/{pid}.jpg", "decoded_image": picture(int(pid)),
        "choices": choices, "unit": None, "precision": precision, "answer": answer, "question_type": kind,
        "answer_type": answers, "query": question, "metadata": {"task": "figure question answering", "grade": "daily life"},
    }  # fmt: skip


def _code(
    name: str, text: str, starter: str, tests: list[dict[str, str]], meta: dict[str, str], date: str
) -> dict[str, Any]:
    private = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()
    return {
        "question_title": name, "question_content": text, "platform": "ours", "question_id": name, "contest_id": "c",
        "contest_date": date, "starter_code": starter, "difficulty": "easy", "public_test_cases": json.dumps(tests),
        "private_test_cases": private, "metadata": json.dumps(meta),
    }  # fmt: skip


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows), path)
