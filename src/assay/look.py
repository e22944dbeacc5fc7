"""What the page and the reports look like: one accent colour, one mark, both themes (`look.css`)."""

from functools import cache
from importlib import resources

from markupsafe import Markup

MARK = Markup(
    '<svg viewBox="0 0 16 16" aria-hidden="true" focusable="false"><rect width="16" height="16" rx="3.5" fill="#855400"/>'
    '<path d="M4 12 8 3.4l4 8.6M5.6 9h4.8" fill="none" stroke="#fff" stroke-width="1.7" stroke-linecap="round"'
    ' stroke-linejoin="round"/></svg>'
)
"""The mark, inline. It keeps its colours in both themes."""


@cache
def css() -> Markup:
    """The colours of both themes as custom properties, and the mark."""
    return Markup(resources.files("assay").joinpath("look.css").read_text(encoding="utf-8"))
