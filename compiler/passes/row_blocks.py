"""Whether a depthwise convolution and the 1x1 convolution behind it gain by going block by block.

What lies between them then stays in the cache instead of going to L2 or memory and back. The price:
rows that the windows of two blocks share come into L1 twice, and the 1x1 convolution's weights come
in again for each block. Counted are lines that miss in each cache, at the prices of the target's
fit (``edgecc estimate``) where there is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from compiler.target import Target

# Cycles of a line that misses in L1 and in L2, without a fit: with an L3 behind L2, and without.
LINE_CYCLES, LINE_CYCLES_WITHOUT_L3 = (0.6, 2.0), (4.0, 8.0)
# Sizes of L2 that go to and from an L3 without being noticed.
STREAMED = 4
# Pixels between two readings of weights that do not stay in L1: a tile's, and what a convolution
# of its own, which sums up parts of the depth, would have read as well.
PIXELS_PER_READING = 12
# Idle cores weigh less than work: a library also runs on one thread.
IDLE_WEIGHT = 0.25


@dataclass(frozen=True)
class Pair:
    """Both convolutions, as far as memory and work see them.

    Args:
        in_height: rows of the depthwise convolution's input, as wide in proportion.
        height, width: of the result; both have ``channels`` between them.
        channels, out_channels: with those that pad them to whole vectors.
        kernel_height, kernel_width: of the depthwise convolution.
        element_bits: of all tensors.
    """

    in_height: int
    height: int
    width: int
    channels: int
    out_channels: int
    kernel_height: int
    kernel_width: int
    element_bits: int = 32

    @property
    def stride(self) -> float:
        """Rows of the input for each row of the result."""
        return self.in_height / self.height

    @property
    def input_bytes(self) -> float:
        return self.result_bytes * self.stride**2

    @property
    def result_bytes(self) -> int:
        """Of the depthwise convolution's result."""
        return self.element_bits // 8 * self.height * self.width * self.channels

    @property
    def weight_bytes(self) -> int:
        """Of the 1x1 convolution."""
        return self.element_bits // 8 * self.channels * self.out_channels

    @property
    def macs(self) -> int:
        taps = self.kernel_height * self.kernel_width
        return self.height * self.width * self.channels * (taps + self.out_channels)


def choose_rows(target: Target, pair: Pair) -> int | None:
    """Rows of the result in a block; None where both convolutions are better off on their own."""
    if not _pays(target):
        return None
    best, best_cycles = None, _cycles_apart(target, pair)
    for rows in range(1, pair.height):
        if pair.height % rows == 0 and _cycles_in_blocks(target, pair, rows) < best_cycles:
            best, best_cycles = rows, _cycles_in_blocks(target, pair, rows)
    return best


def _pays(target: Target) -> bool:
    """Where it was measured to pay, see docs/performance.md.

    On x86 prefetchers hide as much. On other vector units LLVM computes the addresses of all rows
    for each block and channel and keeps them on the stack: up to a tenth more instructions.
    """
    return target.arch == "aarch64" or target.vector.bits == 0


def _cycles_apart(target: Target, pair: Pair) -> float:
    """Work, and lines that come into L1 or L2 for one of both ways only."""
    _, of_l2 = _line_cycles(target)
    caches = target.caches
    near = caches.l2 or caches.l1d
    # Streams to and from an L3 are prefetched, up to about this size. A fit has that in its price.
    far = near if target.estimate is not None or not caches.l3 else STREAMED * near
    lines = pair.result_bytes / caches.line
    beyond = 2 * lines * _spilt(far, pair.input_bytes + pair.result_bytes)
    return of_l2 * beyond + _work_cycles(target, pair)


def _cycles_in_blocks(target: Target, pair: Pair, rows: int) -> float:
    caches, blocks = target.caches, pair.height // rows
    of_l1, of_l2 = _line_cycles(target)
    result, weights = pair.result_bytes / caches.line, pair.weight_bytes / caches.line
    again = max(0.0, pair.kernel_height - pair.stride) / (pair.stride * rows)
    into_l1 = again * pair.input_bytes / caches.line
    if pair.weight_bytes > caches.l1d:
        into_l1 += weights * pair.height * pair.width / PIXELS_PER_READING
    block = (pair.result_bytes + (1 + again) * pair.input_bytes) / blocks
    spilt = _spilt(caches.l2 or caches.l1d, block + pair.weight_bytes)
    beyond = (2 * result + (blocks - 1) * weights) * spilt
    cycles = of_l1 * into_l1 + of_l2 * beyond + _work_cycles(target, pair)
    idle = math.ceil(blocks / target.cores) * target.cores / blocks - 1
    return cycles * (1 + IDLE_WEIGHT * idle)


def _work_cycles(target: Target, pair: Pair) -> float:
    """Multiply-adds, and the loads around them."""
    steps = pair.macs / target.vector.lanes(pair.element_bits)
    if target.estimate is not None:
        return 1.25 * steps * target.estimate.cycles_per_instruction
    return 1.25 * steps / target.vector.fma_per_cycle


def _line_cycles(target: Target) -> tuple[float, float]:
    fit = target.estimate
    if fit is not None:
        # A fit that prices L1 misses at nothing could not tell them from L2 misses.
        return fit.cycles_per_l1d_miss or LINE_CYCLES_WITHOUT_L3[0], fit.cycles_per_l2_miss
    return LINE_CYCLES if target.caches.l3 else LINE_CYCLES_WITHOUT_L3


def _spilt(cache: int, nbytes: float) -> float:
    """Which part of so many bytes is gone from a cache when it is needed again.

    Read off the simulated caches of the networks in docs/performance.md.
    """
    return min(1.0, max(0.0, nbytes / cache - 0.7) / 0.5)
