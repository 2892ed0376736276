"""Products of two tensors that are both known at run time alone, in integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tvm import relax, te

import schedules
from compiler.api import build
from compiler.package import open_package
from compiler.package.runner import Runner
from compiler.passes import integer_ops
from compiler.passes.dot_layout import DotLayout
from compiler.passes.pack_products import Operand, layout, pack_columns
from compiler.target import load_target
from tests.bochs.machine import BochsRunner
from tests.frontend.builders import save
from tests.frontend.quantised import RNG, onnx_runtime, qmodel
from tests.kernels import run

LAYOUT = DotLayout(16, 4, "int8", "int8")
# Depth, columns, dtype, whether the depth lies together in memory.
PACKED = [
    (8, 32, "int8", False),
    (7, 32, "uint8", False),
    (6, 21, "uint8", False),
    (8, 21, "int8", True),
    (7, 3, "uint8", True),
    (7, 32, "int8", True),
]


@pytest.mark.parametrize(("depth", "columns", "dtype", "together"), PACKED)
def test_columns_are_packed_as_constants_are(depth, columns, dtype, together):
    info = np.iinfo(dtype)
    b = RNG(depth + columns).integers(info.min, info.max + 1, (2, depth, 3, columns), dtype)
    axes, matrices = (0, 2, 1, 3), b.transpose(0, 2, 1, 3)
    if together:
        b, axes = np.ascontiguousarray(b.transpose(0, 3, 2, 1)), (0, 2, 3, 1)
    shift = -128 if dtype == "uint8" else 0
    source = te.placeholder(b.shape, dtype, name="b")
    func = te.create_prim_func([source, pack_columns(source, axes, shift, LAYOUT)])
    scheduled, report = schedules.apply(func, load_target("host"))
    assert report["template"] == "product_columns"
    (got,) = run(scheduled, [b])
    # What fills the last group and block may be anything.
    behind = [(0, -depth % 4), (0, 0)]
    known = integer_ops.pack_columns(np.pad(np.ones((depth, columns), bool), behind), LAYOUT)
    for index in np.ndindex(2, 3):
        shifted = (matrices[index].astype("int16") + shift).astype("int8")
        want = integer_ops.pack_columns(np.pad(shifted, behind), LAYOUT)
        np.testing.assert_array_equal(got[index][known], want[known])


def products(
    rng: np.random.Generator, count: int, whole: int = 1
) -> tuple[onnx.ModelProto, dict, list[str]]:
    """Products of random shapes, types and zero points, one output each; and their feeds.

    Args:
        whole: what their columns are a multiple of.
    """
    nodes, feeds, constants, outputs = [], {}, {}, []
    for i in range(count):
        kind = ("MatMulInteger", "QLinearMatMul", "attention")[i % 3]
        heads, rows, depth, columns = (int(n) for n in rng.integers((1, 1, 32, 1), (4, 40, 70, 40)))
        columns += -columns % whole
        types = [str(t) for t in rng.choice(["int8", "uint8"], 2)]
        if kind != "MatMulInteger":
            types[1] = types[0]
        a, b, az, bz, y = (f"{name}{i}" for name in ("a", "b", "az", "bz", "y"))
        shapes = (heads, rows, depth), (heads, depth, columns)
        if kind == "attention":
            shapes = (1, rows, heads, depth), (1, columns, heads, depth)
        for name, dtype, shape in zip((a, b), types, shapes, strict=True):
            info = np.iinfo(dtype)
            feeds[name] = rng.integers(info.min, info.max + 1, shape, dtype)
            constants[f"{name[0]}z{i}"] = rng.integers(info.min, info.max + 1, (), dtype)
        outputs.append(y)
        scale = {f"s{i}": np.float32(0.02), f"t{i}": np.float32(0.02 * depth**0.5)}
        constants |= {} if kind == "MatMulInteger" else scale
        constants |= {} if kind == "MatMulInteger" else {f"yz{i}": np.asarray(9, types[0])}
        if kind == "MatMulInteger":
            nodes.append(helper.make_node(kind, [a, b, az, bz], [y]))
        elif kind == "QLinearMatMul":
            operands = [a, f"s{i}", az, b, f"s{i}", bz, f"t{i}", f"yz{i}"]
            nodes.append(helper.make_node(kind, operands, [y]))
        else:
            nodes += attention(i)
    return qmodel(nodes, feeds, outputs, constants, opset=19), feeds, outputs


def attention(i: int) -> list[onnx.NodeProto]:
    """Q K^T of stored integers, with the transpositions that exporters write."""
    make = helper.make_node
    return [
        make("DequantizeLinear", [f"a{i}", f"s{i}", f"az{i}"], [f"q{i}"]),
        make("DequantizeLinear", [f"b{i}", f"s{i}", f"bz{i}"], [f"k{i}"]),
        make("Transpose", [f"q{i}"], [f"qt{i}"], perm=[0, 2, 1, 3]),
        make("Transpose", [f"k{i}"], [f"kt{i}"], perm=[0, 2, 3, 1]),
        make("MatMul", [f"qt{i}", f"kt{i}"], [f"p{i}"]),
        make("QuantizeLinear", [f"p{i}", f"t{i}", f"yz{i}"], [f"y{i}"]),
    ]


def check(target: str, count: int, folder, runner, whole: int = 1) -> None:
    """All products of a model are computed in integers, as they are meant to be."""
    model, feeds, outputs = products(RNG(11), count, whole)
    path = save(model, folder)
    result = build(path, target, folder / "package", verify=False)
    found = [o for o in result.receipt["operators"] if o["template"] == "matmul_integer"]
    assert {o["intrinsic"] for o in found} == INTRINSIC[target]
    assert not any(o["template"] == "matmul" for o in result.receipt["operators"])
    got = runner(open_package(folder / "package")).verify(feeds, threads=2)
    for i, (name, want) in enumerate(zip(outputs, onnx_runtime(path, feeds), strict=True)):
        if i % 3:
            steps = np.abs(got[name].astype("int32") - want.astype("int32"))
            assert steps.max() <= 1, name
        else:
            np.testing.assert_array_equal(got[name], in_int64(model, feeds, i))


def in_int64(model: onnx.ModelProto, feeds: dict, i: int) -> np.ndarray:
    """A MatMulInteger; ONNX Runtime's saturates on some CPUs."""
    zeros = {t.name: numpy_helper.to_array(t).astype("int64") for t in model.graph.initializer}
    a, b = (feeds[f"{x}{i}"].astype("int64") - zeros[f"{x}z{i}"] for x in "ab")
    return a @ b


