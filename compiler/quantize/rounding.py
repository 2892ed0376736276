"""Integers rounded up or down so that sums of products change least.

The mean square of what rounding does to a sum of products w'x is d'Hd, where d is what it does to
the weights and H = E[x x'] (Nagel et al., "Up or Down? Adaptive Rounding for Post-Training
Quantization", ICML 2020, equation 8). The paper relaxes this binary problem (section 3.3) and
descends by Adam. The quadratic form is known here, so what one change of rounding gains is known,
too: coordinates are visited in turns and rounded the other way where that gains, until none does.
Blocks of coordinates share one product of matrices, as in Frantar et al., "GPTQ", 2023, section
3.3.

H of few samples is singular or nearly so: some roundings cost nothing on these samples and much on
others. So H is drawn towards a multiple of the identity, as far as the number of samples suggests
(``shrunk``). Nearest rounding is best for the identity; so what is best for both together is no
worse than it on the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.passes.dot_layout import DotLayout, joined
from compiler.quantize.scales import WEIGHT_LIMIT

MAX_PASSES = 20
MAX_WORK = 2e11  # multiply-accumulates of one operator's passes
BLOCK = 64  # coordinates between two products of matrices
SMALLEST_GAIN = 1e-6  # of a step's own error


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Which weights of a sum are added in int16, and how large their sum may be.

    Args:
        others: for each coordinate of the depth those that join it; -1 for none.
        most: bound of those of one sign.
    """

    others: np.ndarray
    most: int

    def allow(self, made: np.ndarray, k: int, new: np.ndarray) -> np.ndarray:
        """Whether [groups, depth, channels] may have new values [groups, channels] at ``k``."""
        others = made[:, self.others[k][self.others[k] >= 0]]
        up = np.maximum(others, 0).sum(axis=1) + np.maximum(new, 0)
        down = np.minimum(others, 0).sum(axis=1) + np.minimum(new, 0)
        return (up <= self.most) & (down >= -self.most)


def neighbours(layout: DotLayout, depth: int, taps: int) -> Neighbours:
    """Those of a layout with a bound; channels are the outer axis of the depth."""
    assert layout.most_neighbours is not None
    channels = np.arange(1, depth // taps + 1)  # 0: padding
    rows = joined(channels[None], 1, layout.parts).reshape(-1, 2 * layout.parts)
    others = np.full((depth, 2 * layout.parts - 1), -1)
    for row in rows:
        for channel in row[row > 0]:
            rest = row[(row > 0) & (row != channel)] - 1
            for tap in range(taps):
                others[(channel - 1) * taps + tap, : len(rest)] = rest * taps + tap
    return Neighbours(others, layout.most_neighbours)


def shrunk(moments: np.ndarray, samples: int) -> np.ndarray:
    """Moments [groups, depth, depth] as estimated from so many samples, nearer to multiples of the
    identity.

    Chen et al., "Shrinkage Algorithms for MMSE Covariance Estimation", 2010, equation 23.
    """
    depth = moments.shape[1]
    trace = np.trace(moments, axis1=1, axis2=2).astype("float64")
    square = np.square(moments, dtype="float64").sum(axis=(1, 2))
    spread = (samples + 1 - 2 / depth) * (square - trace**2 / depth)
    share = ((1 - 2 / depth) * square + trace**2) / np.where(spread > 0, spread, np.inf)
    share = np.clip(np.where(spread > 0, share, 1.0), 0.0, 1.0)
    result = (moments * (1 - share)[:, None, None]).astype("float32")
    result[:, np.arange(depth), np.arange(depth)] += (share * trace / depth)[:, None]
    return result


def round_sums(
    moments: Sequence[np.ndarray],
    parts: Sequence[slice],
    steps: np.ndarray,
    values: np.ndarray,
    limit: Neighbours | None = None,
) -> np.ndarray:
    """int8 [groups, depth, channels]: ``values`` with some steps towards ``steps`` or past them.

    Args:
        moments: float32 [groups, part, part] for each part of the depth.
        steps: the exact weights over their scale, of the same shape.
        values: integers to start from.
        limit: of neighbours along the depth.
    """
    made = values.astype("float32")
    for moment, part in zip(moments, parts, strict=True):
        depth = part.stop - part.start
        work = depth * depth * values.shape[0] * values.shape[2]
        error = (made[:, part] - steps[:, part]).astype("float32")
        for _ in range(int(min(max(MAX_WORK / work, 1), MAX_PASSES))):
            if not _pass(moment, part.start, error, made, limit):
                break
    return made.astype("int8")


def _pass(
    moment: np.ndarray,
    first: int,
    error: np.ndarray,
    made: np.ndarray,
    limit: Neighbours | None,
) -> bool:
    """Visits every coordinate that may gain; whether any changed."""
    changed = False
    depth = moment.shape[1]
    for start in range(0, depth, BLOCK):
        end = min(start + BLOCK, depth)
        slope = np.matmul(moment[:, start:end], error)  # [groups, block, channels]
        power = np.diagonal(moment[:, start:end, start:end], axis1=1, axis2=2)[:, :, None]
        for k in range(start, end):
            # the other neighbour in steps: where it is already exact, there is none
            step = -np.sign(error[:, k])
            own = power[:, k - start]
            better = 2 * step * slope[:, k - start] < -(1 + SMALLEST_GAIN) * own
            if not better.any():
                continue
            new = made[:, first + k] + step
            better &= np.abs(new) <= WEIGHT_LIMIT
            if limit is not None:
                better &= limit.allow(made, first + k, new)
            if not better.any():
                continue
            changed = True
            step *= better
            made[:, first + k] += step
            error[:, k] += step
            slope[:, k + 1 - start :] += moment[:, k + 1 : end, k, None] * step[:, None]
    return changed
