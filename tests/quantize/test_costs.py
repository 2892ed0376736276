"""Which operators stay in floats, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

import compiler
from compiler.frontend import import_model
from compiler.passes import simplify
from compiler.quantize import ranking
from compiler.quantize.costs import convolution_costs, matmul_costs
from compiler.quantize.data import open_data
from compiler.quantize.ptq import Quantizer
from compiler.quantize.recipe import DEFAULT, Recipe, Rule
from compiler.target import load_target
from tests.quantize.models import Builder


def costs(target, channels, out_channels, size, kernel=3, stride=1, **options):
    x = relax.Var("x", relax.TensorType((1, channels, size, size), "float32"))
    weight = relax.const(np.zeros((out_channels, channels, kernel, kernel), "float32"))
    call = relax.op.nn.conv2d(x, weight, strides=stride, padding=kernel // 2)
    call = relax.BlockBuilder().normalize(call)
    return convolution_costs(call, load_target(target), options.pop("outside", False), **options)


@pytest.mark.parametrize(
    ("target", "convolution", "kept"),
    [
        # counted, or timed (x86), both ways: milliseconds in int8 and in float32
        ("arm_cortex_a72", {"channels": 16, "out_channels": 64, "size": 55}, True),  # 2.95, 2.39
        ("arm_cortex_a72", {"channels": 32, "out_channels": 128, "size": 27}, True),  # 2.71, 1.76
        ("x86_64_v3", {"channels": 64, "out_channels": 64, "size": 56}, True),  # 1.36, 0.98
        ("x86_64_v3", {"channels": 32, "out_channels": 128, "size": 27}, False),  # 0.26, 0.25
        ("x86_64_v3", {"channels": 48, "out_channels": 192, "size": 13}, False),  # 0.19, 0.20
        ("arm_cortex_a76", {"channels": 16, "out_channels": 64, "size": 55}, False),
    ],
    ids=str,
)
def test_what_was_measured_is_decided(target, convolution, kept):
    assert costs(target, **convolution).slower_in_integers == kept


def test_estimates_are_near_the_counts():
    """SqueezeNet's and MobileNetV2's first layers on Cortex-A72, 1.8 GHz, with the input's copy."""
    for size, int8, float32 in ((64, 5.99, 3.60), (32, 3.76, 2.2)):
        found = costs("arm_cortex_a72", 3, size, 224, stride=2, outside=True)
        assert found.int8 / 1.8e6 == pytest.approx(int8, rel=0.3)
        assert found.float32 / 1.8e6 == pytest.approx(float32, rel=0.2)


def test_without_winograds_algorithm_integers_are_faster():
    assert costs("arm_cortex_a72", 16, 64, 55, exact=True) is None
    assert costs("riscv_spacemit_x60", 16, 64, 55) is None


def of_product(target, rows, depth, columns, sharing=1):
    x = relax.Var("x", relax.TensorType((rows, depth), "float32"))
    call = relax.op.matmul(x, relax.const(np.zeros((depth, columns), "float32")))
    return matmul_costs(relax.BlockBuilder().normalize(call), load_target(target), sharing)


@pytest.mark.parametrize(
    ("rows", "depth", "columns", "sharing", "counted"),
    [
        # instructions with int8 over those in float32, with those that make integers of the rows
        (128, 384, 384, 1, 0.66),
        (1, 1024, 1024, 1, 0.64),
        (64, 127, 10, 1, 0.99),
        (64, 64, 24, 0, 0.75),
        (128, 16, 8, 1, 2.08),
        (128, 384, 1, 1, 1.5),
    ],
)
def test_products_on_rvv_are_priced_by_counts(rows, depth, columns, sharing, counted):
    found = of_product("riscv_spacemit_x60", rows, depth, columns, sharing)
    assert found.int8 / found.float32 == pytest.approx(counted, rel=0.15)
    assert found.slower_in_integers == (counted > 1.25)
    assert of_product("arm_cortex_a72", rows, depth, columns, sharing) is None


