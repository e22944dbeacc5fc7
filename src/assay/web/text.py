"""Markdown of unknown authors as HTML that is safe to show: the conversation, the responses, the assistant's replies.

Three walls stand between a response and the browser. Raw HTML in the source is text, not HTML; links go to http(s) and
mailto only; and nh3 (the ammonia sanitiser) lets through a short list of elements, whatever stands before it got wrong.
Nothing on the result can load, run or style anything: pictures become links, and there are no ids, styles or handlers.

LaTeX becomes MathML and code is coloured here, on the server, so that the page needs no script and no network.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, tostring

from markupsafe import Markup, escape

from assay.errors import missing_extra

try:
    import nh3
    from latex2mathml.converter import convert_to_element
    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token
    from mdit_py_plugins.amsmath import amsmath_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin
except ImportError as error:  # pragma: no cover
    raise missing_extra(error.name or "a library of the page", "web") from error

from assay.web.code import highlighted

MAX_MARKDOWN = 50_000
"""Characters rendered as Markdown; the rest of a longer text follows as plain text, so that nothing is hidden."""
MAX_LINE_MARKS = 2_000
"""Text with a line of more special characters than this is shown plain: parsers can need quadratic time on such lines."""
MAX_FORMULA = 2_000
MAX_FORMULAS = 300
MAX_ENVIRONMENTS = 300

_LINK = re.compile(r"(?:https?|mailto):", re.IGNORECASE)
_SPECIAL = re.compile(r"[\[\]()*_`<>!$\\~]")
_MATH_DEPTH = 40
_FORMULA_ERRORS = (ValueError, LookupError, AttributeError, TypeError, RecursionError, AssertionError, StopIteration)

_MATHML = (
    "math mrow mi mn mo ms mtext mspace msup msub msubsup mfrac msqrt mroot mover munder munderover mtable mtr mtd mstyle"
    " mpadded mphantom menclose mmultiscripts mprescripts"
)
_HTML = "p br hr h4 h5 h6 strong em s del code pre blockquote ul ol li a table thead tbody tr th td div span"
_ATTRIBUTES: dict[str, set[str]] = {
    "a": {"href", "title", "target"},
    "ol": {"start"},
    "pre": {"class", "tabindex"},
    "code": {"class"},
    "span": {"class"},
    "div": {"class", "tabindex"},
    "th": {"class"},
    "td": {"class"},
    "math": {"display"},
    "mi": {"mathvariant"},
    "mo": {"stretchy", "fence", "form", "separator", "lspace", "rspace", "minsize", "maxsize", "movablelimits"},
    "mspace": {"width"},
    "mfrac": {"linethickness"},
    "mtable": {"columnalign", "columnlines", "rowlines", "rowspacing", "columnspacing"},
    "mtd": {"columnalign"},
    "mstyle": {"displaystyle", "scriptlevel"},
    "mover": {"accent"},
    "munder": {"accentunder"},
    "menclose": {"notation"},
}
_CLEANER = nh3.Cleaner(
    tags=set(f"{_HTML} {_MATHML}".split()),
    clean_content_tags={"script", "style"},
    attributes=_ATTRIBUTES,
    url_schemes={"http", "https", "mailto"},
    url_relative="deny",
    link_rel="noopener noreferrer nofollow",
)


def render_markdown(text: str) -> Markup:
    """`text` (CommonMark with tables, strike-through, fenced code, LaTeX) as sanitised HTML without a wrapping element.

    A formula that cannot be converted, or one beyond the first 300, is shown as its source. Headings start at h4, for the
    page's own come before them. Characters that cannot be seen but change what is read are spelled out as ⟦U+202E⟧.
    """
    visible = reveal(text)
    marks = max((len(_SPECIAL.findall(line)) for line in visible.splitlines()), default=0)
    if marks > MAX_LINE_MARKS or visible.count("\\begin") > MAX_ENVIRONMENTS:
        return plain_text(visible)
    head, tail = visible, ""
    if len(visible) > MAX_MARKDOWN:
        cut = visible.rfind("\n", MAX_MARKDOWN // 2, MAX_MARKDOWN) + 1 or MAX_MARKDOWN
        head, tail = visible[:cut], visible[cut:]
    html = Markup(_CLEANER.clean(_PARSER.render(head, {"formulas": 0})))
    if tail:
        note = Markup('<p class="note">The text is long: from here on it is shown as it is.</p>')
        html += note + plain_text(tail)
    return html


def plain_text(text: str) -> Markup:
    """`text` as it is, its white space kept, invisible characters spelled out."""
    return Markup('<pre class="plain" tabindex="0">{}</pre>').format(reveal(text))


def reveal(text: str) -> str:
    """`text` with invisible characters spelled out: bidirectional controls, zero-width and tag characters, controls.

    Joiners inside words of other scripts and inside emoji stay, for there they are part of the spelling.
    """
    return _INVISIBLE.sub(_spelled, text.replace("\r\n", "\n").replace("\r", "\n"))


_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def _spelled(match: re.Match[str]) -> str:
    char, text, at = match.group(), match.string, match.start()
    if char in "\u200c\u200d" and _joins(text[at - 1 : at]) and _joins(text[at + 1 : at + 2]):
        return char
    return f"⟦U+{ord(char):04X}⟧"


def _joins(neighbour: str) -> bool:
    """Whether a joiner may stand beside this character: a letter or mark beyond Latin, or a symbol such as an emoji."""
    return neighbour > "\u02ff" and (neighbour == "\ufe0f" or unicodedata.category(neighbour)[0] in "LMS")


def formula(latex: str, display: bool) -> str:
    """`latex` as MathML, or its source in a `code` element where it is too long, too deep or not understood."""
    source = f'<code class="formula">{escape(latex)}</code>'
    if len(latex) > MAX_FORMULA or "&#" in latex or latex.count("{") > 10 * _MATH_DEPTH or _depth(latex) > _MATH_DEPTH:
        return source
    try:
        return _mathml(convert_to_element(latex, display="block" if display else "inline"))
    except _FORMULA_ERRORS:
        return source
    except Exception as error:
        if type(error).__module__.startswith("latex2mathml"):
            return source
        raise


_REFERENCE = re.compile(r"&#x([0-9A-Fa-f]{1,6});")


def _characters(text: str) -> str:
    """latex2mathml writes symbols as references; what an author writes like one is shown as source (see `formula`)."""
    return _REFERENCE.sub(lambda m: chr(int(m[1], 16)), text)


def _mathml(math: Element) -> str:
    """The element as text. latex2mathml's own `convert` leaves the inside of \\text unescaped: HTML of unknown authors."""
    for element in math.iter():
        element.text, element.tail = _characters(element.text or ""), _characters(element.tail or "")
    return tostring(math, encoding="unicode", short_empty_elements=False)


