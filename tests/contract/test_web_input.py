"""What an attacker would send to the verification page: quotes, addresses, hosts, bodies, broken forms and files.

See `test_web_security.py` for the rest of the list.
"""

import io
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay.curate.entries import Entry
from assay.curate.interchange import entries, write
from assay.records import Case, Judgement, Message, Pair, Response
from assay.web import lead
from assay.web.guard import BODY, HEADERS
from web_site import ATTACKS, HOST, SQL, Assistant, Browser, Site, case

# -- what is sent -----------------------------------------------------------------------------------------------------


def test_quotes_are_text(site: Site) -> None:
    """SQL injection through names, secrets, ids, settings, addresses and imported fields."""
    before = [a.name for a in site.accounts.all()]
    client, boss = site.browser(), site.log_in("boss")
    pair = site.store.cases()[0].pair
    ids = [r.id for r in pair.responses]
    for attack in SQL:
        for name, secret in ((attack, attack), ("boss", attack), (attack, "x")):
            assert client.post("/login", data={"name": name, "secret": secret}).status_code == 401
        encoded = quote(attack, safe="")
        assert site.browser(Cookie=f"assay_session={encoded}").get("/me").status_code == 303
        for path in (f"/lead/pairs/{encoded}", f"/lead/export/{encoded}", f"/images/{encoded}",
                     f"/lead/audit?before={encoded}", f"/lead/disputes?page={encoded}",
                     f"/lead?raters={encoded}&done={encoded}", f"/task?need={encoded}"):  # fmt: skip
            assert boss.get(path).status_code in (200, 404, 422), path
        for path, form in (
            ("/lead/people", {"name": attack}), (f"/lead/people/{encoded}", {"action": "off"}),
            ("/lead/settings", {"overlap": attack, "search": attack}), ("/task", {"submission": attack, "answer": "1"}),
            ("/task", {"pair_id": attack, "answer": "1"}), ("/task", {"do": attack}),
        ):  # fmt: skip
            assert boss.post(path, **form).status_code in (404, 409, 422), path
        row = {**_fields(), "pair_id": pair.id, "better": ids[0], "by": attack, "kind": "human", "shown": ids}
        assert "1 judgements added" in boss.upload(json.dumps({**row, "rationale": attack}).encode()).text
    assert [j.by for j in site.store.judgements()] == list(SQL)
    assert [a.name for a in site.accounts.all()] == before


def _fields() -> dict[str, Any]:
    return {"confidence": 1.0, "votes": 1, "problem": "", "rationale": "", "round": 0, "tokens": 0, "seconds": 1.0}


def test_no_way_leads_to_another_site(site: Site) -> None:
    """Open redirect: by a parameter, by a path that looks like a host, by the Host header, at log-in and anywhere else."""
    client = site.browser()
    for extra in ("?next=//evil.example", "?next=https://evil.example", "?url=//evil.example", "?need=//evil.example"):
        for path in ("/", "/login", "/task", "/me", "/lead"):
            _assert_stays(client.get(path + extra))
        _assert_stays(
            client.post(f"/login{extra}", data={"name": "ann", "secret": site.tokens["ann"], "next": "//evil"})
        )
        _assert_stays(client.get(f"/login{extra}"))
    for path in ("//evil.example/", "/%2f%2fevil.example", "/\\evil.example", "/task/", "/lead/", "/static/style.css/"):
        assert client.get(f"{HOST}{path}").status_code == 404, path


def _assert_stays(answer: Any) -> None:
    where = answer.headers.get("location", "/")
    assert re.fullmatch(r"/[a-z]*(\?[a-z=]*)?", where), where


