"""Rewards from a server: ours (`assay serve`), or one with vLLM's, SGLang's or OpenRLHF's endpoints.

    layout     endpoint          what is sent                                         where the reward is
    assay      /v1/score         conversations, many in a request                     rewards[i]
    vllm       /pooling          token ids, many in a request (`tokenizer` is named)  data[i].data
               /pooling          else the messages of one conversation                data[0].data
               /score            a history with its answers, for a model that has     data[i].score
                                 no chat template (an encoder)
    sglang     /classify         texts, rendered by the model's chat template         [i].embedding
    openrlhf   as in the url     the same, as `query`                                 rewards[i]

vLLM gives a sigmoid of the reward unless told not to (`use_activation`; `activation` in older versions). It would cut what
is too long elsewhere than offline scoring, so it is not asked to: name the tokenizer for that. Its layout is tested with the
real one (`make test-vllm`), the others with fakes that follow those projects' sources. Anything but one finite number is no
reward. A request that fails after all tries gives NaN for its conversations; `problems` counts the reasons, `refused` has
that of each conversation: a benchmark reports them as coverage, a trainer raises.
"""

import asyncio
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import numpy as np
from numpy.typing import NDArray

from assay.errors import AssayError, CannotRead
from assay.llm.client import Gate, retry_after
from assay.llm.completion import PASSING
from assay.records import Conversation, tools_of
from assay.render import attempts, encodable, history
from assay.templates import chat_text, plain_turn

