"""The lead's flow in a real Chromium: from the first account to the last line of the audit log, axe on every page."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from browser import ATTACK, FIBONACCI, Site, assert_accessible, case, follow, log_in, picture, plain_cases, site

from assay.curate.entries import Entry
from assay.curate.interchange import read, write
from assay.records import Case, Judgement
from assay.web.schema import Database, seats
from assay.web.seats import Seat

DISPUTED = case(*FIBONACCI, objectivity="objective", controversiality="low", category="Coding & Debugging")
ODD = case(*ATTACK, objectivity="subjective", controversiality="high", category="Other")
SUMS = plain_cases(12)
TRAPS = [case(f"What is {n} times 2?", f"It is {2 * n}.", f"It is {2 * n + 1}.") for n in range(20, 24)]
CASES: list[Case] = [DISPUTED, ODD, *SUMS]
PAGES = ("/lead", "/lead/disputes", "/lead/people", "/lead/settings", "/lead/exchange", "/lead/audit")
FORMATS = {"jsonl": "JSONL", "parquet": "Parquet", "argilla": "Argilla 2 records", "label-studio": "Label Studio tasks"}


def right(of: Case) -> str:
    """The response that says the truth: the lower number, or the program that is linear."""
    texts = {r.text: r.id for r in of.pair.responses}
    return texts[FIBONACCI[1] if of is DISPUTED else min(texts)]


class Person:
    """An annotator over HTTP. `seconds` are what each of their pairs seems to have been on the screen."""

    def __init__(self, where: Site, name: str, token: str, seconds: float = 0.0) -> None:
        self.name, self.seconds, self.database = name, seconds, Database(where.database)
        self.client = httpx.Client(base_url=where.url, follow_redirects=True, timeout=300)
        self.page = self.client.post("/login", data={"name": name, "secret": token})
        assert self.page.status_code == 200, self.page.text

    def field(self, name: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]*)"', self.page.text)
        return found[1] if found else ""

    @property
    def case(self) -> Case | None:
        """The pair on the page; None when there is nothing to do."""
        return next((c for c in (*CASES, *TRAPS) if c.pair.id == self.field("pair_id")), None)

    def send(self, **more: object) -> None:
        with self.database.write() as connection:
            own = seats.c.submission == self.field("submission")
            connection.execute(seats.update().where(own).values(opened=seats.c.opened - self.seconds))
        hidden = {n: self.field(n) for n in ("csrf", "submission", "pair_id")}
        self.page = self.client.post("/task", data={**hidden, **more})
        assert self.page.status_code == 200, self.page.text

    def prefer(self, response: str) -> None:
        assert self.case
        self.send(answer="12"[Seat.order(self.case, self.name).index(response)])

    def close(self) -> None:
        self.client.close()
        self.database.close()


@contextmanager
def people(where: Site) -> Iterator[tuple[Person, Person]]:
    """ann, who reads and is right, and bob, who takes what is shown first and is not disturbed by traps."""
    both = (Person(where, "ann", where.tokens["ann"], seconds=60), Person(where, "bob", where.tokens["bob"]))
    yield both
    for person in both:
        person.close()


def judge_everything(ann: Person, bob: Person) -> None:
    while (at := ann.case) is not None:
        if at.pair.id == ODD.pair.id:
            ann.send(do="flag", note="is this <b>an attack</b>?")
            ann.send(answer="cannot decide")
        else:
            ann.prefer(right(at))
    while (at := bob.case) is not None:
        wrong = next(r.id for r in at.pair.responses if r.id != right(at))
        bob.prefer(wrong if at in TRAPS or at is DISPUTED else Seat.order(at, "bob")[0])


def seen(page: Any, name: str) -> None:
    """One page of the lead: accessible, no wider than its window, and photographed."""
    assert_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
    page.screenshot(path=picture(f"lead-{name}"), full_page=True)


def row(page: Any, table: str, name: str) -> list[str]:
    """The cells beside a row's name."""
    page.wait_for_load_state()
    rows = page.get_by_role("group", name=table).locator("tbody tr")
    cells: list[str] = (
        rows.filter(has=page.get_by_role("rowheader", name=name, exact=True)).locator("td").all_inner_texts()
    )
    return [c.strip() for c in cells]


def invite(page: Any, where: Site, name: str, role: str) -> None:
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Role", exact=True).select_option(role)
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_selector(f"text=The token of {name}")
    where.tokens[name] = page.locator("code").inner_text()


