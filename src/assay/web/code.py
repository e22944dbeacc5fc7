"""Code with its parts in colour, by Pygments, as classes; the colours of both themes meet WCAG AA (4.5 : 1)."""

from markupsafe import escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.style import Style
from pygments.token import (
    Comment,
    Error,
    Generic,
    Keyword,
    Literal,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Text,
    Token,
)

MAX_CODE = 20_000
_NAMES = (
    "bash c c++ cpp csharp c# css diff dockerfile fortran go golang haskell html http ini java javascript js json julia"
    " kotlin latex lua make makefile matlab objective-c ocaml perl php powershell python py python3 pycon r ruby rb rust rs"
    " scala scheme sh shell sql swift tex toml ts typescript xml yaml yml zig"
)
LANGUAGES = frozenset(_NAMES.split())
"""Languages that are coloured. A list, because a lexer is a set of regular expressions that a hostile text may make slow."""


class Light(Style):  # type: ignore[misc]
    """Dark ink on a light ground."""

    background_color = "#f6f8fa"
    styles = {  # noqa: RUF012 (Pygments' own interface)
        Token: "#1f2328", Text: "#1f2328", Comment: "italic #57606a", Keyword: "bold #a3113c", Operator: "#1f2328",
        Punctuation: "#1f2328", Name.Function: "#6639ba", Name.Class: "#6639ba", Name.Builtin: "#0a3d91",
        Name.Decorator: "#6639ba", Name.Tag: "#116329", Name.Attribute: "#0a3d91", Name.Constant: "#0a3d91",
        String: "#0a3069", Number: "#0550ae", Literal: "#0550ae", Error: "#a40e26", Generic.Deleted: "#82071e",
        Generic.Inserted: "#116329", Generic.Heading: "bold #0a3069", Generic.Subheading: "bold #0a3069",
        Generic.Emph: "italic", Generic.Strong: "bold",
    }  # fmt: skip


class Dark(Style):  # type: ignore[misc]
    """Light ink on a dark ground."""

    background_color = "#161b22"
    styles = {  # noqa: RUF012
        Token: "#e6edf3", Text: "#e6edf3", Comment: "italic #9ba5b0", Keyword: "bold #ff8c82", Operator: "#e6edf3",
        Punctuation: "#e6edf3", Name.Function: "#d2a8ff", Name.Class: "#d2a8ff", Name.Builtin: "#79c0ff",
        Name.Decorator: "#d2a8ff", Name.Tag: "#7ee787", Name.Attribute: "#79c0ff", Name.Constant: "#79c0ff",
        String: "#a5d6ff", Number: "#79c0ff", Literal: "#79c0ff", Error: "#ffa198", Generic.Deleted: "#ffa198",
        Generic.Inserted: "#7ee787", Generic.Heading: "bold #a5d6ff", Generic.Subheading: "bold #a5d6ff",
        Generic.Emph: "italic", Generic.Strong: "bold",
    }  # fmt: skip


_HTML = HtmlFormatter(nowrap=True)


def highlighted(code: str, language: str = "") -> str:
    """`code` as HTML spans, or escaped as it is where the language is not known or the code is long."""
    if language.lower() not in LANGUAGES or len(code) > MAX_CODE:
        return str(escape(code))
    return str(highlight(code, get_lexer_by_name(language.lower(), stripnl=False), _HTML))


def code_css() -> str:
    """The style sheet: light, dark where the system asks for it, and either one by `data-theme` on the root element."""
    light, dark = _rules(Light), _rules(Dark)
    chosen = "\n".join(f':root[data-theme="dark"] {rule}' for rule in dark)
    system = "\n".join(f':root:not([data-theme="light"]) {rule}' for rule in dark)
    return "\n".join(light) + f"\n{chosen}\n@media (prefers-color-scheme: dark) {{\n{system}\n}}\n"


def _rules(style: type[Style]) -> list[str]:
    """One rule a line, each within `pre.code`."""
    ink = dict(style.styles)[Token]
    rules = HtmlFormatter(style=style).get_style_defs("pre.code").splitlines()
    inside = [r.split(" /*")[0] for r in rules if r.startswith("pre.code .") and "{" in r]
    return [f"pre.code {{ background: {style.background_color}; color: {ink} }}", *inside]