Layout = Literal["assay", "vllm", "sglang", "openrlhf"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConfig:
    """One reward server. `tokenizer` (a folder or a hub id) renders texts for the layouts that need them, and for vLLM the
    tokens that offline scoring has; `per_request` conversations go in one request, `concurrency` requests at a time; of each
    at most `max_tokens` are read, where the server can be told (0: what it has room for); the key is in the variable
    `api_key_env`."""

    url: str
    layout: Layout = "assay"
    model: str = ""
    tokenizer: str = ""
    max_tokens: int = 0
    api_key_env: str = "ASSAY_API_KEY"
    per_request: int = 32
    concurrency: int = 8
    tries: int = 5
    timeout_s: float = 300.0
    backoff_s: float = 0.5
    strict: bool = False
    """Raise at the first conversation without a reward, instead of giving NaN."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise AssayError(f"reward server {self.url!r}: must start with http:// or https://")
        if min(self.per_request, self.concurrency, self.tries) < 1:
            raise AssayError(f"reward server {self.url}: per_request, concurrency and tries must be at least 1")
        if self.layout in ("sglang", "openrlhf") and not self.tokenizer:
            raise AssayError(f"reward server {self.url}: layout {self.layout} takes texts; name the model's tokenizer")

    @property
    def endpoint(self) -> str:
        paths = {"assay": "/v1/score", "vllm": "/pooling", "sglang": "/classify", "openrlhf": ""}
        return self.url.rstrip("/") + paths[self.layout]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request: which conversations it is about, where it goes, its JSON."""

    rows: list[int]
    url: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a request has no rewards; `refused`: for what was in it, so that others may go through; `lasting`: the server
    would say the same again."""

    reason: str
    refused: bool = False
    lasting: bool = False


RAW = {"use_activation": False, "activation": False}
"""The reward itself, in vLLM's words, new and old."""
TOO_LONG = re.compile(r"maximum (context|model) length|max_model_len|too long")
NO_PICTURES = "pictures are not sent to reward servers; load the model here"
NO_TEMPLATE = "must provide a chat template"
"""What vLLM says of messages to a model that has none."""


@dataclass(slots=True)
class RemoteScorer:
    """A `Scorer` over HTTP. It blocks and runs its own event loop, so it cannot be called from inside one."""

    config: RemoteConfig
    problems: Counter[str] = field(default_factory=Counter)
    may_fail: bool = True
    refused: dict[Conversation, str] = field(default_factory=dict)
    """Why a conversation has no reward."""
    _tokenizer: Any = None
    _pairs: bool | None = None
    """Does vLLM's model read a pair of texts, for want of a chat template? None: not known yet."""
    _room: int | None = None
    """Tokens that vLLM's model has room for; 0: it does not say."""
    _unfit: str = ""
    """Why no score of this server is a reward."""

    def __call__(self, conversations: Sequence[Conversation]) -> NDArray[np.float64]:
        """(n,) rewards; NaN where the server gave none. Raises AssayError there if `strict`."""
        rewards = np.full(len(conversations), np.nan)
        for row, told in asyncio.run(self._score(conversations)).items() if conversations else ():
            if isinstance(told, float):
                rewards[row] = told
                continue
            if self.config.strict:
                raise AssayError(f"{self.config.endpoint}: {told}; is the server up, and does it serve this layout?")
            self.problems[told] += 1
            self.refused[conversations[row]] = told
        return rewards

    async def _score(self, conversations: Sequence[Conversation]) -> dict[int, float | str]:
        """The reward of each conversation, or why it has none."""
        key = os.environ.get(self.config.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=True) as session:
            gate = Gate()
            found: dict[int, float | str] = {}
            if self.config.layout == "vllm" and self._pairs is None:
                found.update(await self._meet(session, gate, conversations[0]))
            if self._unfit:
                return dict.fromkeys(range(len(conversations)), self._unfit)
            ids = self._rendered(conversations)
            found |= {i: told for i, told in ids.items() if isinstance(told, str)}
            found |= {i: NO_PICTURES for i, c in enumerate(conversations) if any(m.images for m in c)}
            rows = [i for i in range(len(conversations)) if i not in found]
            rows.sort(key=lambda i: hash(conversations[i][:-1]))
            todo = self.requests(conversations, rows, ids)
            while todo:
                again = await self._round(session, gate, todo, found)
                todo = [r for row in again for r in self.requests(conversations, [row], ids)]
        return found

    def _rendered(self, conversations: Sequence[Conversation]) -> dict[int, list[int] | str]:
        """Of conversations that are sent rendered: the tokens as in offline scoring (vLLM), or why one cannot be read."""
        config = self.config
        if config.layout in ("sglang", "openrlhf"):
            return {i: why for i, c in enumerate(conversations) if (why := self._unreadable(c))}
        if config.layout != "vllm" or not config.tokenizer or self._pairs:
            return {}
        most = min((n for n in (config.max_tokens, self._room) if n), default=1 << 30)
        told = attempts(self.tokenizer, conversations, most)  # all at once: answers to one prompt are cut alike
        return {i: str(r) if isinstance(r, CannotRead) else r.ids for i, r in enumerate(told)}

    def _unreadable(self, conversation: Conversation) -> str:
        try:
            self.text(conversation)
        except CannotRead as error:
            return str(error)
        return ""

    async def _meet(self, session: aiohttp.ClientSession, gate: Gate, first: Conversation) -> dict[int, float | str]:
        """Find out how vLLM's model is asked: its room in tokens, and whether it has a chat template. Returns the reward of
        the first conversation, where that was found out by asking for it."""
        try:
            async with session.get(f"{self.config.url.rstrip('/')}/v1/models") as response:
                listed = (await response.json(content_type=None))["data"]
            named = [m for m in listed if m["id"] == self.config.model] or listed
            self._room = int(named[0]["max_model_len"])
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, IndexError, TypeError):
            self._room = 0  # another server in vLLM's layout need not say
        if self.config.tokenizer:
            pairs = not self.tokenizer.chat_template
        else:
            told = await self._ask(session, gate, self.requests([first], [0], {})[0])
            if isinstance(told, Failed) and not told.refused:
                return {0: told.reason}
            pairs = isinstance(told, Failed) and NO_TEMPLATE in told.reason
        if pairs:  # an encoder that embeds answers /score too, with the cosine of two vectors
            body = RAW | self._named() | {"input": "a text"}
            told = await self._ask(session, gate, Asked(rows=[0], url=self.config.endpoint, body=body))
            if isinstance(told, Failed) and not told.lasting:
                return {}
            self._unfit = told.reason if isinstance(told, Failed) else ""
        self._pairs = pairs
        return {} if pairs or self.config.tokenizer or isinstance(told, Failed) else {0: told[0]}

    async def _round(
        self, session: aiohttp.ClientSession, gate: Gate, todo: list[Asked], found: dict[int, float | str]
    ) -> list[int]:
        """Ask all of `todo`. Returns the rows of requests that were refused whole, to be asked one by one."""
        coming, again = iter(todo), list[int]()

        async def work() -> None:
            for asked in coming:
                told = await self._ask(session, gate, asked)
                if isinstance(told, Failed) and told.refused and len(asked.rows) > 1:
                    again.extend(asked.rows)
                elif isinstance(told, Failed):
                    found.update(dict.fromkeys(asked.rows, told.reason))
                else:
                    found.update(zip(asked.rows, told, strict=True))

        await asyncio.gather(*(work() for _ in range(min(self.config.concurrency, len(todo)))))
        return again

    async def _ask(self, session: aiohttp.ClientSession, gate: Gate, asked: Asked) -> list[float] | Failed:
        """The rewards of one request, or why there are none."""
        problem = ""
        for attempt in range(self.config.tries):
            await gate.passable()
            after: float | None = None
            try:
                async with session.post(asked.url, json=asked.body) as response:
                    payload = await response.read()
                if response.status == 200:
                    return self.read(json.loads(payload), len(asked.rows))
                problem = f"http {response.status}: {_message(payload)}"
                if TOO_LONG.search(problem) and "messages" in asked.body:
                    problem += " (name the model's tokenizer, and it is cut as in offline scoring)"
                if response.status not in PASSING:
                    return Failed(problem, refused=response.status in (400, 413, 422), lasting=True)
                after = retry_after(response.headers.get("Retry-After"))
            except TimeoutError:
                problem = "timeout"
            except aiohttp.ClientError as error:
                problem = f"connection: {error}"
            except (ValueError, KeyError, IndexError, TypeError) as error:
                return Failed(f"not an answer in layout {self.config.layout}: {error!r}", lasting=True)
            if attempt + 1 < self.config.tries:
                gate.close_for(after) if after is not None else await asyncio.sleep(self.config.backoff_s * 2**attempt)
        return Failed(problem)

    def requests(
        self, conversations: Sequence[Conversation], rows: Sequence[int], ids: Mapping[int, list[int] | str]
    ) -> list[Asked]:
        """The requests that ask for the rewards of some conversations, by their tokens where these are known."""
        config = self.config
        single = config.layout == "vllm" and not config.tokenizer
        groups: dict[object, list[int]] = {}  # what stands once in a request: a history, or the tools
        for row in rows:
            first = history(conversations[row][:-1]) if self._pairs else json.dumps(tools_of(conversations[row]))
            groups.setdefault(first if self._pairs or config.layout == "assay" else "", []).append(row)
        size = len(rows) if self._pairs else 1 if single else config.per_request
        parts = [own[at : at + size] for own in groups.values() for at in range(0, len(own), size)]
        url = config.url.rstrip("/") + "/score" if self._pairs else config.endpoint

        def body(part: list[int]) -> dict[str, Any]:
            if part[0] in ids:
                return RAW | {"input": [ids[i] for i in part], "add_special_tokens": False}
            return self.body([conversations[i] for i in part])

        return [Asked(rows=p, url=url, body=self._named() | body(p)) for p in parts]

    def _named(self) -> dict[str, Any]:
        return {"model": self.config.model} if self.config.model else {}

    def body(self, conversations: Sequence[Conversation]) -> dict[str, Any]:
        """The JSON of a request, but for the model's name and tokens."""
        match self.config.layout:
            case "assay":
                tools = tools_of(conversations[0])
                asked = {"conversations": [[m.chat() for m in c] for c in conversations]}
                return asked | ({"tools": tools} if tools else {})
            case "vllm":
                return RAW | self._for_vllm(conversations)
            case "sglang":
                return {"text": [self.text(c) for c in conversations]}
        prompts = [self.text(c[:-1]) for c in conversations]
        return {"query": [self.text(c) for c in conversations], "prompts": prompts}

    def _for_vllm(self, conversations: Sequence[Conversation]) -> dict[str, Any]:
        if self._pairs:
            texts = [plain_turn(c[-1]) for c in conversations]
            return {"text_1": history(conversations[0][:-1]), "text_2": texts}
        chat: dict[str, Any] = {"messages": [m.chat() for m in conversations[0]], "add_generation_prompt": False}
        if tools := tools_of(conversations[0]):
            chat["chat_template_kwargs"] = {"tools": tools}  # /pooling leaves out `tools` beside the messages
        return chat

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            from assay.models import load_tokenizer

            self._tokenizer = load_tokenizer(self.config.tokenizer)
        return self._tokenizer

    def text(self, conversation: Conversation) -> str:
        """The chat template's text. Raises CannotRead where the template refuses it."""
        return encodable(chat_text(self.tokenizer, conversation))

    def read(self, answer: Any, count: int) -> list[float]:
        """The rewards in an answer. Raises ValueError, KeyError, IndexError or TypeError where it is not as it should be."""
        match self.config.layout:
            case "vllm":
                rows = sorted(answer["data"], key=lambda row: row.get("index", 0))
                found = [_reward(row["score"] if "score" in row else row["data"]) for row in rows]
            case "sglang":
                found = [_reward(row["embedding"]) for row in answer]
            case _:
                found = [_reward(x) for x in answer["rewards"]]
        if len(found) != count:
            raise ValueError(f"{len(found)} rewards for {count} conversations")
        return found


def _reward(told: Any) -> float:
    """One finite number, bare or in lists of one. Raises ValueError for anything else."""
    numbers = np.ravel(told).tolist()
    if len(numbers) != 1:
        raise ValueError(
            f"a vector of {len(numbers):,} numbers is no reward: the server embeds, or scores every token; serve a model "
            "with one output (vLLM: --runner pooling --convert classify)"
        )
    number = numbers[0]
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"{number!r} is no reward")
    return float(number)


def _message(payload: bytes) -> str:
    """What a server says went wrong, in its own words."""
    text = payload.decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        text = error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError):
        pass
    return text[:300]


def wait_until_ready(url: str, seconds: float = 60.0) -> None:
    """Return when the server's /health says 200. Raises AssayError when it does not in that time."""
    import urllib.error
    import urllib.request

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
    raise AssayError(f"{url}: no reward server answered within {seconds:g} s")