def test_another_host_is_refused(site: Site) -> None:
    """DNS rebinding, poisoned links: a Host header that is not ours."""
    for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8010", "", "a b", "127.0.0.1@evil"):
        answer = site.browser().get("/login", headers={"Host": host})
        assert answer.status_code == 400
        assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
        forwarded = site.browser().get(
            "/", headers={"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
        )
        assert forwarded.headers["location"] == "/login"


def test_every_answer_tells_browsers_what_is_forbidden(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clickjacking, injected scripts, sniffed types, caches: pages, files, redirects and every kind of refusal."""
    boss, nobody = site.log_in("boss"), site.browser()
    ends = [r for r in site.routes() if not r[1].endswith("/events")]  # to who may listen these go on and on
    answers = [boss.client.request(m, site.address(p)) for m, p in ends]
    answers += [nobody.request(m, site.address(p)) for m, p in site.routes()]
    answers += [
        nobody.get("/nothing"), nobody.put("/login"), nobody.get("/login", headers={"Host": "evil.example"}),
        nobody.post("/login", headers={"Origin": "//evil"}), nobody.post("/login", content=b"x" * (BODY + 1)),
        boss.post("/lead/settings", overlap="many"),
    ]  # fmt: skip

    def fails(*_: object) -> None:
        raise RuntimeError("an inner detail")

    monkeypatch.setattr(site.store, "pace", fails)
    answers.append(boss.get("/task"))
    assert {a.status_code for a in answers} >= {200, 303, 400, 401, 403, 404, 405, 413, 422, 500}
    for answer in answers:
        for name, value in HEADERS.items():
            told = answer.headers[name]
            assert told == value or (name == "Cache-Control" and answer.request.url.path.startswith("/static/")), (
                answer.url
            )
        assert "inner detail" not in answer.text
        assert "server" not in answer.headers
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy.split("; "))


def test_bodies_are_bounded(site: Site) -> None:
    """Exhaustion by large bodies: with a length, without one, with a false one; imports only for those who may import."""
    ann, lea, nobody = site.log_in("ann"), site.log_in("lea"), site.browser()

    def pieces(many: int) -> Iterator[bytes]:
        yield b"csrf="
        for _ in range(many):
            yield b"x" * 65_536

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for client in (ann.client, nobody):
        for path in ("/task", "/login", "/lead/import"):
            assert client.post(path, content=b"x" * (BODY + 1), headers=form).status_code == 413
            assert client.post(path, content=pieces(20), headers=form).status_code == 413, path
    for length in ("-1", "1e3", "9" * 13, "²", "0x10"):
        answer = nobody.post("/login", content=b"", headers={**form, "Content-Length": length.encode("latin-1")})  # type: ignore[dict-item]
        assert answer.status_code == 400, length
        assert nobody.get("/login", headers={"Content-Length": length.encode("latin-1")}).status_code == 400  # type: ignore[dict-item]
    assert lea.upload(b" " * (2 * BODY)).status_code == 200
    assert lea.upload(b" " * (lead.MAX_UPLOAD + (1 << 17))).status_code == 413
    begun = time.process_time()
    assert nobody.post("/login", content=b"a&" * (BODY // 2), headers=form).status_code in (400, 401, 413, 422)
    assert time.process_time() - begun < 60, "half a million fields"


NASTY = st.one_of(
    st.text(max_size=30),
    st.sampled_from([*SQL, *ATTACKS, "\0", "%00", "\ud800", "9" * 5_000, "nan", "1e999", "-1", "x" * 70_000]),
)  # fmt: skip
FIELDS = ("csrf", "name", "secret", "role", "action", "old", "new", "submission", "pair_id", "answer", "do", "seconds",
          "reason", "code", "question", "note", "tool", "category", "objectivity", "controversiality", "desired",
          "guideline", "better", "shown", "overlap", "search", "format", "file")  # fmt: skip


def test_no_form_breaks_the_server(make_site: Callable[..., Site]) -> None:
    """Fuzzing: any fields with any bytes (NUL, half surrogates, broken percent-encoding) to any form, with a valid token."""
    site = make_site(assistant=Assistant("yes"))
    site.store.set({"python": "no"}, "test")
    boss = site.log_in("boss")
    forms = [
        site.address(p) for m, p in site.routes() if m == "POST" and p not in ("/logout", "/me", "/lead/people/{name}")
    ]
    seat = boss.seat()
    good = {**seat, "answer": "1", "do": "flag", "name": "x", "better": "cannot decide", "shown": seat["pair_id"]}

    @settings(max_examples=100, suppress_health_check=list(HealthCheck))
    @given(
        path=st.sampled_from(forms),
        fields=st.dictionaries(st.sampled_from(FIELDS), NASTY, max_size=4),
        kept=st.booleans(),
    )
    def send(path: str, fields: dict[str, str], kept: bool) -> None:
        given = {"csrf": boss.csrf, **(good if kept else {}), **fields}
        parts = (f"{k}={quote(v.encode('utf-8', 'surrogatepass'), safe='')}" for k, v in given.items())
        answer = boss.client.post(
            path, content="&".join(parts), headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code < 500, (path, given)

    send()
    assert boss.get("/task").status_code == 200
    assert boss.get("/lead/audit").status_code == 200


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=200), path=st.sampled_from(["/login", "/task", "/lead/import", "/lead/settings"]),
       kind=st.sampled_from(["application/x-www-form-urlencoded", "multipart/form-data", "multipart/form-data; boundary=b",
                             "application/json", "text/plain; charset=undefined", "\u00e9", ""]))  # fmt: skip
def test_no_bytes_break_the_server(fuzzed: Browser, body: bytes, path: str, kind: str) -> None:
    """Fuzzing: bodies that are not what their type says."""
    content = b"--b\r\nContent-Disposition: form-data; name=x\r\n\r\n" + body if "boundary" in kind else body
    answer = fuzzed.client.post(path, content=content, headers={"Content-Type": kind.encode("latin-1")})  # type: ignore[dict-item]
    assert 400 <= answer.status_code < 500


@pytest.fixture
def fuzzed(site: Site) -> Browser:
    return site.log_in("boss")


def test_a_charset_breaks_nothing(site: Site) -> None:
    """A multipart form may name any codec of Python for its texts; some of them fail, some make half surrogates."""
    boss = site.log_in("boss")
    seat = boss.seat()
    form = {**seat, "csrf": boss.csrf, "do": "flag", "note": r"\ud800 xn--\xff", "name": r"\ud800", "secret": r"\ud800"}
    parts = "".join(f'--b\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in form.items())
    for charset in ("undefined", "idna", "raw_unicode_escape", "utf-16", "hex", "\u00e9", "nonsense"):
        kind = f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1")
        for path in ("/login", "/task", "/lead/people", "/lead/people/ann"):
            answer = boss.client.post(path, content=f"{parts}--b--\r\n", headers={"Content-Type": kind})  # type: ignore[dict-item]
            assert answer.status_code < 500, path
        for path in ("/task", "/lead", "/lead/audit"):
            assert boss.get(path).status_code == 200


def test_nul_is_text_or_refused(make_site: Callable[..., Site], database_url: str) -> None:
    """NUL, which PostgreSQL's text cannot hold, wherever a request's text meets the database."""
    site = make_site(url=database_url)
    client, ann, lea = site.browser(), site.log_in("ann"), site.log_in("lea")
    assert client.post("/login", data={"name": "x\0", "secret": "\0"}).status_code == 401
    assert site.browser(Cookie="assay_session=%00").get("/me").status_code == 303
    seat = ann.seat()
    for change in ({"submission": "\0"}, {"pair_id": "\0", "answer": "1"}, {"submission": "\0" * 32, "answer": "1"}):
        assert ann.post("/task", **{**seat, **change}).status_code in (404, 409, 422)
    typed = {"reason": "\0 because", "note": "\0", "question": "\0", "code": "\0"}
    for more in ({"do": "draft"}, {"do": "flag"}, {"do": "python"}, {"answer": "1"}):
        assert ann.post("/task", **seat, **typed, **more).status_code == 303
    assert lea.get("/lead/pairs/%00").status_code == 422
    for path, form in (("/lead/people", {"name": "\0"}), ("/lead/people/%00", {"action": "off"})):
        assert lea.post(path, **form).status_code in (404, 422)
    decided = {"better": "cannot decide", "shown": ",".join(site.store.judgements()[0].shown), "reason": "\0"}
    assert lea.post(f"/lead/pairs/{seat['pair_id']}", **decided).status_code == 303
    pair = site.store.cases()[1].pair
    row = {**_fields(), "pair_id": pair.id, "better": pair.responses[0].id, "by": "\0", "kind": "human", "shown": []}
    assert "1 judgements added" in lea.upload(json.dumps(row).encode()).text
    for path in (*PAGES, f"/lead/pairs/{pair.id}", f"/lead/pairs/{seat['pair_id']}"):
        assert lea.get(path).status_code == 200, path


def test_half_surrogates_of_a_model_are_shown(make_site: Callable[..., Site]) -> None:
    """Denial of one page: texts that cannot be encoded, in a pair, its attributes, a verdict and a reply."""
    site = make_site(assistant=Assistant("half \ud800 a pair"))
    evil = case("p \ud800", "one \udfff", "two \ud800", "text \ud800")
    site.store.load([evil], margins={evil.pair.id: 0.0})
    rows = [
        {"pair_id": evil.pair.id, "response_id": r.id, "text": "\ud800", "by": "\ud800"} for r in evil.pair.responses
    ]
    site.store.add_verdicts(rows)
    site.store.set({"verdicts": "always"}, "test")
    ann, lea = site.log_in("ann"), site.log_in("lea")
    while ann.seat()["pair_id"] != evil.pair.id:
        ann.post("/task", **ann.seat(), answer="tie")
    for do in ("assistant", "difference"):
        ann.post("/task", **ann.seat(), do=do, question="really?")
    assert "half" in ann.get("/task").text
    for path in (f"/lead/pairs/{evil.pair.id}", "/lead", "/lead/disputes"):
        assert lea.get(path).status_code == 200


# -- files ------------------------------------------------------------------------------------------------------------


def _rows(site: Site) -> list[Entry]:
    pair = site.store.cases()[0].pair
    ids = [r.id for r in pair.responses]
    return list(
        entries(site.store.cases(), [Judgement(pair_id=pair.id, better=ids[0], by="x", kind="human", shown=tuple(ids))])
    )


def _file(site: Site, format: str) -> bytes:
    write(site.folder / "file", format, _rows(site))  # type: ignore[arg-type]
    return (site.folder / "file").read_bytes()


PAGES = ("/lead?raters=true", "/lead/disputes", "/lead/audit", "/lead/export/jsonl", "/lead/export/parquet",
         "/lead/export/argilla", "/lead/export/label-studio")  # fmt: skip


@pytest.mark.parametrize("format", list(lead.EXPORTS))
def test_a_broken_file_is_a_problem_and_no_more(site: Site, format: str) -> None:
    """A file that is damaged at any place, cut, empty, of another format, or something else altogether."""
    lea = site.log_in("lea")
    good = _file(site, format)
    assert "1 judgements added" in lea.upload(good, format).text
    rng = random.Random(0)
    bodies = [
        b"",
        b"\0",
        b"[",
        b"PAR1",
        b"PAR1" + b"\xff" * 100 + b"PAR1",
        good[: len(good) // 2],
        good[::-1],
        b"\xff\xfe" + good,
    ]
    for _ in range(15):
        damaged = bytearray(good)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        bodies.append(bytes(damaged))
    for body in bodies:
        assert lea.upload(body, format).status_code in (200, 422)
    for path in (*PAGES, f"/lead/pairs/{site.store.cases()[0].pair.id}"):
        assert lea.get(path).status_code == 200, path
    assert lea.upload(good, "nonsense").status_code == 422


@pytest.mark.parametrize("format", ["jsonl", "argilla", "label-studio"])
def test_nesting_breaks_nothing(site: Site, format: str) -> None:
    """A JSON bomb: lists in lists, at the top and wherever a reader looks."""
    lea = site.log_in("lea")
    for deep in (100, 900, 100_000):
        nest = "[" * deep + "]" * deep
        row = json.loads(_file(site, "argilla" if format == "argilla" else "label-studio"))[0]
        rows = [
            nest,
            f"[{nest}]",
            f'[{{"data": {nest}}}]',
            f'{{"better": {nest}}}',
            f'{{"pair": {nest}, "judgements": {nest}}}',
        ]
        for key in ("responses", "fields", "annotations", "suggestions", "data"):
            rows.append(json.dumps([{**row, key: "HERE"}]).replace('"HERE"', nest))
        value = {"type": "pairwise", "value": {"selected": "HERE"}}
        rows.append(json.dumps([{**row, "annotations": [{"result": [value]}]}]).replace('"HERE"', nest))
        answers = {"better": [{"user_id": "x", "value": "HERE"}]}
        rows.append(json.dumps([{**row, "responses": answers}]).replace('"HERE"', nest))
        for body in rows:
            assert lea.upload(body.encode(), format).status_code in (200, 422), body[:80]


def _changed(value: Any, into: Any) -> Iterator[Any]:
    """Copies of a JSON value in each of which one part, at any depth, is another value or gone."""
    yield into
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: other} for other in _changed(inner, into))
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from ([*value[:n], other, *value[n + 1 :]] for other in _changed(inner, into))


@pytest.mark.parametrize("format", ["jsonl", "argilla", "label-studio"])
def test_one_wrong_value_anywhere_breaks_nothing(site: Site, format: str) -> None:
    """Malformed rows: a good row of each tool in which one part, at any depth, is of another type, or missing."""
    lea = site.log_in("lea")
    text = _file(site, format).decode()
    row = json.loads(text.splitlines()[0] if format == "jsonl" else text)
    row = row if format == "jsonl" else row[0]
    hostile = (None, True, 5, -1e300, "", "x", "\ud800\0", [], [None], [[]], {}, {"value": None}, {"a": [1]})
    rows = [changed for into in hostile for changed in _changed(row, into)]
    assert len(rows) > 200
    body = "\n".join(map(json.dumps, rows)) if format == "jsonl" else json.dumps(rows)
    assert lea.upload(body.encode(), format).status_code == 200
    for path in (*PAGES, f"/lead/pairs/{site.store.cases()[0].pair.id}"):
        assert lea.get(path).status_code == 200, path


def test_a_bomb_does_not_go_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decompression and numbers of rows: a small Parquet file of 2 GB of text, and a file of many rows."""
    lea = site.log_in("lea")
    out = io.BytesIO()
    with pq.ParquetWriter(out, pa.schema([("pair", pa.string())]), compression="zstd", use_dictionary=False) as writer:
        for _ in range(9):
            writer.write_table(pa.table({"pair": ["x" * (1 << 20)] * 64}))
    assert len(out.getvalue()) < 1 << 20
    answer = lea.upload(out.getvalue(), "parquet")
    assert answer.status_code == 422
    assert "too large: 576 rows, 576 MB unpacked" in answer.text
    monkeypatch.setattr(lead, "MAX_ROWS", 100)
    assert "more than 100 rows" in lea.upload(b"{}\n" * 101).text
    many = io.BytesIO()
    pq.write_table(pa.table({"x": [0] * 101}), many)
    assert "too large: 101 rows" in lea.upload(many.getvalue(), "parquet").text


def test_an_imported_judgement_is_what_it_should_be(site: Site) -> None:
    """Poisoned fields: of other types, half surrogates, NUL, numbers beyond all columns, another's response."""
    lea = site.log_in("lea")
    (pair, *_) = (c.pair for c in site.store.cases())
    ids = [r.id for r in pair.responses]
    good = {**_fields(), "pair_id": pair.id, "better": ids[0], "by": "x", "kind": "human", "shown": ids}
    wrong: list[dict[str, Any]] = [
        {"by": 5}, {"by": ["x"]}, {"by": None}, {"seconds": "fast"}, {"seconds": [1]}, {"votes": 10**30}, {"round": True},
        {"rationale": {"a": 1}}, {"rationale": None}, {"shown": [1, 2]}, {"shown": "ab"}, {"kind": "boss"}, {"kind": 3},
        {"better": "0" * 32}, {"better": 1}, {"problem": 3, "better": None}, {"pair_id": "unknown"}, {"confidence": "high"},
    ]  # fmt: skip
    for change in wrong:
        answer = lea.upload(json.dumps({**good, **change}).encode())
        assert "0 judgements added, 0 were there already, 1 problems" in answer.text, change
    for kind in ("llm", "lead", "rm", "source"):
        assert "0 judgements added" in lea.upload(json.dumps({**good, "kind": kind}).encode()).text, kind
    odd = {"by": "\ud800\0\u202e<b>", "rationale": "\ud800\0", "seconds": 1e308, "confidence": -5}
    assert "1 judgements added" in lea.upload(json.dumps({**good, **odd}).encode()).text
    for seconds in ("NaN", "Infinity", "-1e308"):
        body = json.dumps({**good, "by": f"s{seconds}"}).replace('"seconds": 1.0', f'"seconds": {seconds}')
        assert lea.upload(body.encode()).status_code == 200
    for path in (*PAGES, f"/lead/pairs/{pair.id}"):
        assert lea.get(path).status_code == 200, path


def test_an_export_is_a_file(site: Site) -> None:
    """Content sniffing: texts with markup must not open as a page of ours."""
    lea = site.log_in("lea")
    for format, (_, name) in lead.EXPORTS.items():
        answer = lea.get(f"/lead/export/{format}")
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
        assert not answer.headers["content-type"].startswith("text/html")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_program_cannot_reach_the_server(site: Site) -> None:
    """The Python tool through its form: the server's database, source and environment (see test_sandbox.py for the rest)."""
    ann = site.log_in("ann")
    code = (
        "import os\n"
        f"for path in ({str(site.folder / 'web.sqlite')!r}, {str(Path(lead.__file__))!r}, '/proc/1/environ'):\n"
        "    try: print('READ', open(path, 'rb').read(20))\n"
        "    except OSError as error: print('refused', type(error).__name__)\n"
        "print(len([n for n in os.environ if n.startswith(('OPENAI', 'ASSAY', 'PATH'))]))\n"
    )
    assert ann.post("/task", **ann.seat(), do="python", code=code).status_code == 303
    (use,) = site.store.facts("use")
    assert "READ" not in use.body["stdout"], use.body
    assert use.body["stdout"].count("refused") == 3
    assert use.body["stdout"].endswith("\n0\n")


def test_a_tool_that_is_off_is_off(site: Site) -> None:
    """Hidden buttons: tools that the project does not allow, asked for by a form that the page does not have."""
    site.store.set({"python": "no", "assistant": "no", "verdicts": "never"}, "test")
    ann = site.log_in("ann")
    for do in ("python", "assistant", "verdicts"):
        assert ann.post("/task", **ann.seat(), do=do, code="print(1)", question="?").status_code == 403
    assert ann.post("/task", **ann.seat(), do="opened", tool="python").status_code == 422
    assert site.store.facts("use") == []


def test_tools_calls_and_reasoning_are_shown_as_text(make_site: Callable[..., Site]) -> None:
    site = make_site()
    call = json.dumps([{"type": "function", "function": {"name": "weather", "arguments": {"city": "<b>Oslo"}}}])
    prompt = (Message(role="user", content="How warm is it?", tools=json.dumps([{"name": "<i>weather"}])),)
    one = Response(messages=(Message(role="assistant", content="", tool_calls=call),))
    other = Response(messages=(Message(role="assistant", content="Warm.", reasoning="<u>a guess"),))
    pair = Pair.of(prompt, one, other)
    plain = case("p", "q", "r").attributes
    site.store.load([Case(pair=pair, attributes=replace(plain, pair_id=pair.id))], margins={pair.id: 0.0})
    ann, lea = site.log_in("ann"), site.log_in("lea")
    while ann.seat()["pair_id"] != pair.id:
        ann.post("/task", **ann.seat(), answer="tie")
    for page in (ann.get("/task").text, lea.get(f"/lead/pairs/{pair.id}").text):
        assert all(part in page for part in ("&lt;i&gt;weather", "&lt;b&gt;Oslo", "&lt;u&gt;a guess"))
        assert not any(part in page for part in ("<i>weather", "<b>Oslo", "<u>a guess"))
