"""What moves data moves integers: the graph before and after, and its numbers against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from compiler.frontend import ImportedModel
from compiler.frontend.axis_ops import AxisOp
from compiler.passes.sink_dequantize import sink_dequantize
from compiler.program import TensorInfo
from compiler.quantize.qdq import Quantum, emit_dequantize, emit_quantize
from tests.conformance.host import run_on_host
from tests.passes.test_packing import module as float_module
from tests.passes.test_packing import operators

A = Quantum.of(0.05, 117, "uint8")
B = Quantum.of(0.03127, 9, "uint8")  # no ties when requantised to A
SIGNED = Quantum.of(0.05, -128, "int8")


def module(build, *inputs: tuple[tuple[int, ...], str]):
    """A module whose main returns ``build(builder, *params)`` of integer or float inputs."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(s, d)) for i, (s, d) in enumerate(inputs)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build(builder, *params)))
        builder.emit_func_output(result)
    return builder.get()


def run(mod, *values: np.ndarray) -> np.ndarray:
    main = mod["main"]
    inputs = tuple(TensorInfo(f"x{i}", str(v.dtype), v.shape) for i, v in enumerate(values))
    shape = tuple(int(d) for d in main.ret_ty.shape)
    outputs = (TensorInfo("y", str(main.ret_ty.dtype), shape),)
    (result,) = run_on_host(ImportedModel("m", mod, inputs, outputs, ""), list(values))
    return result


def stored(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(1).integers(info.min, info.max, shape, dtype, endpoint=True)


def pooled(x: np.ndarray) -> np.ndarray:
    """2 x 2 maxima, two rows and one column on, of x with a row above and a column behind."""
    padded = np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 1)], constant_values=np.iinfo(x.dtype).min)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 2), (2, 3))
    return windows[:, :, ::2].max((-1, -2))


def nearest(x: relax.Expr, b: relax.BlockBuilder) -> relax.Expr:
    op = AxisOp("repeated", 3, 2)
    return b.emit_te(op, x, primfunc_name_hint="resize", primfunc_attrs=op.attrs)


SHAPE = (2, 3, 4, 5)
MOVES = {
    "reshape": (lambda x, b: relax.op.reshape(x, (2, 60)), lambda x: x.reshape(2, 60)),
    "permute_dims": (
        lambda x, b: relax.op.permute_dims(x, [0, 3, 1, 2]),
        lambda x: x.transpose(0, 3, 1, 2),
    ),
    "expand_dims": (lambda x, b: relax.op.expand_dims(x, 1), lambda x: x[:, None]),
    "flatten": (lambda x, b: relax.op.flatten(x), lambda x: x.reshape(-1)),
    "strided_slice": (
        lambda x, b: relax.op.strided_slice(x, [2, 3], [1, 0], [4, 5], [1, 2]),
        lambda x: x[:, :, 1:4, ::2],
    ),
    "tile": (lambda x, b: relax.op.tile(x, (1, 2, 1, 1)), lambda x: np.tile(x, (1, 2, 1, 1))),
    "nn.max_pool2d": (lambda x, b: relax.op.nn.max_pool2d(x, (2, 2), (2, 1), (1, 0, 0, 1)), pooled),
    "nn.pad": (
        lambda x, b: relax.op.nn.pad(x, [0, 0, 0, 0, 1, 2, 0, 3]),
        lambda x: np.pad(x, [(0, 0), (0, 0), (1, 2), (0, 3)], constant_values=117),
    ),
    "@resize1": (nearest, lambda x: x.repeat(2, 3)),
}


@pytest.mark.parametrize("name", MOVES)
def test_movement_of_integers(name):
    move, expected = MOVES[name]

    def build(b, q):
        y = b.emit(move(emit_dequantize(b, q, A), b))
        return emit_dequantize(b, emit_quantize(b, y, A), A)

    after = sink_dequantize(module(build, (SHAPE, "uint8")))
    assert operators(after) == [name, "dequantize"]
    x = stored(SHAPE)
    np.testing.assert_array_equal(run(after, x), A.dequantize(expected(x)))