def _depth(latex: str) -> int:
    deepest = depth = 0
    for char in latex:
        depth += (char == "{") - (char == "}")
        deepest = max(deepest, depth)
    return max(deepest, latex.count("\\left"), latex.count("\\begin"))


class _Renderer(RendererHTML):
    """What differs from markdown-it's own HTML: lower headings, no pictures, coloured code, MathML."""

    def heading_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"<{_heading(tokens[idx].tag)}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f"</{_heading(tokens[idx].tag)}>"

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """A link instead: loading a picture would tell its server who reads, and need the network."""
        token = tokens[idx]
        alt = self.renderInlineAsText(token.children or [], options, env) or "no description"
        link = Markup('<a href="{}" target="_blank">[picture, not loaded: {}]</a>')
        return str(link.format(token.attrGet("src") or "", alt))

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        tokens[idx].attrSet("target", "_blank")
        return self.renderToken(tokens, idx, options, env)

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return '<div class="table" tabindex="0"><table>'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return "</table></div>"

    def th_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _cell(tokens[idx])

    def td_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _cell(tokens[idx])

    def fence(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        language = tokens[idx].info.strip().split(maxsplit=1)[:1]
        return f'<pre class="code" tabindex="0"><code>{highlighted(tokens[idx].content, *language)}</code></pre>'

    def code_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<pre class="code" tabindex="0"><code>{escape(tokens[idx].content)}</code></pre>'

    def math_inline(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _counted(tokens[idx].content, False, env)

    def math_inline_double(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return _counted(tokens[idx].content, True, env)

    def math_block(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        return f'<div class="math" tabindex="0">{_counted(tokens[idx].content, True, env)}</div>'

    amsmath = math_block


def _heading(tag: str) -> str:
    return f"h{min(6, int(tag[1]) + 3)}"


def _cell(token: Token) -> str:
    """A table cell whose alignment is a class, for the page's policy forbids inline styles."""
    align = str(token.attrGet("style") or "").removeprefix("text-align:")
    return f'<{token.tag} class="{align}">' if align in ("left", "right", "center") else f"<{token.tag}>"


def _counted(latex: str, display: bool, env: Any) -> str:
    env["formulas"] += 1
    if env["formulas"] > MAX_FORMULAS:
        return f'<code class="formula">{escape(latex)}</code>'
    return formula(latex.strip(), display)


def _brackets(parser: MarkdownIt) -> None:
    r"""`\(..\)` and `\[..\]`, as most language models write LaTeX; `\[` may open in the middle of a paragraph."""

    def inline(state: Any, silent: bool) -> bool:
        for opening, closing, name in ((r"\(", r"\)", "math_inline"), (r"\[", r"\]", "math_inline_double")):
            if state.src.startswith(opening, state.pos):
                end = state.src.find(closing, state.pos + 2, state.posMax)
                if end < 0 or not state.src[state.pos + 2 : end].strip() or end - state.pos > MAX_FORMULA:
                    return False
                if not silent:
                    state.push(name, "math", 0).content = state.src[state.pos + 2 : end]
                state.pos = end + 2
                return True
        return False

    def block(state: Any, start: int, end: int, silent: bool) -> bool:
        if state.is_code_block(start) or not _line(state, start).startswith(r"\["):
            return False
        for last in range(start, min(end, start + 100)):
            text = _line(state, last).rstrip()
            if not text or (r"\]" in text and not text.endswith(r"\]")):
                return False
            if text.endswith(r"\]"):
                if not silent:
                    token = state.push("math_block", "math", 0)
                    token.content = "\n".join(_line(state, n).strip() for n in range(start, last + 1))[2:-2]
                    token.map = [start, last + 1]
                    state.line = last + 1
                return True
        return False

    parser.inline.ruler.before("escape", "math_brackets", inline)
    parser.block.ruler.before("fence", "math_brackets", block, {"alt": ["paragraph", "blockquote", "list"]})


_RUN = re.compile(r"\*+")


def _products(parser: MarkdownIt) -> None:
    """Asterisks without space between two operands are a product or a power, not emphasis: `9*sqrt(2) - 3*sqrt(2)`.

    CommonMark would take the pair away and set half a formula in italics. In Chinese and Japanese, which have no spaces,
    emphasis stands between letters: there they mean what they do elsewhere.
    """

    def product(state: Any, silent: bool) -> bool:
        run = _RUN.match(state.src, state.pos)
        if not run or not _operand(state.src[state.pos - 1 : state.pos], ")]}"):
            return False
        if not _operand(state.src[run.end() : run.end() + 1], "([{"):
            return False
        if not silent:
            state.pending += run.group()
        state.pos = run.end()
        return True

    parser.inline.ruler.before("emphasis", "product", product)


def _operand(character: str, brackets: str) -> bool:
    return bool(character) and (character in brackets or (character.isalnum() and character < "\u2e80"))


def _line(state: Any, number: int) -> str:
    return str(state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]])


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 20}, renderer_cls=_Renderer)
    parser.enable(["table", "strikethrough"])
    parser.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    parser.use(amsmath_plugin)
    renderer: Any = parser.renderer
    for rule in ("math_inline", "math_inline_double", "math_block", "amsmath"):  # the plugins set their own
        renderer.rules[rule] = getattr(renderer, rule)
    parser.use(_brackets)
    parser.use(_products)
    parser.validateLink = lambda url: bool(_LINK.match(url.strip()))  # type: ignore[method-assign]
    return parser


_PARSER = _parser()