def test_the_whole_flow(page: Any, tmp_path: Path) -> None:
    traps = [Entry(pair=c.pair, shown=Seat.order(c, ""), attributes=c.attributes, judgements=(
        Judgement(pair_id=c.pair.id, better=right(c), by="x", kind="human"),)) for c in TRAPS]  # fmt: skip
    write(tmp_path / "traps", "jsonl", traps)
    with site(tmp_path, CASES, "--traps", tmp_path / "traps") as where:
        an_admin_sets_up(page, where)
        with people(where) as (ann, bob):
            judge_everything(ann, bob)
            log_in(page, where, "lea")
            a_lead_sees_how_it_goes(page, where)
            a_lead_decides(page, where)
            a_lead_exchanges(page, where, tmp_path)
            a_lead_switches_off(page, where, ann)
            a_lead_is_no_admin(page, where)
            the_audit_log_says_who(page, where)
        page.context.clear_cookies()
        an_annotator_is_no_lead(page, where)


def an_admin_sets_up(page: Any, where: Site) -> None:
    log_in(page, where, "admin")
    seen(page, "empty")
    page.get_by_role("link", name="People", exact=True).click()
    for name, role in (("lea", "lead"), ("ann", "annotator"), ("bob", "annotator")):
        invite(page, where, name, role)
    seen(page, "people")
    page.goto(f"{where.url}/lead/people")
    assert not any(token in page.content() for token in where.tokens.values()), "a token is shown once"
    page.get_by_label("Name", exact=True).fill("ann")
    page.get_by_role("button", name="Add", exact=True).click()
    assert "There is an account ann already" in page.get_by_role("alert").inner_text()

    page.get_by_role("link", name="Settings").click()
    page.get_by_label("People who judge each pair").fill("2")
    page.get_by_label("A pair with a known answer").fill("3")
    page.get_by_role("button", name="Store").click()
    page.wait_for_selector("text=The settings are stored.")
    assert page.get_by_label("People who judge each pair").input_value() == "2"
    seen(page, "settings")
    page.get_by_role("button", name="Log out admin").click()
    page.wait_for_url("**/login")


def a_lead_sees_how_it_goes(page: Any, where: Site) -> None:
    sums = SUMS[0].attributes.category
    assert row(page, "Progress", sums) == ["12", "12", "12", row(page, "Progress", sums)[3], "12 of 12"]
    assert row(page, "Progress", "Coding & Debugging") == ["1", "1", "1", "1", "1 of 1"], "they disagree: undecided"
    assert row(page, "Progress", "All")[:3] == ["14", "14", "14"]

    measures = page.get_by_role("group", name="Agreement").locator("tbody tr").all_inner_texts()
    assert {m.split("\t")[1] for m in measures} >= {"Krippendorff's alpha", "Fleiss' kappa"}
    for text in measures:
        value, interval = text.split("\t")[2:4]
        low, high = map(float, interval.split(" to "))
        assert -1 <= low <= float(value) <= high < 1, text
    follow(page, page.get_by_role("link", name="Every two people"))
    assert row(page, "Agreement", "ann and bob")[0] == "Cohen's kappa"

    judged, _, seconds, traps, first, *_, flags = row(page, "Annotators", "ann")
    assert (judged, seconds, flags) == ("18", "60", "nothing")
    assert traps.startswith("100.0 % (39.8 to 100.0; n 4, too few to say")
    assert 10 < float(first.partition(" ")[0]) < 90
    assert "; n " in first
    judged, _, seconds, traps, *_, flags = row(page, "Annotators", "bob")
    assert (judged, seconds) == ("18", "0")
    assert traps.startswith("0.0 % (0.0 to 60.2; n 4")
    assert "missed 4 of 4 traps" in flags
    assert "faster than they can be read" in flags
    assert row(page, "Flagged and skipped", ODD.pair.id[:12]) == ["flagged", "ann", "is this <b>an attack</b>?"]
    seen(page, "overview")
    page.set_viewport_size({"width": 360, "height": 740})
    seen(page, "overview-small")
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator("#theme").click()
    seen(page, "overview-dark")
    page.locator("#theme").click()


def a_lead_decides(page: Any, where: Site) -> None:
    follow(page, page.get_by_role("link", name="on which people disagree"))
    seen(page, "disputes")
    question, _, said, _ = row(page, "Disagreements", DISPUTED.pair.id[:12])
    assert question == FIBONACCI[0][:100].strip()
    assert said in ("ann: response 1; bob: response 2", "ann: response 2; bob: response 1")
    follow(page, page.get_by_role("link", name=DISPUTED.pair.id[:12]))
    assert page.locator("math").count() > 0
    for name in ("ann", "bob"):
        assert f"{name}: {row(page, 'What was judged', name)[1]}" in said, "both pages number the responses alike"
    seen(page, "pair")
    page.get_by_text("Differences").click()
    page.locator(f'input[value="{right(DISPUTED)}"]').check()
    page.get_by_label("Why", exact=True).fill("It is the linear one.")
    follow(page, page.get_by_role("button", name="Decide"))
    page.wait_for_selector("text=The decision is stored.")
    assert "decided: " in row(page, "Disagreements", DISPUTED.pair.id[:12])[3]
    page.goto(f"{where.url}/lead/pairs/{DISPUTED.pair.id}")
    assert row(page, "What was judged", "lea")[-1] == "It is the linear one."
    page.goto(f"{where.url}/lead/pairs/{ODD.pair.id}")
    assert page.evaluate("window.ran") is None
    seen(page, "pair-attack")


