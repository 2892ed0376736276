"""Products of bfloat16, which keep float32's range and 8 of its 24 bits, added up in float32.

    before:  y = conv2d(x, w);  z = relu(y)                                    float32
    after:   y = conv2d(astype(x, "bfloat16"), w', out_dtype="float32");  z = relu(y)

Convolutions without groups and products with constant matrices are in bfloat16 where that takes
fewer cycles by a count of instructions. A tensor that one of them reads is stored as bfloat16, and
all its readers see it rounded, unless it is an input or output of the model. Everything else is
computed in float32, and stored so:

- depthwise and grouped convolutions: neighbouring channels share no inputs, so there are no sums
  for one instruction, and there is no other arithmetic in bfloat16;
- products of two computed tensors: their operands would have to be arranged at run time;
- what is computed element by element, normalisations, softmax: there are no instructions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import ml_dtypes
import numpy as np
import tvm
from tvm import relax

from compiler.passes import winograd
from compiler.passes.dot_layout import BFLOAT16, DotLayout
from compiler.passes.pack_bfloat16 import convolution_layout, matmul_layout
from compiler.passes.pack_convolutions import window_of
from compiler.passes.packed_values import constant_of, shape_of, spatial_of
from compiler.passes.rewriter import Rewriter
from compiler.quantize.half import HalfModule
from compiler.target import Target

PRODUCTS = ("relax.matmul", "relax.nn.conv1d", "relax.nn.conv2d")
# Of float32's arithmetic: what narrow products must stay below to be worth their rounding.
CLEAR_WIN = 0.9
# Instructions for a vector of float32 that is rounded and stored as bfloat16.
ROUNDING = 1.0
# What loads and, for pairs of pixels, putting halves of vectors together add to the products.
OVERHEAD, OVERHEAD_OF_PAIRS = 1.05, 1.35


def compute_in_bfloat16(
    module: tvm.IRModule, target: Target, kept: Collection[relax.Var] = ()
) -> HalfModule:
    """A simplified module whose products are of bfloat16 where that is faster.

    Args:
        kept: results that are computed in float32.
    """
    products = {
        binding.var
        for block in module["main"].body.blocks
        for binding in block.bindings
        if binding.var not in kept and pays(binding.value, target)
    }
    rewriter = _Rounder(products)
    return HalfModule(rewriter.rewrite(module), rewriter.narrowed, frozenset(products))


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The nearest numbers of bfloat16, ties to even; finite ones stay finite."""
    limit = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    finite = np.where(np.isfinite(values), np.clip(values, -limit, limit), values)
    return finite.astype(ml_dtypes.bfloat16)


def pays(value: relax.Expr, target: Target) -> bool:
    """Whether bfloat16 computes an operator of the simplified module in fewer cycles."""
    if not isinstance(value, relax.Call) or str(getattr(value.ty, "dtype", "")) != "float32":
        return False
    name = getattr(value.op, "name", "")
    if name not in PRODUCTS or not isinstance(value.args[0], relax.Var):
        return False
    if name == "relax.matmul":
        return _product_pays(value, target)
    return _convolution_pays(value, target)


def _product_pays(call: relax.Call, target: Target) -> bool:
    left, right = (shape_of(a) for a in call.args)
    if len(right) != 2 or len(left) < 2 or constant_of(call.args[1]) is None:
        return False
    (depth, columns), rows = right, math.prod(left[:-1])
    dot = matmul_layout(target, left)
    if dot is None:
        return False
    products = rows * depth * math.ceil(columns / target.vector.lanes())
    floats = OVERHEAD * products / target.vector.fma_per_cycle
    floats += winograd.weight_cycles(target, 4 * depth * columns)
    return _cycles(target, dot, rows, depth, columns, rows * depth) < CLEAR_WIN * floats


