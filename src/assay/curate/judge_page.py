"""The report on judges as tables in the terminal, as Markdown, and as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from assay.curate.judge_report import CostRow, JudgeReport
from assay.figures import LEGEND, counted

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title><style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .7rem; border-bottom: 1px solid #8884; white-space: nowrap; }
h2 { font-size: 1.15rem; margin: 1.8rem 0 .4rem; } .dim { opacity: .75; max-width: 60rem; }
</style><main><h1>{{ title }}</h1><p class="dim">{{ machine }}</p>
{% for s in sections %}<h2>{{ s.title }}</h2><div class="wide" tabindex="0" role="group" aria-label="{{ s.title }}"><table>
<tr>{% for h in s.header %}<th scope="col">{{ h }}</th>{% endfor %}</tr>
{% for row in s.rows %}<tr>{% for v in row %}<td>{{ v }}</td>{% endfor %}</tr>
{% endfor %}</table></div>{% if s.note %}<p class="dim">{{ s.note }}</p>{% endif %}{% endfor %}</main></html>
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One table: a header and rows of the same length."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def sections(report: JudgeReport) -> list[Section]:
    """The tables of a report, those without rows left out."""
    agreement = tuple((j.judge, f"{j.pairs:,}", str(j.coverage), str(j.agreement), str(j.right)) for j in report.judges)
    leans = (
        "for the first shown",
        "same in both orders",
        "same in two samples",
        "for the longer",
        "gold is the longer",
    )
    spending = ("answers", "cost not told", "tokens in", "tokens out", "cost", "for a label that agrees with gold")
    habits = tuple(
        (j.judge, str(j.first), str(j.steady), str(j.sure), str(j.longer), str(j.longer_right))
        for j in report.judges
        if j.first.n
    )
    found = [
        Section(
            title="Agreement with gold, %", rows=agreement,
            header=("judge", "pairs", "decided, %", "agree with gold, %", "undecided as wrong, %"),
            note="95 % intervals, errors clustered by question. No merge saw the gold of a question it is measured on. "
                 f"{LEGEND[0].upper()}{LEGEND[1:]}.",
        ),
        Section(
            title=f"Agreement of the merged judgements, {report.merge}, by kind of pair, %",
            header=("part", "agree with gold, %"),
            rows=tuple((name, str(s)) for name, s in report.parts.items()),
        ),
        Section(
            title="Habits, % of votes", rows=habits,
            header=("judge", *leans),
            note="Without a lean to a position the first column is 50. The last two columns are of the same gold pairs.",
        ),
        Section(
            title="Agreement among models, beyond chance",
            header=("between", "measure", "value", "same verdict, %", "pairs"),
            rows=tuple(
                (a.between, a.measure, _kappa(a.value, a.low, a.high), a.same or "-", f"{a.pairs:,}")
                for a in report.between
            ),
        ),
        Section(
            title="Votes without a verdict", header=("judge", "problem", "votes", "% of its votes"),
            rows=tuple(
                (judge, problem, f"{count:,}", counted(count, report.votes // len(report.problems)))
                for judge, reasons in report.problems.items()
                for problem, count in reasons.items()
            ),
        ),
        Section(
            title="Cost", header=("judge", *spending),
            rows=tuple(_cost(c) for c in report.costs),
            note="Cost not told: answers that timed out or were cut, counted at the most that they can have cost.",
        ),
    ]  # fmt: skip
    return [s for s in found if s.rows]


def show(found: Sequence[Section], console: Console) -> None:
    for section in found:
        grid = Table(*map(escape, section.header), title=escape(section.title), title_justify="left", box=box.SIMPLE)
        for row in section.rows:
            grid.add_row(*map(escape, row))
        console.print(grid)
        if section.note:
            console.print(f"  [dim]{escape(section.note)}[/dim]", soft_wrap=True)


def markdown(found: Sequence[Section]) -> str:
    parts = []
    for s in found:
        lines = [s.header, tuple("---" for _ in s.header), *s.rows]
        table = "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)
        parts.append(f"## {s.title}\n\n{table}\n" + (f"\n{s.note}\n" if s.note else ""))
    return "\n".join(parts)


def page(found: Sequence[Section], title: str, environment: Mapping[str, Any]) -> str:
    machine = ", ".join(f"{k} {v}" for k, v in environment.items() if isinstance(v, str | int | float))
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    return template.render(title=title, machine=machine, sections=found)


def _cost(row: CostRow) -> tuple[str, ...]:
    each = "-"
    if row.cost_per_correct and row.cost:
        each = f"{row.cost_per_correct:.3g}"
    elif row.tokens_per_correct:
        each = f"{row.tokens_per_correct:,.0f} tokens"
    spent = f"{row.cost:.4g}" if row.cost else "-"
    return (
        row.judge, f"{row.answers:,}", f"{row.untold:,}", f"{row.tokens_in:,}", f"{row.tokens_out:,}", spent, each,
    )  # fmt: skip


def _kappa(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")
