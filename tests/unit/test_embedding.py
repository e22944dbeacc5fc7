"""Encoders embed as their folders say: pooling, window, prompts, layers after it; on the device; the question first."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
import tyro
from safetensors.torch import save_file

import tiny_models
from assay import devices, models
from assay.curate.attributes import retrieval_text
from assay.curate.rules import rule_attributes
from assay.embedding import load_embedder
from assay.errors import AssayError
from assay.judges.annotate import JudgeConfig
from assay.judges.embedders import EmbedderConfig, Encoder, remember
from assay.judges.embedders import load_embedder as by_config
from assay.pipeline.flow import FlowConfig
from assay.records import Pair, Response, assistant, user

TEXTS = ["a cat", "the weather in Oslo is cold, they say", "what is 2+3?", ""]


def encoder(folder: Path, kind: str = "bert", positions: int = 64) -> Any:
    """A tiny encoder of random weights with a tokenizer of characters, saved; returns the model."""
    torch.manual_seed(0)
    tokenizer = tiny_models.tokenizer()
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": positions, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "jina":
        model = transformers.JinaEmbeddingsV3Model(transformers.JinaEmbeddingsV3Config(**shape, bos_token_id=1))
    elif kind == "roberta":
        model = transformers.RobertaModel(transformers.RobertaConfig(**shape))
    else:
        model = transformers.BertModel(transformers.BertConfig(**shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def layout(folder: Path, pooling: dict[str, Any], *parts: str, **more: Any) -> None:
    """The files of sentence-transformers beside the model."""
    kinds = ["Transformer", "Pooling", *parts]
    paths = ["", "1_Pooling", *(f"{n}_{p}" for n, p in enumerate(parts, 2))]
    told = [
        {"idx": n, "name": str(n), "path": p, "type": f"sentence_transformers.models.{k}"}
        for n, (k, p) in enumerate(zip(kinds, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(told))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **pooling}))
    for name, content in more.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def states(model: Any, text: str, most: int = 64) -> torch.Tensor:
    """(T, D) of one text."""
    ids = tiny_models.tokenizer()(text)["input_ids"][:most] or [0]
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return found


def unit(rows: list[torch.Tensor]) -> Any:
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()


@pytest.mark.parametrize(("pooling", "by_hand"), [
    ({"pooling_mode_mean_tokens": True}, lambda h: h.mean(0)),
    ({"pooling_mode": "mean"}, lambda h: h.mean(0)),
    ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, lambda h: h[0]),
    ({"pooling_mode_lasttoken": True}, lambda h: h[-1]),
    ({"pooling_mode_max_tokens": True}, lambda h: h.amax(0)),
    ({"pooling_mode": "mean_sqrt_len_tokens"}, lambda h: h.sum(0) / len(h) ** 0.5),
    ({"pooling_mode": "weightedmean"}, lambda h: (h * torch.arange(1, len(h) + 1)[:, None]).sum(0) / sum(range(len(h) + 1))),
    ({"pooling_mode": ["cls", "mean"]}, lambda h: torch.cat([h[0], h.mean(0)])),
])  # fmt: skip
def test_pooling_is_the_encoders_own(tmp_path: Path, pooling: dict[str, Any], by_hand: Any) -> None:
    model = encoder(tmp_path)
    layout(tmp_path, pooling, "Normalize")
    found = load_embedder(str(tmp_path), rows=3)(TEXTS)
    np.testing.assert_allclose(found, unit([by_hand(states(model, t)) for t in TEXTS]), atol=1e-5)
    assert found.dtype == np.float32


def test_without_a_layout_the_mean_is_taken_and_nothing_is_an_empty_table(tmp_path: Path) -> None:
    model = encoder(tmp_path)
    embed = load_embedder(str(tmp_path))
    np.testing.assert_allclose(embed(TEXTS), unit([states(model, t).mean(0) for t in TEXTS]), atol=1e-5)
    assert embed([]).shape == (0, 32)


def test_prompts_windows_case_and_layers_after_the_pooling(tmp_path: Path) -> None:
    model = encoder(tmp_path)
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    limits = {"max_seq_length": 12, "do_lower_case": True}
    more = {"config_sentence_transformers": prompts, "sentence_bert_config": limits}
    layout(tmp_path, {"pooling_mode": "mean", "include_prompt": False}, "Dense", "Normalize", **more)
    (tmp_path / "2_Dense").mkdir()
    settings = {"in_features": 32, "out_features": 8, "activation_function": "torch.nn.modules.activation.Tanh"}
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(settings))
    weight, bias = torch.randn(8, 32), torch.randn(8)
    save_file({"linear.weight": weight, "linear.bias": bias}, tmp_path / "2_Dense" / "model.safetensors")

    def expected(text: str, prompt: str, most: int) -> torch.Tensor:
        return torch.tanh(states(model, prompt + text.lower(), most)[len(prompt) :].mean(0) @ weight.T + bias)

    text = "What is it about?"
    for options, prompt, most in (
        ({}, "query: ", 12), ({"prompt": "document"}, "", 12), ({"prompt": "find: "}, "find: ", 12),
        ({"max_tokens": 40}, "query: ", 40),
    ):  # fmt: skip
        found = load_embedder(str(tmp_path), **options)([text])
        np.testing.assert_allclose(found, unit([expected(text, prompt, most)]), atol=1e-5)


@pytest.mark.parametrize("kind", ["CNN", "WordEmbeddings"])
def test_parts_that_are_not_known_are_refused(tmp_path: Path, kind: str) -> None:
    encoder(tmp_path)
    layout(tmp_path, {"pooling_mode": "mean"}, kind)
    with pytest.raises(AssayError, match=rf"a part of kind sentence_transformers\.models\.{kind}"):
        load_embedder(str(tmp_path))
    layout(tmp_path, {"pooling_mode": "attention"})
    with pytest.raises(AssayError, match="pools by 'attention'"):
        load_embedder(str(tmp_path))


def test_weights_that_are_not_the_encoders_are_refused(tmp_path: Path) -> None:
    model = encoder(tmp_path)
    save_file({f"0.auto_model.{n}": x for n, x in model.state_dict().items()}, tmp_path / "model.safetensors")
    with pytest.raises(AssayError, match="do not fit BertModel: the checkpoint lacks embeddings"):
        load_embedder(str(tmp_path))


def test_a_pooler_that_is_not_used_may_be_absent(tmp_path: Path) -> None:
    model = encoder(tmp_path)
    kept = {n: x for n, x in model.state_dict().items() if "pooler" not in n}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert np.isfinite(load_embedder(str(tmp_path))(TEXTS)).all()


def test_a_long_context_encoder_reads_as_far_as_it_is_asked_to(tmp_path: Path) -> None:
    encoder(tmp_path, "jina", positions=2000)
    layout(tmp_path, {"pooling_mode_mean_tokens": True}, "Normalize", sentence_bert_config={"max_seq_length": 1900})
    one, other = "x" * 1500 + "a", "x" * 1500 + "b" * 80
    usual, far = load_embedder(str(tmp_path)), load_embedder(str(tmp_path), 1800)
    np.testing.assert_array_equal(*usual([one, other]))
    assert np.abs(np.subtract(*far([one, other]))).max() > 1e-3
    with pytest.raises(AssayError, match="reads at most 2,000 tokens, not 3,000"):
        load_embedder(str(tmp_path), 3000)


def test_a_roberta_counts_its_places_after_the_padding(tmp_path: Path) -> None:
    encoder(tmp_path, "roberta", positions=64)
    assert np.isfinite(load_embedder(str(tmp_path), 63)(["x" * 200])).all()
    with pytest.raises(AssayError, match="reads at most 63 tokens, not 64"):
        load_embedder(str(tmp_path), 64)


CODE = """
import torch, transformers
class OwnConfig(transformers.PretrainedConfig):
    model_type = "assay_own"
