"""What a finished `assay policy run` or an ablation came to: a table in the terminal, and one HTML page with plots."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from assay.errors import AssayError
from assay.figures import FEW, NEEDED, told
from assay.journal import read
from assay.look import MARK, paper
from assay.policy import shown
from assay.policy.reading import Reading
from assay.run import environments, machines
from assay.statistics import Estimate, interval
from assay.tables import sibling, write_text
from assay.tuning import watched_page
from assay.tuning.plots import curves, plot
from assay.tuning.stages import reading_from

HEADER = ("policy", "right, %", "hallucination rate, %", "same answer, blank picture, %", "by chance, %",
          "same answer, other picture, %", "no clear answer")  # fmt: skip
STYLE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{{ css }}</style><main>
<div class="mark">{{ mark }} Assay</div><h1>{{ title }}</h1><p>{{ model }}</p>
"""
TABLE = """<div class="wide" tabindex="0" role="group" aria-label="Table"><table>
<tr>{% for h in header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
"""
PLOTS = """{% for caption, image in plots %}<h2>{{ caption }}</h2>
<figure tabindex="0">{{ image }}</figure>{% endfor %}
"""
SECTIONS = """{% for s in sections %}<h2>{{ s.title }}</h2>
{% if s.picture %}<figure tabindex="0">{{ s.picture }}</figure>{% endif %}
{% if s.rows %}<div class="wide" tabindex="0" role="group" aria-label="Table"><table>
<tr>{% for h in s.header %}<th>{{ h }}</th>{% endfor %}</tr>
{% for row in s.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>{% endif %}
<p><small>{{ s.note }}</small></p>{% endfor %}
"""
END = """<h2>Settings</h2><pre>{{ config }}</pre>
<p>{{ machine }}</p></main></html>
"""
RUN = (
    f"{STYLE}<h2>Policies</h2>{TABLE}"
    + """
{% for name, reason in skipped.items() %}<p>{{ name }}: skipped: {{ reason }}</p>{% endfor %}
<p><small>{{ n }} test questions, greedy answers, 95% intervals{% if looked %} over pictures. A hallucination is an answer
whose reasoning names something that is not in the picture; the papers do not define theirs{% endif %}.</small></p>
"""
    + PLOTS
    + SECTIONS
    + "<h2>Preference pairs</h2><pre>{{ pairs }}</pre>"
    + END
)
TRAINING = (
    f"{STYLE}{PLOTS}"
    + "{% if rows %}<h2>What the monitor read</h2>"
    + TABLE
    + """
<p><small>Greedy answers to the questions to watch, 95% intervals.</small></p>{% endif %}
"""
    + SECTIONS
    + """
{% if answers %}<h2>Sampled answers</h2>
<p><small>Of a few prompts at {{ steps }} steps: the best and the worst one, and the first that was cut off. All that were
kept lie in answers/*.parquet.</small></p>
<div class="wide" tabindex="0" role="group" aria-label="Table"><table>
<tr>{% for h in shown %}<th>{{ h }}</th>{% endfor %}</tr>
{% for row in answers %}<tr>{% for cell in row %}<td style="white-space:pre-wrap">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% endif %}
<h2>What it came to</h2><pre>{{ came_to }}</pre>
"""
    + END
)


def policies(folder: Path) -> dict[str, Reading]:
    """The test reading of every policy of a run, in the order of the stages."""
    stages = ("aligned", "mpo", "grpo")
    found = sorted(
        (folder / "steps" / "evaluate").glob("*.json"),
        key=lambda p: (stages.index(stage) if (stage := p.stem.partition("-")[0]) in stages else len(stages), p.stem),
    )
    if not found:
        raise AssayError(
            f"{folder}: no policy was evaluated here yet; give the same `assay policy run` command to resume"
        )
    return {p.stem: reading_from(json.loads(p.read_text())["reading"]) for p in found}


