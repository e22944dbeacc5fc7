"""What "auto" computes in, by what the device has."""

import pytest
import torch

from assay import devices


@pytest.mark.parametrize(("device", "has", "expected"), [
    ("cpu", {"avx512": True}, True), ("cpu", {"amx": True}, True), ("cpu", {}, False),
    ("cuda", {"cuda": True}, True), ("cuda", {}, False), ("xpu", {}, True),
])  # fmt: skip
def test_auto_is_bfloat16_where_the_device_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, device: str, has: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(devices, "_kind", lambda: device)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has.get("avx512", False))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has.get("amx", False))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has.get("cuda", False))
    assert devices.computes_in_half("auto") is expected
    assert devices.computes_in_half("bf16")
    assert not devices.computes_in_half("fp32")