INTRINSIC = {"arm_cortex_a76": {"neon_sdot"}, "x86_64_vnni": {"x86_vnni_16"}}


def test_on_arm(tmp_path):
    check("arm_cortex_a76", 3, tmp_path, Runner)


def test_on_vnni(tmp_path):
    """Of ragged blocks LLVM makes gathers by zmm30, which Bochs 2.7 takes for illegal."""
    check("x86_64_vnni", 3, tmp_path, BochsRunner, whole=16)


def test_without_such_an_instruction_products_are_of_floats(tmp_path):
    """Two products of -128 by itself leave int16, in which Cortex-A72 adds them up."""
    path = save(products(RNG(2), 2)[0], tmp_path)
    receipt = build(path, "arm_cortex_a72", tmp_path / "package", verify=False).receipt
    assert not any(o["template"] == "matmul_integer" for o in receipt["operators"])


def test_small_products_are_of_floats():
    dot = [LAYOUT]

    def chosen(depth: int, columns: int) -> bool:
        shapes = (1, 9, depth), (1, depth, columns)
        made = [relax.Var("x", relax.TensorType(shape, "int8")) for shape in shapes]
        return layout(*(Operand(x, 0) for x in made), dot) is not None

    assert chosen(64, 197)
    assert chosen(197, 64)
    assert chosen(32, 4)
    assert not chosen(8, 8)
    assert not chosen(1 << 15, 64)  # int32 might not hold the sums