def skipped(folder: Path) -> dict[str, str]:
    """The stages that had nothing to learn from, with the reason."""
    results = {p.stem: json.loads(p.read_text()) for p in sorted((folder / "steps").glob("*.json"))}
    return {name: r["skipped"] for name, r in results.items() if "skipped" in r}


def percent(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return told(estimate, "")


def grid(readings: Mapping[str, Reading]) -> tuple[list[str], list[list[str]]]:
    """The header and a row for each policy, without the columns that no reading has."""
    rows = [
        [
            name, percent(r.accuracy), percent(r.hallucination_rate), percent(r.blind_agreement),
            "-" if r.chance_agreement is None else f"{100 * r.chance_agreement:.1f}", percent(r.swap_agreement),
            str(r.unclear),
        ]
        for name, r in readings.items()
    ]  # fmt: skip
    return _told(HEADER, rows)


def _told(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    kept = [n for n in range(len(header)) if any(row[n] != "-" for row in rows)]
    return [header[n] for n in kept], [[row[n] for n in kept] for row in rows]


SHORT = ("policy", "right, %", "invents, %", "names, %", "same if blank, %", "if swapped, %")
"""Of the table in a terminal: "invents" is the hallucination rate, "names" the share of what is there that is named."""


def summary(folder: Path, console: Console) -> None:
    """Print the table of policies, narrow enough for 80 columns, without the columns that no policy has; n stands in the
    header."""
    found = {
        name: (r.accuracy, r.hallucination_rate, r.named, r.blind_agreement, r.swap_agreement)
        for name, r in policies(folder).items()
    }
    heads = [
        SHORT[0],
        *(title + _of(column) for title, column in zip(SHORT[1:], zip(*found.values(), strict=True), strict=True)),
    ]
    header, rows = _told(heads, [[name, *map(_brief, estimates)] for name, estimates in found.items()])
    table = RichTable(*header, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for name, reason in skipped(folder).items():
        console.print(f"{name}: skipped: {reason}")


def _of(column: Sequence[Estimate | None]) -> str:
    """How many answers the shares of a column are of, for its header."""
    known = [e for e in column if e is not None]
    if not known:
        return ""
    least, most = min(e.n for e in known), max(e.n for e in known)
    few = f"\n{FEW}" if min(e.clusters for e in known) < NEEDED - 0.5 else ""
    return f"\nn {least:,}{f' to {most:,}' if most > least else ''}{few}"


def _brief(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    low, high = interval(estimate)
    return f"{100 * estimate.value:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def write_report(folder: Path) -> Path:
    """Write `report.html` of a run folder; returns its path."""
    readings = policies(folder)
    config = json.loads((folder / "config.json").read_text())
    steps = folder / "steps"
    steps_of = {name: read(folder / "models" / name / "metrics.jsonl") for name in readings}
    plots = [found for name, metrics in steps_of.items() for found in curves(name, metrics)]
    looked = any(r.accuracy and r.hallucination_rate for r in readings.values())
    if looked:
        numbered = ", ".join(f"{n} {name}" for n, name in enumerate(readings, 1))
        picture = plot(list(_numbered(readings)))
        plots.append((f"Accuracy against hallucination rate ({numbered})", picture))
    pairs = [json.loads(p.read_text()).get("counts") for p in sorted(steps.glob("*.json")) if p.stem.startswith("mpo")]
    base = json.loads((steps / "base.json").read_text())["model"] if (steps / "base.json").exists() else ""
    header, rows = grid(readings)
    page = jinja2.Environment(autoescape=True).from_string(RUN).render(
        title=f"{config['recipe']}: {folder.name}", css=paper(), mark=MARK, model=base, header=header, rows=rows,
        looked=looked,
        n=next(iter(readings.values())).n, plots=plots,
        sections=_sections(readings, steps_of), skipped=skipped(folder), pairs=json.dumps(pairs, indent=1),
        config=json.dumps(config, indent=1), machine=machines(environments(folder)),
    )  # fmt: skip
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _sections(readings: Mapping[str, Reading], steps: Mapping[str, list[dict[str, Any]]]) -> list[watched_page.Section]:
    """What policies invent, by claim and by length, on the test questions; and what watched each training."""
    tested = watched_page.hallucination(readings, "policy")
    found = [replace(tested, title=f"{tested.title}, on the test questions")] if tested is not None else []
    return [
        *found,
        *(replace(s, title=f"{name}: {s.title}") for name, m in steps.items() for s in watched_page.sections(m)),
    ]


def is_training(folder: Path) -> bool:
    """Is this the folder of one training (`assay policy grpo`, `mpo`, `align`), finished or not, rather than of a run?"""
    return any((place / name).exists() for place, name in _places(folder))


def _places(folder: Path) -> list[tuple[Path, str]]:
    return [(folder, "training.json"), (sibling(folder, ".partial"), "identity.json")]


def write_training_report(folder: Path) -> Path:
    """Write `report.html` of one training: curves, what its monitor read, settings; of an unfinished one in its `.partial`,
    as far as it is. Raises AssayError where no step has been taken yet."""
    place, name = next((place, name) for place, name in _places(folder) if (place / name).exists())
    told, metrics = json.loads((place / name).read_text()), read(place / "metrics.jsonl")
    if not metrics:
        raise AssayError(f"{folder}: no step has been taken yet")
    readings = {str(m["step"]): Reading.of_metrics(m) for m in metrics if "watch_n" in m}
    header, rows = grid(readings) if readings else ([], [])
    plots = curves(folder.name, metrics)
    if any(r.accuracy and r.hallucination_rate for r in readings.values()):
        picture = plot(list(readings.values()))
        plots.append(("Accuracy against hallucination rate, by step", picture))
    settings, worked_on, answers = told.pop("identity"), told.pop("machines", []), _answers(place)
    page = jinja2.Environment(autoescape=True).from_string(TRAINING).render(
        css=paper(), mark=MARK,
        title=folder.name, model="" if name == "training.json" else f"{metrics[-1]['step']:,} steps so far", plots=plots,
        sections=watched_page.sections(metrics),
        header=["step", *header[1:]], rows=rows, came_to=json.dumps(told, indent=1), config=json.dumps(settings, indent=1),
        machine=machines(worked_on), answers=answers, shown=SHOWN, steps=len({a[0] for a in answers}),
    )  # fmt: skip
    write_text(place / "report.html", page)
    return place / "report.html"


SHOWN = ("step", "which", "question", "right answer", "answer", "reward", "its terms, unweighted", "problem")
TERMS = {"rule": "right", "format": "form", "claims": "claims", "model": "model", "overlong": "too long"}
STEPS = 5
"""Of which sampled answers are shown."""
LONG = 600
"""Characters of a text that are shown."""


def _answers(folder: Path) -> list[list[str]]:
    """Rows of SHOWN, from the answers that a training kept."""
    rows, by_step = list[list[str]](), dict[int, list[shown.ShownAnswer]]()
    for answer in shown.read(folder, STEPS):
        by_step.setdefault(answer.step, []).append(answer)
    for step, answers in by_step.items():
        ranked = sorted(answers, key=lambda a: -math.inf if math.isnan(a.total) else a.total)
        chosen = {"best": ranked[-1], "worst": ranked[0]}
        if cut := next((a for a in ranked[1:-1] if not a.ended), None):
            chosen["cut off"] = cut
        for which, a in chosen.items():
            terms = ", ".join(f"{said} {x:.3g}" for name, said in TERMS.items() if (x := getattr(a, name)))
            rows.append([
                str(step), which, _clipped(a.question), a.answer, _clipped(a.text), f"{a.total:.3f}", terms, a.problem,
            ])  # fmt: skip
    return rows


def _clipped(text: str) -> str:
    return text if len(text) <= LONG else f"{text[: LONG // 2]} [...] {text[-LONG // 2 :]}"


def _numbered(readings: Mapping[str, Reading]) -> Sequence[Reading]:
    return [replace(r, step=n) for n, r in enumerate(readings.values(), 1)]
