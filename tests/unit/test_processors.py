"""Processors of transformers' own classes, without torchvision: made, saved, and what is said where they cannot be made."""

import json
from pathlib import Path

import numpy as np
import pytest
import transformers

import vlm_models
from assay import models
from assay.errors import AssayError
from assay.images import ImageStore
from assay.records import Message
from assay.render import render_prompt

PIL = pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("kind", ["qwen3-vl", "internvl", "llava"])
def test_a_processor_is_loaded_saved_and_loaded_with_its_settings_for_videos(kind: str, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "pictures")
    pixels = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    picture = store.add(PIL.fromarray(pixels))
    asked = (Message(role="user", content="what?", images=(picture,)),)
    folder = vlm_models.make(kind, tmp_path / "vlm")
    file = folder / "processor_config.json"
    if kind != "llava":
        videos = {"video_processor": {"video_processor_type": "SomeVideoProcessor", "size": {"height": 5}}}
        file.write_text(json.dumps(json.loads(file.read_text()) | videos))
    processor = models.load_processor(str(folder))
    expected = {"qwen3-vl": "Qwen3VLProcessor", "internvl": "InternVLProcessor", "llava": "LlavaProcessor"}[kind]
    assert type(processor).__name__ == expected
    assert isinstance(processor, getattr(transformers, expected))
    ids = render_prompt(processor, asked, store)
    assert ids.count(processor.image_token_id) > 1
    processor.save_pretrained(tmp_path / "again")
    again = models.load_processor(str(tmp_path / "again"))
    assert render_prompt(again, asked, store) == ids
    saved = json.loads((tmp_path / "again" / "processor_config.json").read_text())
    assert saved["processor_class"] == expected
    if kind != "llava":
        assert saved["video_processor"]["size"] == {"height": 5}, "who has torchvision finds them as they were"


def test_a_package_that_a_processor_needs_is_named_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = vlm_models.make("smolvlm", tmp_path / "vlm")
    file = folder / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processor_class": "SmolVLMProcessor"}))
    monkeypatch.setattr(transformers.models.smolvlm.processing_smolvlm, "num2words", None)
    with pytest.raises(AssayError, match="needs num2words, which is not installed; run: pip install num2words"):
        models.load_processor(str(folder))

    def missing(*_: object, **__: object) -> None:
        raise ImportError("SomeImageProcessor requires the Torchvision library but it was not found")

    monkeypatch.setattr(transformers.LlavaProcessor, "from_pretrained", missing)
    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", missing)
    with pytest.raises(AssayError, match="pip install torchvision, the build of your torch"):
        models.load_processor(str(vlm_models.make("llava", tmp_path / "llava")))
