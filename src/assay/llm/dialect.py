"""What a server's form of the chat API lacks, learnt from its refusals: a request is said again without it, and so are all
later ones. Newer models of OpenAI know `max_completion_tokens` only, and no temperature but their own; many servers know no
JSON schema, or none with bounds."""

import re
from collections.abc import Collection
from typing import Any, Literal

Lack = Literal["max_tokens", "temperature", "bounds", "schema"]
WORDS = {
    "max_tokens": "max_completion_tokens instead of max_tokens", "temperature": "no temperature but the model's own",
    "bounds": "JSON schemas without lengths", "schema": "no JSON schema",
}  # fmt: skip
"""How a lack is told to people: "the server takes ..."."""
WRONG_REQUEST = frozenset({400, 404, 415, 422, 501})
"""How servers refuse a request that has what they do not know."""
_UNKNOWN = re.compile(
    r"unsupported|not supported|not support|unrecogni[sz]ed|unknown|instead|only the default|deprecated|not permitted|"
    r"not allowed|extra inputs|unexpected|not compatible",
    re.IGNORECASE,
)
_BOUNDS = ("maxLength", "maxItems", "minItems")


def without(body: dict[str, Any], lacks: Collection[Lack]) -> dict[str, Any]:
    """The request in words that the server knows."""
    told = dict(body)
    if "max_tokens" in lacks and "max_tokens" in told:
        told["max_completion_tokens"] = told.pop("max_tokens")
    if "temperature" in lacks:
        told.pop("temperature", None)
    if "schema" in lacks:
        told.pop("response_format", None)
    if "bounds" in lacks and "response_format" in told:
        told["response_format"] = _unbound(told["response_format"])
    return told


def lesson(body: dict[str, Any], status: int, said: str, schemas: bool) -> Lack | None:
    """What to leave out of a refused request next; None: it is refused for what it is. `schemas`: they may be left out."""
    if status not in WRONG_REQUEST:
        return None
    if _UNKNOWN.search(said):
        if "max_tokens" in body and ("max_completion_tokens" in said or "max_tokens" in said):
            return "max_tokens"
        if "temperature" in body and "temperature" in said.lower():
            return "temperature"
    if "response_format" not in body or not schemas:
        return None
    bound = _unbound(body["response_format"]) != body["response_format"]
    return "bounds" if bound and any(b.lower() in said.lower() for b in _BOUNDS) else "schema"


def _unbound(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _unbound(v) for k, v in value.items() if k not in _BOUNDS}
    return [_unbound(v) for v in value] if isinstance(value, list) else value
