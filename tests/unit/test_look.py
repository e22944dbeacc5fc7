"""The shared look: contrasts that WCAG asks for, and drawings that follow the theme."""

import re

import pytest
from matplotlib import pyplot as plt

from assay.look import css, drawn, paper


def themes() -> list[dict[str, str]]:
    """Light, dark by choice, dark by system: the custom properties of each."""
    blocks = re.findall(r":root[^{]*{([^}]*)}", css())
    return [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in blocks]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_both_ways_into_the_dark_are_the_same() -> None:
    light, chosen, system = themes()
    assert chosen == system
    assert chosen.keys() == light.keys()


@pytest.mark.parametrize("theme", [0, 1])
def test_text_and_lines_can_be_read_on_every_ground(theme: int) -> None:
    colours = themes()[theme]
    for ground in ("ground", "box", "soft", "accent-soft"):
        for ink in ("ink", "dim", "accent"):
            assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for ink, ground in (("on-accent", "accent"), ("bad", "bad-soft"), ("bad", "box"), ("good", "box")):
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for line in ("edge", "focus", *(f"c{n}" for n in range(1, 9))):
        assert contrast(colours[line], colours["box"]) >= 3, line


def test_a_drawing_follows_the_theme_and_fits_beside_others() -> None:
    pictures = []
    for heights in ([1, 2], [2, 1]):
        figure, axes = plt.subplots(figsize=(6, 3))
        axes.plot([0, 1], heights, color="#b8860b", label="<b>")
        axes.set_xlabel("a & b")
        axes.legend()
        pictures.append(drawn(figure, 'what "it" shows'))
    one = pictures[0]
    assert "var(--c1)" in one
    assert "currentColor" in one
    assert not re.search("#000000|#ffffff|http", one)
    assert "&lt;b&gt;" in one
    assert "a &amp; b" in one, "text is text"
    assert 'aria-label="what &#34;it&#34; shows"' in one
    ids = [set(re.findall(r'id="([^"]+)"', p)) for p in pictures]
    assert not ids[0] & ids[1]
    assert {u for u in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', one) for u in u if u} <= ids[0]


def test_a_report_asks_no_other_server() -> None:
    assert "http" not in paper()
    assert "@import" not in paper()
