"""Packing passes: the module before and after."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import relax

from compiler.passes.fold_constants import fold_constants
from compiler.passes.pack_convolutions import pack_convolutions
from compiler.passes.pack_matmuls import pack_matmuls
from compiler.target import load_target

TARGET = load_target("x86_64_v3")  # eight lanes


def module(build, *shapes):
    """A module whose main returns ``build(builder, *params)``."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{i}", relax.TensorType(s, "float32")) for i, s in enumerate(shapes)]
    with builder.function("main", params):
        with builder.dataflow():
            result = builder.emit_output(build(builder, *params))
        builder.emit_func_output(result)
    return builder.get()


def operators(mod) -> list[str]:
    """Names of main's operators in order; "@" and the function's name for call_tir."""
    names = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not isinstance(value, relax.Call):
                continue
            name = value.op.name.removeprefix("relax.")
            names.append("@" + value.args[0].name_hint if name == "call_tir" else name)
    return names


def weight(*shape: int) -> relax.Expr:
    return relax.const(np.random.default_rng(0).standard_normal(shape).astype("float32"))


def conv(x, *shape: int, **attributes):
    return relax.op.nn.conv2d(x, weight(*shape), **attributes)


def test_layout_is_kept_between_convolutions():
    def build(b, x):
        y = b.emit(conv(x, 16, 3, 3, 3, padding=1))
        y = b.emit(relax.op.nn.relu(b.emit(relax.op.add(y, weight(1, 16, 1, 1)))))
        y = b.emit(relax.op.nn.max_pool2d(y, (2, 2), (2, 2)))
        return conv(y, 32, 16, 3, 3, padding=1)

    packed = pack_convolutions(module(build, (1, 3, 8, 8)), TARGET)
    assert operators(packed) == [
        "reshape",  # plain NCHW is the packed layout with one channel a block
        "@conv2d",
        "add",
        "nn.relu",
        "nn.max_pool2d",
        "@conv2d1",
        "@unpack_channels",
    ]


def test_pointwise_convolutions_see_one_long_row():
    packed = pack_convolutions(
        module(lambda b, x: conv(b.emit(conv(x, 8, 8, 1, 1)), 8, 8, 1, 1), (1, 8, 5, 7)), TARGET
    )
    shapes = [
        tuple(int(d) for d in binding.value.ty_args[0].shape)
        for binding in packed["main"].body.blocks[0].bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.name == "relax.call_tir"
    ]
    assert shapes == [(1, 1, 1, 35, 8), (1, 1, 1, 35, 8), (1, 8, 5, 7)]


def test_operator_without_packed_form_gets_one_unpack():
    def build(b, x):
        y = b.emit(conv(x, 16, 16, 3, 3, padding=1))
        first = b.emit(relax.op.nn.softmax(y, axis=1))
        second = b.emit(relax.op.nn.log_softmax(y, axis=1))
        return relax.op.add(first, second)

    packed = operators(pack_convolutions(module(build, (1, 16, 5, 5)), TARGET))
    assert packed.count("@unpack_channels") == 1


@pytest.mark.parametrize(("channels", "concat_stays_packed"), [(16, True), (12, False)])
def test_concatenation_stays_packed_where_blocks_line_up(channels, concat_stays_packed):
    def build(b, x):
        left = b.emit(conv(x, channels, 8, 1, 1))
        right = b.emit(conv(x, 16, 8, 1, 1))
        return conv(b.emit(relax.op.concat([left, right], axis=1)), 8, channels + 16, 1, 1)

    packed = operators(pack_convolutions(module(build, (1, 8, 5, 5)), TARGET))
    before_concat = packed[: packed.index("concat")]
    assert ("@unpack_channels" not in before_concat) is concat_stays_packed


def test_scalars_and_channel_constants_join_the_layout():
    def build(b, x):
        y = b.emit(conv(x, 12, 8, 3, 3))
        y = b.emit(relax.op.multiply(y, relax.const(2.0, "float32")))
        y = b.emit(relax.op.maximum(relax.const(np.float32([[[[0.5]]]])), y))
        return relax.op.add(y, weight(12, 1, 1))

    packed = operators(pack_convolutions(module(build, (1, 8, 5, 5)), TARGET))
    assert packed[-1] == "@unpack_channels"
    assert packed.count("@unpack_channels") == 1


def test_modules_without_convolutions_stay_as_they_are():
    def build(b, x):
        return relax.op.nn.relu(b.emit(relax.op.add(x, weight(1, 4, 1, 1))))

    assert operators(pack_convolutions(module(build, (1, 4, 5, 5)), TARGET)) == ["add", "nn.relu"]


def test_constant_operands_of_products_are_packed_at_compile_time():
    packed = pack_matmuls(module(lambda b, x: relax.op.matmul(x, weight(6, 20)), (3, 6)), TARGET)
    assert operators(packed) == ["@matmul"]
    call = packed["main"].body.blocks[0].bindings[0].value
    assert tuple(int(d) for d in call.args[1].fields[1].ty.shape) == (3, 6, 8)


def test_computed_weights_are_packed_at_run_time():
    def build(b, x, w):
        return relax.op.nn.conv2d(x, b.emit(relax.op.nn.relu(w)), padding=1)

    packed = operators(pack_convolutions(module(build, (1, 8, 5, 5), (8, 8, 3, 3)), TARGET))
    assert packed[0] == "nn.relu"
    assert packed[-2:] == ["@conv2d", "@unpack_channels"]


def test_integer_products_are_left_alone():
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((3, 6), "int32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.matmul(x, relax.const(np.ones((6, 4), "int32"))))
        builder.emit_func_output(y)
    assert operators(pack_matmuls(builder.get(), TARGET)) == ["matmul"]


def test_constants_are_folded_through_chains():
    def build(b, x):
        c = b.emit(relax.op.reshape(weight(6), (1, 6, 1, 1)))
        c = b.emit(relax.op.add(c, relax.const(1.0, "float32")))
        return relax.op.multiply(x, b.emit(relax.op.permute_dims(c, (0, 1, 3, 2))))

    folded = fold_constants(module(build, (1, 6, 2, 2)))
    assert operators(folded) == ["multiply"]


def test_folding_does_not_bloat_the_library():
    def build(b, x):
        return relax.op.add(x, b.emit(relax.op.broadcast_to(weight(1, 1), (1024, 1024))))

    assert operators(fold_constants(module(build, (1024, 1024)))) == ["broadcast_to", "add"]
