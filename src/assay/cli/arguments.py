"""What several commands share: how a config becomes flags, how it is printed, and how a chat server is named."""

import json
from collections.abc import Sequence
from pathlib import Path

import tyro

from assay.batches import BatchServer
from assay.chat import Budget, ChatConfig, Server
from assay.errors import AssayError
from assay.run import jsonable

Flat = tyro.conf.arg(name="")


def chat_server(
    text: str, cache: Path, flag: str, prices: tuple[float, float] = (0.0, 0.0), budget: Budget | None = None,
    batch: bool = False,
) -> Server:  # fmt: skip
    """The server that MODEL@URL names; `prices` are those of a million tokens in and out. `batch`: its batch API."""
    model, at, url = text.rpartition("@")
    if not at or not model:
        raise AssayError(f"--{flag} {text}: write MODEL@URL, for example Qwen/Qwen3-8B@http://localhost:8000/v1")
    config = ChatConfig(url=url, model=model, price_in=prices[0], price_out=prices[1])
    return BatchServer(config, cache, budget) if batch else Server(config, cache, budget)


def asking_of(servers: Sequence[Server]) -> dict[str, object]:
    """What of chat servers shapes their answers: the models and how they sample, not where they are."""
    return {
        "models": [s.name for s in servers], "temperature": servers[0].config.temperature,
        "max_tokens": servers[0].config.max_tokens,
    }  # fmt: skip


def print_config(config: object) -> None:
    print(json.dumps(jsonable(config), indent=2))
