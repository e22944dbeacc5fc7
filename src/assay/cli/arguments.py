"""What several commands share: how a config becomes flags, how it is printed, and how a chat server is named."""

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import tyro

from assay.errors import AssayError
from assay.llm.chat import ChatConfig
from assay.llm.client import Server

Flat = tyro.conf.arg(name="")


class App(tyro.extras.SubcommandApp):
    """A group of commands. What stands without a flag is called by its parameter's name (POOL, not STR)."""

    if not TYPE_CHECKING:  # for types it is tyro's own

        def command(self, func: Any = None, **how: Any) -> Any:
            """tyro's own, after the positionals have their names."""
            if func is None:
                return lambda later: self.command(later, **how)
            if not isinstance(func, tyro.extras.SubcommandApp):
                func.__annotations__ = {name: _called(name, kind) for name, kind in func.__annotations__.items()}
            return super().command(func, **how)


def _called(name: str, kind: Any) -> Any:
    if tyro.conf.Positional not in get_args(kind)[1:]:
        return kind
    many = getattr(get_args(kind)[0], "__origin__", None) is tuple
    return Annotated[kind, tyro.conf.arg(metavar=name.upper().replace("_", "-") + " ..." * many)]


def named(arguments: Sequence[str]) -> list[str]:
    """The arguments, with "." and ".." that stand without a flag as whole paths: a folder is told, and what is beside it
    is found, by its name."""
    before = ["", *arguments]
    return [
        str(Path(a).resolve()) if re.fullmatch(r"(\.\.?/)*\.\.?/?", a) and not before[n].startswith("-") else a
        for n, a in enumerate(arguments)
    ]


def hear_interrupts() -> None:
    """Have Ctrl-C end a wait for a line at once: polars, when it is imported, has the system go on with the wait."""
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))


def chat_config(
    text: str, flag: str, prices: tuple[float, float] = (0.0, 0.0), reply_tokens: int = 1024, images: Path | None = None
) -> ChatConfig:
    """The server that MODEL@URL names; `prices` are those of a million tokens in and out. `images`: the folder of pictures
    that its questions may show."""
    model, at, url = text.rpartition("@")
    if not at or not model:
        raise AssayError(f"--{flag} {text}: write MODEL@URL, for example Qwen/Qwen3-8B@http://localhost:8000/v1")
    seen = images if images is not None and images.is_dir() else None
    return ChatConfig(
        url=url, model=model, price_in=prices[0], price_out=prices[1], max_tokens=reply_tokens, images=seen
    )


def asking_of(servers: Sequence[Server]) -> dict[str, object]:
    """What of chat servers shapes their answers: the models and how they sample. Where they are is kept apart
    (`judges.servers`); how long an answer may be is not: what is cut is asked again."""
    return {"models": [s.name for s in servers], "temperature": servers[0].config.temperature}
