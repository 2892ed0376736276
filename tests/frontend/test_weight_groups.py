"""Weights that come in groups of integers: products are ONNX Runtime's, weights stay integers."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from compiler.frontend import import_model
from compiler.quantize.groups import Groups, groups_of
from tests.frontend.builders import run, save
from tests.frontend.quantised import onnx_runtime, qmodel


def groups_in(imported) -> list[Groups]:
    """Weights in groups that a module has."""
    module = imported.module
    bindings = module["main"].body.blocks[0].bindings
    found = [groups_of(b.value, module) for b in bindings]
    return [groups for groups in found if groups is not None]


def nbits(rng, rows, depth, columns, block, bits, zeros, dtype, **attrs):
    """A MatMulNBits, with a bias where there are zero points, and its feeds."""
    groups = -(-depth // block)
    constants = {
        "b": rng.integers(0, 256, (columns, groups, block * bits // 8), "uint8"),
        "s": rng.uniform(0.01, 0.1, (columns * groups)).astype(dtype),
    }
    inputs = ["x", "b", "s"]
    if zeros == "packed":
        constants["z"] = rng.integers(0, 256, columns * -(-groups * bits // 8)).astype("uint8")
    if zeros == "float":
        constants["z"] = rng.integers(0, 16, columns * groups).astype(dtype)
    if zeros:
        constants["c"] = rng.standard_normal(columns).astype(dtype)
        inputs += ["z", "", "c"]
    node = helper.make_node(
        "MatMulNBits",
        inputs,
        ["y"],
        domain="com.microsoft",
        K=depth,
        N=columns,
        bits=bits,
        block_size=block,
        **attrs,
    )
    feeds = {"x": rng.standard_normal((2, rows, depth)).astype(dtype)}
    return qmodel([node], feeds, ["y"], constants), feeds


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "block", "bits", "zeros", "dtype"),
    [
        (1, 256, 24, 32, 4, "", "float32"),
        (1, 200, 20, 32, 4, "packed", "float32"),
        (3, 256, 17, 128, 4, "float", "float32"),
        (12, 160, 16, 32, 4, "packed", "float32"),
        (2, 128, 16, 64, 8, "packed", "float32"),
        (1, 128, 16, 32, 4, "", "float16"),
    ],
)
def test_matmul_nbits(tmp_path, rows, depth, columns, block, bits, zeros, dtype):
    rng = np.random.default_rng(depth + columns)
    model, feeds = nbits(rng, rows, depth, columns, block, bits, zeros, dtype)
    (want,) = onnx_runtime(model, feeds)
    imported = import_model(save(model, tmp_path))
    (got,) = run(imported, **feeds)
    step = 2e-3 if dtype == "float16" else 2e-5
    np.testing.assert_allclose(got, want, rtol=0, atol=step * np.abs(want).max())
    (groups,) = groups_in(imported)
    assert (groups.bits, groups.group) == (bits, block)


@pytest.mark.parametrize(
    ("dtype", "axis", "reader", "zeros"),
    [
        ("int4", 0, "MatMul", False),
        ("uint4", 0, "MatMul", True),
        ("uint4", 1, "Gemm", True),
        ("uint4", 1, "Transpose", True),
        ("uint8", 0, "MatMul", True),
        ("int4", None, "MatMul", True),
    ],
)
def test_blocked_dequantize_linear(tmp_path, dtype, axis, reader, zeros):
    rng = np.random.default_rng(1)
    depth, columns, block = 72, 20, 32
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    low, high = {"int4": (-8, 7), "uint4": (0, 15), "uint8": (0, 255)}[dtype]
    counts = (3, columns) if axis is not None else (columns,)
    matrix = rng.integers(low, high, (depth, columns), endpoint=True)
    scale = rng.uniform(0.01, 0.1, counts).astype("float32")
    zero = rng.integers(low, high, counts, endpoint=True)
    turned = reader != "MatMul"
    values = [(v.T if turned and v.ndim == 2 else v) for v in (matrix, scale, zero)]
    constants = {
        "q": np.ascontiguousarray(values[0]).astype(numpy_dtype),
        "s": np.ascontiguousarray(values[1]),
    }
    if zeros:
        constants["z"] = np.ascontiguousarray(values[2]).astype(numpy_dtype)
    attrs = {"axis": 1} if axis is None else {"axis": axis, "block_size": block}
    nodes = [helper.make_node("DequantizeLinear", list(constants), ["w"], **attrs)]
    if reader == "Transpose":
        nodes.append(helper.make_node("Transpose", ["w"], ["t"]))
        nodes.append(helper.make_node("MatMul", ["x", "t"], ["y"]))
    elif reader == "Gemm":
        nodes.append(helper.make_node("Gemm", ["x", "w"], ["y"], transB=1))
    else:
        nodes.append(helper.make_node("MatMul", ["x", "w"], ["y"]))
    feeds = {"x": rng.standard_normal((2, depth)).astype("float32")}
    model = qmodel(nodes, feeds, ["y"], constants)
    imported = import_model(save(model, tmp_path))
    (got,) = run(imported, **feeds)
    rows = np.arange(depth) // block
    along = (lambda v: v[rows]) if axis is not None else (lambda v: v[None])
    real = (matrix - along(zero) * zeros) * along(scale).astype("float64")
    want = feeds["x"] @ real
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    (groups,) = groups_in(imported)
    assert groups.bits == (8 if dtype == "uint8" else 4)


def test_rows_of_a_table_with_a_scale_each(tmp_path):
    rng = np.random.default_rng(2)
    constants = {
        "q": rng.integers(-128, 128, (50, 24)).astype("int8"),
        "s": rng.uniform(0.01, 0.1, 50).astype("float32"),
        "z": rng.integers(-20, 20, 50).astype("int8"),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=0),
        helper.make_node("Gather", ["w", "i"], ["y"]),
    ]
    feeds = {"i": np.asarray([[3, 49, 0], [7, -1, 3]])}
    model = qmodel(nodes, feeds, ["y"], constants)
    imported = import_model(save(model, tmp_path))
    (got,) = run(imported, **feeds)
    np.testing.assert_array_equal(got, onnx_runtime(model, feeds)[0])
    names = [gvar.name_hint for gvar in imported.module.functions]
    assert any(name.startswith("take_rows") for name in names)
