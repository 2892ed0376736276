"""Pack the right operand of matrix products into panels of one vector's columns.

Before:  matmul(x[..., M, K], w[..., K, N])
After:   matmul_packed(x, w'[..., N/c, K, c]); a constant w is packed at compile time
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax, te

from compiler.passes import grouped_ops, integer_ops, pack_bfloat16, pack_products, packed_ops
from compiler.passes.channel_sums import channel_sums, stored_weight
from compiler.passes.dot_layout import DotLayout, dot_layouts, wide_layouts
from compiler.passes.packed_ops import FUSABLE
from compiler.passes.packed_values import constant_of, preferred_block, shape_of
from compiler.passes.rewriter import Rewriter
from compiler.quantize.groups import Groups, groups_of
from compiler.quantize.qdq import DEQUANTIZE, Quantum, quantum_of
from compiler.target import Target

# Of a depth, in zeros: sums of three instructions for 16 products stay faster than floats' of one
# for four.
MOST_PADDING = 1 / 3


def pack_matmuls(module: tvm.IRModule, target: Target) -> tvm.IRModule:
    """Rewrite all float matrix products of rank 2 and more."""
    return _Packer(target, module).rewrite(module)


class _Packer(Rewriter):
    def __init__(self, target: Target, module: tvm.IRModule) -> None:
        super().__init__()
        self.module, self.target = module, target
        self.groups: dict[relax.Expr, Groups] = {}
        self.block = preferred_block(target)
        layouts = (*dot_layouts(target), *wide_layouts(target))
        self.dots = [d for d in layouts if d.parts == 1]
        self.quantized: dict[relax.Expr, tuple[relax.Expr, Quantum]] = {}
        self.handlers |= {"relax.matmul": self._matmul, DEQUANTIZE: self._dequantize}
        self.handlers["relax.call_tir"] = self._note_groups

    def _dequantize(self, call: relax.Call) -> None:
        """Only noted: a product may take the integers."""
        quantum = quantum_of(call, DEQUANTIZE)
        if quantum is not None and str(call.ty.dtype) == "float32":
            self.quantized[self.bound] = (self.plain(call.args[0]), quantum)

    def _note_groups(self, call: relax.Call) -> None:
        """As ``_dequantize``, of weights in groups."""
        groups = groups_of(call, self.module)
        if groups is not None and self.bound is not None:
            self.groups[self.bound] = groups

    def _grouped(self, call: relax.Call) -> relax.Expr | None:
        """The product of floats with weights that stay in groups of integers."""
        left, right = call.args
        weights = self.groups.get(right)
        if weights is None or len(shape_of(left)) < 2 or not _is_float32(left):
            return None
        if weights.bits == 4 and weights.group % grouped_ops.WORD:
            return self._emit_float(self.plain(left), weights.dequantize64().astype("float32"))
        *batch, rows, depth = shape_of(left)
        data = self.plain(left)
        together = math.prod(batch) > 1 and rows <= grouped_ops.MOST_ROWS
        if together:  # else the weights are read for each sample
            rows *= math.prod(batch)
            data = self.builder.emit(relax.op.reshape(data, (rows, depth)))
        few = rows <= grouped_ops.MOST_ROWS
        product = grouped_ops.matmul if few else grouped_ops.wide_matmul

        def compute(a, words, scale, zero=None):
            return product(a, words, scale, zero, weights)

        tables = grouped_ops.pack(weights, self.block)
        made = self._emit(compute, data, *map(relax.const, tables))
        return self.emit(relax.op.reshape(made, shape_of(call))) if together else made

    def _emit_float(self, left: relax.Expr, value: np.ndarray) -> relax.Expr:
        block = preferred_block(self.target, str(value.dtype))
        packed = relax.const(pack_columns(value, block))
        return self._emit(packed_ops.matmul, left, packed, value.shape[-1])

    def _real(self, expr: relax.Expr) -> relax.Expr:
        """An operand in real numbers, a constant as one."""
        if expr in self.quantized:
            stored, quantum = self.quantized[expr]
            value = constant_of(stored)
            if value is not None:
                return relax.const(quantum.dequantize(value))
        return self.plain(expr)

    def _integer(self, call: relax.Call) -> relax.Expr | None:
        """The product of stored integers; None where there is no instruction for it."""
        if not all(a in self.quantized for a in call.args):
            return None
        (data, quantum), (right, right_quantum) = (self.quantized[a] for a in call.args)
        value = stored_weight(right, right_quantum, 1)
        if value is None or value.ndim != 2 or len(shape_of(data)) < 2 or not quantum.per_tensor:
            return None
        weight = np.ascontiguousarray(value.T)
        dot = self._dot(weight, quantum.dtype, shape_of(data)[-2])
        found = channel_sums(weight, right_quantum, quantum)
        if dot is None or found is None:
            return None
        bias, scale, _ = found
        return self._emit_integer(data, weight, bias, scale, dot)

    def _stored(self, call: relax.Call) -> relax.Expr | None:
        """The product of floats with weights that stay bytes in memory."""
        left, right = call.args
        if right not in self.quantized or len(shape_of(left)) < 2 or not _is_float32(left):
            return None
        value = stored_weight(*self.quantized[right], 1)
        if value is None or value.ndim != 2:
            return None
        columns = value.shape[1]
        quantum = self.quantized[right][1]
        scale = np.broadcast_to(quantum.scale, (columns,)).astype("float32")

        def compute(a, weight, scale):
            return integer_ops.matmul_of_stored(a, weight, scale, columns)

        return self._emit(
            compute,
            self.plain(left),
            relax.const(pack_columns(value, self.block)),
            relax.const(_in_blocks(scale, self.block)),
        )

    def _sums(self, call: relax.Call) -> relax.Expr | None:
        """The int32 product of bytes with constant ones, of data of either sign."""
        data, right = (self.plain(a) for a in call.args)
        value = constant_of(right)
        if value is None or value.ndim != 2 or value.dtype != np.int8 or len(shape_of(data)) < 2:
            return None
        weight = np.ascontiguousarray(value.T)
        bias = np.zeros(len(weight), "int64")
        rows = shape_of(data)[-2]
        stored = str(data.ty.dtype)
        dot = self._dot(weight, stored, rows, math.inf)
        if dot is None and stored in pack_products.SHIFTS:
            (wanted,) = pack_products.SHIFTS.keys() - {stored}
            shift = pack_products.SHIFTS[wanted]
            dot = self._dot(weight, wanted, rows, math.inf)
            bias -= shift * weight.astype("int64").sum(axis=1)
            if dot is not None:
                data = self.builder.emit_te(_shifted, data, shift, wanted)
        if dot is None:
            return None
        return self._emit_integer(data, weight, bias if bias.any() else None, None, dot)

    def _dot(
        self, weight: np.ndarray, dtype: str, rows: int, padding: float = MOST_PADDING
    ) -> DotLayout | None:
        """The fastest layout for weights [N, K] and activations of a dtype.

        Args:
            padding: bound of what is added to a depth of no whole groups, as a part of it.
        """
        depth = weight.shape[1]
        for dot in self.dots:
            usable = dot.activation == dtype and (rows > 1 or not dot.pairs_pixels)
            if usable and -depth % dot.group <= padding * depth and dot.takes(weight):
                return dot
        return None

    def _emit_integer(
        self,
        data: relax.Expr,
        weight: np.ndarray,
        bias: np.ndarray | None,
        scale: np.ndarray | None,
        dot: DotLayout,
    ) -> relax.Expr:
        """Args:
        scale: None for int32 sums, which alone may have no bias.
        """
        tables = []
        if bias is not None:
            tables.append(_in_blocks(bias.astype("int32"), dot.block))
        if scale is not None:
            tables.append(_in_blocks(scale, dot.block))

        def compute(a, weight, bias=None, scale=None):
            return integer_ops.matmul(a, weight, bias, scale, columns, dot)

        columns, depth = weight.shape
        behind = -depth % dot.group
        if behind:
            widths = [0, 0] * (len(shape_of(data)) - 1) + [0, behind]
            data = self.builder.emit(relax.op.nn.pad(data, widths))
            weight = np.pad(weight, [(0, 0), (0, behind)])
        packed = integer_ops.pack_columns(np.ascontiguousarray(weight.T), dot)
        return self._emit(compute, data, relax.const(packed), *map(relax.const, tables))

    def _bfloat16(self, call: relax.Call) -> relax.Expr | None:
        """A product that is told to be; its weights are constants."""
        left, weight = call.args[0], constant_of(call.args[1])
        if weight is None or not pack_bfloat16.is_bfloat16(left):
            return None
        dot = pack_bfloat16.matmul_layout(self.target, shape_of(left))
        if dot is None:
            return None
        return pack_bfloat16.emit_matmul(self.builder, self.plain(left), weight, dot)

    def _of_activations(self, call: relax.Call) -> relax.Expr | None:
        """The product of integers that are both computed at run time."""
        scale = None
        if str(call.ty.dtype) == "int32":
            left, right = (pack_products.Operand(self.plain(a), 0) for a in call.args)
        elif all(a in self.quantized for a in call.args):
            (a, x), (b, y) = (self.quantized[e] for e in call.args)
            if not (x.per_tensor and y.per_tensor):
                return None
            left, right = pack_products.Operand.of(a, x), pack_products.Operand.of(b, y)
            scale = float(x.scale * y.scale)
        else:
            return None
        dot = pack_products.layout(left, right, self.dots)
        return None if dot is None else pack_products.emit(self.builder, left, right, dot, scale)

    def _matmul(self, call: relax.Call) -> relax.Expr | None:
        integer = self._sums(call) if str(call.ty.dtype) == "int32" else self._integer(call)
        if integer is not None:
            return integer
        for product in (self._of_activations, self._bfloat16, self._stored, self._grouped):
            made = product(call)
            if made is not None:
                return made
        left, right = (self._real(a) for a in call.args)
        shapes = shape_of(left), shape_of(right)
        dtypes = {str(e.ty.dtype) for e in (left, right, call)}
        if min(map(len, shapes)) < 2 or len(dtypes) > 1 or not dtypes.pop().startswith("float"):
            return None
        columns = shapes[1][-1]
        value = constant_of(right)
        if value is not None:
            return self._emit_float(left, value)
        block = preferred_block(self.target, str(call.ty.dtype))

        def compute(a, b):
            return packed_ops.matmul(a, packed_ops.pack_columns(b, block), columns)

        return self._emit(compute, left, right)

    def _emit(self, compute, *args) -> relax.Expr:
        return self.builder.emit_te(
            compute, *args, primfunc_name_hint="matmul", primfunc_attrs=FUSABLE
        )


def _is_float32(expr: relax.Expr) -> bool:
    return str(expr.ty.dtype) == "float32"


def _shifted(x: te.Tensor, shift: int, dtype: str) -> te.Tensor:
    """x + shift, which the other dtype holds."""
    return te.compute(
        x.shape, lambda *index: (x[index].astype("int32") + shift).astype(dtype), name="shifted"
    )


def _in_blocks(values: np.ndarray, c: int) -> np.ndarray:
    """[N] -> [ceil(N/c), c], zeros beyond N."""
    return np.pad(values, (0, -len(values) % c)).reshape(-1, c)


def pack_columns(value: np.ndarray, c: int) -> np.ndarray:
    """[..., K, N] -> [..., ceil(N/c), K, c], zeros beyond N."""
    *batch, depth, columns = value.shape
    value = np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, -columns % c)])
    value = value.reshape(*batch, depth, -1, c)
    return np.ascontiguousarray(value.swapaxes(-3, -2))
