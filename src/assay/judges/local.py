"""A language model on this machine as a judge, read by which verdict it finds likelier: no server, and no unreadable answer.

The prompt ends with the beginning of the answer, "Verdict:", and the judge says 1 or 2, whichever is the likelier next
token: what a server gives at temperature 0 when it holds a model to these two lines. A model too small to keep to a form can
be measured so; it never ties. Prompts share long beginnings (the protocol): they go in the order of their texts, and the
keys and values of what two neighbours share are kept. Its probability goes with each vote: where the two orders of a pair
disagree, as they do for a judge that leans to a position, the surer of the two votes decides.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from assay.devices import computes_in_half
from assay.errors import AssayError
from assay.llm.budget import Budget, Estimate
from assay.llm.chat import Request
from assay.llm.replies import Reply, open_replies
from assay.models import load_model, load_tokenizer
from assay.records import digest
from assay.render import encodable
from assay.templates import chat_text

PREFILL = "Verdict: "
VERDICTS = ("1", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalConfig:
    """A model of this machine: a packaged one, a folder or a hub id."""

    model: str
    name: str = ""
    url: str = "local"
    price_in: float = 0.0
    price_out: float = 0.0

    @property
    def home(self) -> str:
        return self.url


class LocalJudge:
    """A `Chat` that answers every request with "Verdict: 1" or "Verdict: 2". The model is loaded when it is first asked.

    Replies are kept in `cache` under the content of the request: samples that ask the same get the same answer.
    """

    budget: Budget | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, config: LocalConfig, cache: Path) -> None:
        self.config, self.cache = config, cache
        self.told: Callable[[Reply], None] | None = None
        self._loaded: tuple[Any, Any] | None = None

    @property
    def name(self) -> str:
        return self.config.name or self.config.model

    def estimate(self, requests: Sequence[Request]) -> Estimate:
        keys = {self._key(r): r for r in requests}
        with open_replies(self.cache, self.config.url, self.config.model) as replies:
            todo = [r for key, r in keys.items() if replies.find(key) is None]
        size = sum(len(m.content.encode("utf-8", "replace")) for r in todo for m in r.messages)
        return Estimate(
            requests=len(todo), cached=len(keys) - len(todo), tokens_in=size // 2, tokens_out=len(todo), cost=0.0,
            usual_in=size // 4,
        )  # fmt: skip

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        keys = {self._key(r): r for r in requests}
        with open_replies(self.cache, self.config.url, self.config.model) as replies:
            found = {key: reply for key in keys if (reply := replies.find(key))}
            missing = {key: r for key, r in keys.items() if key not in found}
            for key, reply in self._read(missing) if missing else ():
                replies.together([partial(replies.came, key, "", reply)])
                found[key] = reply
                if self.told is not None:
                    self.told(reply)
        return [found[self._key(r)] for r in requests]

    def _key(self, request: Request) -> str:
        return digest(["local", self.config.model, [m.canonical() for m in request.messages]])

    def _read(self, requests: dict[str, Request]) -> Iterator[tuple[str, Reply]]:
        """(key, reply) of each request, in the order of the prompts."""
        tokenizer, model = self._model()
        prompts = sorted((self._ids(tokenizer, r), key) for key, r in requests.items())
        before: list[int] = []
        kept: Any = None
        for (ids, ones), key in prompts:
            shared = _shared(before, ids) if kept is not None else 0
            if kept is not None and shared < len(before):
                kept.crop(shared - len(before))
            with torch.inference_mode():
                told = model.base_model(torch.tensor([ids[shared:]]), past_key_values=kept, use_cache=True)
                rows = model.get_output_embeddings().weight[list(ones)]
                scores = rows.float() @ told.last_hidden_state[0, -1].float()  # in half precision many would tie
            kept, before = told.past_key_values, ids
            best = int(scores.argmax())
            sure = float(torch.softmax(scores, dim=0)[best])
            yield key, Reply(text=PREFILL + VERDICTS[best], tokens_in=len(ids), tokens_out=1, confidence=sure)

    def _ids(self, tokenizer: Any, request: Request) -> tuple[list[int], tuple[int, int]]:
        """The prompt with the beginning of the answer, and the tokens that are to be compared after it."""
        if any(m.images for m in request.messages):
            raise AssayError(f"{self.name}@local cannot see pictures; ask a server")
        text = encodable(chat_text(tokenizer, request.messages, asking=True)) + PREFILL
        one, other = (tokenizer(text + v, add_special_tokens=False).input_ids for v in VERDICTS)
        if one[:-1] != other[:-1] or one[-1] == other[-1]:
            raise AssayError(f"{self.name}@local: its tokenizer does not end '{PREFILL}1' with a token for the 1 alone")
        return one[:-1], (one[-1], other[-1])

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import transformers

            tokenizer = load_tokenizer(self.config.model)
            if not tokenizer.chat_template:
                raise AssayError(f"{self.name}@local has no chat template; give a chat model")
            half = torch.bfloat16 if computes_in_half("auto") else torch.float32
            self._loaded = (
                tokenizer,
                load_model(transformers.AutoModelForCausalLM, self.config.model, "generate").to(half).eval(),
            )
        return self._loaded


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two prompts begin with alike; at least the last one of `other` is left to be read."""
    most = min(len(one), len(other) - 1)
    return next((n for n in range(most) if one[n] != other[n]), most)
