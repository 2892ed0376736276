"""Fold scales and shifts by constants, such as inference-time batch normalisation, into weights.

Before:  add(multiply(add(conv2d(x, w), b), scale), shift)
After:   add(conv2d(x, w * scale), b * scale + shift)

Behind anything else than a convolution or product of constant weights, a chain of scales and
shifts becomes one multiplication and one addition.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from compiler.passes.packed_values import constant_of, shape_of
from compiler.passes.rewriter import Rewriter

# Which axis of the weights belongs to the output channels; transposed ones hold them in groups.
_WEIGHT_AXES = {
    "relax.nn.conv1d": 0,
    "relax.nn.conv2d": 0,
    "relax.nn.conv3d": 0,
    "relax.nn.conv1d_transpose": 1,
    "relax.nn.conv2d_transpose": 1,
    "relax.matmul": -1,
}


def fold_batch_norm(module: tvm.IRModule) -> tvm.IRModule:
    """Rewrite chains of multiplications, additions, ... by constants of one value a channel."""
    return _Folder(_use_counts(module["main"])).rewrite(module)


@dataclass(frozen=True)
class _Affine:
    """``base * scale + shift``, not emitted yet.

    Args:
        base: an emitted tensor, or a call with constant weights that is still to be emitted.
        axis: the channel axis.
        scale, shift: float64 [channels]; None for 1 and 0.
        name: of the call.
        last: name of the last operator that became part of it.
    """

    base: relax.Expr
    axis: int
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None
    name: str = ""
    last: str = ""

    @property
    def channels(self) -> int:
        return shape_of(self.base)[self.axis]

    def scaled(self, factor: np.ndarray) -> _Affine:
        scale = factor if self.scale is None else self.scale * factor
        shift = None if self.shift is None else self.shift * factor
        return replace(self, scale=scale, shift=shift)

    def shifted(self, term: np.ndarray) -> _Affine:
        return replace(self, shift=term if self.shift is None else self.shift + term)


class _Folder(Rewriter):
    def __init__(self, uses: Counter[relax.Var]) -> None:
        super().__init__()
        self.uses = uses
        self.handlers |= dict.fromkeys(_WEIGHT_AXES, self._weighted)
        for name in ("multiply", "add", "subtract"):
            self.handlers[f"relax.{name}"] = self._arithmetic

    def to_plain(self, value: _Affine) -> relax.Expr:
        base, scale = value.base, value.scale
        if isinstance(base, relax.Call):
            weights = base.args[1]
            if scale is not None:
                weights = _scale_weights(base, scale)
            call = relax.Call(base.op, [base.args[0], weights], base.attrs)
            base = self.emit(call, value.name)
        elif scale is not None:
            base = self.emit(relax.op.multiply(base, self._constant(scale, value)), value.last)
        if value.shift is not None:
            base = self.emit(relax.op.add(base, self._constant(value.shift, value)), value.last)
        return base

    def _constant(self, values: np.ndarray, like: _Affine) -> relax.Expr:
        """One value a channel, with a shape that broadcasts along the channel axis."""
        rank = len(shape_of(like.base))
        shape = [1] * rank
        shape[like.axis] = like.channels
        dtype = str(like.base.ty.dtype)
        return relax.const(values.astype(dtype).reshape(shape), dtype)

    def _weighted(self, call: relax.Call) -> _Affine | None:
        """A convolution or product with constant weights waits for what follows it."""
        weights = _constant(self.value(call.args[1]))
        if weights is None or not _is_float32(call):
            return None
        axis = 1
        if call.op.name == "relax.matmul":
            axis = len(shape_of(call)) - 1
            if weights.ndim != 2 or axis < 1:
                return None
        elif call.attrs.data_layout[:2] != "NC" or call.attrs.kernel_layout[1:2] not in "IO":
            return None
        new = relax.Call(call.op, [self.plain(call.args[0]), relax.const(weights)], call.attrs)
        return _Affine(self.builder.normalize(new), axis, name=self.name)

    def _arithmetic(self, call: relax.Call) -> _Affine | None:
        left, right = (_constant(self.value(a)) for a in call.args)
        operand, constant = (call.args[0], right) if left is None else (call.args[1], left)
        if constant is None or not isinstance(operand, relax.Var) or not _is_float32(call):
            return None
        if shape_of(operand) != shape_of(call):
            return None
        value = self._open(operand)
        if value is None:
            value = self._start(call, operand, constant)
        factors = None if value is None else _per_channel(constant, value)
        if value is None or factors is None:
            return None
        value = replace(value, last=self.name)
        if call.op.name == "relax.multiply":
            return value.scaled(factors)
        if call.op.name == "relax.add":
            return value.shifted(factors)
        if left is None:
            return value.shifted(-factors)
        return value.scaled(-np.ones(value.channels)).shifted(factors)

    def _open(self, operand: relax.Var) -> _Affine | None:
        """The chain that ends in the operand, where nobody else reads it."""
        value = self.value(operand)
        return value if isinstance(value, _Affine) and self.uses[operand] == 1 else None

    def _start(self, call: relax.Call, operand: relax.Var, constant: np.ndarray) -> _Affine | None:
        """A new chain behind any tensor; it starts with a scale.

        Scaling after a shift would round ``x + shift`` otherwise than the model does, which
        matters where the two cancel out.
        """
        axes = [a - constant.ndim for a, extent in enumerate(constant.shape) if extent != 1]
        if call.op.name != "relax.multiply" or len(axes) != 1:
            return None
        base = self.plain(operand)
        return _Affine(base, len(shape_of(base)) + axes[0])


def _constant(value: relax.Expr | _Affine) -> np.ndarray | None:
    return None if isinstance(value, _Affine) else constant_of(value)


def _per_channel(constant: np.ndarray, value: _Affine) -> np.ndarray | None:
    """A constant as one float64 a channel; None where it varies along another axis."""
    rank = len(shape_of(value.base))
    if constant.ndim > rank:
        return None
    constant = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    if any(extent != 1 for axis, extent in enumerate(constant.shape) if axis != value.axis):
        return None
    return np.broadcast_to(constant.astype(np.float64).ravel(), (value.channels,))


def _scale_weights(call: relax.Call, scale: np.ndarray) -> relax.Expr:
    """The weights of a convolution or product with their output channels scaled."""
    weights = call.args[1].value.numpy().astype(np.float64)
    axis = _WEIGHT_AXES[call.op.name]
    groups = 1 if axis < 0 else int(call.attrs.groups)
    shape = weights.shape
    if axis == 1:
        # [IC, OC/g, ...]: the input channels of a group meet that group's output channels.
        weights = weights.reshape(groups, shape[0] // groups, *shape[1:])
        scale = scale.reshape(groups, 1, -1, *(1,) * (len(shape) - 2))
    elif axis == 0:
        scale = scale.reshape(-1, *(1,) * (len(shape) - 1))
    return relax.const((weights * scale).reshape(shape).astype(np.float32))


def _use_counts(main: relax.Function) -> Counter[relax.Var]:
    """How often each variable is read."""
    uses: Counter[relax.Var] = Counter()

    def count(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Var):
            uses[expr] += 1
        elif isinstance(expr, relax.Tuple):
            for field in expr.fields:
                count(field)
        elif isinstance(expr, relax.Call):
            for argument in expr.args:
                count(argument)
        elif isinstance(expr, relax.TupleGetItem):
            count(expr.tuple_value)

    for block in main.body.blocks:
        for binding in block.bindings:
            count(binding.value)
    count(main.body.body)
    return uses


def _is_float32(call: relax.Call) -> bool:
    return str(call.ty.dtype) == "float32"
