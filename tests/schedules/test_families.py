"""Every family at ragged sizes: results against NumPy, and templates and serial blocks reported."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from compiler.target import load_target
from tests.schedules.graphs import evaluate

op, nn = relax.op, relax.op.nn
CHANNELS = [1, 3, 7, 17, 33]


def uniform(*shape: int, seed: int = 0) -> np.ndarray:
    """Float32 values in [-2, 2)."""
    return np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32)


def check(build, inputs, expected, template=None, target=None, tolerance=2e-6):
    """Compare with float64 NumPy; nothing may be left serial."""
    got, reports = evaluate(build, inputs, target)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=tolerance * 10, atol=tolerance)
    assert not any("serial" in report for report in reports), reports
    if template is not None:
        assert template in {report["template"] for report in reports}


def softmax(x, axis):
    """Reference in float64."""
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-math.inf))
    return e / e.sum(axis=axis, keepdims=True)


def windows(x, size, stride, padding, value):
    """All windows of an NCHW tensor: N, C, OH, OW, KH, KW."""
    (top, left, bottom, right) = padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)
    view = np.lib.stride_tricks.sliding_window_view(padded, size, (2, 3))
    return view[:, :, :: stride[0], :: stride[1]]


def pack(x, lanes):
    """NCHW to NCHW[lanes]c, channels padded with zeros."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, -c % lanes), (0, 0), (0, 0)))
    return padded.reshape(n, -1, lanes, h, w).transpose(0, 1, 3, 4, 2)


# --- element-wise -----------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 13, 1000])
def test_gelu(width):
    x = uniform(3, width)
    erf = np.vectorize(math.erf)
    check(nn.gelu, [x], 0.5 * x * (1 + erf(x / math.sqrt(2.0))), "elementwise")


@pytest.mark.parametrize("width", [1, 5, 13])
def test_silu_with_broadcast_bias(width):
    x, bias = uniform(2, 7, 5, width), uniform(1, 7, 1, 1, seed=1)
    total = (x + bias).astype(np.float64)
    check(
        lambda a, b: nn.silu(op.add(a, b)), [x, bias], total / (1 + np.exp(-total)), "elementwise"
    )


def test_long_vector_is_shared_among_tasks():
    x = uniform(200_003)
    got, (report,) = evaluate(nn.relu, [x])
    np.testing.assert_array_equal(got, np.maximum(x, 0))
    assert report["parallel"] == "yes"


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (0, 3, 1, 2), (3, 2, 1, 0)])
def test_transpose(channels, axes):
    x = uniform(2, channels, 5, 13)
    check(lambda a: op.permute_dims(a, list(axes)), [x], x.transpose(axes), "elementwise")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenation_of_three(axis):
    shapes = [[2, 7, 13] for _ in range(3)]
    for i, shape in enumerate(shapes):
        shape[axis] = (5, 1, 17)[i]
    parts = [uniform(*shape, seed=i) for i, shape in enumerate(shapes)]
    check(
        lambda a, b, c: op.concat([a, nn.relu(b), c], axis),
        parts,
        np.concatenate([parts[0], np.maximum(parts[1], 0), parts[2]], axis),
        "elementwise",
    )


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_padding(mode):
    x = uniform(2, 3, 7, 13)
    widths = [0, 0, 0, 0, 2, 1, 3, 4]
    pairs = list(zip(widths[::2], widths[1::2], strict=True))
    if mode == "constant":
        expected = np.pad(x, pairs, constant_values=0.5)
        check(lambda a: nn.pad(a, widths, "constant", 0.5), [x], expected, "elementwise")
    else:
        check(lambda a: nn.pad(a, widths, mode), [x], np.pad(x, pairs, mode), "elementwise")


def test_strided_slice_and_gather():
    x = uniform(33, 17)
    check(lambda a: op.strided_slice(a, [0, 1], [1, 2], [30, 16], [3, 2]), [x], x[1:30:3, 2:16:2])
    rows = np.array([3, 0, 32, 7], np.int64)
    check(lambda a, i: op.take(a, i, 0, mode="clip"), [x, rows], x[rows])


@pytest.mark.parametrize("factor", [2, 3])
def test_nearest_resize(factor):
    x = uniform(1, 7, 5, 13)
    expected = x.repeat(factor, 2).repeat(factor, 3)
    check(
        lambda a: op.image.resize2d(
            a,
            (5 * factor, 13 * factor),
            layout="NCHW",
            method="nearest_neighbor",
            coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        ),
        [x],
        expected,
        "elementwise",
    )