@pytest.mark.parametrize("name", sorted(set(MOVES) - {"strided_slice"}))
def test_quantize_goes_up(name):
    """Of floats that are quantised behind their movement."""
    move, expected = MOVES[name]
    after = sink_dequantize(
        module(lambda b, x: emit_quantize(b, b.emit(move(x, b)), A), (SHAPE, "float32"))
    )
    assert operators(after) == ["quantize", name]
    x = np.random.default_rng(2).normal(size=SHAPE).astype("float32")
    np.testing.assert_array_equal(run(after, x), expected(A.quantize(x)))


def test_slices_are_taken_before_quantize():
    def build(b, x):
        part = b.emit(relax.op.strided_slice(x, [0], [0], [1]))
        return emit_quantize(b, part, A)

    after = sink_dequantize(module(build, (SHAPE, "float32")))
    assert operators(after) == ["strided_slice", "quantize"]


def test_concat_of_one_quantum():
    def build(b, p, q):
        parts = [emit_dequantize(b, x, A) for x in (p, q)]
        return emit_quantize(b, b.emit(relax.op.concat(parts, 1)), A)

    after = sink_dequantize(module(build, ((2, 3), "uint8"), ((2, 4), "uint8")))
    assert operators(after) == ["concat"]
    p, q = stored((2, 3)), stored((2, 4))
    np.testing.assert_array_equal(run(after, p, q), np.concatenate([p, q], 1))


def test_concat_of_different_quanta():
    """One part fits, one is requantised, one is of floats behind an activation, one is known."""
    known = np.asarray([[0.3], [-7.0]], "float32")

    def build(b, p, q, x):
        parts = [emit_dequantize(b, p, A), emit_dequantize(b, q, B)]
        parts += [b.emit(relax.op.abs(x)), relax.const(known)]
        return emit_quantize(b, b.emit(relax.op.concat(parts, 1)), A)

    shapes = ((2, 3), "uint8"), ((2, 4), "uint8"), ((2, 5), "float32")
    after = sink_dequantize(module(build, *shapes))
    assert operators(after) == ["abs", "dequantize", "quantize", "quantize", "concat"]
    p, q = stored((2, 3)), stored((2, 4))
    x = np.random.default_rng(2).normal(size=(2, 5)).astype("float32")
    reals = [A.dequantize(p), B.dequantize(q), abs(x), known]
    np.testing.assert_array_equal(run(after, p, q, x), A.quantize(np.concatenate(reals, 1)))


def test_concat_that_floats_read_as_well():
    def build(b, p, q):
        whole = b.emit(relax.op.concat([emit_dequantize(b, p, A), emit_dequantize(b, q, B)], 1))
        back = emit_dequantize(b, emit_quantize(b, whole, A), A)
        return relax.op.add(whole, back)

    after = sink_dequantize(module(build, ((2, 3), "uint8"), ((2, 4), "uint8")))
    names = operators(after)
    assert names.count("concat") == 1
    assert names[-2:] == ["dequantize", "add"]
    p, q = stored((2, 3)), stored((2, 4))
    whole = np.concatenate([A.dequantize(p), B.dequantize(q)], 1)
    np.testing.assert_allclose(run(after, p, q), whole + A.dequantize(A.quantize(whole)), 1e-6)


def test_axis_follows_transposition_and_reshape():
    channels = Quantum.of([0.1, 0.2, 0.3], [1, 2, 3], "uint8", axis=1)

    def build(b, q):
        x = b.emit(relax.op.permute_dims(emit_dequantize(b, q, channels), [1, 0, 3, 2]))
        return b.emit(relax.op.reshape(x, (3, 40)))

    after = sink_dequantize(module(build, (SHAPE, "uint8")))
    assert operators(after) == ["permute_dims", "reshape", "dequantize"]
    x = stored(SHAPE)
    expected = channels.dequantize(x).transpose(1, 0, 3, 2).reshape(3, 40)
    np.testing.assert_array_equal(run(after, x), expected)


