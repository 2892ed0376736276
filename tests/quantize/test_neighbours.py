"""Weights that an instruction with 16-bit sums may multiply."""

import numpy as np
import pytest

from compiler.passes.dot_layout import DotLayout
from compiler.quantize.neighbours import bounded, quantize_for, quantize_neighbours
from compiler.quantize.scales import quantize_weights, symmetric

LAYOUT = DotLayout(8, 4, "uint8", "uint8", most_neighbours=128)
BOTH = DotLayout(8, 8, "uint8", "uint8", most_neighbours=128, part=4)


def noise(weights: np.ndarray, quantised: np.ndarray) -> float:
    """Power of the error over the power of the weights, in dB."""
    error = np.square(quantised - weights, dtype="float64").sum()
    return 10 * np.log10(error / np.square(weights, dtype="float64").sum())


@pytest.mark.parametrize("shape", [(16, 64, 3, 3), (5, 7, 1, 1), (3, 1, 3, 3), (4, 2, 5)])
def test_no_sum_saturates_and_little_is_lost(shape):
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.1, shape).astype("float32")
    weights[0] = 0.3  # every pair at its largest
    weights[-1] = 0
    values, quantum = quantize_neighbours(weights, 0, 1, LAYOUT)
    assert LAYOUT.takes(values)
    assert np.abs(values.astype(int)).max() <= 127
    got = noise(weights, quantum.dequantize(values))
    seven_bits = symmetric(weights * 2, 0)
    halved = quantize_weights(weights, seven_bits)
    assert got <= noise(weights, seven_bits.dequantize(halved)) + 1e-6


def test_random_weights_lose_less_than_with_seven_bits():
    weights = np.random.default_rng(0).normal(0, 0.1, (64, 128, 3, 3)).astype("float32")
    eight = symmetric(weights, 0)
    best = noise(weights, eight.dequantize(quantize_weights(weights, eight)))
    values, quantum = quantize_neighbours(weights, 0, 1, LAYOUT)
    assert not LAYOUT.takes(quantize_weights(weights, eight))
    assert LAYOUT.takes(values)
    assert noise(weights, quantum.dequantize(values)) < best + 4.0  # 7 bits: 6.0


def test_columns_of_a_product():
    weights = np.random.default_rng(0).normal(0, 1, (37, 12)).astype("float32")
    values, quantum = quantize_neighbours(weights, 1, 0, LAYOUT)
    assert LAYOUT.takes(values.T)
    assert quantum.axis == 1


def test_bounded_values_are_the_nearest():
    """Against all integers, for one sum of four."""
    rng = np.random.default_rng(1)
    layout = DotLayout(8, 8, "uint8", "uint8", most_neighbours=6, part=4)
    every = np.stack(np.meshgrid(*[np.arange(-7, 8)] * 4), axis=-1).reshape(-1, 4)
    every = every[(np.maximum(every, 0).sum(1) <= 6) & (np.maximum(-every, 0).sum(1) <= 6)]
    for _ in range(50):
        terms = rng.integers(-7, 8, 4)
        values = np.zeros((1, 8), "int8")
        values[0, [0, 1, 4, 5]] = terms
        values[0, [2, 3, 6, 7]] = -terms
        got = bounded(values, 1, layout)
        assert layout.takes(got)
        least = np.square(every - terms).sum(axis=1).min()
        for found in (got[0, [0, 1, 4, 5]], -got[0, [2, 3, 6, 7]]):
            assert np.square(found.astype(int) - terms).sum() == least


def test_sums_of_four_are_for_weights_that_lose_less_than_with_seven_bits():
    rng = np.random.default_rng(0)
    normal = rng.normal(0, 0.1, (16, 64, 3, 3)).astype("float32")
    values, _ = quantize_for(normal, 0, 1, [BOTH, LAYOUT])
    assert BOTH.takes(values)
    even = rng.uniform(0.9, 1.0, (16, 64, 3, 3)).astype("float32")
    values, _ = quantize_for(even, 0, 1, [BOTH, LAYOUT])
    assert not BOTH.takes(values)
    assert LAYOUT.takes(values)
