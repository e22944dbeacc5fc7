"""`/docs` of `assay serve`: every endpoint with a body that can be sent as it stands. No script, nothing from elsewhere."""

import json
from html import escape
from typing import Any, NamedTuple


class Endpoint(NamedTuple):
    """A path, what it is for, and a body that it takes (None: it is asked with GET)."""

    path: str
    says: str
    body: dict[str, Any] | None = None


_TURNS = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "An apple."}]
_ASKED = {"prompt": "Name a fruit.", "responses": ["An apple.", "A chair."]}
ENDPOINTS = (
    Endpoint("/v1/score", "Rewards of conversations, or of responses to one prompt.", _ASKED),
    Endpoint("/v1/score", "The same of whole conversations.", {"conversations": [_TURNS]}),
    Endpoint("/v1/rank", "The responses to a prompt, best first.", _ASKED),
    Endpoint("/get_reward", "OpenRLHF's remote reward model: rendered texts.", {"query": ["a text"], "prompts": ["a"]}),
    Endpoint("/pooling", "vLLM's: rendered texts, token ids, or messages.", {"input": ["a text"]}),
    Endpoint("/classify", "vLLM's.", {"input": ["a text"]}),
    Endpoint("/classify", "SGLang's.", {"text": ["a text"]}),
    Endpoint("/score", "vLLM's: a text with others.", {"text_1": "Name a fruit.", "text_2": ["An apple.", "A chair."]}),
    Endpoint("/v1/models", "OpenAI's list, with the longest conversation that is read."),
    Endpoint("/health", "Ready, and how many tokens wait."),
    Endpoint("/metrics", "Prometheus."),
)
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
pre{overflow-x:auto;padding:.6rem;border:1px solid;border-radius:.3rem}h2{margin-top:2rem;font-size:1.1rem}"""


def page(model: str, keyed: bool, address: str) -> str:
    """The page of a server of `model`; `keyed`: clients must send a key."""
    key = (
        "<p>Every request but <code>/health</code>, <code>/metrics</code> and this page needs a key.</p>"
        if keyed
        else ""
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>assay serve</title><style>{_STYLE}</style><main><h1>assay serve</h1>"
        f"<p>Rewards of <code>{escape(model)}</code>. "
        f"Higher is better; only differences between responses to one prompt mean anything.</p>{key}"
        + "".join(_shown(e, keyed, address) for e in ENDPOINTS)
        + "</main></html>"
    )


def _shown(one: Endpoint, keyed: bool, address: str) -> str:
    line = f"curl -s {address}{one.path}"
    if keyed and one.path not in ("/health", "/metrics"):
        line += ' -H "Authorization: Bearer $ASSAY_API_KEY"'
    if one.body is not None:
        line += f" -d '{json.dumps(one.body)}'"
    verb = "GET" if one.body is None else "POST"
    return f"<h2>{verb} <code>{one.path}</code></h2><p>{escape(one.says)}</p><pre tabindex=0>{escape(line)}</pre>"
