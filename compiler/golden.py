"""Golden data: inputs, and the outputs that a runtime other than ours computes from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from compiler.errors import EdgeccError
from compiler.package import Golden
from compiler.package.verify import difference
from compiler.program import TensorInfo

SEED = 0
TOLERANCE = 1e-4
# Another order of summation moves the result by a few times what one bit on the inputs does.
SPREAD_FACTOR = 4
Arrays = dict[str, np.ndarray]


def make_golden(
    model: Path,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    consts: Mapping[str, np.ndarray],
    samples: Mapping[str, np.ndarray] | None = None,
    quantized: bool = False,
) -> Golden:
    """Runs the model in ONNX Runtime, or in onnx's own reference where that is not installed.

    Args:
        consts: values of the graph inputs that were compiled in.
        samples: real data by input name, first axis the sample; used where they fit.
        quantized: the model computes with integers: no kernels for them that saturate.

    The tolerance is 1e-4, or more for a model that amplifies rounding: 4 times what the reference's
    own outputs move when each input moves by one bit.

    Raises:
        EdgeccError: no reference can run the model on any of the inputs tried; the message gives
            its last words.
    """
    given = _typed(model, consts)
    problem = ""
    for run, reference in _references(model, quantized):
        finished = False
        for candidate in _candidates(inputs, samples):
            try:
                results = run({**candidate, **given}, [tensor.name for tensor in outputs])
            except Exception as error:  # whatever a foreign runtime raises
                problem = (str(error).strip() or type(error).__name__).splitlines()[0]
                continue
            finished = True
            arrays = _named(model, outputs, results)
            if all(_finite(value) for value in arrays.values()):
                tolerance = TOLERANCE
                with contextlib.suppress(Exception):  # the inputs may have to be exact
                    noisy = run({**_nudged(candidate), **given}, [o.name for o in outputs])
                    tolerance = max(TOLERANCE, SPREAD_FACTOR * _spread(arrays.values(), noisy))
                return Golden(candidate, arrays, reference, tolerance)
            problem = f"{reference} computes infinities or NaN from every input tried"
        if finished:  # another runtime would say the same, slowly
            break
    raise EdgeccError(
        f"{model}: no reference outputs for verification: {problem}",
        "--no-verify builds without them",
    )


def random_inputs(
    inputs: tuple[TensorInfo, ...], low: float | None = None, seed: int = SEED
) -> Arrays:
    """Seeded inputs.

    Floats are standard normal, or uniform from ``low`` to 1 where that is given. Integers of 32
    and 64 bits are 0 and 1: they may be indices or masks, and those are always in range. Narrow
    integers are data and take their whole range.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for tensor in inputs:
        dtype = np.dtype(tensor.dtype)
        if dtype.kind == "f":
            unscaled = (
                rng.standard_normal(tensor.shape)
                if low is None
                else rng.uniform(low, 1.0, tensor.shape)
            )
            values = np.asarray(unscaled)
        elif dtype.kind in "iu" and dtype.itemsize <= 2:
            limits = np.iinfo(dtype)
            values = np.asarray(rng.integers(limits.min, limits.max, tensor.shape, endpoint=True))
        else:
            values = np.asarray(rng.integers(0, 2, tensor.shape))
        arrays[tensor.name] = values.astype(dtype)
    return arrays


def _nudged(arrays: Arrays) -> Arrays:
    """Floating-point inputs moved to a neighbouring number, up or down at random."""
    rng = np.random.default_rng(SEED + 1)

    def nudge(value: np.ndarray) -> np.ndarray:
        if value.dtype.kind != "f":
            return value
        up = np.asarray(np.inf, value.dtype)
        return np.nextafter(value, np.where(rng.integers(0, 2, value.shape), up, -up))

    return {name: nudge(value) for name, value in arrays.items()}


def _spread(wanted: Iterable[np.ndarray], noisy: Iterable[np.ndarray]) -> float:
    """Largest max|a - b| / max|b| over the floating-point outputs."""
    spread = 0.0
    for want, got in zip(wanted, noisy, strict=True):
        if want.dtype.kind == "f" and want.size:
            moved = difference(got, want)
            spread = max(spread, moved if np.isfinite(moved) else 0.0)
    return spread


def _candidates(
    inputs: tuple[TensorInfo, ...], samples: Mapping[str, np.ndarray] | None
) -> Iterator[Arrays]:
    first = {
        tensor.name: samples[tensor.name][:1]
        for tensor in inputs
        if samples is not None and tensor.name in samples
    }
    if first and all(
        tensor.name in first
        and first[tensor.name].shape == tensor.shape
        and first[tensor.name].dtype == np.dtype(tensor.dtype)
        for tensor in inputs
    ):
        yield first
    yield random_inputs(inputs)
    yield random_inputs(inputs, low=0.1)  # for Log, Sqrt, Acos and their like


def _references(model: Path, quantized: bool) -> Iterator[tuple]:
    with contextlib.suppress(Exception):  # not installed, or an operator that it does not know
        yield _onnxruntime(model, quantized), "ONNX Runtime " + metadata.version("onnxruntime")
    yield _onnx_reference(model), "onnx.reference " + metadata.version("onnx")


def _onnxruntime(model: Path, quantized: bool):
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # the same bits on every machine
    source: str | bytes = str(model)
    from compiler.quantize.reference_model import computes_coarsely, exact_model

    if quantized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if quantized or computes_coarsely(model):
        source = exact_model(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    declared = {argument.name for argument in session.get_inputs()}
    declared |= {argument.name for argument in session.get_overridable_initializers()}

    def run(inputs: Arrays, outputs: list[str]) -> list:
        known = {name: value for name, value in inputs.items() if name in declared}
        return session.run(outputs, known)

    return run


def _onnx_reference(model: Path):
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(model))

    def run(inputs: Arrays, outputs: list[str]) -> list:
        with np.errstate(all="ignore"):
            return list(evaluator.run(outputs, inputs))

    return run


def _typed(model: Path, consts: Mapping[str, np.ndarray]) -> Arrays:
    """The constants in the dtypes that the model declares."""
    if not consts:
        return {}
    import onnx
    from onnx.helper import tensor_dtype_to_np_dtype

    graph = onnx.load(str(model), load_external_data=False).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    return {
        name: np.asarray(value).astype(tensor_dtype_to_np_dtype(types[name]))
        for name, value in consts.items()
    }


def _named(model: Path, outputs: tuple[TensorInfo, ...], results: list) -> Arrays:
    arrays = {}
    for tensor, value in zip(outputs, results, strict=True):
        array = np.asarray(value)
        if array.dtype != np.dtype(tensor.dtype) or array.shape != tensor.shape:
            raise EdgeccError(
                f"{model}: output '{tensor.name}' was imported as {tensor.dtype} {tensor.shape}, "
                f"the reference makes {array.dtype} {array.shape}"
            )
        arrays[tensor.name] = array
    return arrays


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
