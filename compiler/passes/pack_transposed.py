"""Transposed convolutions on packed layouts, as ordinary convolutions of a few kinds.

With stride s, the outputs at positions r, r + s, r + 2s ... see every s-th tap of the kernel: each
phase r is a small stride-1 convolution of its own, and none multiplies the zeros that a textbook
transposed convolution puts between its inputs (Shi et al. 2016, "Is the deconvolution layer the
same as a convolutional layer?"). What has run-time weights, groups or dilation still does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax, te, tirx

from compiler.passes import packed_ops
from compiler.passes.packed_ops import Window
from compiler.passes.packed_values import constant_of, shape_of


@dataclass(frozen=True)
class Transposed:
    """Geometry of a transposed convolution; ``extra`` is ONNX's output_padding."""

    window: Window
    extra: tuple[int, int]
    groups: int

    @property
    def wanted_pads(self) -> tuple[int, int, int, int]:
        """Pads of the same convolution over zero-spread inputs; negative ones crop its result."""
        w = self.window
        reach = [d * (k - 1) for d, k in zip(w.dilation, w.kernel, strict=True)]
        top, left, bottom, right = w.pads
        return (
            reach[0] - top,
            reach[1] - left,
            reach[0] - bottom + self.extra[0],
            reach[1] - right + self.extra[1],
        )

    @property
    def taps(self) -> tuple[int, int]:
        """Taps of the kernel that one phase sees, at most."""
        (kh, kw), (sh, sw) = self.window.kernel, self.window.strides
        return -(-kh // sh), -(-kw // sw)

    def result(self, height: int, width: int) -> tuple[int, int]:
        """Extents (OH, OW) of the result for an input of extents (height, width)."""
        sh, sw = self.window.strides
        window = replace(self.window, strides=(1, 1), pads=self.wanted_pads)
        return window.output_size((height - 1) * sh + 1, (width - 1) * sw + 1)

    @property
    def behind_whole_strides(self) -> tuple[Transposed, tuple[int, int]]:
        """The same with outputs in front so that all phases start at the same inputs, and how many
        rows and columns these are: its padding is whole strides."""
        top, left, bottom, right = self.window.pads
        rows, columns = (p % s for p, s in zip((top, left), self.window.strides, strict=True))
        window = replace(self.window, pads=(top - rows, left - columns, bottom, right))
        return replace(self, window=window), (rows, columns)

    @property
    def splits_into_phases(self) -> bool:
        """Whether the phases can be computed one by one (given constant weights)."""
        w = self.window
        return (
            self.groups == 1
            and w.dilation == (1, 1)
            and max(w.strides) > 1
            and all(t > p // s for t, p, s in zip(self.taps, w.pads[:2], w.strides, strict=True))
        )


@dataclass(frozen=True)
class Phases:
    """The stride-1 convolution that computes all phases of a transposed one.

    Args:
        strides: (sh, sw); there are sh * sw phases.
        taps: kernel of each phase.
        shifts: the first row and column phase (0, 0) starts at is 0; phase (r, q) starts at
            ((r + shifts[0]) // sh, (q + shifts[1]) // sw).
        pads: (top, left, bottom, right) of the input.
        extents: outputs (H, W) of each phase; their union may exceed the result.
    """

    strides: tuple[int, int]
    taps: tuple[int, int]
    shifts: tuple[int, int]
    pads: tuple[int, int, int, int]
    extents: tuple[int, int]

    @property
    def count(self) -> int:
        return math.prod(self.strides)


def phases_of(transposed: Transposed, height: int, width: int) -> Phases:
    """Split a transposed convolution over an input of extents (height, width) into phases."""
    result = transposed.result(height, width)

    def along(axis: int, extent: int) -> tuple[int, int, int, int]:
        """(shift, outputs, pad before, pad behind)."""
        stride, pad = transposed.window.strides[axis], transposed.window.pads[axis]
        # Output o = s*h + r takes input h + (r + pad) // s - t with tap (r + pad) % s + s*t.
        outputs = -(-result[axis] // stride)
        last = outputs - 1 + (stride - 1 + pad) // stride
        before = transposed.taps[axis] - 1 - pad // stride
        return pad % stride, outputs, before, max(0, last - (extent - 1))

    (dh, oh, top, bottom), (dw, ow, left, right) = along(0, height), along(1, width)
    return Phases(
        transposed.window.strides,
        transposed.taps,
        shifts=(dh, dw),
        pads=(top, left, bottom, right),
        extents=(oh, ow),
    )


def phase_weights(weight: np.ndarray, phases: Phases) -> np.ndarray:
    """[IC, OC, (KH,) KW] -> [sh, sw, OC, IC, TH, TW]: taps of each phase in the input's order."""
    (sh, sw), (th, tw) = phases.strides, phases.taps
    ic, oc, *kernel = weight.shape
    kh, kw = (1, *kernel)[-2:]
    weight = weight.reshape(ic, oc, kh, kw)
    padded = np.pad(weight, ((0, 0), (0, 0), (0, sh * th - kh), (0, sw * tw - kw)))
    # Tap k = s*t + m; later taps meet earlier inputs.
    taps = padded.reshape(ic, oc, th, sh, tw, sw)[:, :, ::-1, :, ::-1, :]
    rows = [(r + phases.shifts[0]) % sh for r in range(sh)]
    columns = [(q + phases.shifts[1]) % sw for q in range(sw)]
    return taps.transpose(3, 5, 1, 0, 2, 4)[rows][:, columns]


def flip_weight(bb: relax.BlockBuilder, weight: relax.Expr, groups: int) -> relax.Expr:
    """[IC, OC/g, ...] of a transposed convolution -> flipped [OC, IC/g, ...] of a plain one."""
    ic, oc, *kernel = shape_of(weight)
    grouped = (groups, ic // groups, oc, *kernel)
    axes = (0, 2, 1, *range(3, len(grouped)))
    result = (groups * oc, ic // groups, *kernel)
    spatial = range(2, len(result))
    value = constant_of(weight)
    if value is not None:
        value = value.reshape(grouped).transpose(axes).reshape(result)
        return relax.const(np.ascontiguousarray(np.flip(value, axis=tuple(spatial))))
    weight = bb.emit(relax.op.reshape(weight, grouped))
    weight = bb.emit(relax.op.permute_dims(weight, axes))
    weight = bb.emit(relax.op.reshape(weight, result))
    for axis in spatial:
        weight = bb.emit(relax.op.flip(weight, axis))
    return weight


def crop(
    bb: relax.BlockBuilder, plain: relax.Expr, begin: tuple[int, int], extents: tuple[int, int]
) -> relax.Expr:
    """The part of a plain [N, C, (H,) W] tensor that starts at ``begin``."""
    axes = [2, 3] if len(shape_of(plain)) == 4 else [2]
    first = list(begin[-len(axes) :])
    end = [b + e for b, e in zip(first, extents[-len(axes) :], strict=True)]
    return bb.emit(relax.op.strided_slice(plain, axes, first, end))


def conv2d_phases(x: te.Tensor, weight: te.Tensor, phases: Phases) -> te.Tensor:
    """All phases of a transposed convolution, interleaved.

    Args:
        x: [N, IC/ci, H, W, ci].
        weight: [sh*sw*OCb, ICb, TH, TW, ci, c], where ci may be 1 whatever the input's is.

    Returns:
        [N, OCb, sh*H', sw*W', c] for phases of extents (H', W').
    """
    (sh, sw), (dh, dw) = phases.strides, phases.shifts
    n, _, _, _, ci = (int(d) for d in x.shape)
    all_blocks, ic_outer, th, tw, ic_inner, c = (int(d) for d in weight.shape)
    blocks = all_blocks // phases.count
    padded = packed_ops.pad_spatial(x, phases.pads)
    channel = te.reduce_axis((0, ic_outer), name="ic_outer")
    row = te.reduce_axis((0, th), name="kh")
    column = te.reduce_axis((0, tw), name="kw")
    inner = te.reduce_axis((0, ic_inner), name="ic_inner")
    block, lane = (channel, inner) if ic_inner == ci else (channel // ci, channel % ci)

    def start(o, stride, shift):
        # Equals (o + shift) // stride, which TVM 0.27 rewrites wrongly where o is a remainder.
        late = tirx.Select(o % stride >= stride - shift, 1, 0)
        return o // stride + late if shift else o // stride

    def element(i, j, h, w, k):
        phase = h % sh * sw + w % sw
        value = padded[i, block, start(h, sh, dh) + row, start(w, sw, dw) + column, lane]
        kernel = weight[phase * blocks + j, channel, row, column, inner, k]
        return te.sum(value * kernel, axis=[channel, row, column, inner])

    height, width = phases.extents
    shape = (n, blocks, sh * height, sw * width, c)
    attrs = {packed_ops.ANCHOR: "conv2d", packed_ops.PHASES: sw}
    return te.compute(shape, element, name="conv2d", attrs=attrs)


def interleave_channels(
    x: te.Tensor, channels: int, strides: tuple[int, int], extents: tuple[int, int]
) -> te.Tensor:
    """Packed [N, *, H, W, c] with channels ordered (channel, row phase, column phase) -> NCHW."""
    n, _, _, _, c = (int(d) for d in x.shape)
    sh, sw = strides

    def element(i, j, h, w):
        channel = (j * sh + h % sh) * sw + w % sw
        return x[i, channel // c, h // sh, w // sw, channel % c]

    return te.compute((n, channels, *extents), element, name="interleave_channels")


def interleave_blocks(
    x: te.Tensor, strides: tuple[int, int], begin: tuple[int, int], extents: tuple[int, int]
) -> te.Tensor:
    """[N, sh*sw*OCb, H, W, c] with blocks ordered (row phase, column phase, block) ->
    [N, OCb, *extents, c], from the row and column ``begin`` of [N, OCb, sh*H, sw*W, c] on."""
    n, blocks, _, _, c = (int(d) for d in x.shape)
    sh, sw = strides
    each = blocks // (sh * sw)

    def element(i, j, h, w, k):
        h, w = h + begin[0], w + begin[1]
        return x[i, (h % sh * sw + w % sw) * each + j, h // sh, w // sw, k]

    shape, attrs = (n, each, *extents, c), {packed_ops.PHASES: sw}
    return te.compute(shape, element, name="interleave_blocks", attrs=attrs)
