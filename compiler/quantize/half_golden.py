"""Golden data of a model in float16 or bfloat16, and how far it is from float32.

The outputs stay those of a foreign runtime in float32. How far the library may be from them is
computed: NumPy rounds every tensor of the graph that is stored in 16 bits, and adds to sums of
products what rounding after each product amounts to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from compiler.errors import EdgeccError
from compiler.package import Golden
from compiler.package.verify import difference
from compiler.program import TensorInfo
from compiler.quantize.data import CalibrationData
from compiler.quantize.float16 import Largest, Narrowed, check_ranges, magnitude, refuse_overflow
from compiler.quantize.golden import Accuracy
from compiler.quantize.half import PRODUCTS
from compiler.quantize.noise import sqnr
from compiler.quantize.ptq import node_names
from compiler.quantize.reference import Disturbance, Evaluator
from compiler.quantize.request import Request, describe_half

# Half the distance between neighbouring numbers around 1: of what is stored, and of sums. Sums of
# products of bfloat16 are of float32, rounded to odd (``schedules/intrinsics/neon_bfloat16.py``).
STORED = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
SUMMED = {"float16": 2.0**-11, "bfloat16": 2.0**-23}
SEEDS = 2
SPREAD_FACTOR = 4
# Outputs that are off by a larger part of their largest say nothing any more.
MOST_SPREAD = 0.25
_PRODUCTS = {f"relax.{name}" for name in PRODUCTS}


def prove(
    narrowed: Narrowed,
    request: Request,
    golden: Golden | None,
    data: CalibrationData | None,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
) -> tuple[Golden | None, dict[str, Any]]:
    """The golden data of the library, where there are any, and the manifest's entry.

    Args:
        golden: of the float32 model.
        data: more samples whose numbers must fit into float16.
        inputs, outputs: of the float32 model.

    Raises:
        EdgeccError: a tensor leaves the range of float16, or nothing is left of the outputs'
            precision.
    """
    accuracy, largest = None, None
    if data and narrowed.precision == "float16":
        largest = check_ranges(narrowed, data)
    if golden is not None:
        golden, accuracy, seen = half_golden(golden, narrowed, inputs, outputs, request.stored_io)
        largest = largest or seen
    recipe = request.recipe.toml(node_names(narrowed.graph))
    return golden, describe_half(narrowed, recipe, data, accuracy, largest)


def half_golden(
    golden: Golden,
    narrowed: Narrowed,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    half_io: bool,
) -> tuple[Golden, Accuracy, Largest | None]:
    """Golden data with the tolerance of 16 bits: 4 times the error that NumPy predicts.

    Args:
        golden: of the float32 model, with inputs and outputs as that has them.
        half_io: the library takes and returns float16.

    Raises:
        EdgeccError: a tensor leaves the range of float16, or nothing is left of the outputs'
            precision.
    """
    params = narrowed.graph.params
    given = {p.name: np.asarray(golden.inputs[i.name]) for p, i in zip(params, inputs, strict=True)}
    largest = None
    if narrowed.precision == "float16":  # bfloat16 has the range of float32
        ranges = _Ranges(narrowed)
        ranges.run(given)
        largest = refuse_overflow(narrowed, ranges.found)
    names = [info.name for info in outputs]
    wanted = [np.asarray(golden.outputs[name]) for name in names]
    spread, rates = 0.0, dict.fromkeys(names, math.inf)
    for seed in range(SEEDS):
        for name, got, want in zip(names, _Rounded(narrowed, seed).run(given), wanted, strict=True):
            if want.dtype.kind == "f":
                spread = max(spread, difference(got.astype(want.dtype), want))
                rates[name] = min(rates[name], sqnr(want, got))
    accuracy = Accuracy(rates)
    if not spread <= MOST_SPREAD:
        raise EdgeccError(
            f"--quantize {narrowed.precision}: outputs are off by {spread:.2g} of their largest",
            "a recipe (--recipe) leaves operators in float32; --quantize none builds all of it so",
        )
    rounding = STORED[narrowed.precision]
    made = replace(golden, tolerance=max(golden.tolerance, rounding, SPREAD_FACTOR * spread))
    if half_io:
        made = replace(made, inputs=_narrow(made.inputs), outputs=_narrow(made.outputs))
    return made, accuracy, largest


def half_tensors(infos: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
    """Inputs or outputs of a library that takes and returns float16."""
    return tuple(replace(i, dtype="float16") if i.dtype == "float32" else i for i in infos)


def _narrow(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v.astype("float16") if v.dtype == np.float32 else v for k, v in arrays.items()}


class _Ranges(Evaluator):
    """The float32 graph; notes the largest number of each result."""

    def __init__(self, narrowed: Narrowed) -> None:
        super().__init__(narrowed.graph.module)
        self._vars = {value: var for var, value in narrowed.graph.values.items()}
        self.found: dict[relax.Var, float] = {}

    def run(self, inputs: Mapping[str, np.ndarray], disturb: Disturbance = lambda x, q: x) -> list:
        for param in self.main.params:
            self._note(param, inputs[param.name])
        return super().run(inputs, disturb)

    def _call(self, call: relax.Call, values: Mapping, disturb: Disturbance) -> Any:
        result = super()._call(call, values, disturb)
        if call in self._vars:
            self._note(self._vars[call], result)
        return result

    def _note(self, var: relax.Var, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            self.found[var] = magnitude(value)


class _Rounded(Evaluator):
    """The graph in 16 bits; sums of products have the error of adding them up one by one.

    A sum of K terms is rounded K times, by up to ``SUMMED`` of what there is of it, up or down.
    """

    def __init__(self, narrowed: Narrowed, seed: int) -> None:
        super().__init__(narrowed.half.module)
        self._precision = narrowed.precision
        self._rng = np.random.default_rng(seed)

    def run(self, inputs: Mapping[str, np.ndarray], disturb: Disturbance = lambda x, q: x) -> list:
        given = {}
        for param in self.main.params:
            value = inputs[param.name]
            given[param.name] = value.astype(str(param.ty.dtype))
        return super().run(given, disturb)

    def _call(self, call: relax.Call, values: Mapping, disturb: Disturbance) -> Any:
        result = super()._call(call, values, disturb)
        dtype = str(getattr(call.ty, "dtype", ""))
        sums = "float16" if self._precision == "float16" else "float32"
        if dtype != sums:
            return result
        if getattr(call.op, "name", "") in _PRODUCTS:
            depth = _depth(call)
            typical = math.sqrt(float(np.mean(np.square(result)))) if result.size else 0.0
            error = SUMMED[self._precision] * math.sqrt(depth) * typical
            result = result + self._rng.uniform(-error, error, result.shape)
        if sums == "float32":  # what is rounded is an operator of its own
            return result
        with np.errstate(over="ignore"):
            return result.astype("float16").astype("float64")


def _depth(call: relax.Call) -> int:
    """Products in one sum, at most."""
    shape = [int(d) for d in call.args[1].ty.shape]
    if call.op.name == "relax.matmul":
        return shape[-2] if len(shape) > 1 else shape[0]
    transposed = call.op.name.endswith("transpose")
    return math.prod(shape) // shape[1 if transposed else 0]
