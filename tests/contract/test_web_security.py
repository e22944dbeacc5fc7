"""What an attacker would try on the verification page, after OWASP's testing guide: each test names its attack.

Here: who may ask for what, what others' texts do, where forms come from, sessions, and guessing. `test_web_input.py` has
what is sent. The application is called without a server (ASGI), on SQLite.
"""

import json
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import pytest
from argon2 import Parameters, PasswordHasher, extract_parameters
from starlette.testclient import TestClient

from assay.errors import AssayError
from assay.look import MARK
from assay.processes import take_port
from assay.records import Judgement
from assay.web import accounts, lead
from assay.web.app import WebConfig, make_app, make_watch_app
from assay.web.schema import Database
from web_site import EVERYTHING, HOST, Assistant, Browser, Site, case, hidden

PUBLIC = {("GET", "/"), ("GET", "/login"), ("POST", "/login"), ("GET", "/health"), ("GET", "/static/look.css"),
          ("GET", "/static/{name}")}  # fmt: skip
"""What anybody may ask for. A route that is not here must refuse whoever has not logged in."""

# -- who may ask ------------------------------------------------------------------------------------------------------


def test_nobody_gets_in_without_a_session(site: Site) -> None:
    """Forced browsing: every route of the application, asked for without a cookie and with a made-up one."""
    for cookie in ("", secrets.token_urlsafe(32)):
        client = site.browser()
        client.cookies.set("assay_session", cookie)
        closed = [r for r in site.routes() if r not in PUBLIC]
        assert len(closed) > 15
        for method, path in closed:
            answer = client.request(method, site.address(path))
            if method == "GET":
                assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
            else:
                assert answer.status_code in (401, 403), path
            assert "boss" not in answer.text


def test_what_is_public_says_nothing_of_the_project(site: Site) -> None:
    """Information gathering: names, pairs and the interface's description, before any log-in."""
    client = site.browser()
    public = {client.get(site.address(p)).text for m, p in PUBLIC if m == "GET" and "{" not in p}
    for path in ("/docs", "/redoc", "/openapi.json", "/.env", "/web.sqlite", "/server-status"):
        answer = client.get(path)
        assert answer.status_code == 404
        public.add(answer.text)
    for word in ("boss", "lea", "one?", site.store.cases()[0].pair.id, "uvicorn", "fastapi", "Traceback"):
        assert not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for text in public), word


def test_an_annotator_is_no_lead(site: Site) -> None:
    """Vertical escalation: an annotator's valid session and token on every page and form of the lead."""
    ann = site.log_in("ann")
    routes = [r for r in site.routes() if r[1].startswith(("/lead", "/runs"))]
    assert len(routes) > 15
    for method, path in routes:
        answer = ann.client.request(method, site.address(path), data={"csrf": ann.csrf} if method == "POST" else None)
        assert answer.status_code == 403, (method, path)
    assert ann.upload(b"{}").status_code == 403


def test_the_live_page_alone_has_nothing_but_what_it_shows(tmp_path: Path) -> None:
    """Forced browsing and path traversal on `assay watch`, which knows no accounts: other names, other hosts, forms."""
    app = make_watch_app([tmp_path])
    with TestClient(app, base_url="http://127.0.0.1:8011") as client:
        assert {p for p in app.openapi()["paths"] if not p.startswith(("/runs", "/static"))} == {"/", "/health"}
        for path in (
            "/runs/..%2f..%2fetc",
            f"/runs/{quote(str(tmp_path), safe='')}",
            "/runs/x/pairs",
            "/runs/x/answers/y",
        ):
            assert client.get(path).status_code == 404, path
        assert client.post("/runs").status_code in (403, 405)
        assert client.get("/runs", headers={"host": "evil.example"}).status_code == 400
        assert "default-src 'none'" in client.get("/runs").headers["content-security-policy"]


def test_a_taken_port_is_told_before_anything_else() -> None:
    """Not an attack: the address of the page is printed only once it is ours."""
    with take_port("127.0.0.1", 0) as ours:
        ours.listen()
        port = ours.getsockname()[1]
        with pytest.raises(AssayError, match=rf"127.0.0.1:{port}: .*in use; give another with --port"):
            take_port("127.0.0.1", port)
    with pytest.raises(AssayError, match=r"127\.0\.0\.1:99999: there is no such port; give another with --port"):
        take_port("127.0.0.1", 99_999)