@pytest.mark.parametrize(
    "move",
    [
        lambda x: relax.op.reshape(x, (6, 20)),
        lambda x: relax.op.nn.max_pool2d(x, (2, 2)),
        lambda x: relax.op.strided_slice(x, [1], [0], [2]),
    ],
)
def test_axis_that_does_not_survive(move):
    channels = Quantum.of([0.1, 0.2, 0.3], 0, "int8", axis=1)
    before = module(lambda b, q: b.emit(move(emit_dequantize(b, q, channels))), (SHAPE, "int8"))
    assert operators(sink_dequantize(before)) == operators(before)


def test_pad_of_a_value_between_two_integers_stays_of_floats():
    def build(b, q):
        x = relax.op.nn.pad(emit_dequantize(b, q, A), [0, 0, 1, 1], "constant", 0.07)
        return emit_quantize(b, b.emit(x), A)

    after = sink_dequantize(module(build, ((2, 3), "uint8")))
    assert operators(after) == ["nn.pad"]  # quantised it is what it would be anyway
    x = stored((2, 3))
    expected = np.pad(x, [(0, 0), (1, 1)], constant_values=A.quantize(np.float32(0.07)))
    np.testing.assert_array_equal(run(after, x), expected)

    def keeps_floats(b, q):
        return relax.op.nn.pad(emit_dequantize(b, q, A), [0, 0, 1, 1], "constant", 0.07)

    after = sink_dequantize(module(keeps_floats, ((2, 3), "uint8")))
    assert operators(after) == ["dequantize", "nn.pad"]


