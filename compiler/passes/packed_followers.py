"""Operators that keep the packed layout of the activations they are given.

Before:  y: NCHW[c] -> unpack -> relu -> max_pool2d (NCHW) -> ...
After:   y: NCHW[c] -> relu -> max_pool2d (NCHW[c]) -> ...
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import tvm
from tvm import relax

from compiler.frontend.axis_ops import AxisOp
from compiler.frontend.response_norm import ResponseNorm
from compiler.passes import packed_ops
from compiler.passes.channel_order import shuffled
from compiler.passes.packed_values import Packed, constant_of, pack, pack_constant, shape_of, unpack
from compiler.passes.rewriter import Rewriter

# fmt: off
UNARY = (
    "abs", "astype", "ceil", "clip", "cos", "erf", "exp", "floor", "log", "negative", "round",
    "rsqrt",
    "sigmoid", "sign", "sin", "sqrt", "square", "tan", "tanh",
    "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu", "nn.relu", "nn.silu",
)
ELEMENTWISE = (
    "add", "divide", "equal", "greater", "greater_equal", "less", "less_equal", "logical_and",
    "logical_or", "maximum", "minimum", "multiply", "not_equal", "power", "subtract", "where",
)
WINDOW_ATTRS = (
    "pool_size", "strides", "padding", "dilation", "ceil_mode", "count_include_pad",
)
# fmt: on
POOLS = {
    "nn.max_pool2d": WINDOW_ATTRS,
    "nn.avg_pool2d": WINDOW_ATTRS,
    "nn.adaptive_avg_pool2d": ["output_size"],
}
# Exchanges the two axes that a channel shuffle makes of the channels.
SWAP = (0, 2, 1, 3, 4)


@dataclass(frozen=True)
class _Groups:
    """A packed tensor seen as ``shape``: [N, groups, C / groups, H, W], the middle of a shuffle."""

    data: Packed
    shape: tuple[int, ...]
    swapped: bool = False


class PackedFollowers(Rewriter):
    """Handlers of all operators but convolutions; each gives None where no operand is packed."""

    def __init__(self, module: tvm.IRModule) -> None:
        super().__init__()
        self.functions = module
        self.births: dict[relax.Expr, int] = {}  # when a result was emitted
        self.stored = _stored_vars(module["main"])
        for name in UNARY:
            self.handlers[f"relax.{name}"] = self._unary
        for name in ELEMENTWISE:
            self.handlers[f"relax.{name}"] = self._elementwise
        for name in POOLS:
            self.handlers[f"relax.{name}"] = self._pool
        self.handlers |= {
            "relax.concat": self._concat,
            "relax.mean": self._mean,
            "relax.nn.pad": self._pad,
            "relax.call_tir": self._kernel,
            "relax.reshape": self._reshape,
            "relax.permute_dims": self._permute,
        }

    def to_plain(self, value: Packed | _Groups) -> relax.Expr:
        if isinstance(value, Packed):
            return unpack(self.builder, value)
        plain = self.builder.emit(relax.op.reshape(unpack(self.builder, value.data), value.shape))
        if value.swapped:
            plain = self.builder.emit(relax.op.permute_dims(plain, SWAP))
        return plain

    def _unary(self, call: relax.Call) -> Packed | None:
        data = self.value(call.args[0])
        if not isinstance(data, Packed):
            return None
        return self._emit_like(call, [data.expr, *call.args[1:]], data, data.shape)

    def _elementwise(self, call: relax.Call) -> Packed | None:
        operands = [self.value(a) for a in call.args]
        packed = [o for o in operands if isinstance(o, Packed)]
        if not packed:
            return None
        shape = shape_of(call)
        # The youngest operand is the one that fusion may join with this operator.
        same = [a for a in call.args if isinstance(self.value(a), Packed) and shape_of(a) == shape]
        youngest = max(same, key=lambda a: self.births.get(self.value(a).expr, -1), default=None)
        if youngest is None:
            return None
        partner: Packed = self.value(youngest)
        if youngest in self.stored:
            # Nothing joins it, so that what follows need not see one long row.
            partner = partner.viewed(self.builder, collapsed=False)
        if any(isinstance(o, _Groups) for o in operands):
            return None
        if any((p.block, p.order) != (partner.block, partner.order) for p in packed):
            return None
        aligned = [self._align(o, partner) for o in operands]
        if any(a is None for a in aligned):
            return None
        return self._emit_like(call, aligned, partner, shape)

    def _align(self, operand: Packed | relax.Expr, partner: Packed) -> relax.Expr | None:
        """An operand in the memory layout of its partner; None where that is not worth it."""
        if isinstance(operand, Packed):
            if operand.shape[1] != partner.shape[1]:
                return None
            if operand.shape == partner.shape:
                return operand.viewed(self.builder, partner.collapsed).expr
            if operand.is_point and len(operand.shape) == len(partner.shape):
                # The reshape keeps fusion from computing a point again for every tile.
                shape = operand.memory_shape(collapsed=False)
                return self.builder.emit(relax.op.reshape(operand.expr, shape))
            return None
        value = constant_of(operand)
        if value is not None:
            packed = pack_constant(value, partner)
            return None if packed is None else relax.const(packed)
        if math.prod(shape_of(operand)) == 1:
            rank = len(shape_of(partner.expr))
            return self.builder.emit(relax.op.reshape(operand, (1,) * rank))
        if shape_of(operand) != partner.shape:
            return None
        packed_operand = pack(self.builder, operand, partner.block, partner.order)
        return packed_operand.viewed(self.builder, partner.collapsed).expr

    def _pool(self, call: relax.Call) -> Packed | None:
        data = self.value(call.args[0])
        if not isinstance(data, Packed) or len(data.shape) != 4 or data.block == 1:
            return None
        x = data.viewed(self.builder, collapsed=False)
        layout = f"NCHW{data.block}c"
        operator = call.op.name.removeprefix("relax.nn.")
        attrs = {name: getattr(call.attrs, name) for name in POOLS[f"nn.{operator}"]}
        emit = getattr(relax.op.nn, operator)
        result = self.builder.emit(emit(x.expr, layout=layout, out_layout=layout, **attrs))
        return Packed(result, shape_of(call), data.block, order=data.order)

    def _concat(self, call: relax.Call) -> Packed | None:
        axis = int(call.attrs.axis)
        parts = [self.value(f) for f in call.args[0].fields]
        shape = shape_of(call)
        if not all(isinstance(p, Packed) for p in parts) or axis % len(shape) != 1:
            return None
        block = parts[0].block
        if any(p.block != block or p.shape[1] % block or p.order for p in parts):
            return None
        collapsed = all(p.collapsed for p in parts)
        fields = [p.viewed(self.builder, collapsed).expr for p in parts]
        result = self.builder.emit(relax.op.concat(fields, axis=1))
        return Packed(result, shape, block, collapsed)

    def _pad(self, call: relax.Call) -> Packed | None:
        """Constant pads around H and W."""
        data, attrs = self.value(call.args[0]), call.attrs
        widths = [int(w) for w in attrs.pad_width]
        if not isinstance(data, Packed) or any(widths[:4]) or attrs.pad_mode != "constant":
            return None
        spatial = [0, 0, *widths[4:]][-4:]
        x = data.viewed(self.builder, collapsed=False)
        padded = relax.op.nn.pad(x.expr, [0] * 4 + spatial + [0] * 2, "constant", attrs.pad_value)
        return Packed(self.builder.emit(padded), shape_of(call), data.block, order=data.order)

    def _mean(self, call: relax.Call) -> Packed | relax.Expr | None:
        """Global average over all spatial axes."""
        data = self.value(call.args[0])
        if not isinstance(data, Packed):
            return None
        rank = len(data.shape)
        axes = sorted(int(a) % rank for a in call.attrs.axis or range(rank))
        if axes != list(range(2, rank)):
            return None
        mean = self.builder.emit(relax.op.mean(data.expr, [2, 3], keepdims=True))
        shape = (*data.shape[:2], *(1,) * (rank - 2))
        point = Packed(mean, shape, data.block, order=data.order)
        if call.attrs.keepdims:
            return point
        return self.builder.emit(relax.op.reshape(self.to_plain(point), shape_of(call)))

    def _kernel(self, call: relax.Call) -> Packed | None:
        """Kernels of the importer that say by an attribute what they do."""
        attrs = self.functions[call.args[0]].attrs
        data, *tables = (self.value(a) for a in call.args[1].fields or [None])
        if not isinstance(data, Packed) or data.block == 1:
            return None
        norm, axis_op = ResponseNorm.of(attrs), AxisOp.of(attrs)
        if norm is not None and data.order is None:
            return self._response_norm(data, norm)
        if axis_op is not None and axis_op.axis >= 2:
            shape = tuple(int(d) for d in call.ty_args[0].shape)
            return self._along_axis(data, axis_op, tables, shape)
        return None

    def _response_norm(self, data: Packed, norm: ResponseNorm) -> Packed:
        x = data.viewed(self.builder, collapsed=False)
        result = self.builder.emit_te(
            lambda x: packed_ops.response_norm(x, data.shape[1], norm),
            x.expr,
            primfunc_name_hint="response_norm",
            primfunc_attrs=packed_ops.OPAQUE,
        )
        return Packed(result, data.shape, data.block)

    def _along_axis(
        self, data: Packed, op: AxisOp, tables: list[relax.Expr], shape: tuple[int, ...]
    ) -> Packed:
        """H and W are axes 2 and 3 of both layouts; a rank-3 tensor's W is axis 3 when packed."""
        moved = replace(op, axis=op.axis + 4 - len(shape))
        x = data.viewed(self.builder, collapsed=False)
        result = self.builder.emit_te(moved, x.expr, *tables, primfunc_name_hint="resize")
        return Packed(result, shape, data.block, order=data.order)

    def _reshape(self, call: relax.Call) -> Packed | _Groups | None:
        """[N, C, ...] -> [N, groups, C / groups, ...], and back after a transposition."""
        value, shape = self.value(call.args[0]), shape_of(call)
        if isinstance(value, _Groups):
            data = value.data
            if not value.swapped or shape != data.shape:
                return None
            order = shuffled(shape[1], value.shape[1], data.order)
            return None if order is None else replace(data, order=order)
        if not isinstance(value, Packed) or len(value.shape) != 4 or value.block == 1:
            return None
        n, channels, *spatial = value.shape
        if len(shape) != 5 or shape[1] * shape[2] != channels:
            return None
        return _Groups(value, shape) if shape == (n, *shape[1:3], *spatial) else None

    def _permute(self, call: relax.Call) -> _Groups | None:
        value = self.value(call.args[0])
        if not isinstance(value, _Groups) or value.swapped:
            return None
        axes = call.attrs.axes
        if axes is None or tuple(int(a) for a in axes) != SWAP:
            return None
        return replace(value, swapped=True)

    def _emit_like(
        self, call: relax.Call, args: list[relax.Expr], like: Packed, shape: tuple[int, ...]
    ) -> Packed:
        result = self.builder.emit(relax.Call(call.op, args, call.attrs))
        self.births[result] = len(self.births)
        return Packed(result, shape, like.block, like.collapsed, like.order)


def _stored_vars(main: relax.Function) -> set[relax.Var]:
    """What others than element-wise operators read, and so must be in memory."""
    stored: set[relax.Var] = set()
    inlined = {f"relax.{name}" for name in (*UNARY, *ELEMENTWISE)}
    for block in main.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and getattr(call.op, "name", "") not in inlined:
                stored |= {a for a in call.args if isinstance(a, relax.Var)}
    return stored
