"""``compiler.build``: from a model file to a verified package."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import EdgeccError
from compiler.target import Target, load_target

if TYPE_CHECKING:
    import numpy as np

    from compiler.package.verify import Verification
    from compiler.program import Program
    from compiler.quantize.bound import Metric
    from compiler.quantize.debug import Diagnosis
    from compiler.quantize.recipe import Recipe

Progress = Callable[[str, int, int], None]
# Where records of the tuner are looked for: this folder's, then those that come with edgecc.
DEFAULT_LOGS = (Path("tuning_logs"), Path(__file__).parent.parent / "tuning_logs")


@dataclass(frozen=True)
class BuildResult:
    """What was built.

    Args:
        path: the package folder.
        target: what it was built for.
        manifest: the content of manifest.json.
        receipt: the content of receipt.json.
        library_bytes: size of the shared library.
        verification: None when it was not asked for.
        seconds: wall time of the whole build.
    """

    path: Path
    target: Target
    manifest: dict[str, Any]
    receipt: dict[str, Any]
    library_bytes: int
    verification: Verification | None
    seconds: float


def build(
    model: str | Path,
    target: str | Path | Target = "host",
    output: str | Path | None = None,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    consts: Mapping[str, np.ndarray] | None = None,
    quantize: str = "none",
    calibration: Any = None,
    recipe: str | Path | Recipe = "auto",
    preprocessing: str | Path | Mapping[str, Any] | None = None,
    io: str = "float32",
    max_drop: str | None = None,
    validation: Any = None,
    metric: Metric | None = None,
    exact: bool = False,
    strict: bool = False,
    verify: bool = True,
    tuning_logs: Sequence[Path] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> BuildResult:
    """Compiles an ONNX model into a package.

    Args:
        model: the .onnx file.
        target: a Target, the name of one, or a TOML file.
        output: the package folder; default build/<model>-<target>.
        shapes: extents of inputs whose shape the file leaves open, by input name.
        consts: values of inputs that are compiled in, by input name.
        quantize: "int8" for integer arithmetic by calibration data; "float16" for that arithmetic,
            on CPUs that have it; "weights-int8" or "weights-int4" for weights of products and
            tables stored as integers and arithmetic in floats, which needs no data; or "none".
        calibration: what the model will see: an .npz file of arrays by input name, a folder of
            .npy files or of pictures, an iterable of arrays (or of dictionaries by input name), or
            a function that makes one. The shipped model has its own; float16 needs none.
        recipe: how to quantise: "auto", a TOML file or a ``compiler.quantize.recipe.Recipe``.
        preprocessing: of pictures: a TOML file or a dictionary of the fields of
            ``compiler.quantize.images.Preprocessing``; default: preprocessing.toml beside them.
        io: "quantized" for inputs and outputs as the integers, or float16, that are stored inside,
            or "float32".
        max_drop: bound of what quantisation may lose; operators stay float32 until it holds:
            "sqnr:20" (dB of the worst output), "agreement:1%" (labels that differ from float32's),
            "accuracy:0.1%" (points on labelled data), or "metric:0.01" with ``metric``.
        validation: what the bound is checked on, as ``calibration``; for accuracy with labels: see
            ``compiler.quantize.labelled.open_validation``. Default: every fourth calibration
            sample, which then calibrates nothing.
        metric: takes a function from a sample (arrays by input name) to outputs by name, returns
            how good that model is; more is better.
        exact: no algorithm that rounds differently from a sum of products (Winograd's).
        strict: an operator without a schedule template is an error.
        verify: make golden data and run them through the library, under emulation if need be.
        tuning_logs: folders that ``compiler.tune`` wrote, the first that knows an operator counts;
            () for none; default: ./tuning_logs, then those that come with edgecc.
        progress: called with (stage, done, total).

    Raises:
        EdgeccError: the model, the target or the output folder is at fault, or the library does
            not compute what the reference computes; then nothing is left behind.
    """
    started = time.monotonic()
    model = Path(model)
    chosen = target if isinstance(target, Target) else load_target(target)
    if output is not None:
        check_writable(Path(output))

    from compiler.quantize.request import make_request

    request = make_request(
        quantize, calibration, recipe, preprocessing, io, max_drop, validation, metric
    )

    # These import TVM and ONNX, which take a second: only once the arguments are known to be good.
    from compiler.codegen import compile_module
    from compiler.frontend import import_model
    from compiler.package import write_package
    from compiler.passes import lower, simplify
    from compiler.precision import Preparation
    from compiler.target_check import check_llvm
    from compiler.tuning.lookup import Lookup

    check_llvm(chosen)
    # Only a verified library may try what was found out about another CPU.
    lookup = Lookup(chosen, DEFAULT_LOGS if tuning_logs is None else tuning_logs, nearest=verify)
    progress("import", 0, 1)
    imported = import_model(model, dict(shapes or {}), dict(consts or {}))
    out_dir = Path(output) if output else default_output(imported.name, chosen)
    check_writable(out_dir)
    simplified = simplify(imported.module, chosen)
    preparation = Preparation(
        model, imported, chosen, simplified, dict(consts or {}), verify, exact, progress
    )
    made = preparation.prepare(request)
    progress("optimize", 0, 1)
    optimized = lower(made.module, chosen, exact)
    program = compile_module(
        optimized, chosen, imported.name, made.inputs, made.outputs, progress, lookup
    )
    if strict:
        _refuse_fallbacks(program)
    progress("link", 0, 1)
    verification: Verification | None = None

    def check(folder: Path) -> None:
        nonlocal verification
        verification = _verify(folder, progress)

    write_package(
        program,
        chosen,
        out_dir,
        golden=made.golden,
        model_sha256=imported.sha256,
        quantization=made.scales,
        extra={
            # of one core, in float16 where the model is; float32 otherwise
            "flops_per_cycle": chosen.flops_per_cycle(made.float_bits),
            "tuning_logs": lookup.digest(),
            **({"quantization": made.manifest} if made.manifest else {}),
        },
        receipt=made.receipt,
        check=check if verify else None,
    )
    return _result(out_dir, chosen, verification, time.monotonic() - started)


def default_output(model_name: str, target: Target) -> Path:
    return Path("build") / f"{model_name}-{target.name}"


def check_writable(out_dir: Path) -> None:
    """Refuses an output folder before minutes of work go into it.

    Raises:
        EdgeccError: it is no folder, or none can be made there.
    """
    if out_dir.exists() and not out_dir.is_dir():
        raise EdgeccError(f"can't write {out_dir}: it is not a folder", "choose another -o")
    parent = Path(os.path.abspath(out_dir)).parent
    while not parent.exists() and not parent.is_symlink():
        parent = parent.parent
    if not parent.is_dir():
        raise EdgeccError(f"can't write {out_dir}: {parent} is not a folder", "choose another -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise EdgeccError(
            f"can't write {out_dir}: no permission to write in {parent}", "choose another -o"
        )


def fallbacks(program: Program) -> list[str]:
    """Labels of the operators that no schedule template took."""
    return [
        call.label
        for call in program.calls
        if call.report.get("template") == "serial" or call.report.get("fallback")
    ]


def _refuse_fallbacks(program: Program) -> None:
    found = fallbacks(program)
    if found:
        names = ", ".join(dict.fromkeys(found))
        raise EdgeccError(
            f"--strict: no schedule template for {len(found)} of {len(program.calls)} operators: "
            f"{names}",
            "without --strict they run as plain loops; the receipt marks them",
        )


def diagnose(
    model: str | Path,
    target: str | Path | Target = "host",
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    consts: Mapping[str, np.ndarray] | None = None,
    quantize: str = "int8",
    calibration: Any = None,
    recipe: str | Path | Recipe = "auto",
    preprocessing: str | Path | Mapping[str, Any] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Diagnosis:
    """Compares a model quantised and in float, layer by layer; arguments as of ``build``.

    Raises:
        EdgeccError: the model, the target or the data are at fault.
    """
    from compiler.quantize.request import make_request

    if quantize != "int8":
        raise EdgeccError(
            f"--quantize {quantize}: no layers to compare", "edgecc debug looks at --quantize int8"
        )
    request = make_request(quantize, calibration, recipe, preprocessing, "float32")
    assert request is not None
    if request.weights_only:
        raise EdgeccError(
            f"--quantize {quantize}: no tensor between layers is rounded", "give --quantize int8"
        )
    chosen = target if isinstance(target, Target) else load_target(target)

    from compiler.frontend import import_model
    from compiler.passes import simplify
    from compiler.precision import calibration_source
    from compiler.quantize import debug, ptq
    from compiler.quantize.data import open_data

    progress("import", 0, 1)
    imported = import_model(Path(model), dict(shapes or {}), dict(consts or {}))
    source = calibration_source(imported, request)
    data = open_data(source, imported.inputs, request.preprocessing)
    simplified = simplify(imported.module, chosen)
    found = ptq.quantize(simplified, chosen, data, request.recipe, progress)
    progress("compare", 0, 1)
    return debug.diagnose(found, data, [info.name for info in imported.outputs])


def _verify(folder: Path, progress: Progress) -> Verification:
    """Proof before shipping: a package that fails it never reaches its place."""
    from compiler.package.verify import verify_package

    progress("verify", 0, 1)
    verification = verify_package(folder)
    progress("verify", 1, 1)
    if verification.status == "failed":
        raise EdgeccError(
            f"the built library is wrong ({verification.how}): {verification.reason}",
            "this is a bug of edgecc; --no-verify writes the package nevertheless, for a look",
        )
    return verification


def _result(
    out_dir: Path, target: Target, verification: Verification | None, seconds: float
) -> BuildResult:
    from compiler.package import open_package

    package = open_package(out_dir)
    return BuildResult(
        path=out_dir,
        target=target,
        manifest=package.manifest,
        receipt=package.receipt(),
        library_bytes=package.library.stat().st_size,
        verification=verification,
        seconds=seconds,
    )