def test_a_lead_is_no_admin(site: Site) -> None:
    """Vertical escalation: a lead makes an admin, becomes one, takes over or disables one, or changes the settings."""
    lea = site.log_in("lea")
    before = site.accounts.all()
    for path, form in (
        ("/lead/people", {"name": "eve", "role": "admin"}), ("/lead/people", {"name": "eve", "role": "lead"}),
        ("/lead/people/boss", {"action": "renew"}), ("/lead/people/boss", {"action": "off"}),
        ("/lead/people/boss", {"action": "role", "role": "annotator"}), ("/lead/people/lea", {"action": "renew"}),
        ("/lead/people/lea", {"action": "role", "role": "admin"}), ("/lead/people/ann", {"action": "role", "role": "admin"}),
        ("/lead/people/ann", {"action": "off", "role": "lead"}), ("/lead/settings", {"overlap": "9"}),
    ):  # fmt: skip
        assert lea.post(path, **form).status_code == 403, (path, form)
    assert [replace(a, seen=0) for a in site.accounts.all()] == [replace(a, seen=0) for a in before]
    assert site.store.settings().overlap == 1


def test_a_role_is_what_it_is_now(site: Site) -> None:
    """Stale privileges: a session that outlives the account's role, secret or activity."""
    boss = site.log_in("boss")
    for name, form in (
        ("lea", {"action": "role", "role": "annotator"}), ("bob", {"action": "renew"}), ("ann", {"action": "off"}),
    ):  # fmt: skip
        theirs = site.log_in(name)
        assert theirs.get("/me").status_code == 200
        assert boss.post(f"/lead/people/{name}", **form).status_code in (200, 303)
        assert theirs.get("/me").headers["location"] == "/login", form
        assert theirs.post("/task").status_code == 401
    assert site.browser().post("/login", data={"name": "ann", "secret": site.tokens["ann"]}).status_code == 401


def test_the_last_admin_stays(site: Site) -> None:
    """Lock-out: the only admin is disabled or loses the role, and nobody can undo it."""
    boss = site.log_in("boss")
    assert boss.post("/lead/people/boss", action="off").status_code == 422
    assert boss.post("/lead/people/boss", action="role", role="lead").status_code == 422
    assert boss.get("/lead").status_code == 200


def test_nobody_acts_on_anothers_pair(site: Site) -> None:
    """IDOR: bob sends forms that bear the ids of ann's page, to answer, overwrite, skip, flag or edit in her place."""
    ann, bob = site.log_in("ann"), site.log_in("bob")
    seat = ann.seat()
    ann.post("/task", **seat, do="draft", reason="mine alone")
    bob.seat()
    for form in ({"answer": "1"}, {"answer": "tie"}, {"do": "skip"}, {"do": "flag"}, {"do": "attributes"}, {"do": "python"},
                 {"do": "draft", "reason": "overwritten"}):  # fmt: skip
        assert bob.post("/task", **seat, **form).status_code == 409, form
    assert "mine alone" in ann.get("/task").text
    assert ann.seat() == seat
    assert site.store.judgements() == []
    assert site.store.facts("skip", "flag", "use", "attributes") == []
    other = bob.seat()["pair_id"]
    assert bob.post("/task", submission=seat["submission"], pair_id=other, answer="1").status_code == 409
    assert ann.post("/task", **seat, answer="1").status_code == 303
    assert bob.post("/task", **seat, answer="2").status_code == 409, "an answered pair as well"
    (only,) = site.store.judgements()
    assert only.by == "ann"


def test_an_old_form_of_settings_reverts_nothing(site: Site) -> None:
    boss = site.log_in("boss")
    old = {f"was-{k}": v for k, v in site.store.settings().texts().items()}
    shown = {k.removeprefix("was-"): v for k, v in old.items()}
    assert all(hidden(boss.get("/lead/settings").text, k) == v for k, v in old.items())
    boss.post("/lead/settings", **{**old, **shown, "overlap": "3"})
    boss.post("/lead/settings", **{**old, **shown, "trap_every": "7"})
    assert (site.store.settings().overlap, site.store.settings().trap_every) == (3, 7)


