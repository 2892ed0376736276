"""Choose packed layouts for the whole graph: NCHW -> NCHW[c] around convolutions.

Before:  conv2d(x, w) -> add(bias) -> relu -> max_pool2d -> conv2d ...      (NCHW)
After:   conv2d_packed(x, w') -> add(bias') -> relu -> max_pool2d -> ...    (NCHW[c])
         with one unpack where an operator wants NCHW, and none in between.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from compiler.passes import pack_bfloat16, packed_ops, winograd
from compiler.passes.channel_order import ChannelOrder, blocks_of, blocks_of_groups
from compiler.passes.integer_sums import Sums
from compiler.passes.pack_integer import IntegerFollowers, Quantized
from compiler.passes.pack_transposed import (
    Phases,
    Transposed,
    conv2d_phases,
    crop,
    flip_weight,
    interleave_channels,
    phase_weights,
    phases_of,
)
from compiler.passes.packed_ops import FUSABLE, Window
from compiler.passes.packed_values import (
    Packed,
    constant_of,
    pack,
    preferred_block,
    shape_of,
    spatial_of,
    spread_channels,
    unpack,
)
from compiler.target import Target


def pack_convolutions(module: tvm.IRModule, target: Target, exact: bool = False) -> tvm.IRModule:
    """Rewrite convolutions and what lies between them to packed layouts for the target.

    Args:
        exact: only algorithms that add up the products themselves (no Winograd).
    """
    return _Packer(module, target, exact).rewrite(module)


class _Packer(IntegerFollowers):
    def __init__(self, module: tvm.IRModule, target: Target, exact: bool) -> None:
        super().__init__(module, target)
        self.target = target
        self.exact = exact
        self.handlers |= {
            "relax.astype": self._astype,
            "relax.nn.conv1d": self._convolution,
            "relax.nn.conv2d": self._convolution,
            "relax.nn.conv1d_transpose": self._transposed_convolution,
            "relax.nn.conv2d_transpose": self._transposed_convolution,
        }

    def _weight(self, expr: relax.Expr) -> relax.Expr:
        value = self.constant(expr)
        return self.plain(expr) if value is None else relax.const(value)

    def _convolution(self, call: relax.Call) -> Packed | Sums | None:
        attrs = call.attrs
        one_d = len(attrs.strides) == 1
        layouts = ("NCW", "OIW") if one_d else ("NCHW", "OIHW")
        if (attrs.data_layout, attrs.kernel_layout) != layouts or not _is_float(call):
            return None
        window, groups = window_of(call), int(attrs.groups)
        if pack_bfloat16.is_bfloat16(call.args[0]):
            return self._bfloat16_convolution(call, window)
        for convolution in (self.integer_convolution, self.integer_depthwise):
            integer = convolution(call, window, groups)
            if integer is not None:
                return integer
        return self._emit_convolution(call.args[0], self._weight(call.args[1]), window, groups)

    def _astype(self, call: relax.Call) -> Packed | None:
        data = self.value(call.args[0])
        if not pack_bfloat16.is_bfloat16(call) or not isinstance(data, Packed):
            return self._unary(call)
        made = pack_bfloat16.emit_rounded(self.builder, data)
        self.births[made.expr] = len(self.births)
        return made

    def _bfloat16_convolution(self, call: relax.Call, window: Window) -> Packed | None:
        """One that is told to be; its weights are constants."""
        shape, weight = shape_of(call), constant_of(call.args[1])
        dot = pack_bfloat16.convolution_layout(self.target, shape)
        if dot is None or weight is None:
            return None
        data = self.value(call.args[0])
        made = pack_bfloat16.emit_conv2d(self.builder, data, weight, window, shape, dot)
        self.births[made.expr] = len(self.births)
        return made

    def _transposed_convolution(self, call: relax.Call) -> Packed | Sums | relax.Expr | None:
        attrs = call.attrs
        if (
            attrs.data_layout not in ("NCW", "NCHW")
            or attrs.kernel_layout not in ("IOW", "IOHW")
            or not _is_float(call)
        ):
            return None
        window = Window(
            _two(shape_of(call.args[1])[2:], 1),
            _two(attrs.strides, 1),
            _four(attrs.padding),
            _two(attrs.dilation, 1),
        )
        transposed = Transposed(window, _two(attrs.output_padding, 0), int(attrs.groups))
        integer = self.integer_transposed(call, transposed)
        if integer is not None:
            return integer
        weight = self._weight(call.args[1])
        value = constant_of(weight)
        if value is not None and transposed.splits_into_phases:
            return self._emit_phases(call, transposed, value)
        return self._emit_over_zeros(call, transposed, weight)

    def _emit_over_zeros(
        self, call: relax.Call, transposed: Transposed, weight: relax.Expr
    ) -> Packed | relax.Expr:
        """A convolution of the input with zeros put between its elements and flipped weights."""
        flipped = flip_weight(self.builder, weight, transposed.groups)
        window, pads = transposed.window, transposed.wanted_pads
        result = self._emit_convolution(
            call.args[0],
            flipped,
            Window(window.kernel, (1, 1), _four([max(p, 0) for p in pads]), window.dilation),
            transposed.groups,
            window.strides,
        )
        if min(pads) >= 0:
            return result
        begin = (max(-pads[0], 0), max(-pads[1], 0))
        return crop(self.builder, self.to_plain(result), begin, spatial_of(shape_of(call)))

    def _emit_phases(
        self, call: relax.Call, transposed: Transposed, weight: np.ndarray
    ) -> Packed | relax.Expr:
        """One convolution for all phases, its results interleaved."""
        data, shape = self.value(call.args[0]), shape_of(call)
        logical = data.shape if isinstance(data, Packed) else shape_of(data)
        phases = phases_of(transposed, *spatial_of(logical))
        weights = phase_weights(weight, phases)
        channels, extents = shape[1], spatial_of(shape)
        lanes = preferred_block(self.target, str(call.ty.dtype))
        if channels < lanes and phases.shifts == (0, 0):
            return self._emit_dense_phases(call, phases, weights)
        padding = [(0, 0)] * weights.ndim
        padding[2] = (0, -channels % lanes)
        weights = np.pad(weights, padding).reshape(-1, *weights.shape[3:])
        x = self._packed_input(data, 1).viewed(self.builder, collapsed=False)
        ci = x.block if logical[1] % x.block == 0 else 1
        result = self.builder.emit_te(
            lambda data, kernel: conv2d_phases(data, kernel, phases),
            x.expr,
            self._pack_weight(relax.const(weights), lanes, ci),
            primfunc_name_hint="conv2d_transpose",
            primfunc_attrs=FUSABLE,
        )
        height, width = (e * s for e, s in zip(phases.extents, phases.strides, strict=True))
        full = (height, width) if len(shape) == 4 else (width,)
        packed = Packed(result, (*shape[:2], *full), lanes)
        if packed.shape == shape:
            return packed
        return crop(self.builder, self.to_plain(packed), (0, 0), extents)

    def _emit_dense_phases(
        self, call: relax.Call, phases: Phases, weights: np.ndarray
    ) -> relax.Expr:
        """The phases of a few channels side by side in the lanes of one block."""
        shape = shape_of(call)
        window = Window(phases.taps, (1, 1), phases.pads, (1, 1))
        weights = np.ascontiguousarray(weights.transpose(2, 0, 1, 3, 4, 5))
        weights = relax.const(weights.reshape(-1, *weights.shape[3:]))
        packed = self._emit_convolution(call.args[0], weights, window, groups=1)
        packed = packed.viewed(self.builder, collapsed=False)
        plain = self.builder.emit_te(
            interleave_channels, packed.expr, shape[1], phases.strides, spatial_of(shape)
        )
        return plain if len(shape) == 4 else self.builder.emit(relax.op.reshape(plain, shape))

    def _emit_convolution(
        self,
        activations: relax.Expr,
        weight: relax.Expr,
        window: Window,
        groups: int,
        spread: tuple[int, int] = (1, 1),
    ) -> Packed:
        out_channels, in_channels = shape_of(weight)[:2]
        data = self.value(activations)
        logical = data.shape if isinstance(data, Packed) else shape_of(data)
        shape = _result_shape(logical, out_channels, window, spread)
        depthwise = groups > 1 and in_channels == 1 and groups == out_channels == logical[1]
        block, order = preferred_block(self.target, str(weight.ty.dtype)), None
        if groups > 1 and not depthwise:
            block, order = self._grouped_layout(weight, groups, block)
        if groups == 1 and spread == (1, 1) and not self.exact:
            value = constant_of(weight)
            m = winograd.choose_tile(self.target, window, logical, value)
            if value is not None and m is not None:
                return self._emit_winograd(activations, value, window, shape, m, block)
        any_order = groups > 1 and not (depthwise and constant_of(weight) is None)
        if depthwise and isinstance(data, Packed) and data.block % block == 0:
            block = data.block
        x = self._packed_input(data, block if depthwise else 1, any_order)
        collapsed = (
            not depthwise
            and spread == (1, 1)
            and window == Window((1, 1), (1, 1), (0, 0, 0, 0), window.dilation)
        )
        x = x.viewed(self.builder, collapsed)
        if depthwise:
            order = x.order
            packed_weight = self._pack_depthwise_weight(weight, block, order)
        else:
            ci = x.block if in_channels % x.block == 0 and x.order is None else 1
            packed_weight = self._pack_weight(weight, block, ci, order)

        def compute(data, kernel):
            if spread != (1, 1):
                data = packed_ops.dilate_spatial(data, spread)
            if depthwise:
                return packed_ops.depthwise_conv2d(data, kernel, window)
            return packed_ops.conv2d(data, kernel, window, groups, x.order)

        name = "depthwise_conv2d" if depthwise else "conv2d"
        result = self.builder.emit_te(
            compute, x.expr, packed_weight, primfunc_name_hint=name, primfunc_attrs=FUSABLE
        )
        self.births[result] = len(self.births)
        return Packed(result, shape, block, collapsed, order)

    def _emit_winograd(
        self,
        activations: relax.Expr,
        weight: np.ndarray,
        window: Window,
        shape: tuple[int, ...],
        m: int,
        block: int,
    ) -> Packed:
        """Bytes are made floats where tiles are read; their scale goes into the weights."""
        raw, zero = self.raw(activations), 0
        if isinstance(raw, Quantized) and _is_read_in_place(raw, block):
            x, zero = raw.stored, int(raw.quantum.zero_point)
            weight = weight * np.float32(raw.quantum.scale)
        else:
            x = self._packed_input(self.value(activations), block)
        return winograd.emit_conv2d(self.builder, x, weight, window, shape, m, block, zero)

    def _grouped_layout(
        self, weight: relax.Expr, groups: int, lanes: int
    ) -> tuple[int, ChannelOrder | None]:
        """Block and order of a grouped convolution's result.

        Blocks must not reach across groups: either they are smaller, or groups are padded.
        """
        size = shape_of(weight)[0] // groups
        block, pads = blocks_of_groups(size, lanes)
        if constant_of(weight) is None or not pads:
            return math.gcd(lanes, size), None
        return block, ChannelOrder(groups, size, -(-size // block) * block)

    def _packed_input(
        self, data: Packed | relax.Expr, block: int, any_order: bool = False
    ) -> Packed:
        """Input of a convolution; block 1 takes any block as it is."""
        if not isinstance(data, Packed):
            return pack(self.builder, data, block)
        if block in (1, data.block) and (any_order or data.order is None):
            return data
        return pack(self.builder, unpack(self.builder, data), block)

    def _pack_weight(
        self, weight: relax.Expr, c: int, ci: int, order: ChannelOrder | None = None
    ) -> relax.Expr:
        """[OC, IC, (KH,) KW] -> [ceil(OC/c), IC/ci, KH, KW, ci, c]."""
        _, ic, *kernel = shape_of(weight)
        kh, kw = _two(kernel, 1)
        return self._rearrange(weight, c, (ic // ci, ci, kh, kw), (0, 2, 4, 5, 3, 1), order)

    def _pack_depthwise_weight(
        self, weight: relax.Expr, c: int, order: ChannelOrder | None
    ) -> relax.Expr:
        """[C, 1, (KH,) KW] -> [ceil(C/c), KH, KW, c]."""
        _, _, *kernel = shape_of(weight)
        return self._rearrange(weight, c, _two(kernel, 1), (0, 2, 3, 1), order)

    def _rearrange(
        self,
        weight: relax.Expr,
        c: int,
        rest: tuple[int, ...],
        axes: tuple[int, ...],
        order: ChannelOrder | None,
    ) -> relax.Expr:
        """Split axis 0 into whole blocks, the others into ``rest``, and transpose.

        At once where the weight is constant; others have no order.
        """
        channels, *others = shape_of(weight)
        shape = (blocks_of(channels, c, order), c, *rest)
        value = constant_of(weight)
        if value is not None:
            value = spread_channels(value, 0, c, order).reshape(shape).transpose(axes)
            return relax.const(np.ascontiguousarray(value))
        if channels % c:
            widths = [0, -channels % c] + [0, 0] * len(others)
            weight = self.builder.emit(relax.op.nn.pad(weight, widths))
        weight = self.builder.emit(relax.op.reshape(weight, shape))
        return self.builder.emit(relax.op.permute_dims(weight, axes))


def window_of(call: relax.Call) -> Window:
    """Of a convolution in one or two dimensions."""
    attrs, kernel = call.attrs, shape_of(call.args[1])[2:]
    strides, dilation = _two(attrs.strides, 1), _two(attrs.dilation, 1)
    return Window(_two(kernel, 1), strides, _four(attrs.padding), dilation)


def _is_float(call: relax.Call) -> bool:
    return str(call.ty.dtype).startswith("float")


def _two(values, missing: int) -> tuple[int, int]:
    """(h, w) of an attribute that has one or two entries."""
    values = [int(v) for v in values]
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def _four(padding) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of Relax's padding of 1-D or 2-D windows."""
    padding = [int(p) for p in padding]
    return (0, padding[0], 0, padding[1]) if len(padding) == 2 else tuple(padding)


def _is_read_in_place(data: Quantized, block: int) -> bool:
    """Whether blocks of bytes hold whole blocks of so many floats."""
    stored = data.stored
    return (
        isinstance(stored, Packed)
        and data.quantum.per_tensor
        and stored.order is None
        and stored.block % block == 0
    )


def _result_shape(
    shape: tuple[int, ...], channels: int, window: Window, spread: tuple[int, int]
) -> tuple[int, ...]:
    """Logical shape of a convolution over the input spread out by zeros."""
    spread_out = [(e - 1) * s + 1 for e, s in zip(spatial_of(shape), spread, strict=True)]
    oh, ow = window.output_size(*spread_out)
    return (shape[0], channels, ow) if len(shape) == 3 else (shape[0], channels, oh, ow)
