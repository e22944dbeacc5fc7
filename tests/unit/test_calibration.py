"""The fitted temperature: what it should be, what it should follow, and its ends."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from assay.errors import AssayError
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


@given(margins)
def test_the_minimum_is_no_worse_than_leaving_rewards_as_they_are(values: np.ndarray) -> None:
    found = calibration.fit(values)
    if not found.reason:
        assert calibration._nll(values / found.temperature) <= found.nll + 1e-12


def test_the_error_of_log_t_is_its_spread_over_samples() -> None:
    found = [calibration.fit(simulated(400, 2.0, seed)) for seed in range(100)]
    spread = np.std([np.log(f.temperature) for f in found])
    assert np.mean([f.se for f in found]) == pytest.approx(spread, rel=0.15)
    hit = [abs(np.log(f.temperature / 2.0)) < 1.96 * f.se for f in found if f.se is not None]
    assert 0.9 <= np.mean(hit) <= 0.99


@given(st.integers(1, 500), st.floats(0.01, 100))
def test_pairs_that_are_all_right_leave_a_doubt_of_one_in_n_and_two(n: int, margin: float) -> None:
    """Equal margins m: the doubt 1 / (n + 2) is met exactly, by T = m / log(n + 1)."""
    found = calibration.fit(np.full(n, margin))
    assert found.temperature == pytest.approx(margin / np.log(n + 1), rel=1e-6)
    assert found.probability(margin) == pytest.approx((n + 1) / (n + 2))
    assert "every pair is right" in found.reason
    assert found.se is None


def test_a_half_without_mistakes_does_not_blow_up_the_error_of_the_other() -> None:
    """Mistakes in the even half only: T of the odd half is a guess, but never certainty."""
    values = np.random.default_rng(0).uniform(1, 3, 100)
    values[[0, 40]] = -1.0, -2.0
    found = calibration.fit(values)
    assert found.nll_after < 2 * found.nll


def test_the_ends_of_the_range_say_why() -> None:
    lost = calibration.fit(np.array([1.0, -2.0, -0.5]))
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
    (tmp_path / "other.json").write_text('{"n": 3}')
    for name in ("other.json", "none.json"):
        with pytest.raises(AssayError, match=f"{name}: not a calibration"):
            calibration.load(tmp_path / name)


def test_drawn_on_axes() -> None:
    found, axes = calibration.fit(simulated(300, 1.0)), Figure().subplots()
    calibration.draw(found, axes)
    line = axes.lines[1]
    assert line.get_xdata() == pytest.approx([100 * b.predicted for b in found.curve])
    assert line.get_ydata() == pytest.approx([100 * b.right for b in found.curve])


def test_a_question_is_in_one_half() -> None:
    """Every pair twice over, one after the other: split by row number, each half holds a copy of the other, and temperatures
    are measured with the pairs that they were fitted on."""
    once = simulated(60, 1.0, seed=5)
    twice = np.repeat(once, 2)
    asked = [n // 2 for n in range(120)]
    told, alone = calibration.fit(twice, asked), calibration.fit(once)
    assert told.nll_after == pytest.approx(alone.nll_after)
    assert told.nll_after != pytest.approx(calibration.fit(twice).nll_after, abs=1e-6)
    assert told.se == pytest.approx(alone.se), "two copies know no more than one"
    assert calibration.fit(twice).se == pytest.approx(alone.se / 2**0.5)  # type: ignore[operator]
    with pytest.raises(ValueError, match="3 questions for 120"):
        calibration.fit(twice, [1, 2, 3])
    assert calibration.fit(twice, ["one"] * 120).nll_after == pytest.approx(calibration._nll(twice / told.temperature))
    widths = [[b.high - b.low for b in c.curve] for c in (told, calibration.fit(twice))]
    assert sum(widths[0]) > 1.2 * sum(widths[1]), "bins hold half as many questions as pairs"
