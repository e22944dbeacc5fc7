"""What all tests share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from assay.images import ImageStore

# A timed test fails on a busy machine, and one that draws anew at each run fails by chance, of no change's fault: here the
# same code has the same verdict. What draws anew is `--hypothesis-profile explore` (`make test-all`).
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("assay", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("assay")


@pytest.fixture(scope="session", autouse=True)
def whole_numbers() -> None:
    """Precision "auto" is fp32 in tests, also on a processor that is fast at bfloat16: they compare to many digits."""
    import torch

    torch.cpu._is_avx512_bf16_supported = lambda: False
    torch.cpu._is_amx_tile_supported = lambda: False


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> "ImageStore":
    """Where a file's tests keep their pictures."""
    from assay.images import ImageStore

    return ImageStore(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def pictures(store: "ImageStore") -> list[str]:
    """Two pictures of noise: one wide (it is cut into tiles, by classes that do), one high."""
    import numpy as np

    image, random = pytest.importorskip("PIL.Image"), np.random.default_rng(0)
    sizes = (40, 90), (60, 50)
    return [store.add(image.fromarray(random.integers(0, 255, (*s, 3), dtype=np.uint8))) for s in sizes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a small model that sees, of each kind of `vlm_models`; made when it is first asked for."""
    import vlm_models

    known: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in known:
            known[kind] = vlm_models.make(kind, tmp_path_factory.mktemp(kind))
        return known[kind]

    return folder
