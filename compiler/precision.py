"""The graph that is compiled, in the precision asked for, with the outputs that prove it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler import shipped
from compiler.target import Target

if TYPE_CHECKING:
    import numpy as np
    import tvm

    from compiler.frontend import ImportedModel
    from compiler.package import Golden
    from compiler.package.entry import Quantization
    from compiler.program import TensorInfo
    from compiler.quantize.request import Request


@dataclass(frozen=True)
class Prepared:
    """Args:
    module: ready for ``compiler.passes.lower``.
    golden: None where verification is not asked for.
    inputs, outputs: as the library has them.
    scales: of inputs and outputs that are integers, by name.
    float_bits: of the floats that it computes with.
    manifest, receipt: entries about the precision; empty for a model in its own.
    """

    module: tvm.IRModule
    golden: Golden | None
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    manifest: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, Quantization] = field(default_factory=dict)
    float_bits: int = 32
    receipt: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preparation:
    """An imported model on its way.

    Args:
        verify: make golden outputs.
        exact: as of ``compiler.build``.
    """

    model: Path
    imported: ImportedModel
    target: Target
    simplified: tvm.IRModule
    consts: dict[str, np.ndarray]
    verify: bool
    exact: bool
    progress: Callable[[str, int, int], None]

    def prepare(self, request: Request | None) -> Prepared:
        """In the precision asked for, or in its own.

        Raises:
            EdgeccError: the data do not fit the model, or the precision does not fit the values.
        """
        if request is None:
            golden = self._golden(shipped.samples(self.imported.sha256))
            inputs, outputs = self.imported.inputs, self.imported.outputs
            return Prepared(self.simplified, golden, inputs, outputs)
        from compiler.quantize.request import HALVES

        return self._narrow(request) if request.precision in HALVES else self._quantize(request)

    def _golden(self, samples: Mapping[str, np.ndarray] | None) -> Golden | None:
        """Inputs and outputs of the model as it was given, where verification is asked for."""
        if not self.verify:
            return None
        from compiler.golden import make_golden
        from compiler.quantize.golden import tolerate_rounding
        from compiler.quantize.reference_model import is_quantized

        self.progress("reference outputs", 0, 1)
        inputs, outputs = self.imported.inputs, self.imported.outputs
        quantized = is_quantized(self.model)
        golden = make_golden(self.model, inputs, outputs, self.consts, samples, quantized)
        return tolerate_rounding(golden, self.simplified, inputs) if quantized else golden

    def _narrow(self, request: Request) -> Prepared:
        from compiler.quantize.data import open_data
        from compiler.quantize.float16 import narrow
        from compiler.quantize.half_golden import half_tensors, prove

        inputs, outputs = self.imported.inputs, self.imported.outputs
        precision = request.precision
        found = narrow(self.simplified, self.target, request.recipe, request.stored_io, precision)
        data = None
        if request.calibration is not None:
            data = open_data(request.calibration, self.imported.inputs, request.preprocessing)
        golden = self._golden(next(iter(data)) if data else shipped.samples(self.imported.sha256))
        self.progress("check ranges", 0, 1)
        golden, entry = prove(found, request, golden, data, inputs, outputs)
        if request.stored_io:
            inputs, outputs = half_tensors(inputs), half_tensors(outputs)
        bits = 16 if precision == "float16" else 32
        return Prepared(found.half.module, golden, inputs, outputs, entry, float_bits=bits)

    def _quantize(self, request: Request) -> Prepared:
        from compiler.quantize.data import NoData
        from compiler.quantize.golden import quantized_golden
        from compiler.quantize.ptq import node_names
        from compiler.quantize.request import describe, fulfil, io_scales, io_tensors

        inputs, outputs = self.imported.inputs, self.imported.outputs
        source = None if request.weights_only else calibration_source(self.imported, request)
        outcome = fulfil(
            request, self.imported, self.simplified, self.target, source, self.progress, self.exact
        )
        data, sample = outcome.data, shipped.samples(self.imported.sha256)
        if data is not None and not isinstance(data, NoData):
            sample = next(iter(data))
        golden = self._golden(sample)
        found, accuracy = outcome.quantized, None
        if golden is not None:
            self.progress("reference outputs", 0, 1)
            golden, accuracy = quantized_golden(golden, self.simplified, found, inputs, outputs)
        recipe = outcome.recipe.toml(node_names(found.plan.graph, found.plan.kept))
        of_inputs, of_outputs = found.of_inputs(), found.of_outputs()
        entry = describe(outcome, request, recipe, accuracy)
        return Prepared(
            found.module,
            golden,
            io_tensors(inputs, of_inputs),
            io_tensors(outputs, of_outputs),
            entry,
            {**io_scales(inputs, of_inputs), **io_scales(outputs, of_outputs)},
            receipt={key: entry[key] for key in ("kept_in_float32", "max_drop") if key in entry},
        )


def calibration_source(imported: ImportedModel, request: Request) -> Any:
    """The data of a request, or those that come with the shipped model, or none."""
    from compiler.quantize.data import NoData

    source = request.calibration
    if source is None:
        source = shipped.samples_file(imported.sha256)
    if source is None:
        return NoData(imported.inputs)
    return source
