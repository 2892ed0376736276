"""Golden outputs of a quantised model, and how far they are from the float model's.

The chain of proof: a foreign runtime computes the float model (``compiler.golden``); NumPy computes
the imported float graph, which must agree; NumPy computes the quantised graph; the library must
agree with that up to rounding errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from compiler.errors import EdgeccError
from compiler.package import Golden
from compiler.package.verify import difference
from compiler.program import TensorInfo
from compiler.quantize.noise import sqnr
from compiler.quantize.ptq import Quantized
from compiler.quantize.qdq import DEQUANTIZE, Quantum, quantum_of
from compiler.quantize.reference import Evaluator

# Rounding errors before a number is quantised, as a share of the tensor's largest: of float32
# arithmetic, and of biases, which are counted in steps of the sums. What they push over the edge
# between two steps becomes a whole step.
ROUNDING = 2.0**-17
SEEDS = 2
SPREAD_FACTOR = 4
# An output computed in float32 from integers may be off by what one step of 8 bits would be.
STEP = 1 / 255
FLOAT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Accuracy:
    """The quantised against the float outputs on the golden input.

    Args:
        sqnr_db: signal to quantisation noise by output name; infinite where they are equal.
    """

    sqnr_db: dict[str, float]

    def rounded(self) -> dict[str, float | None]:
        """For JSON, which knows no infinity."""
        rows = self.sqnr_db.items()
        return {name: round(db, 2) if np.isfinite(db) else None for name, db in rows}


def quantized_golden(
    golden: Golden,
    simplified: tvm.IRModule,
    quantized: Quantized,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
) -> tuple[Golden, Accuracy]:
    """Golden data of a quantised graph from those of the float model.

    Args:
        golden: of the float model.
        simplified: the float graph that was quantised.
        inputs, outputs: of the float model.

    The tolerance is one step of an 8-bit output, or more for a model that amplifies rounding: 4
    times what its outputs move when each number that is quantised is off by rounding errors of
    float32.

    Raises:
        EdgeccError: the imported float graph does not compute what the model computes.
    """
    given = {
        param.name: golden.inputs[info.name]
        for param, info in zip(simplified["main"].params, inputs, strict=True)
    }
    names = [info.name for info in outputs]
    exact = dict(zip(names, Evaluator(simplified).run(given), strict=True))
    for name in names:
        off = difference(exact[name], np.asarray(golden.outputs[name]))
        if not off <= max(FLOAT_TOLERANCE, golden.tolerance):
            raise EdgeccError(
                f"the imported float model is wrong: output '{name}' is off by {off:.3g}",
                "this is a bug of edgecc; --no-verify builds nevertheless",
            )
    stored = dict(zip(inputs, quantized.of_inputs(), strict=True))
    fed = {
        info.name: np.asarray(golden.inputs[info.name])
        if quantum is None
        else quantum.quantize(golden.inputs[info.name])
        for info, quantum in stored.items()
    }
    params = [param.name for param in simplified["main"].params]
    given = dict(zip(params, fed.values(), strict=True))
    evaluator = Evaluator(quantized.module)
    wanted = dict(zip(names, evaluator.run(given), strict=True))
    spread, steps = _spread(evaluator, given, list(wanted.values()))
    if any(quantum is not None for quantum in quantized.of_outputs()):
        steps = max(1, SPREAD_FACTOR * steps)
    # Without stored activations nothing is rounded to steps.
    step = _step(quantized.module, wanted.values()) if quantized.activations else 0.0
    made = replace(
        golden,
        inputs=fed,
        outputs=wanted,
        reference="NumPy on the quantised graph",
        tolerance=max(golden.tolerance, step, SPREAD_FACTOR * spread),
        integer_tolerance=max(golden.integer_tolerance, steps),
    )
    real = {
        name: wanted[name] if quantum is None else quantum.dequantize(wanted[name])
        for name, quantum in zip(names, quantized.of_outputs(), strict=True)
    }
    return made, Accuracy({name: sqnr(exact[name], real[name]) for name in names})


def tolerate_rounding(
    golden: Golden, module: tvm.IRModule, inputs: tuple[TensorInfo, ...]
) -> Golden:
    """Golden data of a model that came quantised, with a tolerance that allows for its rounding.

    The outputs stay those of the foreign runtime. The tolerance is as for ``quantized_golden``;
    outputs that are stored as integers of 8 or 16 bits may be one step off.

    Args:
        module: the imported graph.
    """
    given = {
        param.name: golden.inputs[info.name]
        for param, info in zip(module["main"].params, inputs, strict=True)
    }
    evaluator = Evaluator(module)
    exact = evaluator.run(given)
    spread, steps = _spread(evaluator, given, exact)
    integers = [value.dtype.itemsize for value in exact if value.dtype.kind in "iu"]
    if integers and max(integers) <= 2:
        steps = max(steps, 1)
    return replace(
        golden,
        tolerance=max(golden.tolerance, _step(module, exact), SPREAD_FACTOR * spread),
        integer_tolerance=max(golden.integer_tolerance, steps),
    )


def _step(module: tvm.IRModule, outputs: Iterable[np.ndarray]) -> float:
    """The largest step of an output, as a share of its largest value: at least one of 8 bits."""
    main = module["main"]
    made = {b.var: b.value for block in main.body.blocks for b in block.bindings}
    result = main.body.body
    while result in made and not isinstance(made[result], relax.Call):
        result = made[result]
    results = list(result.fields) if isinstance(result, relax.Tuple) else [result]
    step = STEP
    for var, value in zip(results, outputs, strict=True):
        while isinstance(made.get(var), relax.Var):
            var = made[var]
        quantum = quantum_of(made.get(var), DEQUANTIZE)
        largest = float(np.abs(value).max(initial=0.0))
        if quantum is not None and largest:
            step = max(step, float(quantum.scale.max()) / largest)
    # A whole step and what its float has been rounded by.
    return 1.001 * step


def _spread(
    evaluator: Evaluator, given: dict[str, np.ndarray], wanted: list[np.ndarray]
) -> tuple[float, int]:
    """How far rounding errors move floating-point outputs, and integers, in steps."""
    spread, steps = 0.0, 0
    for seed in range(SEEDS):
        for got, want in zip(evaluator.run(given, _Noise(seed)), wanted, strict=True):
            off = difference(got, want)
            if want.dtype.kind == "f":
                spread = max(spread, off)
            else:
                steps = max(steps, int(off))
    return spread, steps


class _Noise:
    """Adds rounding errors to what is about to be quantised."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, values: np.ndarray, quantum: Quantum | None) -> np.ndarray:
        largest = float(np.abs(values).max(initial=0.0)) * ROUNDING
        return values + self.rng.uniform(-largest, largest, values.shape)
