"""What goes over to vLLM: the names and values of weights, and which of them. No engine runs here."""

import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import tiny_models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.policy import vllm_lora, vllm_node, vllm_transfer, vllm_weights
from assay.policy.assemble import assemble, save
from assay.policy.config import PolicyConfig, SamplerConfig, VllmConfig
from assay.policy.model import Policy, load_policy
from assay.policy.sampler import LocalSampler, make_sampler
from assay.policy.vllm_sampler import same_prompt
from assay.records import Message, user
from assay.render import render_prompt, short_prompt
from assay.rollouts import Prompt

IDS = torch.arange(8, 30)[None]


def text(folder: Path, **settings: Any) -> Policy:
    return load_policy(str(tiny_models.save_language(folder, "qwen3")), PolicyConfig(**settings))


def adapted(folder: Path) -> Policy:
    """With adapters that do something."""
    policy = text(folder, lora_rank=4)
    for name, p in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    return policy


def llava(folder: Path, tower: str, **settings: Any) -> Policy:
    save(*assemble(*tiny_models.encoder(tower, 32), tiny_models.language("qwen3"), tiny_models.tokenizer(), 32), folder)
    return load_policy(str(folder), PolicyConfig(**settings))


def sent(policy: Policy, folder: Path) -> dict[str, torch.Tensor]:
    names = vllm_weights.trained(policy.inner)
    with vllm_weights.shared(policy.inner, names, torch.float32, folder) as files:
        return {n: x for f in files for n, x in load_file(f).items()}


def test_a_checkpoint_for_vllm_is_the_policy_with_its_adapters_added_in(tmp_path: Path) -> None:
    policy = adapted(tmp_path / "lm")
    (tmp_path / "vllm").mkdir()
    vllm_weights.write_checkpoint(policy, tmp_path / "vllm", torch.float32)
    assert policy.inner.config._attn_implementation != "sdpa", "the policy keeps its own attention"
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "vllm")
    merged = policy.model.merge_and_unload()
    merged.set_attn_implementation("sdpa")
    with torch.no_grad():
        torch.testing.assert_close(found(IDS).logits, merged(IDS).logits, atol=1e-5, rtol=1e-5)
        assert (found(IDS).logits - plain(IDS).logits).abs().max() > 0.1


def test_only_blocks_that_train_go_over_and_whole(tmp_path: Path) -> None:
    policy = text(tmp_path / "lora", lora_rank=4)
    names = set(sent(policy, tmp_path))
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert "model.layers.0.self_attn.q_norm.weight" in names, "vLLM loads a block whole or not at all"
    assert not any("embed_tokens" in n or "lora" in n or "base_layer" in n for n in names), "these rest"
    whole = sent(text(tmp_path / "lm"), tmp_path)
    assert "model.embed_tokens.weight" in whole
    assert "lm_head.weight" not in whole, "it is the embedding"
    adapter = llava(tmp_path / "vlm", "clip", train=("adapter",))
    found = sent(adapter, tmp_path)
    assert found
    assert all("multi_modal_projector" in n for n in found)
    adapter.requires_grad_(False)
    assert vllm_weights.trained(adapter.inner) == [], "commands that only sample send nothing"


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_towers_have_the_names_that_vllm_knows(tower: str, tmp_path: Path) -> None:
    names = set(sent(llava(tmp_path / "vlm", tower, train=("vision",)), tmp_path))
    assert names
    assert all(re.search(r"vision_tower\.vision_model\.\w", n) for n in names)
    assert not any("vision_model.vision_model" in n for n in names)


def test_weights_are_sent_in_parts_in_the_precision_of_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = text(tmp_path / "lm")
    monkeypatch.setattr(vllm_weights, "PART", 1)
    parts = list(vllm_weights.parts(policy.inner, vllm_weights.trained(policy.inner), torch.bfloat16))
    assert len(parts) > 4
    whole = {n: x for part in parts for n, x in part.items()}
    assert {x.dtype for x in whole.values()} == {torch.bfloat16}
    assert sum(len(p) for p in parts) == len(whole) == len(vllm_weights.sources(policy.inner))
    joined = [n for part in parts for n in part if "layers.0.self_attn" in n]
    assert len({i for i, part in enumerate(parts) for n in part if n in joined}) == 1, "queries, keys, values together"
    monkeypatch.setattr(vllm_weights, "SHARED", tmp_path / "none")
    (tmp_path / "here").mkdir()
    with vllm_weights.shared(policy.inner, ["model.norm.weight"], torch.float32, tmp_path / "here") as files:
        assert Path(files[0]).is_relative_to(tmp_path / "here")
    assert not list((tmp_path / "here").iterdir())