def test_only_what_was_shown_can_be_answered(site: Site) -> None:
    """Forged ids: an answer to a pair of one's choice (ids are hashes of known texts), or to one that was skipped."""
    ann, bob = site.log_in("ann"), site.log_in("bob")
    seat = ann.seat()
    other = next(c.pair.id for c in site.store.cases() if c.pair.id != seat["pair_id"])
    for submission in (secrets.token_hex(16), seat["submission"], ""):
        assert ann.post("/task", submission=submission, pair_id=other, answer="1").status_code == 409
    ann.post("/task", **seat, do="skip")
    for submission in (secrets.token_hex(16), seat["submission"]):
        assert ann.post("/task", submission=submission, pair_id=seat["pair_id"], answer="1").status_code == 409
    assert site.store.judgements() == []
    late = ann.seat()
    site.clock.now += 3600
    while (taken := bob.seat())["pair_id"] != late["pair_id"]:
        bob.post("/task", **taken, answer="1")
    assert ann.post("/task", **late, answer="1").status_code == 409, "bob has it"
    bob.post("/task", **taken, do="skip")
    assert bob.post("/task", **late, answer="2").status_code == 409, "not his"
    assert ann.post("/task", **late, answer="1").status_code == 303, "a late answer is welcome where the seat is free"


def test_only_pictures_are_served(make_site: Callable[..., Site], tmp_path: Path) -> None:
    """Path traversal and IDOR by names of pictures and of static files, plain and percent-encoded once and twice."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "0a.png").write_bytes(b"\x89PNG")
    (tmp_path / "secret.png").write_bytes(b"secret")
    site = make_site(images=tmp_path / "pictures")
    ann = site.log_in("ann")
    assert ann.get("/images/0a").headers["content-type"] == "image/png"
    for folder in ("/images/", "/static/"):
        for name in ("..%2fsecret", "%2e%2e%2fsecret", "%252e%252e%252fsecret", "..%5csecret", "/etc/passwd",
                     "%2fetc%2fpasswd", "0a.png", "0a%00", "%2e%2e", "%2e", "", "app.py", "..%2f..%2fapp.py", "style.css%00",
                     quote(str(tmp_path / "secret"), safe=""), "....//secret"):  # fmt: skip
            answer = ann.get(folder + name)
            assert answer.status_code in (404, 422), (folder, name)
            assert answer.content != b"secret"


# -- what is shown ----------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def assert_harmless(page: str) -> None:
    for tag, attributes in Elements(page.replace(str(MARK), "")).found:
        assert tag != "svg" or attributes.get("role") == "img" or attributes.get("aria-hidden") == "true", "not ours"
        assert tag not in ("iframe", "object", "embed", "base", "style", "img"), tag
        assert tag != "script" or attributes == {"src": "/static/keys.js"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style"
            if name in ("href", "src", "action", "formaction", "srcdoc"):
                assert re.match(r"/(?!/)|#|\?|https?://|mailto:", value), (tag, name, value)
            if name == "action":
                assert value.startswith("/")


def test_what_others_wrote_does_nothing(make_site: Callable[..., Site]) -> None:
    """Stored XSS: markup, links, formulas and templates in every text that somebody else's page shows."""
    site = make_site(assistant=Assistant(EVERYTHING))
    evil = case(EVERYTHING, f"one {EVERYTHING}", f"other {EVERYTHING}", EVERYTHING)
    site.store.load([evil], margins={evil.pair.id: -1.0})
    site.store.add_verdicts([{"pair_id": evil.pair.id, "response_id": r.id, "text": EVERYTHING, "right": None,
                              "by": EVERYTHING} for r in evil.pair.responses])  # fmt: skip
    site.store.set({"verdicts": "always", "overlap": "2", "trap_every": "0"}, EVERYTHING)
    site.browser(address=EVERYTHING).post("/login", data={"name": EVERYTHING[:100], "secret": "x"})
    ann = site.log_in("ann")
    while ann.seat()["pair_id"] != evil.pair.id:
        ann.post("/task", **ann.seat(), answer="1", reason="because of reasons")
    seat = ann.seat()
    typed = {"reason": EVERYTHING, "code": f"print({EVERYTHING!r})", "question": EVERYTHING, "note": EVERYTHING}
    for do in ("difference", "python", "assistant", "flag"):
        assert ann.post("/task", **seat, **typed, do=do).status_code == 303
    kept = {"category": "Math", "objectivity": "objective", "controversiality": "low"}
    ann.post("/task", **seat, **typed, **kept, do="attributes", desired=EVERYTHING, guideline=EVERYTHING)
    shown = ann.get("/task").text
    assert shown.count("alert(1)") > 50, "everything is there"
    assert "49" not in re.sub(r"[0-9a-f]{32}", "", shown), "no template is run"
    assert_harmless(shown)
    assert ann.post("/task", **seat, **typed, answer="2").status_code == 303

    ids = [r.id for r in evil.pair.responses]
    named = Judgement(
        pair_id=evil.pair.id, better=ids[0], by=EVERYTHING, kind="human", shown=tuple(ids), rationale=EVERYTHING
    )
    site.store.add([named, replace(named, better=None, problem=EVERYTHING, by="x")], site.store.settings())
    boss = site.log_in("boss")
    for path in ("/lead?raters=true", "/lead/disputes", f"/lead/pairs/{evil.pair.id}", "/lead/people", "/lead/settings",
                 "/lead/exchange", "/lead/audit", f"/lead?done={quote(EVERYTHING)}", f"/{quote(EVERYTHING)}"):  # fmt: skip
        answer = boss.get(path)
        assert answer.status_code in (200, 404)
        assert_harmless(answer.text)
    assert boss.get("/lead/audit").text.count("alert(1)") > 10
    for body in (EVERYTHING.encode(), json.dumps([EVERYTHING, {"better": "x", "pair_id": EVERYTHING}]).encode()):
        for format in lead.EXPORTS:
            assert_harmless(boss.upload(body, format).text)


