"""Functions of one byte become tables: which ones, and with which entries."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from tvm import relax

from compiler.frontend import import_model
from compiler.passes.byte_tables import ATTRIBUTE, use_byte_tables
from compiler.passes.packed_values import constant_of
from compiler.passes.pipeline import optimize, simplify
from compiler.passes.sink_dequantize import sink_dequantize
from compiler.quantize.qdq import Quantum, emit_dequantize, emit_quantize
from compiler.target import load_target
from tests.conformance.host import run_on_host
from tests.frontend.quantised import assert_same_steps, f32, named, qdq, qmodel, quantum
from tests.passes.test_packing import operators
from tests.passes.test_sink_dequantize import module, run

BYTES = {"uint8": np.arange(256).astype("uint8"), "int8": np.arange(-128, 128).astype("int8")}
FUNCTIONS = {
    "Sigmoid": {},
    "Tanh": {},
    "HardSwish": {},
    "HardSigmoid": {"alpha": st.floats(0.05, 1), "beta": st.floats(0, 1)},
    "LeakyRelu": {"alpha": st.floats(0.001, 2)},
    "Elu": {"alpha": st.floats(0.1, 2)},
    "Selu": {},
    "Softplus": {},
    "Exp": {},
    "Erf": {},
    "Abs": {},
    "Gelu": {"approximate": st.sampled_from(["none", "tanh"])},
}
A, B, C = Quantum.of(0.05, 117, "uint8"), Quantum.of(0.03, 9, "uint8"), Quantum.of(0.01, -7, "int8")
LARGE = (3, 100)


def runtime(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """ONNX Runtime's numbers, operator by operator."""
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    session = InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def tables(mod) -> list[np.ndarray]:
    """Of each lookup in a module the table."""
    found = []
    for block in mod["main"].body.blocks:
        for call in (b.value for b in block.bindings):
            if getattr(getattr(call, "op", None), "name", "") == "relax.call_tir":
                assert mod[call.args[0]].attrs[ATTRIBUTE]
                found.append(constant_of(call.args[1].fields[1]))
    return found


@st.composite
def models(draw) -> tuple[onnx.ModelProto, np.ndarray, float]:
    """x -> dequantize -> f, maybe times x -> quantize; both the real numbers and the integers."""
    source, result = (draw(st.sampled_from(["uint8", "int8"])) for _ in range(2))
    name = draw(st.sampled_from(list(FUNCTIONS)))
    attributes = {k: draw(v) for k, v in FUNCTIONS[name].items()}
    low, high = draw(st.floats(0.003, 0.1)), draw(st.floats(0.003, 0.1))
    zeros = [draw(st.integers(int(BYTES[d][0]), int(BYTES[d][-1]))) for d in (source, result)]
    constants = {"s": f32(low), "z": np.array(zeros[0], source)}
    constants |= {"t": f32(high), "u": np.array(zeros[1], result)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["a"]),
        helper.make_node(name, ["a"], ["b"], **attributes),
    ]
    if draw(st.booleans()):
        nodes += [helper.make_node("Mul", ["b", "a"], ["real"])]
    else:
        nodes += [helper.make_node("Identity", ["b"], ["real"])]
    nodes += [helper.make_node("QuantizeLinear", ["real", "t", "u"], ["y"])]
    x = np.stack([BYTES[source], BYTES[source][::-1]])
    return qmodel(nodes, {"x": x}, ["y", "real"], constants, opset=20), x, high


@settings(max_examples=15, deadline=None)
@given(models())
def test_entries_are_onnx_runtimes(case):
    model, x, scale = case
    wanted, real = runtime(model, x)
    del model.graph.output[1]
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(model.SerializeToString())
        file.flush()
        imported = import_model(file.name)
    module = sink_dequantize(simplify(imported.module, load_target("host")))
    (table,) = tables(use_byte_tables(module))
    assert table.dtype == wanted.dtype
    # Where float32's last bit decides between two steps, either will do.
    steps = real / np.float64(f32(scale))
    tie = np.abs(np.abs(steps - np.floor(steps)) - 0.5) < 1e-4
    got = table[x.view("uint8")]
    np.testing.assert_array_equal(got[~tie], wanted[~tie])
    assert (np.abs(got.astype(int) - wanted) <= 1).all()


def silu(b, x, shared: bool = False) -> relax.Expr:
    real = emit_dequantize(b, x, A)
    gate = emit_quantize(b, b.emit(relax.op.sigmoid(real)), B)
    product = b.emit(relax.op.multiply(real, emit_dequantize(b, gate, B)))
    y = emit_quantize(b, product, C)
    return b.emit(relax.Tuple([y, product if shared else gate])) if shared else y


