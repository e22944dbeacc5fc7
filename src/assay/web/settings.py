"""The settings of a project, as the lead's page shows and stores them: texts with a meaning and bounds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

_LABELS: Mapping[str, tuple[str, tuple[str, ...], int, int]] = {
    "overlap": ("People who judge each pair", (), 1, 20),
    "lease_minutes": ("Minutes that a pair stays with a person who does not answer", (), 1, 1440),
    "trap_every": ("A pair with a known answer after so many (0: none)", (), 0, 1000),
    "verdicts": ("Verdicts of machines on single responses", ("on request", "always", "never"), 0, 0),
    "reason": (
        "A reason in the annotator's words is asked for",
        ("after a machine was asked", "always", "never"),
        0,
        0,
    ),
    "python": ("Annotators may run Python programs", ("yes", "no"), 0, 0),
    "assistant": ("Annotators may ask the assistant", ("yes", "no"), 0, 0),
    "search": ("Search engine for the search link", ("DuckDuckGo", "Google", "Bing", "Wikipedia", "none"), 0, 0),
}
SEARCH: Mapping[str, str] = {
    "DuckDuckGo": "https://duckduckgo.com/?q=", "Google": "https://www.google.com/search?q=",
    "Bing": "https://www.bing.com/search?q=", "Wikipedia": "https://en.wikipedia.org/w/index.php?search=",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the page works. The default asks for a reason wherever a machine's opinion was on the screen."""

    overlap: int = 1
    lease_minutes: int = 30
    trap_every: int = 10
    verdicts: Literal["on request", "always", "never"] = "on request"
    reason: Literal["after a machine was asked", "always", "never"] = "after a machine was asked"
    python: Literal["yes", "no"] = "yes"
    assistant: Literal["yes", "no"] = "yes"
    search: str = "DuckDuckGo"

    @property
    def lease_s(self) -> float:
        return self.lease_minutes * 60.0

    @staticmethod
    def of(values: Mapping[str, str]) -> "Settings":
        """Settings from texts; unknown names are ignored. Raises ValueError, naming the setting, for a value out of
        bounds."""
        read: dict[str, Any] = {}
        for name, text in values.items():
            if name not in _LABELS:
                continue
            label, options, low, high = _LABELS[name]
            if options:
                if text not in options:
                    raise ValueError(f"{label}: choose one of {', '.join(options)}")
                read[name] = text
            else:
                if not text.strip().isascii() or not text.strip().isdigit() or not low <= int(text[:9]) <= high:
                    raise ValueError(f"{label}: a whole number from {low} to {high}")
                read[name] = int(text)
        return Settings(**read)

    def texts(self) -> dict[str, str]:
        """The inverse of `of`."""
        return {f.name: str(getattr(self, f.name)) for f in fields(self)}


def describe(name: str) -> tuple[str, tuple[str, ...], int, int]:
    """A setting's label, its options (none: a whole number), and its bounds."""
    return _LABELS[name]
