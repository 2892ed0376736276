"""Integer arithmetic for convolutions between quantised tensors.

Before:  dequantize(x) -> conv2d(dequantize(w)) -> add(bias) -> quantize
After:   conv2d of bytes with int32 sums that start at the bias -> one scaling, rounded

The zero point z of x is taken out of the sums: sum (x - z) w = sum x w - z sum w, whose last term
joins the bias. Where x is padded, it is padded with z.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from compiler.passes import (
    byte_tables,
    integer_depthwise,
    integer_ops,
    packed_ops,
    winograd,
    winograd_ops,
)
from compiler.passes.channel_sums import channel_sums, stored_weight
from compiler.passes.dot_layout import DotLayout, dot_layouts, wide_layouts
from compiler.passes.integer_groups import Arrangement, arrange, float_steps
from compiler.passes.integer_sums import Quantized, Sums, depthwise_sums, suits, with_bias
from compiler.passes.integer_transposed import transposed_rows
from compiler.passes.pack_transposed import Transposed, interleave_blocks, phases_of
from compiler.passes.packed_followers import PackedFollowers
from compiler.passes.packed_ops import FUSABLE, JOINING, Window
from compiler.passes.packed_values import (
    Packed,
    constant_of,
    pack,
    pack_constant,
    preferred_block,
    shape_of,
    spatial_of,
    unpack,
)
from compiler.passes.readers import Readers
from compiler.quantize.qdq import DEQUANTIZE, QUANTIZE, Quantum, emit_dequantize, quantum_of
from compiler.target import Target

# What a kernel may write beside others' results.
STORED = ("int8", "uint8", "int16")


class IntegerFollowers(PackedFollowers):
    """Handles quantize and dequantize; what knows nothing of them sees real numbers."""

    def __init__(self, module: tvm.IRModule, target: Target) -> None:
        super().__init__(module)
        self.lanes = preferred_block(target)
        self.target, self.dots = target, (*dot_layouts(target), *wide_layouts(target))
        self.readers = Readers(module["main"])
        self.handlers |= {DEQUANTIZE: self._dequantize, QUANTIZE: self._quantize}
        self.handlers["relax.add"] = self._add

    def raw(self, expr: relax.Expr) -> object:
        """The new value of an old expression, which may be ``Quantized`` or ``Sums``."""
        return super().value(expr)

    def value(self, expr: relax.Expr) -> object:
        """The new value of an old expression in real numbers."""
        raw = self.raw(expr)
        if isinstance(raw, Quantized):
            return self._real(raw)
        if isinstance(raw, Sums):
            self._values[expr] = self._emit_sums(raw)
            return self._values[expr]
        return raw

    def constant(self, expr: relax.Expr) -> np.ndarray | None:
        """The real values of an old expression that is constant, quantised or not."""
        raw = self.raw(expr)
        if isinstance(raw, Quantized) and isinstance(raw.stored, relax.Expr):
            stored = constant_of(raw.stored)
            return None if stored is None else raw.quantum.dequantize(stored)
        return constant_of(raw) if isinstance(raw, relax.Expr) else None

    def _dequantize(self, call: relax.Call) -> Quantized | None:
        quantum = quantum_of(call, DEQUANTIZE)
        if quantum is None or str(call.ty.dtype) != "float32":
            return None
        stored = self.value(call.args[0])
        if not quantum.per_tensor and (isinstance(stored, Packed) or constant_of(stored) is None):
            return None
        joins = self.readers.are_one(call.args[0]) and self.readers.end_in(self.bound, QUANTIZE)
        return Quantized(stored, quantum, joins)

    def _real(self, value: Quantized) -> Packed | relax.Expr:
        """Not remembered: each reader computes it again, and none needs it in memory."""
        stored, quantum = value.stored, value.quantum
        if not isinstance(stored, Packed):
            return emit_dequantize(self.builder, self._barrier(stored, value), quantum)
        scale, zero = float(quantum.scale), int(quantum.zero_point)
        real = self.builder.emit_te(
            lambda x: integer_ops.dequantize(x, scale, zero),
            self._barrier(stored.expr, value),
            primfunc_name_hint="dequantize",
        )
        self.births[real] = self.births.get(stored.expr, -1)
        return replace(stored, expr=real)

    def _kernel(self, call: relax.Call) -> Packed | None:
        """A table is as good for any layout."""
        if not (self.functions[call.args[0]].attrs or {}).get(byte_tables.ATTRIBUTE):
            return super()._kernel(call)
        data, table = (self.value(a) for a in call.args[1].fields)
        if not isinstance(data, Packed):
            return None
        return replace(data, expr=byte_tables.emit_look_up(self.builder, data.expr, table))

    def _barrier(self, stored: relax.Expr, value: Quantized) -> relax.Expr:
        """A reshape keeps fusion from storing real numbers where integers are stored."""
        if value.joins or constant_of(stored) is not None:
            return stored
        return self.builder.emit(relax.op.reshape(stored, shape_of(stored)))

    def _quantize(self, call: relax.Call) -> Packed | None:
        quantum = quantum_of(call, QUANTIZE)
        if quantum is None or not quantum.per_tensor or quantum.dtype not in STORED:
            return None
        raw = self.raw(call.args[0])
        if isinstance(raw, Sums) and self.readers.are_one(call.args[0]):
            requantized = self._requantize(raw, quantum)
            if requantized is not None:
                return requantized
        data = self.value(call.args[0])
        if not isinstance(data, Packed):
            return None
        scale, zero = float(quantum.scale), int(quantum.zero_point)
        block = self._stored_block(data, quantum.dtype)

        def compute(x):
            if block == data.block:
                return integer_ops.quantize(x, scale, zero, quantum.dtype)
            return integer_ops.quantize_in_blocks(x, scale, zero, quantum.dtype, block)

        stored = self.builder.emit_te(
            compute,
            data.expr,
            primfunc_name_hint="quantize",
            primfunc_attrs=JOINING if block != data.block else None,
        )
        self.births[stored] = self.births.get(data.expr, -1)
        return replace(data, expr=stored, block=block)

    def _stored_block(self, data: Packed, dtype: str) -> int:
        """Channels that lie together in bytes made of floats: as integer kernels have them."""
        blocks = [d.block for d in self.dots if d.activation == dtype]
        if not blocks or data.order is not None or data.blocks * data.block % blocks[0]:
            return data.block
        return blocks[0] if blocks[0] % data.block == 0 else data.block

    def _add(self, call: relax.Call) -> object:
        """A constant for each channel joins the sums' bias."""
        for one, other in (call.args, reversed(call.args)):
            raw, value = self.raw(one), self.constant(other)
            if isinstance(raw, Sums) and value is not None and self.readers.are_one(one):
                joined = with_bias(raw, value)
                if joined is not None:
                    return joined
        return self._elementwise(call)

    def _elementwise(self, call: relax.Call) -> Packed | None:
        """One operand alone can be computed where it is read: the one that is computed last."""
        raws = {a: self.raw(a) for a in call.args if isinstance(a, relax.Var)}
        joining = {a: r for a, r in raws.items() if isinstance(r, Quantized) and r.joins}
        for operand in sorted(joining, key=lambda a: self._birth(joining[a]))[:-1]:
            self._values[operand] = replace(joining[operand], joins=False)
        return super()._elementwise(call)

    def _birth(self, value: Quantized) -> int:
        stored = value.stored
        return self.births.get(stored.expr if isinstance(stored, Packed) else stored, -1)

    def integer_convolution(self, call: relax.Call, window: Window, groups: int) -> Sums | None:
        """The sums of a convolution of the old function; None where it is not one of bytes."""
        data, weight = (self.raw(a) for a in call.args)
        if not isinstance(data, Quantized) or not isinstance(weight, Quantized):
            return None
        if isinstance(weight.stored, Packed):
            return None
        stored = stored_weight(weight.stored, weight.quantum, 0)
        if stored is None or groups == shape_of(call.args[0])[1] == len(stored) > 1:
            return None
        if stored.ndim == 3:
            stored = stored[:, :, None, :]
        found = channel_sums(stored, weight.quantum, data.quantum)
        if found is None:
            return None
        zero, shape = int(data.quantum.zero_point), shape_of(call)
        ordered = isinstance(data.stored, Packed) and data.stored.order is not None
        for dot in (d for d in self.dots if d.activation == data.quantum.dtype):
            special = dot.parts > 1 or dot.pairs_pixels
            if special and (groups > 1 or ordered):
                continue
            if dot.pairs_pixels and math.prod(shape[2:]) == 1:
                continue
            grouped = self._grouped(data.stored, stored, groups, dot)
            if grouped is not None:
                x, arrangement = grouped
                return Sums(x, dot, zero, stored, *found, window, shape, grouped=arrangement)
            if groups == 1 and suits(dot, data, stored):
                x = self._operand(data.stored, dot, window.dilation[1])
                return Sums(x, dot, zero, stored, *found, window, shape)
        return None

    def _grouped(
        self, data: Packed | relax.Expr, weight: np.ndarray, groups: int, dot: DotLayout
    ) -> tuple[Packed, Arrangement] | None:
        """A grouped convolution's input, or one whose channels have an order, and how it is read.

        None where the target's instruction takes neither these channels nor these weights, or
        takes longer than floats.
        """
        ordered = isinstance(data, Packed) and data.order is not None
        if groups == 1 and not ordered:
            return None
        shape = data.shape if isinstance(data, Packed) else shape_of(data)
        x = data
        if not isinstance(x, Packed) or x.block % dot.group:
            expr = data.expr if isinstance(data, Packed) else data
            x = Packed(expr, shape, dot.input_block(shape[1], dilation=2))
        arrangement = arrange(weight, groups, x, dot)
        if arrangement is None or not arrangement.suits(dot):
            return None
        limit = float_steps(len(weight), weight.shape[1], groups, self.lanes)
        if groups > 1 and arrangement.cost * dot.cost > limit:
            return None
        return (data if x is data else self._operand(data, dot, dilation=2)), arrangement

    def _operand(self, data: Packed | relax.Expr, dot: DotLayout, dilation: int) -> Packed:
        """Bytes whose channels lie in whole groups."""
        if isinstance(data, Packed):
            if data.order is None and data.block % dot.group == 0:
                return data
            data = unpack(self.builder, data)
        return pack(self.builder, data, dot.input_block(shape_of(data)[1], dilation))

    def _emit_sums(self, sums: Sums) -> Packed:
        """As real numbers."""
        sums = self._cheaper(sums)

        def compute(x, weight, bias, scale):
            return integer_ops.scaled(sums.compute(x, weight, bias), scale)

        return self._emit_conv2d(sums, compute, sums.scale)

    def _cheaper(self, sums: Sums) -> Sums:
        """The sums by Winograd's algorithm where that takes less time; they are the same."""
        plain = sums.phases == (1, 1) and not sums.grouped
        if sums.depthwise or not plain or sums.x.block != sums.dot.block:
            return sums
        if not winograd.pays_in_integers(
            self.target, sums.dot, sums.window, sums.x.shape, sums.weight, sums.bias
        ):
            return sums
        factor = winograd_ops.INTEGER_SCALE
        return replace(
            sums,
            bias=factor * sums.bias,
            scale=sums.scale / np.float32(factor),
            limit=factor * sums.limit,
            winograd=True,
        )

    def _requantize(self, sums: Sums, quantum: Quantum) -> Packed | None:
        """As integers; None where they could leave the range that is rounded exactly."""
        sums = self._cheaper(sums)
        scale = (sums.scale.astype("float64") / float(quantum.scale)).astype("float32")
        if (sums.limit * scale.astype("float64")).max() >= integer_ops.MAX_ROUNDED:
            return None
        zero = int(quantum.zero_point)

        def compute(x, weight, bias, scale):
            total = sums.compute(x, weight, bias)
            return integer_ops.requantize(total, scale, zero, quantum.dtype)

        return self._emit_conv2d(sums, compute, scale)

    def _emit_conv2d(self, sums: Sums, compute, scale: np.ndarray) -> Packed:
        pointwise = sums.window == Window((1, 1), (1, 1), (0, 0, 0, 0), sums.window.dilation)
        x = sums.x.viewed(self.builder, pointwise and not sums.depthwise)
        if sums.depthwise:
            like = Packed(x.expr, sums.shape, x.block, order=x.order)
            weight = integer_depthwise.pack_weight(sums.weight, x.block, x.order)
        elif sums.grouped:
            like = Packed(x.expr, sums.shape, sums.dot.block, pointwise, sums.grouped.order)
            weight = sums.grouped.weight
        else:
            like = Packed(x.expr, sums.summed_shape, sums.dot.block, pointwise)
            if sums.winograd:
                weight = winograd_ops.pack_weight(sums.weight, 2, x.block)
            else:
                weight = integer_ops.pack_weight(sums.weight, sums.dot, x.block)
        per_channel = (
            _per_channel(sums.bias.astype("int32"), like),
            _per_channel(scale.astype("float32"), like),
        )
        result = self.builder.emit_te(
            compute,
            x.expr,
            relax.const(weight),
            *per_channel,
            primfunc_name_hint=sums.name,
            primfunc_attrs=FUSABLE,
        )
        self.births[result] = len(self.births)
        like = replace(like, expr=result)
        return like if sums.phases == (1, 1) else self._interleaved(sums, like)

    def _interleaved(self, sums: Sums, phases: Packed) -> Packed:
        x = phases.viewed(self.builder, collapsed=False)
        extents = spatial_of(sums.shape)
        result = self.builder.emit_te(interleave_blocks, x.expr, sums.phases, sums.begin, extents)
        self.births[result] = len(self.births)
        return Packed(result, sums.shape, x.block)

    def integer_transposed(self, call: relax.Call, transposed: Transposed) -> Sums | None:
        """The sums of a transposed convolution of the old function; None where floats do it."""
        data, weight = (self.raw(a) for a in call.args)
        if not isinstance(data, Quantized) or not isinstance(weight, Quantized):
            return None
        whole, begin = transposed.behind_whole_strides
        phases = phases_of(whole, *spatial_of(shape_of(call.args[0])))
        for dot in self.dots:
            found = transposed_rows(data, weight, whole, shape_of(call)[1], phases, dot)
            if found is not None:
                rows, bias, scale, limit = found
                x, zero = self._operand(data.stored, dot, 1), int(data.quantum.zero_point)
                window = Window(phases.taps, (1, 1), phases.pads, (1, 1))
                sums = Sums(x, dot, zero, rows, bias, scale, limit, window, shape_of(call))
                return replace(sums, phases=phases.strides, begin=begin)
        return None

    def integer_depthwise(
        self, call: relax.Call, window: Window, groups: int
    ) -> Packed | Sums | None:
        """Depthwise convolution of stored integers.

        Neighbouring channels share no inputs, so that there are no sums for one instruction. Where
        products are not of int8 by int8 either, float is exact and as fast.
        """
        data, weight = self.raw(call.args[0]), self.constant(call.args[1])
        if not isinstance(data, Quantized) or weight is None or not data.quantum.per_tensor:
            return None
        stored, shape = data.stored, shape_of(call)
        if not isinstance(stored, Packed):
            return None
        if not groups == shape[1] == stored.shape[1] or weight.shape[1] != 1:
            return None
        sums = depthwise_sums(data, self.raw(call.args[1]), self.dots, window, shape)
        if sums is not None:
            return sums
        x = stored.viewed(self.builder, collapsed=False)
        zero = int(data.quantum.zero_point)
        weight = (weight * data.quantum.scale).reshape(shape[1], 1, *window.kernel)
        weight = integer_depthwise.pack_weight(weight, x.block, x.order)

        def compute(x, weight):
            centred = integer_ops.centred(x, window.pads, zero)
            inside = replace(window, pads=(0, 0, 0, 0))
            return packed_ops.depthwise_conv2d(centred, weight, inside)

        result = self.builder.emit_te(
            compute,
            x.expr,
            relax.const(weight),
            primfunc_name_hint="depthwise_conv2d",
            primfunc_attrs=FUSABLE,
        )
        self.births[result] = len(self.births)
        return Packed(result, shape, x.block, order=x.order)


def _per_channel(values: np.ndarray, like: Packed) -> relax.Expr:
    """[OC] as a constant in the layout of a packed tensor."""
    shape = (1, len(values)) + (1,) * (len(like.shape) - 2)
    return relax.const(pack_constant(values.reshape(shape), like))
