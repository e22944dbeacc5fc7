"""Line charts as inline SVG, for pages that change while one looks and that are read in light and in dark.

Colours are classes of `look.css`, so that a chart follows its page's theme. No script and no library draws it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 34
MOST = 240
"""Points of a line; of more, means of neighbours are drawn."""
COLOURS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """(x, y) in rising x; values that are no numbers are left out. `bands`: (low, high) at each point, or none. `dashed` is
    a level to compare with; `points` marks each value, for few of them."""

    label: str
    values: Sequence[tuple[float, float]]
    bands: Sequence[tuple[float, float]] = ()
    colour: int = 1
    dashed: bool = False
    points: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    low: float
    high: float
    at: float
    to: float

    def __call__(self, value: float) -> float:
        return round(self.at + (value - self.low) / (self.high - self.low) * (self.to - self.at), 1)


def chart(lines: Sequence[Line], title: str, along: str = "step", unit: str = "", zero: bool = False) -> Markup:
    """A figure: the title, the chart, a legend where there are several lines. `zero`: the axis begins there. Lines without a
    value are left out; without any the figure says so."""
    drawn = [kept for line in lines if (kept := _kept(line)).values]
    if not drawn:
        return Markup(
            '<figure class="chart"><figcaption>{}</figcaption><p class="dim">Nothing yet.</p></figure>'
        ).format(title)
    xs = [x for line in drawn for x, _ in line.values]
    ys = [v for line in drawn for v in (*(y for _, y in line.values), *(b for band in line.bands for b in band))]
    ticks = _ticks(min(0.0, *ys) if zero else min(ys), max(ys))
    x = _Axis(low=min(xs), high=max(xs) if max(xs) > min(xs) else min(xs) + 1, at=LEFT, to=WIDTH - RIGHT)
    y = _Axis(low=ticks[0], high=ticks[-1], at=HEIGHT - BOTTOM, to=TOP)
    parts = [_grid(x, y, ticks, along, unit), *(_line(line, x, y) for line in drawn)]
    said = "; ".join(
        f"{line.label}: {_number(line.values[-1][1])}{unit} at {along} {_number(line.values[-1][0])}" for line in drawn
    )
    svg = Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{title}. Last: {said}", Markup("").join(parts)
    )
    item = Markup('<li class="s{}"><b>{}</b> {}{}</li>')
    items = [item.format(n.colour, n.label, _number(n.values[-1][1]), unit) for n in drawn]
    legend = Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))
    return Markup('<figure class="chart"><figcaption>{}</figcaption>{}{}</figure>').format(title, svg, legend)


def _kept(line: Line) -> Line:
    """The finite values of a line, at most MOST of them."""
    fine = [n for n, (x, y) in enumerate(line.values) if math.isfinite(x) and math.isfinite(y)]
    values = [line.values[n] for n in fine]
    bands = [line.bands[n] for n in fine] if line.bands else []
    if len(values) > MOST:
        size = -(-len(values) // MOST)
        cuts = range(0, len(values), size)
        values = [_mean(values[c : c + size]) for c in cuts]
        bands = [_mean(bands[c : c + size]) for c in cuts] if bands else []
    return Line(label=line.label, values=values, bands=bands, colour=(line.colour - 1) % COLOURS + 1, dashed=line.dashed,
                points=line.points)  # fmt: skip


def _mean(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs)


def _line(line: Line, x: _Axis, y: _Axis) -> Markup:
    spots = [(x(a), y(b)) for a, b in line.values]
    path = " ".join(f"{a},{b}" for a, b in spots)
    found = []
    if line.bands:
        lows = [f"{x(a)},{y(low)}" for (a, _), (low, _) in zip(line.values, line.bands, strict=True)]
        highs = [f"{x(a)},{y(high)}" for (a, _), (_, high) in zip(line.values, line.bands, strict=True)]
        found.append(f'<polygon class="band s{line.colour}" points="{" ".join([*highs, *reversed(lows)])}"/>')
        if len(spots) == 1:
            found.append(f'<line class="s{line.colour}" x1="{spots[0][0]}" x2="{spots[0][0]}" y1="{y(line.bands[0][0])}"'
                         f' y2="{y(line.bands[0][1])}"/>')  # fmt: skip
    found.append(f'<polyline class="s{line.colour}{" dashed" if line.dashed else ""}" points="{path}"/>')
    if line.points or len(spots) == 1:
        found += [f'<circle class="s{line.colour}" cx="{a}" cy="{b}" r="2.6"/>' for a, b in spots]
    return Markup("".join(found))  # numbers and our own classes alone


def _grid(x: _Axis, y: _Axis, ticks: Sequence[float], along: str, unit: str) -> Markup:
    found = []
    for tick, label in zip(ticks, _labels(ticks), strict=True):
        found.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>')
        found.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{escape(label + unit)}</text>')
    inside = [t for t in _ticks(x.low, x.high) if x.low <= t <= x.high]
    for tick, label in zip(inside, _labels(inside), strict=True):
        found.append(f'<text x="{x(tick)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(label)}</text>')
    found.append(f'<text class="along" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(along)}</text>')
    return Markup("".join(found))


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers around what lies between."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def _labels(ticks: Sequence[float]) -> list[str]:
    """The numbers of an axis, with as many digits as tell all of them apart."""
    for digits in range(3, 12):
        labels = [_number(t, digits) for t in ticks]
        if len(set(labels)) == len(ticks):
            break
    return labels


def _number(value: float, digits: int = 3) -> str:
    """Short, for an axis or a legend: 12,000; 0.31; 1.2e-06."""
    if value == 0:
        return "0"
    if abs(value) >= 1000 and (digits == 3 or value == round(value)):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
