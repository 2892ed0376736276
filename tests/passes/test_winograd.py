"""Which convolutions become Winograd's, and how they enter the graph."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from compiler.passes import optimize
from compiler.passes.pack_convolutions import pack_convolutions
from compiler.passes.packed_ops import Window
from compiler.passes.winograd import choose_tile
from compiler.target import list_targets, load_target
from tests.passes.test_packing import conv, module, operators

TARGET = load_target("x86_64_v3")
SAME = Window((3, 3), (1, 1), (1, 1, 1, 1), (1, 1))


@pytest.mark.parametrize(
    ("channels", "out_channels", "size", "m"),
    [
        (64, 64, 56, 4),
        (128, 128, 28, 4),
        (16, 64, 55, 4),
        (64, 256, 13, 2),
        (512, 512, 7, 2),  # 16 weights a pair of channels are less to load than 36
        (3, 64, 224, None),
        (128, 32, 7, None),
        (64, 64, 2, None),
    ],
)
def test_the_cheaper_way_is_taken(channels, out_channels, size, m):
    weight = np.empty((out_channels, channels, 3, 3), "float32")
    assert choose_tile(TARGET, SAME, (1, channels, size, size), weight) == m


@pytest.mark.parametrize(
    "window",
    [
        Window((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
        Window((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
        Window((1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
        Window((5, 5), (1, 1), (2, 2, 2, 2), (1, 1)),
        Window((3, 1), (1, 1), (1, 0, 1, 0), (1, 1)),
    ],
    ids=str,
)
def test_other_windows_stay_direct(window):
    assert choose_tile(TARGET, window, (1, 64, 56, 56), np.empty((64, 64, 3, 3), "float32")) is None


@pytest.mark.parametrize("target", list_targets()[:-1])
def test_large_convolutions_become_winograd_everywhere(target):
    weight = np.empty((64, 64, 3, 3), "float32")
    assert choose_tile(load_target(target), SAME, (1, 64, 56, 56), weight) == 4


def test_other_types_stay_direct():
    weight = np.empty((64, 64, 3, 3), "float64")
    assert choose_tile(TARGET, SAME, (1, 64, 56, 56), weight) is None


def large(b, x):
    y = b.emit(conv(x, 64, 64, 3, 3, padding=1))
    return b.emit(relax.op.nn.relu(b.emit(relax.op.add(y, conv_bias()))))


def conv_bias():
    return relax.const(np.ones((1, 64, 1, 1), "float32"))


def test_a_packed_convolution_becomes_winograd_unless_results_must_be_exact():
    mod = module(large, (1, 64, 56, 56))
    assert operators(pack_convolutions(mod, TARGET)) == [
        "@pack_channels",
        "@winograd_conv2d",
        "add",
        "nn.relu",
        "@unpack_channels",
    ]
    assert "@conv2d" in operators(pack_convolutions(mod, TARGET, exact=True))


def test_the_epilogue_is_fused():
    names = operators(optimize(module(large, (1, 64, 56, 56)), TARGET))
    assert names == ["@pack_channels", "@fused_winograd_conv2d_add_relu", "@unpack_channels"]


@pytest.mark.parametrize(
    "attributes", [{"groups": 4, "padding": 1}, {"padding": 2, "dilation": 2}], ids=str
)
def test_grouped_and_dilated_convolutions_stay_direct(attributes):
    inputs = 64 // attributes.get("groups", 1)
    mod = module(lambda b, x: conv(x, 64, inputs, 3, 3, **attributes), (1, 64, 56, 56))
    assert "@conv2d" in operators(pack_convolutions(mod, TARGET))


def test_weights_of_run_time_stay_direct():
    mod = module(
        lambda b, x, w: relax.op.nn.conv2d(x, w, padding=1), (1, 64, 56, 56), (64, 64, 3, 3)
    )
    assert "@conv2d" in operators(pack_convolutions(mod, TARGET))