def test_a_product_of_two_functions_is_one():
    before = module(silu, (LARGE, "uint8"))
    after = use_byte_tables(before)
    assert [name.rstrip("0123456789") for name in operators(after)] == ["@look_up"]
    x = np.arange(300).astype("uint8").reshape(LARGE)
    real = A.dequantize(x)
    gate = B.dequantize(B.quantize(1 / (1 + np.exp(-real))))
    np.testing.assert_array_equal(run(after, x), C.quantize(real * gate))


def test_real_numbers_that_others_read_stay():
    mod = module(lambda b, x: silu(b, x, shared=True), (LARGE, "uint8"))
    after = operators(use_byte_tables(mod))
    assert after.count("multiply") == after.count("quantize") == 1
    assert after.count("@look_up") == 1  # the gate, which is stored


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: emit_quantize(
            b, b.emit(relax.op.multiply(emit_dequantize(b, x, A), relax.const(TABLE))), B
        ),
        lambda b, x: emit_quantize(b, b.emit(relax.op.nn.softmax(emit_dequantize(b, x, A), -1)), B),
        lambda b, x: emit_quantize(b, b.emit(relax.op.sum(emit_dequantize(b, x, A), [0])), B),
    ],
    ids=["constants of several values", "rows", "sums"],
)
def test_other_functions_stay(build):
    mod = module(build, (LARGE, "uint8"))
    assert use_byte_tables(mod) is mod


TABLE = np.linspace(0, 1, 100, dtype="float32")


def test_two_tensors_stay():
    def add(b, x, y):
        total = relax.op.add(emit_dequantize(b, x, A), emit_dequantize(b, y, A))
        return emit_quantize(b, b.emit(total), B)

    mod = module(add, (LARGE, "uint8"), (LARGE, "uint8"))
    assert use_byte_tables(mod) is mod


def test_what_changes_nothing_vanishes():
    def build(b, x):
        clipped = b.emit(relax.op.clip(emit_dequantize(b, x, A), -100.0, 100.0))
        return b.emit(relax.op.negative(emit_quantize(b, clipped, A)))

    assert operators(use_byte_tables(module(build, (LARGE, "uint8")))) == ["negative"]


def test_few_bytes_stay():
    mod = module(silu, ((1, 100), "uint8"))
    assert use_byte_tables(mod) is mod


def test_network():
    """Behind an integer convolution of ragged channels and a depthwise one, and a logistic."""
    rng = np.random.default_rng(5)
    nodes, constants, x = [], {}, "x"
    channels = 3
    for index, (name, group) in enumerate((("HardSwish", 1), ("Mul", 13), ("LeakyRelu", 1))):
        shape = (13, channels // group, 3, 3)
        steps = float(np.sqrt(np.prod(shape[1:]))) * 40
        constants[f"w{index}"] = rng.integers(-63, 64, shape).astype("int8")
        constants |= quantum(f"w{index}", np.full(13, 1 / steps), np.zeros(13, "int8"))
        constants |= quantum(f"x{index}", 0.02, np.uint8(120))
        constants |= quantum(f"c{index}", 0.025, np.uint8(130))
        constants |= quantum(f"f{index}", 0.004, np.uint8(0))
        nodes += qdq(f"x{index}", x)
        nodes += [helper.make_node("DequantizeLinear", named(f"w{index}"), [f"v{index}"], axis=0)]
        inputs = [f"x{index}_r", f"v{index}"]
        nodes += [helper.make_node("Conv", inputs, [f"y{index}"], group=group, pads=[1] * 4)]
        nodes += qdq(f"c{index}", f"y{index}")
        inputs, channels, x = [f"c{index}_r"], 13, f"z{index}"
        if name == "Mul":
            nodes += [helper.make_node("Sigmoid", inputs, [f"g{index}"])]
            nodes += qdq(f"f{index}", f"g{index}")
            inputs += [f"f{index}_r"]
        nodes += [helper.make_node(name, inputs, [x])]
    constants |= quantum("last", 0.02, np.uint8(120))
    nodes += qdq("last", x)
    value = rng.normal(size=(1, 3, 9, 10)).astype("float32")
    model = qmodel(nodes, {"x": value}, ["last_r"], constants)
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(model.SerializeToString())
        file.flush()
        imported = import_model(file.name)
    target = load_target("host")
    calls = operators(optimize(imported.module, target))
    assert sum("look_up" in name for name in calls) == 3
    (got,) = run_on_host(imported, [value])
    assert assert_same_steps(got, runtime(model, value)[0], 0.02) > 0.99