@pytest.mark.parametrize("target", ["host", "arm_cortex_a7", "arm_cortex_a72"])
def test_linear_resize(target):
    x = uniform(1, 7, 5, 13)
    result = x.astype(np.float64)
    for axis, size in ((2, 9), (3, 31)):
        at = (np.arange(size) + 0.5) * x.shape[axis] / size - 0.5  # half-pixel centres
        low = np.floor(at).astype(int)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        ends = [np.clip(low + i, 0, x.shape[axis] - 1) for i in (0, 1)]
        near, far = (result.take(e, axis) for e in ends)
        result = near * (1 - weight) + far * weight
    check(
        lambda a: op.image.resize2d(a, (9, 31), layout="NCHW", method="linear"),
        [x],
        result,
        target=load_target(target),
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float64"])
def test_other_element_types(dtype):
    x = np.random.default_rng(0).integers(0, 50, (7, 33)).astype(dtype)
    y = x[::-1].copy()
    got, reports = evaluate(lambda a, b: op.maximum(op.add(a, b), b), [x, y])
    np.testing.assert_array_equal(got, np.maximum(x + y, y))
    assert "serial" not in reports[0]


def test_comparison_and_selection():
    x, y = uniform(5, 33), uniform(5, 33, seed=1)
    check(lambda a, b: op.where(op.less(a, b), a, op.negative(b)), [x, y], np.where(x < y, x, -y))


# --- reductions -------------------------------------------------------------------------------

REDUCTIONS = {
    "sum": (op.sum, np.sum),
    "mean": (op.mean, np.mean),
    "max": (op.max, np.max),
    "min": (op.min, np.min),
    "prod": (op.prod, np.prod),
}


@pytest.mark.parametrize("axes", [[0], [1], [2], [3], [2, 3], [0, 2], [1, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("name", ["sum", "max", "mean"])
def test_reduction_over_any_axes(name, axes):
    x = uniform(3, 7, 5, 13)
    relax_function, reference = REDUCTIONS[name]
    expected = np.asarray(reference(x.astype(np.float64), axis=tuple(axes)))
    check(lambda a: relax_function(a, axes), [x], expected)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reduction_of_long_rows(name, keepdims):
    x = (uniform(3, 1037) * (0.01 if name == "prod" else 1) + (name == "prod")).astype(np.float32)
    relax_function, reference = REDUCTIONS[name]
    expected = reference(x.astype(np.float64), axis=-1, keepdims=keepdims)
    tolerance = 1e-4 if name in {"sum", "prod"} else 2e-6
    check(lambda a: relax_function(a, [-1], keepdims), [x], expected, tolerance=tolerance)


def test_variance_and_standard_deviation():
    x = uniform(5, 17, 33)
    check(lambda a: op.variance(a, [-1]), [x], x.astype(np.float64).var(-1))
    check(lambda a: op.std(a, [1]), [x], x.astype(np.float64).std(1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_argmax_takes_the_first(axis):
    x = np.random.default_rng(0).integers(0, 4, (5, 7, 33)).astype(np.float32)
    got, reports = evaluate(lambda a: op.argmax(a, axis), [x])
    np.testing.assert_array_equal(got, x.argmax(axis))
    got, _ = evaluate(lambda a: op.argmin(a, axis), [x])
    np.testing.assert_array_equal(got, x.argmin(axis))
    assert "serial" not in reports[0]


# --- softmax and normalisation ----------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 13, 33, 128])
def test_softmax_over_rows(width):
    x = uniform(4, 17, width) * 20
    check(lambda a: nn.softmax(a, -1), [x], softmax(x.astype(np.float64), -1), "softmax")


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_over_other_axes(axis):
    x = uniform(3, 17, 5, 13) * 10
    check(lambda a: nn.softmax(a, axis), [x], softmax(x.astype(np.float64), axis), "softmax")


def test_masked_softmax_and_log_softmax():
    x = uniform(2, 12, 33)
    mask = np.where(np.arange(33) < 20, 0, -math.inf).astype(np.float32)
    masked = x.astype(np.float64) * 0.125 + mask
    check(
        lambda a, m: nn.softmax(op.add(op.multiply(a, relax.const(0.125)), m), -1),
        [x, mask],
        softmax(masked, -1),
    )
    check(lambda a: nn.log_softmax(a, -1), [x], np.log(softmax(x.astype(np.float64), -1)))


def normalized(x, axes):
    """Zero mean and unit variance over axes, in float64."""
    x = x.astype(np.float64)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


@pytest.mark.parametrize("width", [1, 7, 33, 384])
def test_layer_norm(width):
    x, gamma, beta = uniform(2, 17, width), uniform(width, seed=1), uniform(width, seed=2)
    check(
        lambda a, g, b: nn.layer_norm(a, g, b, axes=[-1]),
        [x, gamma, beta],
        normalized(x, (-1,)) * gamma + beta,
        "normalization",
    )


def test_rms_norm():
    x, weight = uniform(3, 5, 33), uniform(33, seed=1)
    root = np.sqrt(np.square(x.astype(np.float64)).mean(-1, keepdims=True) + 1e-5)
    check(
        lambda a, w: nn.rms_norm(a, w, axes=[-1], epsilon=1e-5),
        [x, weight],
        x / root * weight,
        "normalization",
    )


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_group_and_instance_norm(groups):
    x, gamma, beta = uniform(2, 16, 5, 13), uniform(16, seed=1), uniform(16, seed=2)
    grouped = normalized(x.reshape(2, groups, 16 // groups, 5, 13), (2, 3, 4)).reshape(x.shape)
    check(
        lambda a, g, b: nn.group_norm(a, g, b, groups, channel_axis=1, axes=[2, 3]),
        [x, gamma, beta],
        grouped * gamma[:, None, None] + beta[:, None, None],
        "normalization",
        tolerance=2e-5,
    )


# --- pooling ----------------------------------------------------------------------------------

POOLS = [
    ((3, 3), (2, 2), (1, 1, 1, 1)),
    ((2, 2), (2, 2), (0, 0, 0, 0)),
    ((3, 3), (1, 1), (1, 1, 1, 1)),
    ((5, 3), (3, 1), (2, 0, 1, 1)),
]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("window", POOLS)
def test_max_pool(channels, window):
    size, stride, padding = window
    x = uniform(1, channels, 13, 33)
    expected = windows(x, size, stride, padding, -math.inf).max((-1, -2))
    check(lambda a: nn.max_pool2d(a, size, stride, padding), [x], expected, "pooling")


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("window", POOLS)
def test_packed_max_pool(lanes, window):
    size, stride, padding = window
    x = uniform(1, 2 * lanes, 13, 17)
    expected = pack(windows(x, size, stride, padding, -math.inf).max((-1, -2)), lanes)
    check(
        lambda a: nn.relu(nn.max_pool2d(a, size, stride, padding, layout=f"NCHW{lanes}c")),
        [pack(x, lanes)],
        np.maximum(expected, 0),
        "pooling",
    )


@pytest.mark.parametrize("window", POOLS)
def test_average_pool_without_padding_in_the_count(window):
    size, stride, padding = window
    x = uniform(2, 7, 13, 17)
    total = windows(x.astype(np.float64), size, stride, padding, 0).sum((-1, -2))
    count = windows(np.ones_like(x), size, stride, padding, 0).sum((-1, -2))
    check(lambda a: nn.avg_pool2d(a, size, stride, padding), [x], total / count, "pooling")


@pytest.mark.parametrize("channels", CHANNELS)
def test_global_average_pool(channels):
    x = uniform(1, channels, 7, 7)
    expected = x.astype(np.float64).mean((2, 3), keepdims=True)
    check(lambda a: nn.adaptive_avg_pool2d(a, (1, 1)), [x], expected)


# --- other targets, other shapes --------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["x86_64", "arm_cortex_a72", "arm_cortex_a7", "riscv64", "riscv_spacemit_x60"]
)
def test_families_on_other_targets(target):
    target = load_target(target)
    x = uniform(1, 17, 13, 33)
    rows = x[0]
    double = rows.astype(np.float64)
    check(lambda a: nn.softmax(a, -1), [rows], softmax(double, -1), target=target)
    check(lambda a: nn.softmax(a, 0), [rows], softmax(double, 0), target=target)
    check(lambda a: op.mean(a, [1, 2]), [rows], double.mean((1, 2)), target=target)
    pooled = windows(x, (3, 3), (2, 2), (1, 1, 1, 1), -math.inf).max((-1, -2))
    check(lambda a: nn.max_pool2d(a, (3, 3), (2, 2), (1, 1)), [x], pooled, target=target)
    sigmoid = 1 / (1 + np.exp(-double))
    check(lambda a: op.sigmoid(a), [rows], sigmoid, target=target)


shapes = st.lists(st.integers(1, 19), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(shape=shapes, data=st.data())
def test_any_shape_reduces_and_normalises(shape, data):
    x = uniform(*shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    double = x.astype(np.float64)
    check(lambda a: op.sum(a, [axis]), [x], np.asarray(double.sum(axis)), tolerance=1e-5)
    check(lambda a: nn.softmax(a, axis), [x], softmax(double, axis))


@settings(max_examples=25, deadline=None)
@given(shape=shapes, data=st.data())
def test_any_shape_broadcasts_and_transposes(shape, data):
    x = uniform(*shape)
    other = [n if data.draw(st.booleans()) else 1 for n in shape]
    axes = data.draw(st.permutations(range(len(shape))))
    y = uniform(*other, seed=1)
    check(
        lambda a, b: op.permute_dims(op.tanh(op.multiply(a, b)), list(axes)),
        [x, y],
        np.tanh(x.astype(np.float64) * y).transpose(axes),
    )
