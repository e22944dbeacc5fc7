"""The fitted temperature: what it should be, what it should follow, and its ends."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.reward import calibration

margins = st.lists(st.floats(-8, 8).filter(lambda x: abs(x) > 1e-3), min_size=4, max_size=60).map(np.array)


def simulated(n: int, temperature: float, seed: int = 0) -> np.ndarray:
    """Margins of a model whose preference is right with probability sigmoid(|margin| / temperature)."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0, 2 * temperature, n))
    right = rng.random(n) < 1 / (1 + np.exp(-size / temperature))
    return np.where(right, size, -size)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_a_known_temperature_is_found_and_makes_the_curve_straight(temperature: float) -> None:
    found = calibration.fit(simulated(20_000, temperature))
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.ece_after < 0.015
    inside = [b.low - 0.01 <= b.predicted <= b.high + 0.01 for b in found.curve]
    assert sum(inside) >= 8
    assert found.probability(temperature) == pytest.approx(1 / (1 + np.exp(-1)), abs=0.01)


def test_overconfidence_is_seen_and_mended() -> None:
    found = calibration.fit(simulated(5_000, 4.0))
    assert found.ece > 0.1 > found.ece_after
    assert found.nll > found.nll_after


@given(margins, st.floats(0.01, 100))
def test_temperature_scales_with_the_rewards(values: np.ndarray, by: float) -> None:
    one, other = calibration.fit(values), calibration.fit(values * by)
    assert other.temperature == pytest.approx(by * one.temperature, rel=1e-6)
    assert other.reason == one.reason


@given(margins)
def test_no_temperature_in_sight_is_better(values: np.ndarray) -> None:
    found = calibration.fit(values)
    if not found.reason:
        best = calibration._nll(values / found.temperature)
        assert all(best <= calibration._nll(values / (found.temperature * f)) + 1e-12 for f in (0.5, 0.9, 1.1, 2.0))


def test_the_ends_of_the_range_say_why() -> None:
    sure, lost = calibration.fit(np.array([1.0, 2.0])), calibration.fit(np.array([1.0, -2.0, -0.5]))
    assert "every pair is right" in sure.reason
    assert sure.temperature < 0.01
    assert "no better than chance" in lost.reason
    assert lost.probability(1.0) == pytest.approx(0.5, abs=0.01)
    assert "zero" in calibration.fit(np.zeros(3)).reason
    with pytest.raises(ValueError, match="finite margins"):
        calibration.fit(np.array([]))


def test_saved_and_drawn(tmp_path: Path) -> None:
    found = calibration.fit(simulated(300, 1.0))
    calibration.save(found, tmp_path / "calibration.json")
    assert calibration.load(tmp_path / "calibration.json") == found
    assert calibration.plot(found, tmp_path / "curve.png").stat().st_size > 5_000
