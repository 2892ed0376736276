"""From a fused module to a Program: aliases, in-place operators, outputs, weights."""

from __future__ import annotations

import numpy as np
from tvm import relax

from compiler.codegen import compile_module, label
from compiler.passes import optimize
from compiler.program import Program, Space, TensorInfo
from compiler.target import load_target


def compile_function(build, *shapes: tuple[int, ...]) -> Program:
    """A Program of ``build(builder, *params) -> outputs``."""
    builder = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)
    ]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(build(builder, *params))
        builder.emit_func_output(result)
    module = builder.get()
    types = module["main"].ret_ty
    fields = types.fields if isinstance(types, relax.TupleType) else [types]
    outputs = tuple(
        TensorInfo(f"y{i}", str(t.dtype), tuple(int(d) for d in t.shape))
        for i, t in enumerate(fields)
    )
    inputs = tuple(TensorInfo(f"x{i}", "float32", shape) for i, shape in enumerate(shapes))
    target = load_target("x86_64_v3")
    return compile_module(optimize(module, target), target, "m", inputs, outputs)


def test_reshape_is_free():
    def build(builder, x):
        y = builder.emit(relax.op.reshape(relax.op.nn.relu(x), (6, 4)))
        return relax.op.nn.softmax(y)

    program = compile_function(build, (2, 3, 4))
    assert [c.label for c in program.calls] == ["relu", "softmax"]
    assert program.calls[0].args[-1] == program.calls[1].args[0]


def test_elementwise_runs_in_place_where_its_input_dies():
    def build(builder, x):
        a = builder.emit(relax.op.reshape(relax.op.nn.softmax(x), (4096,)))
        b = builder.emit(relax.op.reshape(relax.op.nn.relu(a), (64, 64)))
        return relax.op.nn.softmax(b)

    program = compile_function(build, (64, 64))
    allocations = {a.name: a for a in program.arena.allocations}
    taken_over = [a for a in allocations.values() if a.in_place_of]
    assert len(taken_over) == 1
    assert taken_over[0].offset == allocations[taken_over[0].in_place_of].offset


def test_no_memory_is_taken_over_while_another_operator_needs_it():
    def build(builder, x):
        a = builder.emit(relax.op.nn.softmax(x))
        b = builder.emit(relax.op.nn.softmax(builder.emit(relax.op.nn.relu(a))))
        c = builder.emit(relax.op.nn.softmax(a, axis=0))
        return relax.op.concat([b, c], axis=0)

    program = compile_function(build, (64, 64))
    assert not any(a.in_place_of for a in program.arena.allocations)


def test_parts_are_written_where_the_whole_lies():
    def build(builder, x):
        parts = [builder.emit(relax.op.nn.softmax(x, axis=axis)) for axis in (1, 2)]
        whole = builder.emit(relax.op.concat(parts, axis=1))
        first = builder.emit(relax.op.strided_slice(whole, [1], [0], [16]))
        return relax.Tuple(
            [builder.emit(relax.op.nn.softmax(v, axis=2)) for v in (whole, first, parts[1])]
        )

    program = compile_function(build, (1, 16, 8))
    assert [c.label for c in program.calls] == ["softmax"] * 5
    left, right, whole, first, second = program.calls
    assert left.args[-1] == whole.args[0] == first.args[0]
    assert right.args[-1] == second.args[0]
    assert right.args[-1].offset == left.args[-1].offset + 16 * 8 * 4
    assert program.arena.nbytes == program.arena.peak_live == 2 * 16 * 8 * 4
    assert {a.part_of for a in program.arena.allocations} == {
        None,
        program.arena.allocations[0].name,
    }


def test_no_memory_is_taken_over_while_a_view_of_it_is_needed():
    def build(builder, x):
        a = builder.emit(relax.op.nn.softmax(x, axis=2))
        part = builder.emit(relax.op.strided_slice(a, [1], [0], [8]))
        b = builder.emit(relax.op.nn.softmax(builder.emit(relax.op.nn.relu(a)), axis=2))
        c = builder.emit(relax.op.nn.softmax(part, axis=2))
        return relax.Tuple([b, c])

    program = compile_function(build, (1, 16, 8))
    assert not any(a.in_place_of for a in program.arena.allocations)


def test_whole_is_overwritten_after_its_last_use():
    def build(builder, x):
        parts = [builder.emit(relax.op.nn.softmax(x, axis=axis)) for axis in (1, 2)]
        whole = builder.emit(relax.op.concat(parts, axis=1))
        y = builder.emit(relax.op.reshape(builder.emit(relax.op.nn.relu(whole)), (32, 8)))
        return relax.op.nn.softmax(y)

    program = compile_function(build, (1, 16, 8))
    assert program.calls[2].args[0] == program.calls[2].args[1]
    assert program.arena.nbytes == 2 * 16 * 8 * 4


def test_outputs_get_memory_of_their_own():
    constant = np.arange(4, dtype="float32")

    def build(builder, x):
        y = builder.emit(relax.op.nn.relu(x))
        return relax.Tuple([y, y, x, relax.const(constant)])

    program = compile_function(build, (4,))
    written = [a.offset for c in program.calls for a in c.args if a.space is Space.OUTPUT]
    assert set(written) == {0, 1, 2, 3}
    assert constant.tobytes() in program.weights


def test_equal_weights_are_stored_once():
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype("float32")

    def build(builder, x):
        y = builder.emit(relax.op.matmul(x, relax.const(weight)))
        return relax.op.matmul(y, relax.const(weight.copy()))

    program = compile_function(build, (4, 16))
    assert len(program.weights) == weight.nbytes


def test_work_is_counted():
    weight = np.zeros((32, 48), dtype="float32")
    program = compile_function(
        lambda _, x: relax.op.nn.relu(relax.op.matmul(x, relax.const(weight))), (5, 32)
    )
    assert [c.macs for c in program.calls] == [5 * 32 * 48]


def test_label_drops_the_numbers_of_functions():
    assert label("fused_conv2d5_add3_relu3") == "conv2d_add_relu"
    assert label("max_pool2d1") == "max_pool2d"


def test_same_module_gives_the_same_bytes():
    def build(builder, x):
        return relax.op.nn.softmax(relax.op.nn.relu(x))

    first, second = (compile_function(build, (7, 9)) for _ in range(2))
    assert first.objects == second.objects