CLIPS = {
    "relu at the lower end": (relax.op.nn.relu, SIGNED, ["quantize"]),
    "relu above it": (relax.op.nn.relu, A, ["nn.relu", "quantize"]),
    "clip beyond": (lambda x: relax.op.clip(x, -5.85, 6.9), A, ["quantize"]),
    "clip within": (lambda x: relax.op.clip(x, 0, 6), SIGNED, ["clip", "quantize"]),
    "clip to six": (
        lambda x: relax.op.clip(x, 0, 6),
        Quantum.of(6 / 255, 0, "uint8"),
        ["quantize"],
    ),
    "one channel beyond": (
        relax.op.nn.relu,
        Quantum.of([1, 1, 1], [0, 0, 1], "uint8", axis=1),
        ["nn.relu", "quantize"],
    ),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clip_before_quantize(name):
    clip, quantum, expected = CLIPS[name]
    before = module(
        lambda b, x: emit_quantize(b, b.emit(clip(x)), quantum), ((4, 3, 50), "float32")
    )
    after = sink_dequantize(before)
    assert operators(after) == expected
    x = np.random.default_rng(3).normal(size=(4, 3, 50)).astype("float32") * 8
    bounds = (0, np.inf) if "relu" in name or "channel" in name else (-5.85, 6.9)
    bounds = (0, 6) if "six" in name or "within" in name else bounds
    np.testing.assert_array_equal(run(after, x), quantum.quantize(np.clip(x, *bounds)))


@pytest.mark.parametrize(
    ("clip", "quantum", "names", "bounds"),
    [
        (relax.op.nn.relu, SIGNED, ["dequantize"], (0, np.inf)),
        (relax.op.nn.relu, A, ["maximum", "dequantize"], (0, np.inf)),
        (lambda x: relax.op.clip(x, -1, 2), A, ["maximum", "minimum", "dequantize"], (-1, 2)),
        (lambda x: relax.op.clip(x, 0, 0.07), A, ["dequantize", "clip"], (0, 0.07)),
    ],
)
def test_clip_behind_dequantize(clip, quantum, names, bounds):
    after = sink_dequantize(
        module(lambda b, q: clip(emit_dequantize(b, q, quantum)), ((3, 100), quantum.dtype))
    )
    assert operators(after) == names
    x = stored((3, 100), quantum.dtype)
    expected = np.clip(quantum.dequantize(x), *bounds).astype("float32")
    np.testing.assert_array_equal(run(after, x), expected)


def test_integers_of_seven_bits():
    """How PyTorch exports quantisation of a smaller range."""

    def build(b, x):
        q = emit_quantize(b, b.emit(relax.op.clip(x, -5, 5)), A)
        q = b.emit(relax.op.maximum(q, relax.const(np.uint8(20))))
        return emit_dequantize(b, b.emit(relax.op.minimum(q, relax.const(np.uint8(147)))), A)

    after = sink_dequantize(module(build, ((5, 200), "float32")))
    assert operators(after) == ["clip", "quantize", "dequantize"]
    x = np.random.default_rng(3).normal(size=(5, 200)).astype("float32") * 5
    np.testing.assert_array_equal(run(after, x), A.dequantize(np.clip(A.quantize(x), 20, 147)))


def test_integer_clip_of_the_whole_range_disappears():
    def build(b, x):
        q = emit_quantize(b, x, A)
        return b.emit(relax.op.minimum(q, relax.const(np.uint8(255))))

    assert operators(sink_dequantize(module(build, ((5, 2), "float32")))) == ["quantize"]


def test_one_quantize_and_dequantize_for_all_readers():
    """Exporters write them anew for every reader."""

    def build(b, x):
        total = x
        for _ in range(3):
            q = emit_quantize(b, x, A)
            total = b.emit(relax.op.add(total, emit_dequantize(b, q, A)))
        return total

    after = sink_dequantize(module(build, ((2, 3), "float32")))
    assert operators(after) == ["quantize", "dequantize", "add", "add", "add"]


def test_graphs_without_quantisation_stay():
    before = float_module(lambda b, x: b.emit(relax.op.nn.relu(x)), (2, 3))
    assert sink_dequantize(before) is before


CHAIN = st.lists(
    st.sampled_from(["relu", "clip", "pad", "pool", "turn", "A", "B", "twice"]), max_size=7
)


@settings(max_examples=12, deadline=None)
@given(chain=CHAIN)
def test_chains(chain):
    """Any order of operators: the integers and floats are those of NumPy, one after the other."""
    x = stored((1, 2, 6, 6))

    def build(b, q):
        y = emit_dequantize(b, q, A)
        for name in chain:
            y = b.emit(STEPS[name][0](b, y))
        return y

    wanted = A.dequantize(x)
    for name in chain:
        wanted = STEPS[name][1](wanted)
    after = sink_dequantize(module(build, (x.shape, "uint8")))
    np.testing.assert_allclose(run(after, x), wanted, rtol=1e-6, atol=1e-6)


STEPS = {
    "relu": (lambda b, x: relax.op.nn.relu(x), lambda x: np.maximum(x, 0)),
    "clip": (lambda b, x: relax.op.clip(x, -1, 3), lambda x: x.clip(-1, 3)),
    "pad": (
        lambda b, x: relax.op.nn.pad(x, [0, 0, 0, 0, 1, 0, 0, 1]),
        lambda x: np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 1)]),
    ),
    "pool": (
        lambda b, x: relax.op.nn.max_pool2d(x, (2, 2), (1, 1), (1, 1, 0, 0)),
        lambda x: np.lib.stride_tricks.sliding_window_view(
            np.pad(x, [(0, 0), (0, 0), (1, 0), (1, 0)], constant_values=-np.inf), (2, 2), (2, 3)
        ).max((-1, -2)),
    ),
    "turn": (
        lambda b, x: relax.op.permute_dims(x, [0, 1, 3, 2]),
        lambda x: x.transpose(0, 1, 3, 2),
    ),
    "A": (
        lambda b, x: emit_dequantize(b, emit_quantize(b, x, A), A),
        lambda x: A.dequantize(A.quantize(x)),
    ),
    "B": (
        lambda b, x: emit_dequantize(b, emit_quantize(b, x, B), B),
        lambda x: B.dequantize(B.quantize(x)),
    ),
    "twice": (lambda b, x: relax.op.add(x, x), lambda x: x + x),
}
