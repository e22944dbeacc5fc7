"""`assay serve`: a reward model over HTTP."""

import os
from typing import Literal

from tyro.conf import Positional

from assay.errors import AssayError, missing_extra
from assay.processes import take_port


def serve_model(
    model: Positional[str], host: str = "127.0.0.1", port: int = 8001, max_tokens: int = 4096,
    precision: Literal["auto", "fp32", "bf16"] = "fp32", name: str = "", api_key_env: str = "ASSAY_API_KEY",
    over_long: Literal["truncate", "refuse"] = "truncate", batch_tokens: int = 32_768, queue_tokens: int = 1_000_000,
    max_conversations: int = 1_024, max_body_mb: float = 32.0,
) -> None:  # fmt: skip
    """Serve a reward model: /v1/score, /v1/rank, /health, /metrics, and the endpoints of OpenRLHF, vLLM and SGLang.

    Args:
        model: A reward model: a folder or a hub id.
        host: Where to listen; anything but loopback should have a key.
        port: Where to listen.
        max_tokens: The most of a conversation that is read.
        precision: fp32, bf16 for speed, or auto: bf16 where the device has instructions for it.
        name: What answers call the model (default: its folder or id).
        api_key_env: The environment variable that holds the key which clients must send (unset: none).
        over_long: Longer conversations lose the front of their history, as offline, or are refused.
        batch_tokens: Tokens of one batch.
        queue_tokens: Beyond so many waiting tokens, requests get a 503 with Retry-After.
        max_conversations: Of one request.
        max_body_mb: Of one request.
    """
    try:
        from assay.reward.serve import ServeConfig, make_app, ready_line, serve
    except ImportError as error:
        raise missing_extra(str(error.name), "serve") from error
    from assay.reward.scorer import LocalScorer, load_scorer

    config = ServeConfig(
        batch_tokens=batch_tokens, queue_tokens=queue_tokens, max_conversations=max_conversations,
        max_body_mb=max_body_mb, over_long=over_long, api_key=os.environ.get(api_key_env, ""),
    )  # fmt: skip
    at = take_port(host, port)  # before the model is loaded
    scorer = load_scorer(model, max_tokens, precision=precision)
    if not isinstance(scorer, LocalScorer):
        raise AssayError(f"{model}: give a reward model itself, not a server or a function")
    at.listen()
    print(ready_line(name or model, host, port), flush=True)
    serve(make_app(scorer, name or model, config), at)