def test_room_is_looked_for_by_what_goes_over_and_not_by_how_it_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights in 4 bits go over in full, eight times as large; an adapter alone is small."""
    pytest.importorskip("bitsandbytes", reason="QLoRA is not tested: bitsandbytes is not installed")
    folder = tiny_models.save_language(tmp_path / "lm", "qwen3", width=64, head=32)
    policy = load_policy(str(folder), PolicyConfig(lora_rank=4, quantize=True, precision="fp32"))
    names, found = vllm_weights.trained(policy.inner), list[int]()
    with vllm_weights.shared(policy.inner, names, torch.float32, tmp_path) as files:
        size = sum(x.nbytes for f in files for x in load_file(f).values())
    for free in (1.05 * size, 1.2 * size):
        monkeypatch.setattr(vllm_weights.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with vllm_weights.shared(policy.inner, names, torch.float32, tmp_path) as files:
            found.append(Path(files[0]).is_relative_to(tmp_path))
    assert found == [True, False]


def test_one_process_of_a_machine_writes_what_all_its_engines_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two machines with two processes each: the last one reads what its own neighbour wrote."""
    assert vllm_node.writes()
    assert vllm_node.from_writer(["a"]) == ["a"], "alone"
    vllm_node.wait()
    where = vllm_node.socket.gethostname()

    def gathered(told: list[Any], mine: Any) -> None:
        told[:] = [((where, "0"), ["first"]), ((where, "0"), None), ((where, "1"), ["second"]), mine]

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("GROUP_RANK", "1")
    monkeypatch.setattr(vllm_node.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(vllm_node.dist, "get_world_size", lambda: 4)
    monkeypatch.setattr(vllm_node.dist, "all_gather_object", gathered)
    assert not vllm_node.writes()
    assert vllm_node.from_writer(None) == ["second"]


def test_a_short_prompt_is_the_long_one_with_a_token_for_each_picture(tmp_path: Path) -> None:
    PIL = pytest.importorskip("PIL.Image")
    store = ImageStore(tmp_path / "pictures")
    ids = tuple(store.add(PIL.new("RGB", (40, 30), (shade, 0, 0))) for shade in (1, 2))
    policy = llava(tmp_path / "vlm", "clip")
    messages = (Message(role="user", content="which?", images=ids),)
    short, long = (
        short_prompt(policy.processor, messages, "<a>"),
        render_prompt(policy.processor, messages, store, "<a>"),
    )
    assert short.count(policy.image_token) == 2
    assert [t for t in short if t != policy.image_token] == [t for t in long if t != policy.image_token]


def test_another_prompt_is_refused_with_the_place(tmp_path: Path) -> None:
    policy, prompt = text(tmp_path / "lm"), Prompt(messages=(user("what is it?"),))
    ids = render_prompt(policy.processor, prompt.messages)
    same_prompt(policy, prompt, ids, ids)
    other = [*ids[:5], 9, *ids[5:]]
    with pytest.raises(AssayError, match=rf"{len(other)} tokens for our {len(ids)}.*number 5 .*'what is it\?'"):
        same_prompt(policy, prompt, ids, other)
    with pytest.raises(AssayError, match=f"number {len(ids) - 1} "):
        same_prompt(policy, prompt, ids, ids[:-1])


def test_without_vllm_the_line_that_installs_it_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    policy = text(tmp_path / "lm")
    with pytest.raises(AssayError, match=re.escape("pip install 'assay-rm[vllm]'")):
        make_sampler(VllmConfig(backend="vllm"), policy, SamplerConfig(), within=tmp_path / "w")
    assert not (tmp_path / "w").exists()
    assert isinstance(make_sampler(VllmConfig(), policy, SamplerConfig()), LocalSampler)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"vllm_memory": 0.0}, "--vllm-memory is a share"),
        ({"vllm_parallel": 0}, "vllm_parallel must be"),
        ({"vllm": ("localhost:8000",)}, "addresses of vLLM servers"),
        ({"vllm": ("http://a",), "backend": "vllm"}, "give one of them"),
        ({"vllm_weights": "ipc"}, r"ipc is for an engine here \(--backend vllm\)"),
        ({"vllm_weights": "lora", "vllm": ("http://a",)}, "lora is for an engine here"),
        ({"vllm_weights": "nccl", "backend": "vllm"}, r"nccl is for servers \(--vllm URL\)"),
    ],
)
def test_impossible_options_fail_at_once(options: dict[str, Any], told: str) -> None:
    with pytest.raises(AssayError, match=told):
        VllmConfig(**options)