class OwnModel(transformers.PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(100, 16)
        self.post_init()
    def forward(self, input_ids, attention_mask=None):
        return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=self.table(input_ids))
"""


def test_code_that_comes_with_an_encoder_runs_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(CODE)
    where = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    config = {"model_type": "assay_own", "auto_map": where, "hidden_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    table = torch.randn(100, 16)
    save_file({"table.weight": table}, folder / "model.safetensors", metadata={"format": "pt"})
    tiny_models.tokenizer().save_pretrained(folder)
    with pytest.raises(AssayError, match=r"brings code of its own.*--embedder-remote-code"):
        by_config(EmbedderConfig(embedder=str(folder)))
    found = by_config(EmbedderConfig(embedder=str(folder), embedder_remote_code=True))(["abc"])
    ids = tiny_models.tokenizer()("abc")["input_ids"]
    np.testing.assert_allclose(found, unit([table[ids].mean(0)]), atol=1e-6)


def test_it_runs_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder(tmp_path)
    monkeypatch.setattr(devices, "device", lambda: torch.device("meta"))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        load_embedder(str(tmp_path))(["a"])  # a device that computes nothing: what comes back was not made there


def test_the_packaged_encoder_is_that_of_sentence_transformers() -> None:
    library = pytest.importorskip("sentence_transformers")
    theirs = library.SentenceTransformer(models.locate("minilm")[0], device="cpu").encode(TEXTS[:3])
    np.testing.assert_allclose(load_embedder("minilm")(TEXTS[:3]), theirs, atol=1e-5)


def test_every_config_with_an_encoder_says_how_much_it_reads() -> None:
    given = ["--embedder", "x", "--embedder-tokens", "99", "--embedder-prompt", "q: ", "--embedder-remote-code"]
    for config in (JudgeConfig, FlowConfig):
        found = tyro.cli(config, args=[*given, *(["--recipe", "r"] if config is FlowConfig else [])])
        assert (found.embedder, found.embedder_tokens) == ("x", 99)
        assert (found.embedder_prompt, found.embedder_remote_code) == ("q: ", True)
    with pytest.raises(AssayError, match="embedder_tokens must not be negative"):
        JudgeConfig(embedder_tokens=-1)


def test_what_was_asked_last_stands_first_and_old_turns_last() -> None:
    prompt = (user("FIRST"), assistant("SECOND"), user("Be brief. LAST"))
    pair = Pair.of(prompt, Response.of("LEFT"), Response.of("RIGHT"))
    text = retrieval_text(pair, rule_attributes(pair))
    assert text.startswith("Be brief. LAST\nDesired: is brief")
    assert text.endswith("assistant: SECOND\nFIRST")
    assert text.count("LAST") == 1
    started = Pair.of((*prompt, assistant("So")), Response.of("LEFT"), Response.of("RIGHT"))
    assert retrieval_text(started, rule_attributes(started)).startswith("Be brief. LAST\n")
    bare = Pair.of((), Response.of("a"), Response.of("b"))
    assert retrieval_text(bare, rule_attributes(bare)).startswith("Desired: ")


def test_what_was_remembered_before_a_kill_changes_no_digit() -> None:
    """A run that begins again has forgotten what it remembered, and meets other texts together."""
    texts = [f"{'how do I mend it, and why? ' * n}{n}" for n in range(1, 13)]
    encoder = Encoder(EmbedderConfig())
    went_on, began_again = remember(encoder), remember(encoder)
    went_on(texts[3:9])
    assert (went_on(texts) == began_again(texts)).all()
    assert not (encoder(texts) == began_again(texts)).all(), "in a batch, the last digits are others"


def test_the_first_layers_alone_are_those_of_the_whole_encoder(tmp_path: Path) -> None:
    """No layer: the vectors of the words, as the first layer would read them; all layers: what the encoder gives."""
    model = encoder(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for layers in (0, 1, 2):
        found = load_embedder(str(tmp_path), layers=layers)(TEXTS[:3])
        for text, vector in zip(TEXTS, found, strict=False):
            with torch.inference_mode():
                states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
            wanted = torch.nn.functional.normalize(states[layers][0].mean(0), dim=0)
            np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(
        load_embedder(str(tmp_path))(TEXTS), load_embedder(str(tmp_path), layers=2)(TEXTS), atol=1e-6
    )


def test_more_layers_than_there_are_is_an_error(tmp_path: Path) -> None:
    encoder(tmp_path)
    with pytest.raises(AssayError, match="has 2 layers, so 3"):
        load_embedder(str(tmp_path), layers=3)
    with pytest.raises(AssayError, match="embedder_layers must not be negative"):
        EmbedderConfig(embedder_layers=-1)


def test_what_vectors_are_of_and_made_by_is_in_their_names(tmp_path: Path) -> None:
    encoder(tmp_path)
    all_layers = Encoder(EmbedderConfig(embedder=str(tmp_path)))
    readings = {Encoder(EmbedderConfig(embedder=str(tmp_path), embedder_layers=n)).reading for n in (0, 1, 2)}
    assert len({*readings, all_layers.reading}) == 4
    config = EmbedderConfig()
    assert (config.by(described=False), config.by(described=True)) == ("conversation", "attributes")
    for by in ("conversation", "attributes"):
        fixed = EmbedderConfig(retrieve_by=by)
        assert {fixed.by(described=d) for d in (False, True)} == {by}


def test_by_the_conversation_attributes_change_no_vector() -> None:
    pair = Pair.of((user("Say hi."),), Response.of("hi"), Response.of("no"))
    assert retrieval_text(pair) == "Say hi."
    assert retrieval_text(pair, rule_attributes(pair)).startswith("Say hi.\nDesired: ")