def test_an_address_cannot_make_a_page_speak(site: Site) -> None:
    """Content spoofing: a link that shows the attacker's words as the page's own."""
    lea = site.log_in("lea")
    assert "evil.example" not in lea.get("/lead?done=Log+in+again+at+evil.example").text
    assert "stored" in lea.get("/lead/settings?done=settings").text


def test_the_log_cannot_be_disguised(site: Site) -> None:
    """Log forging: a failed log-in whose name holds line breaks and right-to-left controls."""
    site.browser().post("/login", data={"name": "x\u202enimda\r\nboss logged in", "secret": "x"})
    shown = site.log_in("boss").get("/lead/audit").text
    assert "\u202e" not in shown
    assert "⟦U+202E⟧" in shown


# -- where a form comes from ------------------------------------------------------------------------------------------


def test_a_form_needs_its_sessions_token(site: Site) -> None:
    """CSRF: every form without a token, with a made-up one, and with that of another session (of another, of the same)."""
    boss, again, ann = site.log_in("boss"), site.log_in("boss"), site.log_in("ann")
    assert len({boss.csrf, again.csrf, ann.csrf}) == 3
    forms = [path for method, path in site.routes() if method == "POST" and path != "/login"]
    assert len(forms) >= 8
    for path in forms:
        for token in (None, "", "x", boss.csrf[:-1], boss.csrf + "x", again.csrf, ann.csrf, "\u00e9"):
            form = {"name": "eve", "action": "renew", "overlap": "5", "better": "cannot decide", "shown": "", "do": "undo",
                    **({} if token is None else {"csrf": token})}  # fmt: skip
            answer = boss.client.post(site.address(path), data=form, files={"file": b""} if "import" in path else None)
            assert answer.status_code == 403, (path, token)
    assert boss.get("/me").status_code == 200, "still logged in"


FOREIGN: tuple[dict[str, str], ...] = (
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://["}, {"Origin": "http://127.0.0.1:9999"},
    {"Origin": f"{HOST}.evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": HOST},
)  # fmt: skip


def test_a_form_of_another_site_is_refused(site: Site) -> None:
    """CSRF, log-in CSRF: a browser says that another site sent the form, whatever token and cookie it bears."""
    ann = site.log_in("ann")
    form = {"csrf": ann.csrf, "name": "ann", "secret": site.tokens["ann"]}
    for headers in FOREIGN:
        for path in ("/login", "/logout", "/task", "/me"):
            assert ann.client.post(path, data=form, headers=headers).status_code == 403, (path, headers)
    assert ann.get("/me").status_code == 200
    own = {"Origin": HOST, "Sec-Fetch-Site": "same-origin"}
    assert ann.client.post("/logout", data=form, headers=own).status_code == 303


def test_reading_changes_nothing(site: Site) -> None:
    """CSRF by pictures and links: what forms do is asked for by GET, HEAD, PUT and DELETE."""
    boss = site.log_in("boss")
    before = len(site.store.facts("audit", "setting"))
    for path in ("/logout", "/lead/people/ann?action=off", "/lead/import", "/lead/settings?overlap=7", "/task?do=undo"):
        for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
            boss.client.request(method, f"{path}{'&' if '?' in path else '?'}csrf={boss.csrf}")
    assert boss.get("/me").status_code == 200
    assert len(site.store.facts("audit", "setting")) == before
    assert site.store.settings().overlap == 1


