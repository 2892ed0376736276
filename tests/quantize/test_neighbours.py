"""Weights that an instruction with 16-bit sums may multiply."""

import numpy as np
import pytest

from compiler.passes.dot_layout import DotLayout
from compiler.quantize.neighbours import quantize_neighbours
from compiler.quantize.scales import quantize_weights, symmetric

LAYOUT = DotLayout(8, 4, "uint8", "uint8", most_neighbours=128)


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
    values, quantum = quantize_neighbours(weights, 0, 1, 128)
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
    values, quantum = quantize_neighbours(weights, 0, 1, 128)
    assert not LAYOUT.takes(quantize_weights(weights, eight))
    assert LAYOUT.takes(values)
    assert noise(weights, quantum.dequantize(values)) < best + 4.0  # 7 bits: 6.0


def test_columns_of_a_product():
    weights = np.random.default_rng(0).normal(0, 1, (37, 12)).astype("float32")
    values, quantum = quantize_neighbours(weights, 1, 0, 128)
    assert LAYOUT.takes(values.T)
    assert quantum.axis == 1