def _convolution_pays(call: relax.Call, target: Target) -> bool:
    attrs, out = call.attrs, shape_of(call)
    weight, dot = constant_of(call.args[1]), convolution_layout(target, out)
    layouts = (attrs.data_layout, attrs.kernel_layout)
    if dot is None or weight is None or int(attrs.groups) != 1:
        return False
    if layouts not in (("NCHW", "OIHW"), ("NCW", "OIW")):
        return False
    window, given = window_of(call), shape_of(call.args[0])
    shape = (*given[:2], *spatial_of(given))
    floats, _ = winograd.float_costs(target, window, shape, out[1], exact=False)
    block = dot.input_block(shape[1], window.dilation[1])
    depth = math.prod(window.kernel) * math.ceil(shape[1] / block) * block
    pixels = out[0] * math.prod(out[2:])
    return _cycles(target, dot, pixels, depth, out[1], math.prod(shape)) < CLEAR_WIN * floats


def _cycles(
    target: Target, dot: DotLayout, rows: int, depth: int, columns: int, operands: int
) -> float:
    """Of a product of bfloat16, rows x depth by depth x columns.

    Args:
        operands: that are rounded for it.
    """
    lanes = target.vector.lanes()
    # Of one instruction: each register of operands meets one of the other once, or twice.
    macs = 2 * lanes * (2 if dot.pairs_pixels else 1)
    padded = math.ceil(columns / dot.block) * dot.block
    products = rows * depth * padded / macs
    products *= OVERHEAD_OF_PAIRS if dot.pairs_pixels else OVERHEAD
    instructions = products + ROUNDING * operands / lanes
    nbytes = 2 * depth * columns
    return instructions / target.vector.fma_per_cycle + winograd.weight_cycles(target, nbytes)


class _Rounder(Rewriter):
    """Rewrites products, and rounds what they read."""

    def __init__(self, products: set[relax.Var]) -> None:
        super().__init__()
        self.products = products
        self.narrowed: set[relax.Var] = set()
        # Of tensors of the old function: as bfloat16, and widened again for other readers.
        self.stored: set[relax.Var] = set()
        self.copies: dict[relax.Var, relax.Expr] = {}
        self.widened: dict[relax.Var, relax.Expr] = {}
        for name in PRODUCTS:
            self.handlers[name] = self._product

    def begin(self, main: relax.Function) -> None:
        bindings = {b.var: b.value for block in main.body.blocks for b in block.bindings}
        for product in self.products:
            self.narrowed.add(bindings[product].args[0])
        # The model's inputs and outputs are in memory as they are.
        self.stored = self.narrowed - set(main.params) - _outputs(main.body.body, bindings)

    def plain(self, expr: relax.Expr) -> relax.Expr:
        """What is stored as bfloat16 is read so."""
        if not isinstance(expr, relax.Var) or expr not in self.stored:
            return super().plain(expr)
        if expr not in self.widened:
            wide = relax.op.astype(self._narrow(expr), "float32")
            self.widened[expr] = self.emit(wide, "widened")
        return self.widened[expr]

    def _narrow(self, expr: relax.Var) -> relax.Expr:
        if expr not in self.copies:
            narrow = relax.op.astype(super().plain(expr), BFLOAT16)
            self.copies[expr] = self.emit(narrow, "rounded")
        return self.copies[expr]

    def _product(self, call: relax.Call) -> relax.Expr | None:
        if self.bound not in self.products:
            return None
        data = self._narrow(call.args[0])
        weight = relax.const(to_bfloat16(call.args[1].value.numpy()))
        if call.op.name == "relax.matmul":
            return self.emit(relax.op.matmul(data, weight, out_dtype="float32"))
        convolve = getattr(relax.op.nn, call.op.name.removeprefix("relax.nn."))
        a = call.attrs
        return self.emit(
            convolve(data, weight, a.strides, a.padding, a.dilation, out_dtype="float32")
        )


def _outputs(body: relax.Expr, bindings: Mapping[relax.Var, relax.Expr]) -> set[relax.Var]:
    """The tensors that a function returns."""
    if isinstance(body, relax.Tuple):
        return {var for field in body.fields for var in _outputs(field, bindings)}
    value = bindings.get(body)
    if isinstance(value, (relax.Var, relax.Tuple)):
        return _outputs(value, bindings)
    return {body}
