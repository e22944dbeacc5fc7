"""The verification page without a server, for tests of its security: accounts, forms, uploads, hostile texts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from assay.llm.chat import Request
from assay.llm.replies import Reply
from assay.records import Attributes, Case, Pair, Response, user
from assay.web.app import WebConfig, make_app
from assay.web.schema import Database

HOST = "http://127.0.0.1:8010"
ATTACKS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>", "[x](javascript:alert(1))",
    "![x](data:text/html;base64,PHNjcmlwdD4=)", "[x](data:text/html,<script>alert(1)</script>)",
    "</textarea></pre><script>alert(1)</script>", '" autofocus onfocus="alert(1)', "' onmouseover='alert(1)",
    r"$\text{</mtext></math><script>alert(1)</script>}$", r"\[\href{javascript:alert(1)}{x}\]", "{{ 7 * 7 }}{% raw %}",
    "<iframe srcdoc='<script>alert(1)</script>'>", "<form action=//evil.example><button>", "<base href=//evil.example>",
)  # fmt: skip
EVERYTHING = "\n\n".join(ATTACKS)
SQL = (
    "'; DROP TABLE accounts; --",
    '" OR "1"="1',
    "' OR 1=1 --",
    "admin'/*",
    "ann\\' UNION SELECT secret FROM accounts --",
)


def case(prompt: str, one: str, other: str, text: str = "plain") -> Case:
    pair = Pair.of((user(prompt),), Response.of(one), Response.of(other))
    return Case(pair=pair, attributes=Attributes(pair_id=pair.id, category=text, objectivity="objective",
                controversiality="low", desired=(text,), guideline=text, by="test"))  # fmt: skip


class Assistant:
    """A language model that says what it was made to say."""

    name = f"llm{ATTACKS[0]}"

    def __init__(self, text: str) -> None:
        self.text = text

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(text=self.text)] * len(requests)


class Clock:
    """Seconds that pass when the test says so."""

    now = 1e9

    def __call__(self) -> float:
        return self.now


@dataclass
class Site:
    """The application over a database file, with an admin, a lead and two annotators, and what to send to it."""

    folder: Path
    options: dict[str, Any] = field(default_factory=dict)
    url: str = ""

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.database = Database(self.url or f"sqlite:///{self.folder / 'web.sqlite'}")
        self.app = make_app(
            WebConfig(database=self.database, clock=self.clock, **{"per_minute": 10_000, **self.options})
        )
        self.store, self.accounts = self.app.state.store, self.app.state.accounts
        roles = {"boss": "admin", "lea": "lead", "ann": "annotator", "bob": "annotator"}
        self.tokens = {n: self.accounts.invite(n, r, "test") for n, r in roles.items()}

    def browser(self, address: str = "10.0.0.1", **headers: str) -> TestClient:
        return TestClient(
            self.app, HOST, raise_server_exceptions=False, follow_redirects=False, client=(address, 1), headers=headers
        )

    def log_in(self, name: str) -> "Browser":
        client = self.browser()
        answer = client.post("/login", data={"name": name, "secret": self.tokens[name]})
        assert answer.status_code == 303
        return Browser(client)

    def routes(self) -> list[tuple[str, str]]:
        """Every (method, path template) of the application."""
        return [(m.upper(), path) for path, methods in self.app.openapi()["paths"].items() for m in methods]

    def address(self, template: str) -> str:
        known = {"pair_id": self.store.cases()[0].pair.id, "name": "ann", "to": "jsonl", "training": "t-1"}
        return template.format(**known)

    def close(self) -> None:
        self.database.close()


class Browser:
    """Somebody who is logged in, with the token of their forms."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.csrf = hidden(client.get("/me").text, "csrf")

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def post(self, path: str, **more: Any) -> Any:
        return self.client.post(path, data={"csrf": self.csrf, **more})

    def upload(self, body: bytes, format: str = "jsonl") -> Any:
        return self.client.post("/lead/import", data={"csrf": self.csrf, "format": format}, files={"file": ("f", body)})

    def seat(self) -> dict[str, str]:
        page = self.get("/task").text
        return {n: hidden(page, n) for n in ("submission", "pair_id")}


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    return found[1] if found else ""