# -- the session ------------------------------------------------------------------------------------------------------


def test_a_planted_cookie_is_not_adopted(site: Site) -> None:
    """Session fixation: the attacker sets the victim's cookie beforehand, made up or of the attacker's own session."""
    bob = site.log_in("bob")
    planted = ["chosen-by-the-attacker", bob.client.cookies["assay_session"]]
    got = set()
    for cookie in planted:
        client = site.browser(Cookie=f"assay_session={cookie}")
        answer = client.post("/login", data={"name": "ann", "secret": site.tokens["ann"]})
        got.add(answer.cookies["assay_session"])
        attacker = site.browser(Cookie=f"assay_session={cookie}").get("/me")
        assert ">ann<" not in attacker.text
        assert "Log out ann" not in attacker.text
    assert bob.get("/me").status_code == 303, "who logs in over a session ends it"
    assert len(got) == 2
    assert not got & set(planted)
    assert min(map(len, got)) >= 43, "256 random bits"


def test_a_session_ends_on_the_server(site: Site) -> None:
    """Replay: a cookie that was copied before log-out, before a change of password, or twelve hours ago."""
    ann, other = site.log_in("ann"), site.log_in("ann")
    copied = site.browser(Cookie=f"assay_session={ann.client.cookies['assay_session']}")
    assert copied.get("/me").status_code == 200
    ann.post("/logout")
    assert copied.get("/me").status_code == 303
    new = "correct horse battery"
    third = site.log_in("ann")
    before = third.client.cookies["assay_session"]
    answer = third.post("/me", old=site.tokens["ann"], new=new)
    assert answer.status_code == 303
    assert third.client.cookies["assay_session"] != before
    assert third.get("/me").status_code == 200
    assert other.get("/me").status_code == 303, "other sessions end"
    assert site.browser(Cookie=f"assay_session={before}").get("/me").status_code == 303
    assert site.browser().post("/login", data={"name": "ann", "secret": site.tokens["ann"]}).status_code == 401
    site.clock.now += 13 * 3600
    assert third.get("/me").status_code == 303


@pytest.mark.parametrize("https", [False, True])
def test_cookies_are_marked(make_site: Callable[..., Site], https: bool) -> None:
    """Theft by scripts, by other sites and on the way: HttpOnly, SameSite, and behind TLS Secure, __Host- and HSTS."""
    site = make_site(https=https)
    client = TestClient(site.app, "https://127.0.0.1", follow_redirects=False)
    answer = client.post("/login", data={"name": "ann", "secret": site.tokens["ann"]})
    flags = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")}
    assert {"httponly", "samesite=lax", "path=/"} <= flags
    assert not any(f.startswith("domain") for f in flags)
    assert ("secure" in flags) is https
    assert answer.headers["set-cookie"].startswith("__Host-assay=" if https else "assay_session=")
    assert ("strict-transport-security" in answer.headers) is https


# -- guessing ---------------------------------------------------------------------------------------------------------


def test_guessing_at_one_name_is_stopped(site: Site) -> None:
    """Brute force: one address at one name; then the right secret does not help, until a quarter of an hour later."""
    client = site.browser("10.9.9.9")
    tried = [client.post("/login", data={"name": "ann", "secret": f"guess {n}"}).status_code for n in range(10)]
    assert tried == [401] * 8 + [429] * 2
    right = {"name": "ann", "secret": site.tokens["ann"]}
    assert client.post("/login", data=right).status_code == 429
    assert site.browser("10.1.1.1").post("/login", data=right).status_code == 303, "ann at home is not locked out"
    site.clock.now += 901
    assert client.post("/login", data=right).status_code == 303


