"""Under torchrun every model of a process lies on the accelerator that was taken for this process."""

import pytest
import torch

from assay import devices


def test_the_device_is_the_process_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.device() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    assert devices.device() == torch.device("cuda", 3), "a bare 'cuda' is the first one"
