"""Activations in the packed layout NCHW[c] as the packing pass sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax, te

from compiler.passes import packed_ops
from compiler.passes.channel_order import ChannelOrder, blocks_of
from compiler.target import Target


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """Static shape of a tensor expression."""
    return tuple(int(d) for d in expr.ty.shape)


def spatial_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """(H, W) of a logical shape [N, C, (H,) W]; H is 1 where the rank is 3."""
    return (1, shape[2]) if len(shape) == 3 else (shape[2], shape[3])


def constant_of(expr: relax.Expr) -> np.ndarray | None:
    """The value of a Relax constant; None for anything else."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def preferred_block(target: Target, dtype: str = "float32") -> int:
    """Channels that lie together: one vector register, or four scalars where there are none."""
    return target.vector.lanes(tvm.DataType(dtype).bits) if target.vector.bits else 4


@dataclass(frozen=True)
class Packed:
    """A tensor of logical shape [N, C, (H,) W] that lies in memory as [N, ceil(C/c), H, W, c].

    Channel i lies in lane ``slot % c`` of block ``slot // c``; its slot is i, or what ``order``
    says.

    Args:
        expr: the 5-D tensor; [N, ceil(C/c), 1, H*W, c] where ``collapsed``, so that a 1x1
            convolution walks one long row.
        shape: the logical shape, of rank 3 or 4.
        block: c.
    """

    expr: relax.Expr
    shape: tuple[int, ...]
    block: int
    collapsed: bool = False
    order: ChannelOrder | None = None

    @property
    def spatial(self) -> tuple[int, int]:
        """(H, W); H is 1 for a rank-3 tensor."""
        return spatial_of(self.shape)

    @property
    def blocks(self) -> int:
        return blocks_of(self.shape[1], self.block, self.order)

    @property
    def is_point(self) -> bool:
        return self.spatial == (1, 1)

    @property
    def is_plain(self) -> bool:
        """Whether the memory is that of the logical shape."""
        dense = self.order is None and self.shape[1] % self.block == 0
        return (self.block == 1 and self.order is None) or (self.is_point and dense)

    def memory_shape(self, collapsed: bool) -> tuple[int, ...]:
        height, width = self.spatial
        if collapsed:
            height, width = 1, height * width
        return (self.shape[0], self.blocks, height, width, self.block)

    def viewed(self, bb: relax.BlockBuilder, collapsed: bool) -> Packed:
        """The same memory with or without H and W merged."""
        shape = self.memory_shape(collapsed)
        if shape == self.memory_shape(self.collapsed):
            return replace(self, collapsed=collapsed)
        view = bb.emit(relax.op.reshape(self.expr, shape))
        return replace(self, expr=view, collapsed=collapsed)


def pack(
    bb: relax.BlockBuilder, expr: relax.Expr, block: int, order: ChannelOrder | None = None
) -> Packed:
    """Bring a plain [N, C, (H,) W] tensor into the packed layout."""
    packed = Packed(expr, shape_of(expr), block, order=order)
    if packed.is_plain:
        return replace(packed, expr=bb.emit(relax.op.reshape(expr, packed.memory_shape(False))))
    four = _four_dimensional(bb, expr)

    def pack_channels(x: te.Tensor) -> te.Tensor:
        return packed_ops.pack_channels(x, block, order)

    return replace(packed, expr=bb.emit_te(pack_channels, four))


def unpack(bb: relax.BlockBuilder, packed: Packed) -> relax.Expr:
    """Bring a packed tensor back to its logical shape."""
    if packed.is_plain:
        return bb.emit(relax.op.reshape(packed.expr, packed.shape))
    spatial = packed.viewed(bb, collapsed=False)

    def unpack_channels(x: te.Tensor) -> te.Tensor:
        return packed_ops.unpack_channels(x, packed.shape[1], packed.order)

    plain = bb.emit_te(unpack_channels, spatial.expr)
    return plain if len(packed.shape) == 4 else bb.emit(relax.op.reshape(plain, packed.shape))


def pack_constant(value: np.ndarray, partner: Packed) -> np.ndarray | None:
    """A constant that broadcasts against ``partner``'s logical shape, in its memory layout.

    None where the constant would enlarge the partner.
    """
    rank = len(partner.shape)
    if value.ndim > rank:
        return None
    value = value.reshape((1,) * (rank - value.ndim) + value.shape)
    if any(v not in (1, p) for v, p in zip(value.shape, partner.shape, strict=True)):
        return None
    if rank == 3:
        value = value[:, :, None, :]
    n, channels, height, width = value.shape
    if partner.collapsed and (height, width) != (1, 1):
        value = np.broadcast_to(value, (n, channels, *partner.spatial))
        value = value.reshape(n, channels, 1, -1)
        height, width = 1, value.shape[3]
    if channels == 1 and partner.shape[1] != 1:
        return value[..., None]
    value = spread_channels(value, 1, partner.block, partner.order)
    value = value.reshape(n, -1, partner.block, height, width)
    return np.ascontiguousarray(value.transpose(0, 1, 3, 4, 2))


def spread_channels(
    value: np.ndarray, axis: int, block: int, order: ChannelOrder | None
) -> np.ndarray:
    """An array with its channels, along an axis, in the slots of whole blocks; zeros elsewhere."""
    channels = value.shape[axis]
    shape = list(value.shape)
    shape[axis] = blocks_of(channels, block, order) * block
    result = np.zeros(shape, value.dtype)
    index: list = [slice(None)] * value.ndim
    index[axis] = np.arange(channels) if order is None else order.slot(np.arange(channels))
    result[tuple(index)] = value
    return result


def _four_dimensional(bb: relax.BlockBuilder, expr: relax.Expr) -> relax.Expr:
    shape = shape_of(expr)
    if len(shape) == 4:
        return expr
    return bb.emit(relax.op.reshape(expr, (shape[0], shape[1], 1, shape[2])))
