"""Markdown of unknown authors: what is shown, and that nothing in it can run, load or hide."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.web.code import Dark, Light, code_css
from assay.web.diff import difference
from assay.web.text import MAX_MARKDOWN, plain_text, render_markdown, reveal

ALLOWED_TAGS = {
    "p", "br", "hr", "h4", "h5", "h6", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "table",
    "thead", "tbody", "tr", "th", "td", "div", "span", "math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msup",
    "msub", "msubsup", "mfrac", "msqrt", "mroot", "mover", "munder", "munderover", "mtable", "mtr", "mtd", "mstyle",
    "mpadded", "mphantom", "menclose", "mmultiscripts", "mprescripts",
}  # fmt: skip
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<iframe src='javascript:alert(1)'></iframe>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "[x](vbscript:msgbox(1))",
    "[x](//evil.example/a)",
    "[x](/lead/users)",
    "![x](javascript:alert(1))",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    "![x](http://evil.example/pixel.png)",
    '![x"onerror="alert(1)](https://evil.example/a)',
    '[x](https://a.example/"onmouseover="alert(1))',
    '[x](https://a.example "title\\" onclick=\\"alert(1)")',
    '<https://a.example/"onclick=alert(1)>',
    "<javascript:alert(1)>",
    "[x][1]\n\n[1]: javascript:alert(1)",
    "```<script>alert(1)</script>\ncode\n```",
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "$<script>alert(1)</script>$",
    r"$\text{<img src=x onerror=alert(1)>}$",
    r"$\href{javascript:alert(1)}{x}$",
    r"$\style{position:fixed}{x}$",
    r"\[\class{x}{<svg onload=alert(1)>}\]",
    r"$\unicode{60}script\unicode{62}$",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<noscript><p title='</noscript><img src=x onerror=alert(1)>'>",
    "| a |\n|---|\n| <script>alert(1)</script> |",
    "<style>*{display:none}</style>",
    "<form action=//evil.example><input name=q></form>",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>",
    "<a href='https://a.example' style='position:fixed' id=x onclick=alert(1)>x</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\x00<scr\x00ipt>alert(1)</script>",
]


class Page(HTMLParser):
    """Every element, attribute and text of a fragment."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(str(html))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_harmless(html: str) -> None:
    page = Page(html)
    assert set(page.tags) <= ALLOWED_TAGS
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in {"style", "id", "src", "srcset", "name", "xlink:href", "action", "formaction"}, (tag, name)
        if name == "href":
            assert tag == "a"
            assert re.match(r"(https?|mailto):", value, re.IGNORECASE)
    for tag in re.findall(r"<a [^>]*>", html):
        assert 'rel="noopener noreferrer nofollow"' in tag


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_shown_and_does_nothing(attack: str) -> None:
    assert_harmless(render_markdown(attack))
    assert_harmless(render_markdown(f"> - **{attack}**\n\n{attack}"))
    assert_harmless(plain_text(attack))
    for side in difference(attack, attack[::-1]):
        assert set(Page(side).tags) <= {"del", "ins"}


PIECES = st.sampled_from([*ATTACKS, *"[]()*_`<>!$\\~|#&\"'\n -", "\n\n", "](", "![", "$$", r"\[", r"\]", "http://a.b", "a b",
                          "\u202e", "```", r"\begin{align}", r"\frac{", "\ud800", "é", "👩‍🔬"])  # fmt: skip


