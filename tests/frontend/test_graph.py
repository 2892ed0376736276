"""What the importer does with a graph: folding, inlining, unrolling, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.frontend import import_model, limits
from compiler.frontend.node import NeedsConstantError
from tests.frontend.builders import model, reference, refusal, relu_model, run, save

F, I64, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def operators(imported) -> list[str]:
    """Names of the Relax operators of main, in order."""
    return [
        binding.value.op.name
        for block in imported.module["main"].body.blocks
        for binding in block.bindings
        if hasattr(binding.value, "op")
    ]


def test_result(tmp_path: Path) -> None:
    imported = import_model(save(relu_model(), tmp_path, "My-Model.onnx"))
    assert imported.name == "my_model"
    assert [(i.name, i.dtype, i.shape) for i in imported.inputs] == [("x", "float32", (2, 3))]
    assert [(o.name, o.dtype, o.shape) for o in imported.outputs] == [("y", "float32", (2, 3))]
    assert len(imported.sha256) == 64
    assert operators(imported) == ["relax.add", "relax.nn.relu"]


def test_shape_arithmetic_is_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "zero_1d"], ["n1"]),
        helper.make_node("Concat", ["n1", "minus"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {
        "zero": np.asarray(0),
        "zero_1d": np.asarray([0]),
        "minus": np.asarray([-1]),
    }
    path = save(model(nodes, [("x", F, ["n", 3, 4])], ["y"], constants), tmp_path)
    imported = import_model(path, {"x": (2, 3, 4)})
    assert operators(imported) == ["relax.reshape"]
    assert imported.outputs[0].shape == (2, 12)


def test_dead_nodes_are_ignored(tmp_path: Path) -> None:
    proto = relu_model()
    proto.graph.node.append(helper.make_node("NoSuchOp", ["s"], ["unused"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(1 << 20), "unused_weight"))
    assert operators(import_model(save(proto, tmp_path))) == ["relax.add", "relax.nn.relu"]


def test_all_unknown_operators_are_listed_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["a"], name="one", domain="acme"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("NoSuchOp", ["b"], ["c"], name="two"),
        helper.make_node("Mystery", ["c"], ["y"], domain="acme"),
    ]
    path = save(model(nodes, [("x", F, [2])], ["y"], domains=["acme"]), tmp_path)
    message = refusal(path).message
    assert "node 'one' (acme.Mystery)" in message
    assert "node 'two' (NoSuchOp)" in message
    assert "node that makes 'y' (acme.Mystery)" in message
    assert "fine" not in message


def _if(condition: str) -> list:
    def branch(op: str):
        node = helper.make_node(op, ["x"], [f"{op}_out"])
        info = helper.make_empty_tensor_value_info(f"{op}_out")
        return helper.make_graph([node], op, [], [info])

    return [
        helper.make_node(
            "If", [condition], ["y"], then_branch=branch("Neg"), else_branch=branch("Exp")
        )
    ]


@pytest.mark.parametrize("taken", [True, False])
def test_if_with_constant_condition(tmp_path: Path, taken: bool) -> None:
    constants = {"c": np.asarray(taken)}
    path = save(model(_if("c"), [("x", F, [2])], ["y"], constants), tmp_path)
    assert operators(import_model(path)) == ["relax.negative" if taken else "relax.exp"]


@pytest.mark.parametrize("taken", [True, False])
def test_if_with_computed_condition(tmp_path: Path, taken: bool) -> None:
    proto = model(_if("c"), [("x", F, [2]), ("c", B, [1])], ["y"])
    x = np.asarray([1.5, -2.0], np.float32)
    (result,) = run(import_model(save(proto, tmp_path)), x=x, c=np.asarray([taken]))
    np.testing.assert_allclose(result, -x if taken else np.exp(x), rtol=1e-6)


def _loop(op: str = "Add") -> list:
    """y = x applied ``trips`` times; also all intermediate values."""
    body = helper.make_graph(
        [
            helper.make_node(op, ["v", "x"], ["next"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", I64, []),
            helper.make_tensor_value_info("go", B, []),
            helper.make_tensor_value_info("v", F, [2]),
        ],
        [
            helper.make_tensor_value_info("go_on", B, []),
            helper.make_tensor_value_info("next", F, [2]),
            helper.make_tensor_value_info("seen", F, [2]),
        ],
    )
    return [helper.make_node("Loop", ["trips", "", "x"], ["y", "all"], name="again", body=body)]


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_loop_is_unrolled(tmp_path: Path, trips: int) -> None:
    constants = {"trips": np.asarray(trips)}
    path = save(model(_loop(), [("x", F, [2])], ["y", "all"], constants), tmp_path)
    x = np.asarray([1.0, 3.0], np.float32)
    y, seen = run(import_model(path), x=x)
    np.testing.assert_array_equal(y, x * (trips + 1))
    expected = [x * (n + 2) for n in range(trips)]
    np.testing.assert_array_equal(seen, np.reshape(expected, (trips, 2)))


def test_loop_without_end(tmp_path: Path) -> None:
    constants = {"trips": np.asarray(1 << 60)}
    path = save(model(_loop(), [("x", F, [2])], ["y", "all"], constants), tmp_path)
    assert f"more than {limits.MAX_LOOP_TRIPS} trips" in refusal(path).message


def test_loop_of_unknown_length(tmp_path: Path) -> None:
    proto = model(_loop(), [("x", F, [2]), ("trips", I64, [])], ["y", "all"])
    with pytest.raises(NeedsConstantError, match="trip count"):
        import_model(save(proto, tmp_path))


def _function(name: str, *calls: str):
    nodes = []
    value = "a"
    for index, call in enumerate(calls):
        nodes.append(helper.make_node(call, [value], [f"v{index}"], domain="local"))
        value = f"v{index}"
    nodes.append(helper.make_node("Neg", [value], ["b"]))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, opsets)


def test_functions_are_inlined(tmp_path: Path) -> None:
    nodes = [helper.make_node("Outer", ["x"], ["y"], domain="local")]
    functions = [_function("Outer", "Inner", "Inner"), _function("Inner")]
    proto = model(nodes, [("x", F, [2])], ["y"], functions=functions, domains=["local"])
    assert operators(import_model(save(proto, tmp_path))) == ["relax.negative"] * 3


def test_function_that_calls_itself(tmp_path: Path) -> None:
    nodes = [helper.make_node("Self", ["x"], ["y"], domain="local")]
    functions = [_function("Self", "Self")]
    proto = model(nodes, [("x", F, [2])], ["y"], functions=functions, domains=["local"])
    assert "nested deeper" in refusal(save(proto, tmp_path)).message


def test_functions_that_multiply(tmp_path: Path) -> None:
    """Each level calls the next one ten times: a billion nodes if nobody counted."""
    functions = [_function(f"F{n}", *[f"F{n + 1}"] * 10) for n in range(9)] + [_function("F9")]
    nodes = [helper.make_node("F0", ["x"], ["y"], domain="local")]
    inputs = [("x", F, [1])]
    proto = model(nodes, inputs, ["y"], functions=functions, domains=["local"])
    assert "nodes after unrolling" in refusal(save(proto, tmp_path)).message


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("ConstantOfShape", ["n"], ["big"]),
        helper.make_node("Expand", ["one", "n"], ["big"]),
        helper.make_node("Tile", ["one", "n"], ["big"]),
    ],
    ids=lambda node: node.op_type,
)
def test_memory_bombs(tmp_path: Path, node) -> None:
    nodes = [node, helper.make_node("Add", ["x", "big"], ["y"])]
    constants = {"n": np.asarray([1 << 40]), "one": np.ones(1, np.float32)}
    message = refusal(save(model(nodes, [("x", F, [1])], ["y"], constants), tmp_path)).message
    assert "2 GiB" in message


def test_range_bomb(tmp_path: Path) -> None:
    nodes = [helper.make_node("Range", ["zero", "n", "one"], ["y"], name="count")]
    constants = {"zero": np.asarray(0), "n": np.asarray(1 << 50), "one": np.asarray(1)}
    assert "'count' (Range)" in refusal(save(model(nodes, [], ["y"], constants), tmp_path)).message


def test_data_dependent_shape(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["y"], name="find")]
    assert (
        "'find' (NonZero)" in refusal(save(model(nodes, [("x", F, [3])], ["y"]), tmp_path)).message
    )


def test_wrong_shapes_name_the_node(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="project")]
    constants = {"w": np.zeros((4, 5), np.float32)}
    path = save(model(nodes, [("x", F, [2, 3])], ["y"], constants), tmp_path)
    assert "node 'project' (MatMul)" in refusal(path).message


def test_outputs_are_always_computed(tmp_path: Path) -> None:
    """An output may be an input, a constant, or the same value twice."""
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Identity", ["w"], ["fixed"]),
        helper.make_node("Neg", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
    ]
    weight = np.asarray([7, 8], np.float32)
    outputs = ["same", "fixed", "a", "b"]
    proto = model(nodes, [("x", F, [2])], outputs, {"w": weight})
    x = np.asarray([1, -2], np.float32)
    results = run(import_model(save(proto, tmp_path)), x=x)
    for result, expected in zip(results, [x, weight, -x, -x], strict=True):
        np.testing.assert_array_equal(result, expected)


def test_sequences_are_resolved(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
        helper.make_node("SequenceAt", ["s", "last"], ["tail"]),
        helper.make_node("SequenceErase", ["s", "last"], ["rest"]),
        helper.make_node("ConcatFromSequence", ["rest"], ["joined"], axis=0, new_axis=1),
    ]
    proto = model(nodes, [("x", F, [2, 3])], ["tail", "joined"], {"last": np.asarray(-1)})
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    tail, joined = run(import_model(save(proto, tmp_path)), x=x)
    np.testing.assert_array_equal(tail, x[:, 2])
    np.testing.assert_array_equal(joined, x[:, :2].T)


def test_batch_norm_of_constants_matches(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    constants = {name: generator.random(3, np.float32) + 0.5 for name in ("s", "b", "m", "v")}
    nodes = [helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"])]
    proto = model(nodes, [("x", F, [1, 3, 5, 7])], ["y"], constants)
    x = generator.standard_normal((1, 3, 5, 7), np.float32)
    imported = import_model(save(proto, tmp_path))
    assert operators(imported) == ["relax.multiply", "relax.add"]
    np.testing.assert_allclose(
        run(imported, x=x)[0], reference(proto, x=x)[0], rtol=1e-5, atol=1e-6
    )
