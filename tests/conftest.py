"""What all tests share."""

import pytest
from hypothesis import settings

settings.register_profile("assay", deadline=None)  # a timed test fails on a busy machine
settings.load_profile("assay")


@pytest.fixture(scope="session", autouse=True)
def whole_numbers() -> None:
    """Precision "auto" is fp32 in tests, also on a processor that is fast at bfloat16: they compare to many digits."""
    import torch

    torch.cpu._is_avx512_bf16_supported = lambda: False
    torch.cpu._is_amx_tile_supported = lambda: False
