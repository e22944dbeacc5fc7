"""A stand-in for the package `vllm`: its names, its schema and its rules, over transformers on the CPU.

As in vLLM: weights are read from the folder when the engine is made and at "reload_weights", greedy sampling gives one
answer, the stop token is the last of `token_ids`, a picture takes one picture token in the prompt, and answers drawn after a
reload come from stale keys until the prefix cache is emptied (here: an error).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import transformers


@dataclass(kw_only=True)
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int | None = 16
    stop_token_ids: list[int] = field(default_factory=list)
    logprobs: int | None = None
    detokenize: bool = True
    logit_bias: dict[int, float] | None = None

    def __post_init__(self) -> None:
        if self.temperature < 1e-5 and self.n > 1:
            raise ValueError(f"n must be 1 when using greedy sampling, got {self.n}.")


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


class LLM:
    def __init__(
        self, model: str, *, dtype: str, seed: int, gpu_memory_utilization: float, logprobs_mode: str, generation_config: str
    ) -> None:  # fmt: skip
        assert logprobs_mode == "processed_logprobs"
        assert generation_config == "vllm"
        assert 0 < gpu_memory_utilization <= 1
        self.folder, self.dtype = model, getattr(torch, dtype)
        self.collective_rpc("reload_weights")
        self.stale = False

    def collective_rpc(self, method: str) -> list[None]:
        assert method == "reload_weights"
        config = transformers.AutoConfig.from_pretrained(self.folder)
        visual = getattr(config, "vision_config", None) is not None
        loader = transformers.AutoModelForImageTextToText if visual else transformers.AutoModelForCausalLM
        self.model = loader.from_pretrained(self.folder, dtype=self.dtype).eval()
        self.processor = transformers.AutoProcessor.from_pretrained(self.folder) if visual else None
        self.stale = True
        return [None]

    def reset_prefix_cache(self) -> bool:
        self.stale = False
        return True

    def generate(
        self, prompts: list[dict[str, Any]], sampling_params: list[SamplingParams], *, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        assert not self.stale, "keys of the old weights are in the prefix cache"
        pairs = zip(prompts, sampling_params, strict=True)
        return [self._one(str(i), prompt, params) for i, (prompt, params) in enumerate(pairs)]

    def _one(self, name: str, prompt: dict[str, Any], params: SamplingParams) -> RequestOutput:
        ids, pixels = list(prompt["prompt_token_ids"]), {}
        if "multi_modal_data" in prompt:
            pictures = prompt["multi_modal_data"]["image"]
            token = self.model.config.image_token_id
            assert ids.count(token) == len(pictures), "one picture token for each picture"
            text = [self.processor.image_token * len(pictures)]
            made = self.processor(text=text, images=pictures, add_special_tokens=False, return_tensors="pt")
            run = made["input_ids"].shape[1] // len(pictures)
            ids = [t for i in ids for t in ([i] * run if i == token else [i])]
            pixels = {"pixel_values": made["pixel_values"].to(self.dtype)}
        outputs = [self._answer(k, ids, pixels, params) for k in range(params.n)]
        return RequestOutput(name, ids, outputs)

    @torch.inference_mode()
    def _answer(self, k: int, ids: list[int], pixels: dict[str, Any], params: SamplingParams) -> CompletionOutput:
        random = torch.Generator().manual_seed((params.seed or 0) + k)
        drawn: list[int] = []
        places: list[dict[int, Logprob]] = []
        while len(drawn) < (params.max_tokens or 16):
            logits = self.model(input_ids=torch.tensor([ids + drawn]), **pixels).logits[0, -1].float()
            for token, bias in (params.logit_bias or {}).items():
                logits[token] += bias
            logp = (logits / (params.temperature or 1.0)).log_softmax(-1)
            greedy = params.temperature == 0
            token = int(logp.argmax() if greedy else torch.multinomial(logp.exp(), 1, generator=random))
            drawn.append(token)
            places.append({token: Logprob(logp[token].item())})
            if token in params.stop_token_ids:
                return CompletionOutput(k, "", drawn, None, places, "stop", token)
        return CompletionOutput(k, "", drawn, None, places, "length")