def test_an_engine_ends_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    """Trainer -> engine -> worker, as vLLM has them; the last two sleep."""
    worker = (
        "import sys, time; from assay.policy.vllm_worker import Weights; "
        "Weights().end_with(sys.argv[1], int(sys.argv[2])); print('ready', flush=True); time.sleep(600)"
    )
    engine = (
        "import subprocess, sys, time; "
        f"w = subprocess.Popen([sys.executable, '-c', {worker!r}, *sys.argv[1:]], stdout=subprocess.PIPE, text=True); "
        "w.stdout.readline(); print(w.pid, flush=True); time.sleep(600)"
    )
    trainer = (
        "import os, subprocess as s, sys, time; from assay.processes import this_process; "
        f"e = s.Popen([sys.executable, '-c', {engine!r}, this_process(), str(os.getpid())], stdout=s.PIPE, "
        "text=True); print(e.pid, e.stdout.readline(), flush=True); time.sleep(600)"
    )
    main = subprocess.Popen([sys.executable, "-c", trainer], stdout=subprocess.PIPE, text=True)
    assert main.stdout is not None
    numbers = [int(n) for n in main.stdout.readline().split()]
    assert len(numbers) == 2
    main.kill()
    main.wait()
    until = time.monotonic() + 300
    while any(running(n) for n in numbers):
        assert time.monotonic() < until, "the engine goes on without its trainer"
        time.sleep(0.1)


def running(number: int) -> bool:
    stat = Path(f"/proc/{number}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_statistics_of_a_tower_are_among_the_sources(tmp_path: Path) -> None:
    policy = llava(tmp_path / "vlm", "conv", train=("vision",))
    names = vllm_weights.trained(policy.inner)
    assert any(n.endswith("running_mean") for n in names)
    values = vllm_weights.sources(policy.inner)
    known = dict(policy.inner.named_buffers())
    mean = next(n for n in names if n.endswith("running_mean"))
    np.testing.assert_array_equal(values[mean](), known[mean])


@pytest.mark.parametrize("made", ["lora", "clip"])
def test_vllm_s_own_transfer_is_told_beforehand_what_will_come(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker makes room by the first and cuts the stream by it."""
    policy = (
        text(tmp_path / "lm", lora_rank=4) if made == "lora" else llava(tmp_path / "vlm", "clip", train=("vision",))
    )
    monkeypatch.setattr(vllm_weights, "PART", 4_000)
    source = vllm_transfer.Source(policy.inner, torch.bfloat16, "cpu")
    told, come = source.metadata(), list(source)
    assert [(o.name, o.dtype, o.shape) for o in told] == [(n, x.dtype, tuple(x.shape)) for n, x in come]
    whole = sent(policy, tmp_path)
    assert {n for n, _ in come} == set(whole)
    assert all(torch.equal(x, whole[n].bfloat16()) for n, x in come)
    assert not any(x.is_meta for _, x in source), "and again, with values"


def test_an_adapter_alone_is_what_peft_reads(tmp_path: Path) -> None:
    from peft import PeftModel

    policy = adapted(tmp_path / "lm")
    folder = tmp_path / "adapter"
    folder.mkdir()
    vllm_lora.write(policy, folder, torch.float32)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    found = PeftModel.from_pretrained(base, folder)
    merged = policy.model.merge_and_unload()
    merged.set_attn_implementation("sdpa")
    with torch.no_grad():
        torch.testing.assert_close(found(IDS).logits, merged(IDS).logits, atol=1e-5, rtol=1e-5)
    assert vllm_lora.options(policy)["max_lora_rank"] == 8
    with pytest.raises(AssayError, match=r"needs --policy\.lora-rank"):
        vllm_lora.options(text(tmp_path / "whole"))