@pytest.mark.parametrize("target", ["x86_64", "arm_cortex_a7"])
def test_integers_have_no_price_where_only_floats_are_slow(target):
    assert costs(target, 16, 64, 55) is None
    assert costs(target, 3, 32, 224, stride=2, outside=True) is None


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A first layer, a pointwise one, one of 3x3 that shares its input with another, and a sum."""
    b = Builder()
    first = b.node("Relu", b.conv("x", 3, 32, name="first", strides=[2, 2]), name="r0")
    narrow = b.node("Relu", b.conv(first, 32, 32, k=1, name="narrow"), name="r1")
    one = b.node("Relu", b.conv(narrow, 32, 64, k=1, name="expand1"), name="r2")
    three = b.node("Relu", b.conv(narrow, 32, 64, name="expand3"), name="r3")
    joined = b.node("Concat", one, three, name="joined", axis=1)
    b.conv(joined, 128, 16, k=1, name="y")
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    return b.save(path, {"x": (1, 3, 44, 46)}, {"y": (1, 16, 22, 23)})


def samples(count=2):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, 3, 44, 46)).astype("float32") for _ in range(count)]


def build(model, folder, target, **options):
    return compiler.build(
        model, target, folder, quantize="int8", calibration=samples(), tuning_logs=(), **options
    )


@pytest.mark.parametrize(
    ("target", "nodes"), [("arm_cortex_a72", {"first", "expand3"}), ("x86_64_v3", {"first"})]
)
def test_they_compute_floats_between_stored_integers(model, tmp_path, target, nodes):
    """The library agrees with NumPy, and kernels read and write integers as their own."""
    built = build(model, tmp_path / "p", target)
    kept = built.receipt["kept_in_float32"]
    assert {row["node"] for row in kept} == nodes
    assert all("M cycles in int8" in row["why"] for row in kept)
    assert built.manifest["quantization"]["operators"] == {
        "int8": 5 - len(nodes),
        "float32": len(nodes),
    }
    assert built.manifest["quantization"]["recipe"].count("float32: ") == len(nodes)
    labels = [row["label"] for row in built.receipt["operators"]]
    assert sum("conv2d" in label for label in labels) == 5
    # nothing but the kernels: no copies into other blocks, no floats in between
    assert not [label for label in labels if "pack" in label.replace("unpack", "")]
    assert "dequantize" not in labels


def test_rules_win(model, tmp_path):
    rules = (*DEFAULT.rules, Rule("expand3", "int8"))
    built = build(model, tmp_path / "p", "arm_cortex_a72", recipe=Recipe(rules), verify=False)
    assert [row["node"] for row in built.receipt["kept_in_float32"]] == ["first"]


def test_a_bound_on_this_machine_asks_the_target_what_stays(model, tmp_path):
    """Models that are measured here compute floats where the other CPU will."""
    options = {"max_drop": "sqnr:1", "validation": samples(3)[2:], "verify": False}
    built = build(model, tmp_path / "p", "arm_cortex_a72", **options)
    assert {row["node"] for row in built.receipt["kept_in_float32"]} == {"first", "expand3"}
    assert built.receipt["max_drop"]["layers"] == []
    assert built.manifest["quantization"]["operators"] == {"int8": 3, "float32": 2}


def candidates(path, data, **options):
    """Names of what a bound may ask for, and the plan with all of that in floats."""
    imported, target = import_model(path), load_target("arm_cortex_a72")
    module, source = simplify(imported.module, target), open_data(data, imported.inputs)
    with Quantizer(module, target, source, DEFAULT, variants=True, **options) as quantizer:
        names = {region.name for region in ranking.candidates(quantizer.quantize())}
        rules = [Rule(name, precision="float32") for name in names]
        return names, quantizer.quantize(rules).plan


def test_a_bound_need_not_ask_for_what_stays(model):
    """Without integers around it nothing is stored."""
    names, floats = candidates(model, samples())
    assert names == {"narrow", "expand1", "y"}
    assert not floats.stored


def test_a_bound_asks_for_what_stays_at_the_ends_of_a_model_of_integers(tmp_path):
    b = Builder()
    b.conv("x", 16, 64, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 16, 28, 28)}, {"y": (1, 64, 28, 28)})
    data = [np.ones((1, 16, 28, 28), "float32")]
    assert candidates(path, data)[0] == set()
    names, floats = candidates(path, data, integer_io=True)
    assert names == {"y"}
    assert not floats.stored


def test_without_winograds_algorithm_only_the_first_stays(model, tmp_path):
    built = build(model, tmp_path / "p", "arm_cortex_a72", exact=True, verify=False)
    assert [row["node"] for row in built.receipt["kept_in_float32"]] == ["first"]


@pytest.mark.parametrize("rank", [2, 3])
def test_products_of_few_columns_stay_in_floats_on_rvv(tmp_path, rank):
    b = Builder()
    rows = (5, 48) if rank == 2 else (1, 5, 48)
    wide = b.node("Relu", b.node("MatMul", "x", b.weight(48, 64), name="wide"))
    b.node("MatMul", wide, b.weight(64, 40), name="y")
    b.node("Sigmoid", b.node("MatMul", "x", b.weight(48, 3), name="narrow"), name="z")
    outputs = {"y": (*rows[:-1], 40), "z": (*rows[:-1], 3)}
    path = b.save(tmp_path / "m.onnx", {"x": rows}, outputs)
    samples = np.random.default_rng(0).standard_normal((3, *rows)).astype("float32")
    built = compiler.build(
        path,
        "riscv_spacemit_x60",
        tmp_path / "p",
        quantize="int8",
        calibration=samples if rank == 2 else None,
        tuning_logs=(),
    )
    assert built.verification is not None
    assert [row["node"] for row in built.receipt["kept_in_float32"]] == ["narrow"]
    ran = [op.get("intrinsic", "") for op in built.receipt["operators"]]
    assert ran.count("rvv_vwmacc") == 2
