"""Quantize and dequantize operators against ONNX Runtime's."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from compiler.quantize.qdq import (
    DEQUANTIZE,
    QUANTIZE,
    Quantum,
    emit_dequantize,
    emit_quantize,
    quantum_of,
)

CASES = {
    "int8": Quantum.of(0.1, -3, "int8"),
    "uint8": Quantum.of(0.037, 131, "uint8"),
    "channels": Quantum.of([0.1, 0.02, 3.0], [0, 0, 0], "int8", axis=1),
    "zero_points": Quantum.of([0.1, 0.02, 3.0], [1, 128, 255], "uint8", axis=1),
    "int16": Quantum.of(1e-4, 7, "int16"),
}


def onnx_round_trip(quantum: Quantum, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(stored integers, their real values) of ONNX Runtime."""
    axis = {} if quantum.per_tensor else {"axis": quantum.axis}
    stored = helper.np_dtype_to_tensor_dtype(quantum.zero_point.dtype)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **axis),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **axis),
        ],
        "round_trip",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [
            helper.make_tensor_value_info("q", stored, x.shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape),
        ],
        [
            numpy_helper.from_array(quantum.scale, "s"),
            numpy_helper.from_array(quantum.zero_point, "z"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return tuple(session.run(None, {"x": x}))


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_onnx_runtimes(name):
    """Ties, saturation and ordinary numbers."""
    quantum = CASES[name]
    steps = np.arange(-150, 150, 0.25, dtype="float32").reshape(4, 3, 100)
    x = (steps * quantum.along(3)[0]).astype("float32")
    stored, real = onnx_round_trip(quantum, x)
    np.testing.assert_array_equal(quantum.quantize(x), stored)
    np.testing.assert_allclose(quantum.dequantize(stored), real, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_operators_are_recognised(name):
    quantum = CASES[name]
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 3, 4), "float32"))
    with builder.function("main", [x]):
        q = emit_quantize(builder, x, quantum)
        y = emit_dequantize(builder, q, quantum)
        builder.emit_func_output(y)
    first, second = builder.finalize()["main"].body.blocks[0].bindings
    assert quantum_of(first.value, QUANTIZE).same_as(quantum)
    assert quantum_of(second.value, DEQUANTIZE).same_as(quantum)
    assert quantum_of(first.value, DEQUANTIZE) is None
    assert not quantum_of(first.value, QUANTIZE).same_as(
        CASES["int8" if name != "int8" else "uint8"]
    )
