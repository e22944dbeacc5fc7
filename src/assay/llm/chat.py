"""What is asked of a chat model, in the words of the OpenAI API, and what it may cost."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from assay.errors import AssayError
from assay.images import MEDIA, file_of
from assay.llm.replies import Reply, spelled
from assay.records import Conversation, Message, digest, tools_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig:
    """One model behind one server. The API key stays in the environment variable named by `api_key_env`.

    `name` is what judgements call the model (default: `model`). `tries` counts all attempts at a request; the wait after
    a failure doubles from `backoff_s`, unless the server says Retry-After, and never exceeds `max_wait_s`.

    Example: ChatConfig(url="http://localhost:8000/v1", model="Qwen/Qwen3-32B")
    """

    url: str
    model: str
    name: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    temperature: float = 1.0
    max_tokens: int = 1024
    concurrency: int = 32
    tries: int = 5
    timeout_s: float = 180.0
    backoff_s: float = 1.0
    max_wait_s: float = 60.0
    price_in: float = 0.0
    """Of a million prompt tokens, in the currency of the budget; 0: free."""
    price_out: float = 0.0
    """Of a million tokens of replies."""
    images: Path | None = None
    """The folder of pictures that messages name, sent inside the request as PNG."""
    schemas: Literal["auto", "always", "never"] = "auto"
    """Whether a request's JSON schema goes to the server as `response_format`. "auto": until the server refuses one; the
    request is then asked without, and so are all later ones. No part of a request's name: the question is the same."""
    known_as: str = ""
    """Where the model answered before it moved to `url` (empty: it never did): its replies are kept under that address."""

    def __post_init__(self) -> None:
        if min(self.price_in, self.price_out) < 0:
            raise AssayError(f"chat server {self.url}: prices must not be negative")
        if not self.url.lower().startswith(("http://", "https://")):
            raise AssayError(
                f"chat url {self.url!r}: must start with http:// or https://, like http://localhost:8000/v1"
            )
        if not self.model or self.concurrency < 1 or self.tries < 1:
            raise AssayError(f"chat server {self.url}: needs a model name, concurrency >= 1 and tries >= 1")

    @property
    def endpoint(self) -> str:
        return f"{spelled(self.url)}/chat/completions"

    @property
    def home(self) -> str:
        """The address under which replies, costs and batches are kept."""
        return spelled(self.known_as or self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a chat model. Requests that differ only in `sample` are independent draws of the same question."""

    messages: Conversation
    sample: int = 0
    schema: str = ""
    """The JSON schema (as JSON text) that the reply must follow. Not every server enforces it: parse strictly."""


class Chat(Protocol):
    """A chat model: one reply per request, in order. `name` is what judgements call it."""

    @property
    def name(self) -> str: ...
    def complete(self, requests: Sequence[Request]) -> list[Reply]: ...


class Priced(Protocol):
    """What has prices of a million tokens in and out."""

    @property
    def price_in(self) -> float: ...
    @property
    def price_out(self) -> float: ...


def cost(config: Priced, tokens_in: float, tokens_out: float) -> float:
    return (tokens_in * config.price_in + tokens_out * config.price_out) / 1e6


def most_tokens(config: ChatConfig, request: Request) -> tuple[int, int]:
    """An upper estimate of a request's prompt tokens (a token of at least two bytes, on average, and eight for each
    message's frame; pictures 1,500) and the most tokens of its reply."""
    size = sum(len(m.content.encode("utf-8", "replace")) // 2 + 8 + 1_500 * len(m.images) for m in request.messages)
    return size, config.max_tokens


def request_body(config: ChatConfig, request: Request) -> dict[str, Any]:
    """The JSON that is posted to a server that lacks nothing (`dialect.without` takes away what it lacks)."""
    messages = [m.chat(_content(config, m)) for m in request.messages]
    body = {
        "model": config.model, "messages": messages, "temperature": config.temperature, "max_tokens": config.max_tokens,
    }  # fmt: skip
    if tools := tools_of(request.messages):
        body["tools"] = tools
    if request.schema:
        schema = {"name": "answer", "strict": True, "schema": json.loads(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def unsendable(config: ChatConfig, request: Request) -> str:
    """Why a request cannot be sent ("": it can)."""
    names = [i for m in request.messages for i in m.images]
    if names and config.images is None:
        return "images cannot be sent: the server's folder of images is not named"
    missing = next((n for n in names if config.images and file_of(config.images, n) is None), "")
    return f"no image with the id {missing}" if missing else ""


def _content(config: ChatConfig, message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content
    assert config.images is not None
    parts: list[dict[str, Any]] = []
    for name in message.images:
        file = file_of(config.images, name) or config.images / f"{name}.png"
        data = base64.b64encode(file.read_bytes()).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:{MEDIA[file.suffix]};base64,{data}"}})
    return [*parts, {"type": "text", "text": message.content}]


def request_key(config: ChatConfig, request: Request) -> str:
    """The content id of a request: endpoint, model, parameters, messages, schema, sample index."""
    return digest([f"{config.home}/chat/completions", request_body(config, request), request.sample])


def request_text(config: ChatConfig, request: Request) -> str:
    """A request as JSON, as it is kept beside its reply."""
    return json.dumps({**request_body(config, request), "sample": request.sample})
