"""Encoders as reward models: where their texts begin, and their heads, which read the state of the first token, in fp32."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

ONE_BODY = threading.RLock()
"""While an encoder's forward stands replaced, no other thread runs any: it would take that thread's states for its own."""


def is_encoder(inner: Any) -> bool:
    """Does each token see what follows it? A sequence classifier without a plain score on the last token."""
    return not hasattr(inner, "score") and inner.get_output_embeddings() is None


def first_position(model: Any) -> int:
    """The position of a text's first token: RoBERTa's begin after its padding's."""
    tables = (m for n, m in model.named_modules() if n.endswith("position_embeddings"))
    return next((m.padding_idx + 1 for m in tables if getattr(m, "padding_idx", None) is not None), 0)


def first_token_rewards(inner: Any, states_ND: torch.Tensor) -> torch.Tensor:
    """(N,) rewards, where all that is known of N texts are the states of their first tokens."""
    states_N1D = states_ND.unsqueeze(1)
    made = BaseModelOutputWithPooling(last_hidden_state=states_N1D, pooler_output=states_ND)
    return rewards(inner, made, {"input_ids": torch.zeros((len(states_ND), 1), dtype=torch.long)})


def rewards(inner: Any, made: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """(N,) rewards in fp32: the head on what the body `made` of the inputs."""
    with _body_done(inner, made):
        return inner(**inputs).logits.squeeze(-1).float()  # type: ignore[no-any-return]


@contextmanager
def _body_done(inner: Any, made: Any) -> Iterator[None]:
    """Inside, only the head is left to compute, in fp32, on what the body `made`."""
    body = getattr(inner, inner.base_model_prefix)
    with ONE_BODY:
        for name, value in list(made.items()):
            if isinstance(value, torch.Tensor):
                made[name] = value.float()
        before = body.forward
        body.forward = lambda *_, **__: made
        try:
            with torch.autocast(made["last_hidden_state"].device.type, enabled=False):
                if getattr(body, "pooler", None) is not None and "pooler_output" in made:
                    made["pooler_output"] = _pooled(body, made["last_hidden_state"])
                yield
        finally:
            body.forward = before


def _pooled(body: Any, states_NTD: torch.Tensor) -> torch.Tensor:
    """(N, D). ALBERT's pooler is a bare linear layer, to be given the first token."""
    if isinstance(body.pooler, torch.nn.Linear):
        return body.pooler_activation(body.pooler(states_NTD[:, 0]))  # type: ignore[no-any-return]
    return body.pooler(states_NTD)  # type: ignore[no-any-return]
