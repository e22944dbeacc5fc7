"""Running vLLM servers by URL as one sampler. Their weights are their own, or follow a policy that trains (`vllm_live`).

Prompts go over as token ids (`/v1/completions`); one with pictures as messages (`/v1/chat/completions`), which the server
renders itself. Both answer with the token ids that they read and drew. Written against vLLM 0.32.
"""

import asyncio
import base64
import io
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import torch.distributed as dist

from assay.errors import AssayError, CannotRead
from assay.images import ImageStore
from assay.policy.config import PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.model import Policy, load_policy
from assay.policy.prompt_ids import PromptIds
from assay.policy.vllm_live import Live
from assay.policy.vllm_sampler import same_prompt
from assay.records import digest
from assay.render import render_prompt
from assay.rollouts import Prompt, Rollout
from assay.tables import write_text

AT_ONCE = 32
"""Questions in flight at one server."""
TRIES = 4
"""Of one question at one server, each after a longer pause; then the server is left out."""
PAUSE_S = 0.5
TIMEOUT_S = 1_800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """A server and the model that it answers by."""

    url: str
    model: str
    root: str
    room: int
    """Tokens of a prompt and its answer."""


class ServerSampler:
    """Samples from vLLM servers of one model. `step`, `seed` and `draw` decide the seed of every prompt, whoever answers it.

    Args:
        policy: Its processor, settings and ends of answers; its weights are not looked at (`outline`).
        store: Where the pictures of prompts are.
        answer_start: Text that every answer is made to begin with, part of the prompt.
        vllm: The servers' addresses.
        within: A folder through which the policy's weights go over at every `load`, where shared memory does not reach the
            servers; None: they keep their own.

    Log-probabilities are as the servers were started: vLLM's default is of softmax(logits), at any temperature; servers of a
    policy that trains are refused where these are not at the sampler's. Raises AssayError where a server cannot be reached,
    serves another model than the others, or reads another prompt than we do.
    """

    external = collective = True
    exact = False
    of = "servers"
    """Who draws, for the record of a training."""

    def __init__(
        self, policy: Policy, config: SamplerConfig, store: ImageStore | None, seed: int, answer_start: str,
        vllm: VllmConfig, within: Path | None = None,
    ) -> None:  # fmt: skip
        self.policy, self.config, self.store, self.seed = policy, config, store, seed
        self.answer_start, self.step, self.rendered = answer_start, 0, PromptIds(self._render)
        key = os.environ.get(vllm.vllm_key, "")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.servers = [asyncio.run(self._meet(url.rstrip("/").removesuffix("/v1"))) for url in vllm.vllm]
        names = {Path(s.root).name for s in self.servers}
        if len(names) > 1:
            raise AssayError(
                f"--vllm: these servers serve several models ({', '.join(sorted(names))}); name those of one"
            )
        if not dist.is_initialized() or dist.get_rank() == 0:
            print(f"answers by {self.servers[0].root} at {', '.join(s.url for s in self.servers)}")
        self.kept: _Kept | None = None
        urls = [s.url for s in self.servers]
        self.live = Live(policy, urls, self.headers, vllm, within) if within is not None else None
        if self.live is not None and config.temperature not in (0, 1):
            asyncio.run(self._at_temperature())

    def keep_in(self, folder: Path) -> None:
        """Keep what servers answer from here on as it comes, so that who makes the same calls after a kill asks for none of
        it again."""
        self.kept = _Kept(folder)

    def load(self, step: int) -> None:
        """Answers carry this step, and where weights go over they are by the policy as it is now; then all processes must
        call this."""
        self.step = step
        if self.live is not None:
            self.live.load(step)

    def greedy(self) -> "ServerSampler":
        """The likeliest tokens, from the same servers."""
        made: ServerSampler = object.__new__(ServerSampler)
        made.__dict__.update({**self.__dict__, "config": replace(self.config, temperature=0.0)})
        return made

    def close(self) -> None:
        """Nothing of ours is running."""

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, pictures' places included. Raises CannotRead where the servers have no room for it."""
        return self.rendered(prompt)

    def _render(self, prompt: Prompt) -> list[int]:
        ids = render_prompt(self.policy.processor, prompt.messages, self.store, self.answer_start)
        most = min(s.room for s in self.servers) - self.config.max_tokens
        if len(ids) > most:
            raise CannotRead(f"longer than {most:,} tokens, which is the servers' room before an answer")
        return ids

    def __call__(
        self, prompts: Sequence[Prompt], n: int, draw: int = 0, starts: Sequence[Sequence[int]] = ()
    ) -> list[list[Rollout]]:
        """n answers of each prompt. `draw` tells apart several calls at one step. With `starts`, one for each prompt, the
        answers go on from these tokens (prompts without pictures only)."""
        begun = starts or [()] * len(prompts)
        asked = [
            self._request(p, s, n, hash((self.seed, self.step, draw, i)) % (1 << 62))
            for i, (p, s) in enumerate(zip(prompts, begun, strict=True))
        ]
        answers = asyncio.run(self._ask_all(asked, lambda i, told: self._same_prompt(prompts[i], begun[i], told)))
        if self.live is not None:
            self.live.check()
        groups = [[self._rollout(p, c) for c in a["choices"]] for p, a in zip(prompts, answers, strict=True)]
        return [g * n for g in groups] if self.config.temperature == 0 else groups

    def _same_prompt(self, prompt: Prompt, start: Sequence[int], answer: dict[str, Any]) -> None:
        """Raise AssayError where it is another than is trained on."""
        read = answer.get("prompt_token_ids") or answer["choices"][0].get("prompt_token_ids")
        if read is None:
            raise AssayError(
                "--vllm: a server does not say which tokens it read (return_token_ids): is it an old vLLM?"
            )
        same_prompt(self.policy, prompt, [*self.prompt_ids(prompt), *start], read)

    def _request(self, prompt: Prompt, start: Sequence[int], n: int, seed: int) -> tuple[str, dict[str, Any]]:
        """Path and body. What the model's own generation_config asks for besides (penalties, top_k) is left out."""
        config, token = self.config, self.policy.image_token
        body: dict[str, Any] = {
            "n": 1 if config.temperature == 0 else n, "temperature": config.temperature, "top_p": config.top_p,
            "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "seed": seed, "max_tokens": config.max_tokens, "stop_token_ids": list(self.policy.end_ids),
            "return_token_ids": True, "logit_bias": {} if token is None else {str(token): -100},
        }  # fmt: skip
        if not prompt.images:
            return "/v1/completions", {**body, "prompt": [*self.prompt_ids(prompt), *start], "logprobs": 1}
        if start:
            raise AssayError("--vllm: a server cannot go on from the middle of an answer about a picture")
        turns = [{"role": m.role, "content": self._content(m)} for m in prompt.messages]
        begun = [{"role": "assistant", "content": self.answer_start}] if self.answer_start else []
        asking = {"add_generation_prompt": not begun, "continue_final_message": bool(begun)}
        return "/v1/chat/completions", {**body, **asking, "messages": [*turns, *begun], "logprobs": True}

    def _content(self, message: Any) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for name in message.images:
            assert self.store is not None
            held = io.BytesIO()
            self.store.open(name).save(held, format="PNG")
            data = base64.b64encode(held.getvalue()).decode()
            parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}})
        return [*parts, {"type": "text", "text": message.content}]

    def _rollout(self, prompt: Prompt, choice: dict[str, Any]) -> Rollout:
        tokens, told = tuple(choice["token_ids"]), choice["logprobs"]
        logprobs = told["token_logprobs"] if "token_logprobs" in told else [c["logprob"] for c in told["content"]]
        text = self.policy.tokenizer.decode(tokens, skip_special_tokens=True)
        return Rollout(
            prompt_id=prompt.id, tokens=tokens, logprobs=tuple(logprobs[: len(tokens)]), text=self.answer_start + text,
            ended=tokens[-1] in self.policy.end_ids, policy_step=self.step,
        )  # fmt: skip

    # Over the wire

    async def _meet(self, url: str) -> Serving:
        async with aiohttp.ClientSession(headers=self.headers, trust_env=True) as session:
            try:
                async with session.get(f"{url}/v1/models", timeout=aiohttp.ClientTimeout(total=30)) as answer:
                    if answer.status >= 400:
                        raise AssayError(
                            f"{url}/v1/models: http {answer.status}; is this a vLLM server, and {self._key()}?"
                        )
                    told = (await answer.json(content_type=None))["data"][0]
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, IndexError, TypeError) as error:
                raise AssayError(f"{url}: no vLLM server answers there ({error or type(error).__name__})") from error
        room = told.get("max_model_len") or 1 << 30
        return Serving(url=url, model=told["id"], root=told.get("root") or told["id"], room=room)

    async def _at_temperature(self) -> None:
        """Raise AssayError where a server's log-probabilities are those at temperature 1: corrections would be by them. At
        temperature 2 tokens are half as far apart as at 1, unless it is so."""
        async with aiohttp.ClientSession(headers=self.headers, trust_env=True) as session:
            for server in self.servers:
                try:
                    at_1, at_2 = [await self._likeliest(session, server, t) for t in (1.0, 2.0)]
                except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, IndexError, TypeError) as error:
                    raise AssayError(f"{server.url}: does not tell log-probabilities ({error!r})") from error
                both = at_1.keys() & at_2.keys()
                first, second = (max(t[n] for n in both) - min(t[n] for n in both) for t in (at_1, at_2))
                if second > 0.75 * first:
                    raise AssayError(
                        f"{server.url}: its log-probabilities are those at temperature 1, and training compares them at "
                        f"{self.config.temperature:g}: start it with --logprobs-mode processed_logprobs, or leave "
                        "--sampler.temperature at 1"
                    )

    async def _likeliest(self, session: aiohttp.ClientSession, server: Serving, temperature: float) -> dict[str, float]:
        """Tokens that can follow, with their log-probabilities."""
        body = {
            "prompt": [self.policy.end_ids[0]],
            "max_tokens": 1,
            "temperature": temperature,
            "logprobs": 5,
            "seed": 0,
        }
        told = await self._ask(session, server, "/v1/completions", body)
        return dict(told["choices"][0]["logprobs"]["top_logprobs"][0])

    def _key(self) -> str:
        return "is its key right" if self.headers else "does it ask for a key"

    async def _ask_all(
        self, asked: Sequence[tuple[str, dict[str, Any]]], check: Callable[[int, dict[str, Any]], None]
    ) -> list[dict[str, Any]]:
        """Every server takes the next question as soon as it has room. Raises AssayError once none of them answers, and what
        `check` raises for an answer."""
        found = self.kept.begin(asked) if self.kept is not None else {}
        todo, failed = deque(i for i in range(len(asked)) if i not in found), Counter[tuple[int, str]]()
        why: dict[str, str] = {}
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)

        async def work(session: aiohttp.ClientSession, server: Serving) -> None:
            while len(found) < len(asked) and server.url not in why:
                if not todo:
                    await asyncio.sleep(0.02)
                    continue
                index = todo.popleft()
                try:
                    told = await self._ask(session, server, *asked[index])
                except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                    todo.append(index)
                    failed[index, server.url] += 1
                    if failed[index, server.url] >= TRIES:
                        why[server.url] = str(error) or type(error).__name__
                    await asyncio.sleep(PAUSE_S * 2 ** failed[index, server.url])
                    continue
                check(index, told)
                if self.kept is not None:
                    self.kept.add(index, told)
                found[index] = told

        async with aiohttp.ClientSession(headers=self.headers, timeout=timeout, trust_env=True) as session:
            await asyncio.gather(*(work(session, s) for _ in range(AT_ONCE) for s in self.servers))  # in turns
        if len(found) < len(asked):
            told = "; ".join(f"{url}: {reason}" for url, reason in why.items())
            raise AssayError(
                f"{len(asked) - len(found):,} of {len(asked):,} questions were not answered by --vllm: {told}"
            )
        return [found[i] for i in range(len(asked))]

    async def _ask(
        self, session: aiohttp.ClientSession, server: Serving, path: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        async with session.post(server.url + path, json={"model": server.model, **body}) as answer:
            if answer.status in (429, 500, 502, 503, 504):
                raise ValueError(f"http {answer.status}")
            told: dict[str, Any] = await answer.json(content_type=None)
            if answer.status >= 400:
                error = told.get("error", told)
                reason = error.get("message", error) if isinstance(error, dict) else error
                raise AssayError(f"{server.url}{path}: http {answer.status}: {' '.join(str(reason).split())[:300]}")
            if not told.get("choices"):
                raise ValueError("an answer without choices")
            return told


class _Kept:
    """One call's answers as they come. The next call's take their place: the caller has kept them by then."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, Path()

    def begin(self, asked: Sequence[tuple[str, dict[str, Any]]]) -> dict[int, dict[str, Any]]:
        """What a call was answered before a kill, by place."""
        if self.path.name:
            self.path.unlink(missing_ok=True)
        self.path, found = self.folder / f"{digest(asked)}.jsonl", dict[int, dict[str, Any]]()
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # the kill cut one short
            write_text(self.path, "".join(whole))
        for line in whole:
            index, told = json.loads(line)
            found[index] = told
        return found

    def add(self, index: int, told: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([index, told]) + "\n")


def outline(name: str, config: PolicyConfig, store: ImageStore | None) -> Policy:
    """A policy without weights: processor, settings and ends of answers, which is what a client of servers needs. A packaged
    model, which is small, is loaded."""
    import torch
    import transformers

    from assay import models

    if name in models.PACKAGED or models.adapter_of(name) is not None:
        return load_policy(name, config, store)
    settings = models.load_config(name)
    visual = getattr(settings, "vision_config", None) is not None
    loader = transformers.AutoModelForImageTextToText if visual else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = loader.from_config(settings)
    with suppress(OSError):  # it may have none: then the defaults of its config
        model.generation_config = transformers.GenerationConfig.from_pretrained(name)
    processor = models.load_processor(name) if visual else models.load_tokenizer(name)
    return Policy(model, processor, replace(config, packing=False), store)
