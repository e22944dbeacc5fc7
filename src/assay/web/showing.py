"""What the task page shows of a seat: its texts, its attributes and protocol, what was done beside it, what was typed."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from assay.curate.annotate import protocol_for
from assay.curate.attributes import CATEGORIES, CONTROVERSIALITY, OBJECTIVITY, response_text, said_beside
from assay.curate.rules import last_user_text
from assay.records import Message
from assay.web.diff import difference
from assay.web.facts import Fact
from assay.web.seats import Seat
from assay.web.settings import SEARCH, Settings
from assay.web.store import Store
from assay.web.text import plain_text, render_markdown, reveal

TYPED = ("reason", "code", "question", "note")
"""The fields that are kept while one types."""
MACHINES = frozenset({"verdicts", "assistant"})
REASON = 10
"""Characters of a reason, where one is asked for."""
_html = lru_cache(maxsize=256)(render_markdown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What a person did beside a pair: every use of a tool, oldest first, and which tools they were."""

    uses: tuple[Fact, ...]

    @property
    def tools(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(f.body["tool"] for f in self.uses))

    def of(self, tool: str) -> list[Fact]:
        return [f for f in self.uses if f.body["tool"] == tool]


def panel_of(store: Store, pair_id: str, name: str) -> Panel:
    return Panel(uses=tuple(reversed(store.facts("use", target=pair_id, by=name))))


def tools_at(seat: Seat | None, settings: Settings, panel: Panel) -> tuple[str, ...]:
    """The tools that were used at a seat, and "verdicts" where those of machines are on the screen."""
    seen = seat is not None and bool(seat.verdicts) and sees_verdicts(settings, panel)
    return tuple(dict.fromkeys((*panel.tools, *(("verdicts",) if seen else ()))))


def wants_reason(settings: Settings, tools: Collection[str]) -> bool:
    """Whether who prefers a response must say why."""
    return settings.reason == "always" or (settings.reason != "never" and bool(MACHINES & set(tools)))


def sees_verdicts(settings: Settings, panel: Panel) -> bool:
    return settings.verdicts == "always" or (settings.verdicts == "on request" and "verdicts" in panel.tools)


def shown(store: Store, seat: Seat, settings: Settings, has_chat: bool) -> dict[str, Any]:
    """What the template shows of a seat."""
    case, order = seat.case, seat.shown
    panel = panel_of(store, case.pair.id, seat.name)
    own = store.attributes(case.pair.id, seat.name)
    about = own or case.attributes
    sees = sees_verdicts(settings, panel)
    texts = [response_text(case.pair.response(i)) for i in order]
    topic = last_user_text(case.pair.prompt)[:300].encode("utf-8", "replace").decode()
    return {
        "seat": seat, "about": about, "edited": own is not None, "categories": CATEGORIES, "objectivities": OBJECTIVITY,
        "controversialities": CONTROVERSIALITY, "protocol": _html(protocol_for(about, tools=True)),
        "guessed": about.by == "rules", "flagged": store.flagged(case.pair.id, seat.name),
        "asked": settings.reason == "always",
        "least": REASON if wants_reason(settings, tools_at(seat, settings, panel)) else 0,
        "prompt": [_message(m) for m in case.pair.prompt],
        "responses": [[_message(m) for m in case.pair.response(i).messages] for i in order],
        "verdicts": [seat.verdicts.get(i, []) for i in order] if sees else None,
        "has_verdicts": bool(seat.verdicts) and settings.verdicts != "never",
        "changes": difference(*texts) if "difference" in panel.tools else None,
        "python": panel.of("python") if settings.python == "yes" else None,
        "assistant": panel.of("assistant") if settings.assistant == "yes" and has_chat else None,
        "search": SEARCH[settings.search] + quote(topic) if settings.search in SEARCH else "",
        "search_name": settings.search, "draft": {**dict.fromkeys(TYPED, ""), **seat.draft}, "reveal": reveal,
        "plain": plain_text, "markdown": render_markdown,
    }  # fmt: skip


def _message(message: Message) -> dict[str, Any]:
    """What the page shows of a turn: its text as Markdown; the tools, reasoning and calls with it as they are."""
    tools = [("tools", message.tools)] if message.tools else []
    return {
        "role": message.role, "html": _html(message.content) if message.content else "", "images": message.images,
        "raw": reveal(message.content),
        "beside": [(name, plain_text(text)) for name, text in (*tools, *said_beside(message))],
    }  # fmt: skip
