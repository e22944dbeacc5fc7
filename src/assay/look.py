"""The look of the page and the reports: one accent colour, one mark, both themes (`look.css`), drawings that follow them."""

import io
import re
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

MARK = Markup(
    '<svg viewBox="0 0 16 16" aria-hidden="true" focusable="false"><rect width="16" height="16" rx="3.5" fill="#855400"/>'
    '<path d="M4 12 8 3.4l4 8.6M5.6 9h4.8" fill="none" stroke="#fff" stroke-width="1.7" stroke-linecap="round"'
    ' stroke-linejoin="round"/></svg>'
)
"""The mark, inline. It keeps its colours in both themes."""
_COLOURS = {
    "#000000": "currentColor", "#ffffff": "var(--box)", "#b0b0b0": "var(--line)", "#cccccc": "var(--line)",
    "#b8860b": "var(--c1)", "#2a6fbb": "var(--c2)", "#c0392b": "var(--c3)", "#2a9d5c": "var(--c4)", "#2a7a2a": "var(--c4)",
    "#08306b": "var(--c5)", "#888888": "var(--c6)", "#9ecae1": "var(--c7)", "#7fbf7f": "var(--c8)",
}  # fmt: skip
"""Colours that our plots draw with, as those of the theme. Others stay."""


@cache
def css() -> Markup:
    """The colours of both themes as custom properties, the mark, the charts."""
    return Markup(resources.files("assay").joinpath("look.css").read_text(encoding="utf-8"))


@cache
def paper() -> Markup:
    """The style of a report: `css` and that of its text and tables."""
    return css() + Markup(resources.files("assay").joinpath("paper.css").read_text(encoding="utf-8"))


def drawn(figure: Any, alt: str) -> Markup:
    """A matplotlib figure as inline SVG whose lines and texts follow the page's theme; the figure is closed."""
    import matplotlib
    from matplotlib import pyplot as plt

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "assay", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    mine = f"f{sha256(svg.encode()).hexdigest()[:8]}-"  # ids of several figures on a page
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{mine}", svg)
    svg = re.sub("#[0-9a-f]{6}", lambda m: _COLOURS.get(m[0], m[0]), svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box, "matplotlib writes one"
    width = float(box[1].split()[2]) * 96 / 72  # points to pixels
    about = f'viewBox="{box[1]}" role="img" aria-label="{escape(alt)}" style="max-width:{width:.0f}px"'
    svg = re.sub(r"^<svg[^>]*>", lambda _: f'<svg class="plot" {about}>', svg)
    return Markup(svg.replace("xlink:href", "href"))