def test_guessing_in_parallel_is_stopped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force with a burst: all guesses are sent before the first one has failed."""

    class Slow(PasswordHasher):
        def verify(self, *given: Any) -> Literal[True]:
            time.sleep(0.05)
            return super().verify(*given)

    monkeypatch.setattr(accounts, "_HASHER", Slow(time_cost=1, memory_cost=8, parallelism=1))
    clients = [site.browser("10.9.9.9") for _ in range(24)]
    with ThreadPoolExecutor(len(clients)) as pool:
        sent = [pool.submit(c.post, "/login", data={"name": "ann", "secret": f"{n}"}) for n, c in enumerate(clients)]
        told = Counter(s.result().status_code for s in sent)
    assert told[401] <= 8 + 3, "those that were being checked when the eighth failed"
    assert told[401] + told[429] == 24


def test_guessing_at_many_names_and_from_many_addresses_is_stopped(site: Site) -> None:
    """Password spraying from one address over names (also unknown ones); and at one name from many addresses."""
    client = site.browser("10.9.9.9")
    tried = [client.post("/login", data={"name": f"user{n}", "secret": "password"}).status_code for n in range(61)]
    assert tried == [401] * 60 + [429]
    tried = [
        site.browser(f"10.2.0.{n}").post("/login", data={"name": "bob", "secret": "x"}).status_code for n in range(61)
    ]
    assert tried == [401] * 60 + [429]


def test_a_stolen_session_cannot_guess_the_password(site: Site) -> None:
    """Brute force of the old password on the page that changes it."""
    ann = site.log_in("ann")
    for n in range(8):
        assert "not right" in ann.post("/me", old=f"guess {n}", new="x" * 20).text
    answer = ann.post("/me", old=site.tokens["ann"], new="x" * 20)
    assert answer.status_code == 422
    assert "Too many" in answer.text
    assert site.accounts.log_in("ann", site.tokens["ann"], "elsewhere"), "the password is as it was"


def test_changes_in_a_minute_are_bounded(make_site: Callable[..., Site]) -> None:
    """Flooding: by one session, and by one address that makes up a cookie for each request."""
    site = make_site(per_minute=5)
    client = site.browser()
    assert [client.post("/logout").status_code for _ in range(7)] == [403] * 5 + [429] * 2
    made_up = [site.browser("10.3.3.3", Cookie=f"assay_session={n}").post("/logout").status_code for n in range(60)]
    assert made_up == [403] * 50 + [429] * 10
    assert site.browser("10.4.4.4").post("/logout").status_code == 403


def test_an_unknown_name_looks_like_a_wrong_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User enumeration: by the answer's text, status, headers or time, which is that of argon2 (as it is in use): one check
    of the same cost for each name."""
    checked: list[Parameters] = []

    class Counted(PasswordHasher):
        def verify(self, known: Any, *given: Any) -> Literal[True]:
            checked.append(extract_parameters(known))
            return super().verify(known, *given)

    monkeypatch.setattr(accounts, "_HASHER", Counted())
    database = Database(f"sqlite:///{tmp_path / 'web.sqlite'}")
    app = make_app(WebConfig(database=database))
    for name in ("ann", "off"):
        app.state.accounts.invite(name, "annotator", "test")
    app.state.accounts.change("off", "test", active=False)
    answers, asked = set(), 0
    for n in range(2):
        client = TestClient(app, HOST, client=(f"10.0.0.{n}", 1))
        for name in ("ann", "off", "nobody"):
            answer = client.post("/login", data={"name": name, "secret": "x" * 20})
            asked += 1
            assert len(checked) == asked, name
            headers = {k: v for k, v in answer.headers.items() if k != "content-length"}
            told = answer.text.replace(f'value="{name}"', "")  # the name that was typed stands there again
            answers.add((answer.status_code, told, tuple(sorted(headers.items()))))
    database.close()
    assert len(answers) == 1
    assert all(cost == checked[0] for cost in checked)


def test_secrets_are_not_in_the_database(tmp_path: Path) -> None:
    """A stolen database file (or backup): no token, password or cookie; argon2id with at least OWASP's cost."""
    database = Database(f"sqlite:///{tmp_path / 'web.sqlite'}")
    app = make_app(WebConfig(database=database))
    token = app.state.accounts.invite("ann", "annotator", "test")
    client = TestClient(app, HOST, follow_redirects=False)
    client.post("/login", data={"name": "ann", "secret": token})
    first = client.cookies["assay_session"]
    password = "correct horse battery staple"
    Browser(client).post("/me", old=token, new=password)
    client.post("/login", data={"name": "ann", "secret": f"wrong {password}"})
    second = client.cookies["assay_session"]
    held = b"".join(p.read_bytes() for p in tmp_path.glob("web.sqlite*"))
    database.close()
    assert len({first, second}) == 2
    for secret in (token, password, first, second):
        assert secret.encode() not in held
    hashes = re.findall(rb"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$", held)
    assert hashes
    assert all(int(m) >= 19_456 and int(t) >= 2 for m, t, _ in hashes)