@settings(max_examples=400)
@given(st.lists(PIECES | st.text(max_size=5), max_size=25))
def test_no_mixture_gets_through(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert_harmless(render_markdown(text))
    one, other = difference(text, text[::-1])
    assert set(Page(one).tags) <= {"del"}
    assert set(Page(other).tags) <= {"ins"}
    assert (Page(one).text, Page(other).text) == (reveal(text), reveal(text[::-1]))


def test_markdown_as_chat_models_write_it() -> None:
    html = render_markdown("# T\n\n**b** `c` ~~d~~\none\ntwo\n\n1. x\n\n| a | b |\n|--:|:-:|\n| 1 | 2 |")
    for part in (
        "<h4>T</h4>",
        "<strong>b</strong>",
        "<code>c</code>",
        "<s>d</s>",
        "one<br>\ntwo",
        "<ol>",
        '<td class="right">1',
    ):
        assert part in html


def test_code_is_coloured_by_classes() -> None:
    assert '<span class="k">def</span>' in render_markdown("```python\ndef f(): pass\n```")
    assert "<span" not in render_markdown("```nosuchlanguage\ndef f(): pass\n```")
    assert "<span" not in render_markdown("```python\n" + "x = 1\n" * 5_000 + "```")


@pytest.mark.parametrize(
    "latex", ["$x^2$", "$$x^2$$", r"\(x^2\)", r"\[x^2\]", "\\[\nx^2\n\\]", "so\n\\[\nx^2\n\\]\nthus", "- \\[ x^2 \\]"]
)
def test_every_way_to_write_a_formula(latex: str) -> None:
    html = render_markdown(latex)
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html
    assert ('display="block"' in html) == (latex.startswith("$$") or r"\[" in latex)


@pytest.mark.parametrize(
    "inside", ["<style>", "<!--", "<textarea>", "</mtext></math><h4>", "&#x3c;style&#x3e;", "&#x202E;"]
)
def test_the_text_of_a_formula_hides_nothing(inside: str) -> None:
    """An author's HTML in a formula would hide what follows it, or pass for the page's own."""
    page = Page(render_markdown(f"before $\\text{{{inside}}}$ after"))
    assert inside in page.text
    assert page.text.rstrip().endswith(" after")
    assert set(page.tags) <= {"p", "math", "mrow", "mtext", "code"}
    assert "\u202e" not in page.text


def test_a_minus_at_the_start_of_a_line_of_a_formula_is_no_list() -> None:
    html = render_markdown("\\[\na\n- b\n\\]")
    assert "<li>" not in html
    assert "<mo>−</mo>" in html


def test_money_is_not_a_formula() -> None:
    assert "<math" not in render_markdown("It costs $5 today and $10 tomorrow, \\$3 less.")
    assert "<math" not in render_markdown("`$x$`")


@pytest.mark.parametrize(
    "latex", [r"\frac{1}", r"a_b_c", "{" * 60 + "}" * 60, r"\left(", "x" * 3_000, r"\begin{matrix} 1"]
)
def test_a_formula_that_cannot_be_read_is_shown_as_source(latex: str) -> None:
    page = Page(render_markdown(f"${latex}$"))
    assert "math" in page.tags or latex.strip("{}x")[:5] in page.text


def test_pictures_are_links() -> None:
    html = render_markdown("![a cat](https://a.example/cat.png)")
    assert "<img" not in html
    assert "[picture, not loaded: a cat]</a>" in html


def test_what_cannot_be_seen_is_spelled_out() -> None:
    assert reveal("ab\u202ecd\u200be\ufefff\u00ad\U000e0041") == "ab⟦U+202E⟧cd⟦U+200B⟧e⟦U+FEFF⟧f⟦U+00AD⟧⟦U+E0041⟧"
    assert reveal("a\u200db") == "a⟦U+200D⟧b"
    assert (
        reveal("👨\u200d👩\u200d👧 می\u200cخواهم ❤\ufe0f\u200d🔥 a\r\nb\tc")
        == "👨\u200d👩\u200d👧 می\u200cخواهم ❤\ufe0f\u200d🔥 a\nb\tc"
    )
    assert "⟦U+D800⟧" in render_markdown("\ud800")


def test_a_long_text_is_shown_whole() -> None:
    text = "word **bold** end\n\n" * 6_000
    html = render_markdown(text)
    assert len(text) > MAX_MARKDOWN
    assert Page(html).text.count("end") == 6_000
    assert "from here on it is shown as it is" in html


@pytest.mark.parametrize("line", ["[" * 60_000, "$\\(" * 20_000, "\\begin{align}\n" * 4_000, "*a_" * 20_000])
def test_what_would_take_a_parser_long_is_shown_plain(line: str) -> None:
    html = render_markdown(line)
    assert html.startswith('<pre class="plain"')
    assert Page(html).text == line


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("style", [Light, Dark])
def test_code_meets_wcag_aa(style: type[Light]) -> None:
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)
    for token, colours in style:
        if colours["color"]:
            assert contrast(f"#{colours['color']}", style.background_color) >= 4.5, token


def test_the_style_sheet_has_both_themes() -> None:
    css = code_css()
    assert css.count("{") == css.count("}")
    assert ':root[data-theme="dark"] pre.code .k ' in css
    assert "@media (prefers-color-scheme: dark)" in css


def test_a_difference_names_the_words() -> None:
    one, other = difference("the quick brown fox", "the slow red fox!")
    assert one == 'the <del class="changed">quick brown</del> fox'
    assert other == 'the <ins class="changed">slow red</ins> fox<ins class="changed">!</ins>'
    assert difference("same", "same") == ("same", "same")
    assert difference("", "new") == ("", '<ins class="changed">new</ins>')


def test_long_answers_are_compared_by_lines_and_very_long_ones_as_one_piece() -> None:
    lines = [f"line {n} of an answer" for n in range(1_500)]
    changed = [*lines[:700], "other", *lines[701:]]
    one, other = difference("\n".join(lines), "\n".join(changed))
    assert re.findall(r"<ins[^>]*>([^<]*)", other) == ["other\n"]
    assert re.findall(r"<del[^>]*>([^<]*)", one) == ["line 700 of an answer\n"]
    one, other = difference("a\n" * 5_000, "b\n" * 5_000)
    assert one.startswith("<del")
    assert other.count("<ins") == 1


@pytest.mark.parametrize("source", [
    "9*sqrt(2) - 3*sqrt(2)", "3*x*y", "(a)*b*(c)", "x**2*y**3", "a[0]*b[1]*c", "2*pi*r and 3*(a+b)*c", "5 * 3 * 2",
    "2*-3*x*-1",
])  # fmt: skip
def test_products_keep_their_asterisks(source: str) -> None:
    html = render_markdown(source)
    assert source in html
    assert "<em>" not in html
    assert "<strong>" not in html


@pytest.mark.parametrize(
    ("source", "html"),
    [
        ("*one* and **two**", "<em>one</em> and <strong>two</strong>"),
        ("(*one*), **a b**: c", "(<em>one</em>), <strong>a b</strong>: c"),
        ("这是**重点**内容", "这是<strong>重点</strong>内容"),
        ("2*3 is *not* 5*6", "2*3 is <em>not</em> 5*6"),
    ],
)
def test_emphasis_stays(source: str, html: str) -> None:
    assert html in render_markdown(source)
