"""Calibrators against brute force over all values at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.errors import EdgeccError
from compiler.quantize.calibrators import Entropy, MinMax, Mse, Percentile, make_calibrator
from compiler.quantize.histogram import BINS, Histogram


def stream(calibrator, *arrays):
    for array in arrays:
        calibrator.observe(np.asarray(array, "float32"))
    return calibrator.range()


def quantization_error(values, low, high):
    """Mean squared error of asymmetric 8-bit quantisation."""
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    stored = np.clip(np.rint(values / scale) + zero, 0, 255)
    return float(np.mean((values - (stored - zero) * scale) ** 2))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.integers(-(10**7), 10**7), min_size=1, max_size=40), min_size=1, max_size=8
    )
)
def test_a_growing_histogram_counts_everything_once(batches):
    batches = [np.asarray(batch) / 64 for batch in batches]
    histogram = Histogram()
    for batch in batches:
        histogram.add(np.asarray(batch, "float32"))
    values = np.sort(np.concatenate([np.asarray(b, "float32") for b in batches]))
    assert histogram.total == len(values)
    assert len(histogram.counts) <= BINS
    assert (histogram.low, histogram.high) == (values[0], values[-1])
    if histogram.width:  # counts by NumPy over the same edges
        edges = (np.arange(len(histogram.counts) + 1) + histogram.first) * histogram.width
        below = np.searchsorted(values.astype("float64"), edges[1:], side="left")
        assert np.abs(np.cumsum(histogram.counts)[:-1] - below[:-1]).max(initial=0) <= 0


def test_min_max_holds_zero():
    assert stream(MinMax(), [3.0, 5.0]) == (0.0, 5.0)
    assert stream(MinMax(), [-3.0], [-1.0, -7.0]) == (-7.0, 0.0)
    assert stream(MinMax(), [], [0.0]) == (0.0, 0.0)


def test_percentile_leaves_out_what_is_rare():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(200_000)
    values[:10] = 1000.0
    low, high = stream(Percentile(99.9), *values.reshape(100, -1))
    assert low == pytest.approx(np.quantile(values, 0.0005), abs=0.26)  # a bin's width
    assert high == pytest.approx(np.quantile(values, 0.9995), abs=0.26)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_mse_finds_the_best_range(shift):
    rng = np.random.default_rng(1)
    values = rng.laplace(size=100_000) + shift
    low, high = stream(Mse(), *values.reshape(50, -1))
    found = quantization_error(values, low, high)
    ends = [
        (values.min() * a, values.max() * b)
        for a in np.linspace(0.1, 1, 19)
        for b in np.linspace(0.1, 1, 19)
    ]
    best = min(quantization_error(values, *pair) for pair in ends)
    assert found <= 1.02 * best
    assert found < 0.9 * quantization_error(values, values.min(), values.max())


def test_entropy_clips_outliers_and_keeps_the_rest():
    rng = np.random.default_rng(2)
    values = np.abs(rng.standard_normal(100_000))
    values[0] = 40.0
    low, high = stream(Entropy(), *values.reshape(50, -1))
    assert low == 0.0
    assert np.quantile(values, 0.98) < high < 20.0
    uniform = rng.uniform(-1, 1, 100_000)
    low, high = stream(Entropy(), uniform)
    assert low == pytest.approx(-1, abs=0.1)
    assert high == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["minmax", "percentile", "percentile:99.9", "entropy", "mse"])
@pytest.mark.parametrize("values", [[0.0], [2.5], [-2.5, -2.5], [1e-30], [0.0, 3e38]])
def test_degenerate_tensors_have_a_range_that_holds_zero(name, values):
    low, high = stream(make_calibrator(name), values)
    assert low <= 0.0 <= high
    assert np.isfinite([low, high]).all()


def test_unknown_calibrators_are_named():
    for name in ("median", "percentile:200", "percentile:x", "mse:3"):
        with pytest.raises(EdgeccError, match=name) as error:
            make_calibrator(name)
        assert "entropy" in error.value.hint
