"""A reward server that behaves as vLLM 0.32 does: sigmoid unless asked otherwise, no truncation unless asked for, no
messages to a model without a chat template, `tools` beside them left out, a 400 with `error.message` for the rest."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from assay.records import assistant, user
from assay.render import Rendered
from assay.reward.scorer import LocalScorer
from loopback import answering


@dataclass
class Fake:
    """What is served: a model of `room` tokens. `width` above 1: it embeds."""

    scorer: LocalScorer
    room: int = 64
    width: int = 1
    url: str = ""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def reward(self, body: dict[str, Any], ids: list[int], second: int = 0) -> list[float]:
        most = body.get("truncate_prompt_tokens")
        if most is not None:
            most = self.room if most == -1 else most
            if most > self.room:
                raise Refused(f"truncate_prompt_tokens={most} cannot be greater than max_model_len={self.room}.")
            ids = ids[-most:] if body.get("truncation_side") == "left" else ids[:most]
        if len(ids) > self.room:
            raise Refused(f"This model's maximum context length is {self.room} tokens.")
        told = float(self.scorer.rewards([(user(""), assistant(""))], [Rendered(ids=ids, second=second)])[0])
        if body.get("use_activation", True) is not False:
            told = 1 / (1 + math.exp(-told))
        return [told] * self.width

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((path, body))
        tokenizer = self.scorer.tokenizer
        if path == "/score":
            texts = [body["text_2"]] if isinstance(body["text_2"], str) else body["text_2"]
            rows = []
            for text in texts:
                both = tokenizer(body["text_1"], text)
                second = both["token_type_ids"].index(1) if "token_type_ids" in both else 0
                told = self.reward(body, both["input_ids"], second)[0]
                rows.append({"score": told if self.width == 1 else 0.5})  # one that embeds: the cosine of two vectors
        elif "messages" in body:
            if not tokenizer.chat_template:
                raise Refused("default chat template is no longer allowed, so you must provide a chat template")
            extra = body.get("chat_template_kwargs", {})
            text = tokenizer.apply_chat_template(body["messages"], tokenize=False, **extra)
            rows = [{"data": self.reward(body, tokenizer(text, add_special_tokens=False)["input_ids"])}]
        else:
            given = body["input"]
            ids = [tokenizer(given)["input_ids"]] if isinstance(given, str) else given
            rows = [{"data": self.reward(body, i)} for i in ids]
        numbered = [{"index": i, **row} for i, row in enumerate(rows)]
        return {"data": numbered[::-1]}  # the order of the list is nobody's promise


class Refused(Exception):
    """A 400."""


@contextmanager
def serving(fake: Fake) -> Iterator[Fake]:
    def reply(path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        if body is None:
            return 200, {"data": [{"id": "tiny", "max_model_len": fake.room}]}
        try:
            return 200, fake.answer(path, body)
        except Refused as refused:
            return 400, {"error": {"message": str(refused), "type": "BadRequestError", "code": 400}}

    with answering(reply) as fake.url:
        yield fake


def paths(asked: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    return [path for path, _ in asked]
