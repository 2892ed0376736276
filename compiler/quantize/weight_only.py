"""Weights that are stored as integers while the operator that reads them computes floats.

For products of few rows, which wait for their weights, and for tables of rows (embeddings), of
which few are read. Activations stay as they are, so that no data are needed.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from compiler.passes.packed_values import constant_of
from compiler.quantize.groups import Groups, emit_groups
from compiler.quantize.plan import Plan
from compiler.quantize.qdq import emit_dequantize
from compiler.quantize.recipe import Choice
from compiler.quantize.regions import Region, weights_of
from compiler.quantize.rows import emit_rows, table_of
from compiler.quantize.scales import SMALLEST_SCALE, quantize_weights, symmetric

# Matrices and tables with fewer values stay as they are: there is nothing to win.
SMALLEST_MATRIX = 1 << 12
SMALLEST_TABLE = 1 << 15
DEFAULT_GROUP = 32
# Scales that are tried for values of 4 bits, in units of the one that maps the largest magnitude
# to -8; columns that are looked at together.
_FACTORS = np.concatenate([np.linspace(0.8, 1.15, 8), -np.linspace(0.8, 1.15, 8)])
_COLUMNS = 512


def stored_call(
    builder: relax.BlockBuilder,
    call: relax.Call,
    choice: Choice,
    module: tvm.IRModule,
) -> relax.Expr | None:
    """A call with its constant matrix or table stored as the recipe says; None for any other.

    Args:
        call: with new operands.
        module: whose functions it calls.
    """
    if choice.weights == "float32":
        return None
    if getattr(call.op, "name", "") == "relax.matmul":
        left, right = call.args
        value = constant_of(right)
        if value is None or not _is_large_matrix(value) or constant_of(left) is not None:
            return None
        return relax.op.matmul(left, stored_matrix(builder, value, choice))
    table = table_of(call, module)
    if table is None or table.size < SMALLEST_TABLE or table.dtype != np.float32:
        return None
    quantum = symmetric(table, 0)
    index = call.args[1].fields[1]
    return emit_rows(builder, quantize_weights(table, quantum), quantum, index)


def _is_large_matrix(value: np.ndarray) -> bool:
    return value.dtype == np.float32 and value.ndim == 2 and value.size >= SMALLEST_MATRIX


def stored_as(plan: Plan, region: Region) -> str | None:
    """The precision ("weights-int8", "weights-int4") of a product of floats with stored weights."""
    if region.kind != "matmul" or plan.is_integer(region):
        return None
    weights = plan.choices[region].weights
    stored = weights != "float32" and _is_large_matrix(weights_of(plan.graph, region)[0])
    return f"weights-{weights}" if stored else None


def stored_matrix(builder: relax.BlockBuilder, value: np.ndarray, choice: Choice) -> relax.Expr:
    """The real matrix of integers for a float32 [K, N]."""
    if choice.weights == "int4":
        return emit_groups(builder, quantize_to_4_bits(value, choice.group or DEFAULT_GROUP))
    if choice.group:
        return emit_groups(builder, quantize_to_8_bits(value, choice.group))
    quantum = symmetric(value, 1)
    return emit_dequantize(builder, relax.const(quantize_weights(value, quantum)), quantum)


def quantize_to_8_bits(value: np.ndarray, group: int) -> Groups:
    """float32 [K, N] as -127 to 127."""
    split = _in_groups(value, group)
    scale = np.maximum(np.abs(split).max(axis=1) / 127, SMALLEST_SCALE).astype("float32")
    integers = np.rint(split / scale[:, None]).clip(-127, 127).astype("int8")
    integers = integers.reshape(-1, value.shape[1])[: len(value)]
    return Groups(np.ascontiguousarray(integers), scale, np.zeros(scale.shape, "int8"), group, 8)


def quantize_to_4_bits(value: np.ndarray, group: int) -> Groups:
    """float32 [K, N] as 0 to 15 around 8.

    Of each group's scales that are tried, of either sign since one side has a step more, the one
    with the least squared error is taken, after a least squares fit to the steps that it makes.
    """
    split = _in_groups(value, group)
    integers = np.empty(split.shape, "int8")
    scale = np.empty((len(split), value.shape[1]), "float32")
    for start in range(0, value.shape[1], _COLUMNS):
        part = slice(start, start + _COLUMNS)
        integers[..., part], scale[:, part] = _fit(split[..., part])
    integers = integers.reshape(-1, value.shape[1])[: len(value)] + np.int8(8)
    zero = np.full(scale.shape, 8, "int8")
    return Groups(np.ascontiguousarray(integers), scale, zero, group, 4)


def _in_groups(value: np.ndarray, group: int) -> np.ndarray:
    """[K, N] -> [G, group, N], zeros beyond K."""
    value = np.pad(value, [(0, -len(value) % group), (0, 0)])
    return value.reshape(-1, group, value.shape[1])


def _fit(split: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps -8 to 7 of [G, group, N], and scales [G, N]."""
    at = np.abs(split).argmax(axis=1)[:, None]
    extreme = np.take_along_axis(split, at, axis=1)[:, 0] / -8
    unit = np.where(np.abs(extreme) < SMALLEST_SCALE, SMALLEST_SCALE, extreme)
    best = np.full(unit.shape, -np.inf, "float32")
    scale, steps = unit.copy(), np.zeros(split.shape, "int8")
    for factor in _FACTORS:
        inverse = 1 / (unit * np.float32(factor))
        tried = np.rint(split * inverse[:, None]).clip(-8, 7)
        along = np.einsum("gkn,gkn->gn", split, tried)
        length = np.maximum(np.einsum("gkn,gkn->gn", tried, tried), 1)
        gain = along * along / length  # |w|^2 less the error of the fitted scale
        better = gain > best
        best = np.where(better, gain, best)
        scale = np.where(better & (along != 0), along / length, scale)
        steps = np.where(better[:, None], tried, steps).astype("int8")
    return steps, scale.astype("float32")