def a_lead_exchanges(page: Any, where: Site, folder: Path) -> None:
    follow(page, page.get_by_role("link", name="Export and import"))
    seen(page, "exchange")
    files = {}
    for format, name in FORMATS.items():
        with page.expect_download() as download:
            page.get_by_role("link", name=name, exact=True).click()
        files[format] = folder / download.value.suggested_filename
        download.value.save_as(files[format])
    for format, file in files.items():
        found = read(file, format, cases=CASES)  # type: ignore[arg-type]
        assert {e.pair.id for e in found.entries} == {c.pair.id for c in CASES}, "traps stay at home"
        told = Counter(j.by for j in found.judgements if j.kind == "human")
        assert sorted(told.values()) == [14, 14], format
        page.get_by_label("File of judgements by people").set_input_files(file)
        page.get_by_label("Format").select_option(format)
        page.get_by_role("button", name="Import").click()
        page.wait_for_selector("text=0 judgements added, 28 were there already, 0 problems")
    page.get_by_label("File of judgements by people").set_input_files(files["parquet"])
    page.get_by_label("Format").select_option("jsonl")
    page.get_by_role("button", name="Import").click()
    page.wait_for_selector("text=not a file of format jsonl")
    seen(page, "import-problem")


def a_lead_switches_off(page: Any, where: Site, ann: Person) -> None:
    assert "Nothing to do" in ann.client.get("/task").text
    follow(page, page.get_by_role("link", name="People", exact=True))
    seen(page, "people-of-a-lead")
    assert page.get_by_label("Role", exact=True).locator("option").all_inner_texts() == ["annotator"]
    follow(page, page.get_by_role("button", name="Disable ann"))
    page.wait_for_selector("text=The account is changed.")
    assert ann.client.get("/task").url.path == "/login"
    again = ann.client.post("/login", data={"name": "ann", "secret": where.tokens["ann"]})
    assert again.status_code == 401
    assert row(page, "People", "ann")[1] == "disabled"


def a_lead_is_no_admin(page: Any, where: Site) -> None:
    follow(page, page.get_by_role("link", name="Settings"))
    assert page.get_by_role("button", name="Store").count() == 0
    seen(page, "settings-of-a-lead")
    (cookie,) = page.context.cookies()
    token = page.locator("input[name=csrf]").first.input_value()
    with httpx.Client(base_url=where.url, cookies={cookie["name"]: cookie["value"]}, timeout=300) as client:
        for path, data in (
            ("/lead/settings", {"overlap": "1"}), ("/lead/people", {"name": "eve", "role": "admin"}),
            ("/lead/people/admin", {"action": "renew"}), ("/lead/people/admin", {"action": "off"}),
            ("/lead/people/bob", {"action": "role", "role": "lead"}),
        ):  # fmt: skip
            assert client.post(path, data={"csrf": token, **data}).status_code == 403, path


def the_audit_log_says_who(page: Any, where: Site) -> None:
    follow(page, page.get_by_role("link", name="Audit log"))
    lines = [line.split("\t")[1:] for line in page.locator("tbody tr").all_inner_texts()]
    for expected in (
        ["assay web", "account made", "admin", "admin"], ["admin", "account made", "lea", "lead"],
        ["admin", "setting changed", "overlap", "2"], ["ann", "flagged", ODD.pair.id, "is this <b>an attack</b>?"],
        ["lea", "adjudicated", DISPUTED.pair.id, right(DISPUTED)], ["lea", "imported", "judgements", "0 of 28"],
        ["lea", "account disabled", "ann", ""],
    ):  # fmt: skip
        assert expected in lines
    assert any(line[1:3] == ["log-in failed", "ann"] for line in lines)
    assert not any(token in page.content() for token in where.tokens.values())
    seen(page, "audit")


def an_annotator_is_no_lead(page: Any, where: Site) -> None:
    log_in(page, where, "bob")
    assert page.get_by_role("link", name="Lead", exact=True).count() == 0
    for path in (*PAGES, f"/lead/pairs/{DISPUTED.pair.id}", *(f"/lead/export/{f}" for f in FORMATS)):
        assert page.goto(f"{where.url}{path}").status == 403, path
    seen(page, "refused")
