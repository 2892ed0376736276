"""Convolutions on AArch64: what they compute, how they are blocked, and their innermost loops."""

import numpy as np
import onnx
import pytest
import tvm_ffi
from onnx import helper, numpy_helper
from tvm import s_tir, tirx

import schedules
from compiler.frontend import import_model
from compiler.passes import optimize
from compiler.target import load_target
from schedules.blocks import find_anchored
from schedules.constants import CONSTANT_INPUTS, rearrangements
from schedules.conv2d_lanes import describe
from schedules.lanes import choose_blocking
from tests import kernels
from tests.networks.check import check
from tests.schedules.inner_loop_cases import hot
from tests.schedules.inner_loops import inner_loops


def network(*layers: tuple[int, int, int, dict], size: tuple[int, int] = (14, 14)):
    """A chain of convolutions: (input channels, output channels, kernel, attributes) each."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for i, (ic, oc, k, attributes) in enumerate(layers):
        shape = (oc, ic // attributes.get("group", 1), k, k)
        w = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("f4")
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        weights.append(numpy_helper.from_array(rng.standard_normal(oc).astype("f4"), f"b{i}"))
        nodes.append(helper.make_node("Conv", [value, f"w{i}", f"b{i}"], [f"c{i}"], **attributes))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"y{i}"]))
        value = f"y{i}"
    x = helper.make_tensor_value_info("x", 1, [1, layers[0][0], *size])
    y = helper.make_tensor_value_info(value, 1, None)
    graph = helper.make_graph(nodes, "network", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def last_function(model, target, folder):
    """The fused function of a model's last convolution; all but its first input are constant."""
    onnx.save(model, folder / "m.onnx")
    module = optimize(import_model(folder / "m.onnx", {}, {}).module, target)
    call = [b.value for block in module["main"].body.blocks for b in block.bindings]
    name = next(
        c.args[0].name_hint
        for c in reversed(call)
        if c.op.name == "relax.call_tir" and "conv2d" in c.args[0].name_hint
    )
    func = module[name]
    return func.with_attr(CONSTANT_INPUTS, list(range(1, len(func.params) - 1)))


PAD = {"pads": [1, 1, 1, 1]}
DEEP = network((3, 512, 1, {}), (512, 80, 1, {}))
CHAINS = {
    "deep": DEEP,
    "deep_ragged": network((3, 384, 1, {}), (384, 68, 1, {}), size=(11, 11)),
    "plain": network((3, 17, 3, {"strides": [2, 2], **PAD}), size=(13, 33)),
    "dilated": network((5, 16, 3, PAD), (16, 33, 3, {"dilations": [2, 1]}), size=(9, 13)),
    "strided": network((5, 16, 3, PAD), (16, 24, 3, {"strides": [2, 1], **PAD}), size=(9, 13)),
    "grouped": network((5, 24, 3, PAD), (24, 36, 3, {"group": 3, **PAD}), size=(7, 5)),
    "split_blocks": network((5, 12, 1, {}), (12, 24, 3, {"group": 6, **PAD}), size=(1, 13)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_chains_match_onnx_runtime(name, tmp_path):
    check(CHAINS[name], "arm_cortex_a72", tmp_path)


def test_depth_is_cut_where_misses_cost_more_than_instructions(tmp_path):
    def passes(target):
        schedule = s_tir.Schedule(last_function(DEEP, load_target(target), tmp_path))
        problem = describe(schedule, find_anchored(schedule, "conv2d"))
        blocking = choose_blocking(load_target(target), problem)
        tile = blocking.tile
        assert problem.blocks % blocking.chunk == blocking.chunk % tile.columns == 0
        assert tile.rows * tile.columns + tile.columns + tile.rows <= 32
        return problem.channels // blocking.depth

    assert passes("arm_cortex_a72") > 1
    # Its L1 is twice as large and its misses cost next to nothing.
    assert passes("arm_cortex_a72") > passes("arm_cortex_a76")


def test_weights_are_read_in_order(tmp_path):
    """Rearranged weights hold the same values, in the order in which tiles use them."""
    target = load_target("arm_cortex_a72")
    func, _ = schedules.apply(last_function(DEEP, target, tmp_path), target)
    ((position, wanted),) = rearrangements(func).items()
    values = np.arange(512 * 80, dtype="f4")
    moved = wanted.apply(values)
    assert sorted(moved.reshape(-1)) == sorted(values)
    assert list(func.params[position].ty.shape) == list(moved.shape)
    assert moved.shape[-3:-1] == (4, 1) or moved.shape[-2] > 1
    assert moved.shape[-1] == 4


WINDOW = network((3, 64, 1, {}), (64, 64, 3, {"dilations": [2, 2]}), size=(58, 60))
STRIDED = network((3, 64, 1, {}), (64, 128, 3, {"strides": [2, 2], **PAD}), size=(56, 56))
FIRST = network((3, 32, 3, {"strides": [2, 2], **PAD}), size=(112, 112))


@pytest.mark.parametrize(
    ("model", "target", "share"),
    [
        pytest.param(DEEP, "arm_cortex_a72", 0.9, id="deep-a72"),
        pytest.param(DEEP, "arm_cortex_a76", 0.91, id="deep-a76"),
        pytest.param(WINDOW, "arm_cortex_a72", 0.89, id="window-a72"),
        pytest.param(WINDOW, "arm_cortex_a76", 0.93, id="window-a76"),
        pytest.param(STRIDED, "arm_cortex_a76", 0.89, id="strided-a76"),
        pytest.param(FIRST, "arm_cortex_a72", 0.88, id="first-a72"),
        pytest.param(FIRST, "arm_cortex_a76", 0.88, id="first-a76"),
    ],
)
def test_innermost_loops_are_multiply_adds(model, target, share, tmp_path):
    target = load_target(target)
    func, _ = schedules.apply(last_function(model, target, tmp_path), target)
    loop = hot(inner_loops(kernels.assembly(func, target), target.arch))
    assert loop.stack == ()
    assert loop.share >= share


@pytest.mark.parametrize("target", ["arm_cortex_a53", "arm_cortex_a72", "arm_cortex_a76"])
def test_cores_share_a_large_convolution(target, tmp_path):
    target = load_target(target)
    func, _ = schedules.apply(last_function(DEEP, target, tmp_path), target)
    loops: list[tirx.For] = []
    tvm_ffi.structural_walk(func.body, [(tirx.For, loops.append)])
    tasks = [int(loop.extent) for loop in loops if loop.kind == tirx.ForKind.PARALLEL]
    assert tasks
    assert min(tasks) >= target.cores
