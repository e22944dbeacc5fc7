"""Charts: what is drawn where, and that nothing from a file becomes markup."""

import re
from xml.etree import ElementTree

import pytest

from assay.charts import HEIGHT, LEFT, MOST, RIGHT, WIDTH, Line, _ticks, chart


def svg(html: str) -> ElementTree.Element:
    found = re.search(r"<svg.*</svg>", html, re.DOTALL)
    assert found
    return ElementTree.fromstring(found[0])


def test_a_line_goes_from_edge_to_edge_and_up() -> None:
    (line,) = svg(chart([Line(label="a", values=[(1, 0.0), (2, 5.0), (3, 10.0)])], "T")).iter("polyline")
    points = [tuple(map(float, p.split(","))) for p in line.attrib["points"].split()]
    assert [x for x, _ in points] == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]
    ys = [y for _, y in points]
    assert 0 < ys[2] < ys[1] < ys[0] < HEIGHT
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2.5, 5, 7.5, 10]), (0.61, 0.79, [0.6, 0.65, 0.7, 0.75, 0.8]), (-3, 3, [-4, -2, 0, 2, 4])],
)
def test_ticks_are_round_and_around(low: float, high: float, expected: list[float]) -> None:
    assert _ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high"), [(0.6916, 0.6933), (0.0, 1.0), (1e-7, 3e-7), (123456.0, 123457.5), (-2.0, 9.0)]
)
def test_no_two_lines_of_an_axis_have_the_same_number(low: float, high: float) -> None:
    line = Line(label="a", values=[(low, low), (high, high)])
    texts = [t.text for t in svg(chart([line], "T")).iter("text") if t.get("class") != "along"]
    across = [t.text for t in svg(chart([line], "T")).iter("text") if t.get("text-anchor") == "middle"]
    up = texts[: len(texts) - len(across)]
    assert len(set(up)) == len(up) > 2
    assert len(set(across)) == len(across)


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-9, 1e12])
def test_a_level_line_has_room(value: float) -> None:
    ticks = _ticks(value, value)
    assert ticks[0] < value < ticks[-1]


def test_what_is_no_number_is_left_out_and_nothing_says_so() -> None:
    assert "Nothing yet" in chart([Line(label="a", values=[(1, float("nan")), (2, float("inf"))])], "T")
    html = chart([Line(label="a", values=[(1, 1.0), (2, float("nan")), (3, 3.0)])], "T")
    assert "nan" not in html
    assert len(next(svg(html).iter("polyline")).attrib["points"].split()) == 2


def test_long_lines_are_drawn_as_means_of_neighbours() -> None:
    flips = Line(label="a", values=[(n, float(n % 2)) for n in range(100_000)])
    level = Line(label="b", values=[(0, 0.0), (99_999, 1.0)])
    line, _ = svg(chart([flips, level], "T")).iter("polyline")
    ys = [float(p.split(",")[1]) for p in line.attrib["points"].split()]
    assert len(ys) <= MOST
    assert max(ys) - min(ys) < HEIGHT / 20, "zeros and ones in turn are all near the middle"


def test_names_are_text() -> None:
    html = chart([Line(label="<script>1</script>", values=[(1, 1.0)])], 'T"><b>', along="<i>", unit="<u>")
    assert not re.search(r"<(script|i>|u>)|T\"><b>", html)
    assert "Last: &lt;script&gt;" in html
    svg(html)


def test_one_reading_shows_its_interval() -> None:
    root = svg(chart([Line(label="a", values=[(8, 0.5)], bands=[(0.3, 0.7)], points=True)], "T"))
    (bar,) = (e for e in root.iter("line") if e.attrib["class"] == "s1")
    (spot,) = root.iter("circle")
    assert float(bar.attrib["y2"]) < float(spot.attrib["cy"]) < float(bar.attrib["y1"])
