"""Writes the package folder: all of it, or nothing."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compiler.errors import EdgeccError
from compiler.package.entry import DTYPES, Quantization
from compiler.package.header import model_header
from compiler.package.link import link_library
from compiler.package.manifest import build_manifest, build_receipt, to_json
from compiler.program import Program, TensorInfo
from compiler.target import Target

# Attempts to remove what a killed linker's children may still write to, and the pause between.
REMOVALS = 40
REMOVAL_SECONDS = 0.05


@dataclass(frozen=True)
class Golden:
    """What `verify` compares with: inputs, and outputs that something else than edgecc computed.

    Args:
        inputs, outputs: arrays by tensor name, with the model's dtypes and shapes.
        reference: who computed the outputs, for example "onnxruntime 1.20".
        tolerance: largest max|a - b| / max|b| of a floating-point output.
        integer_tolerance: largest difference of an integer output, in steps.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    reference: str
    tolerance: float = 1e-4
    integer_tolerance: int = 0


def _check_arrays(
    kind: str, tensors: tuple[TensorInfo, ...], arrays: Mapping[str, np.ndarray]
) -> None:
    for tensor in tensors:
        if tensor.name not in arrays:
            raise EdgeccError(f"the golden data has no {kind} '{tensor.name}'")
        array = np.asarray(arrays[tensor.name])
        if array.dtype != np.dtype(tensor.dtype) or array.shape != tensor.shape:
            raise EdgeccError(
                f"golden {kind} '{tensor.name}' is {array.dtype} {array.shape}, "
                f"the model has {tensor.dtype} {tensor.shape}"
            )


def _golden_bytes(program: Program, golden: Golden) -> bytes:
    _check_arrays("input", program.inputs, golden.inputs)
    _check_arrays("output", program.outputs, golden.outputs)
    arrays = {f"input_{i}": golden.inputs[t.name] for i, t in enumerate(program.inputs)}
    arrays |= {f"output_{i}": golden.outputs[t.name] for i, t in enumerate(program.outputs)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{k: np.asarray(v) for k, v in arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def _check_program(program: Program) -> None:
    for tensor in (*program.inputs, *program.outputs):
        if tensor.dtype not in DTYPES:
            raise EdgeccError(f"'{tensor.name}' has dtype {tensor.dtype}, which has no C type")


def _check_destination(out_dir: Path) -> None:
    """Only an earlier package or an empty folder may be replaced."""
    if out_dir.is_symlink() or (out_dir.exists() and not out_dir.is_dir()):
        raise EdgeccError(f"can't write {out_dir}: it is not a folder", "choose another -o")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / "manifest.json").is_file():
        raise EdgeccError(
            f"can't write {out_dir}: it is not empty and holds no package", "choose another -o"
        )


def _fill(
    folder: Path,
    work: Path,
    program: Program,
    target: Target,
    golden: Golden | None,
    model_sha256: str,
    quantization: Mapping[str, Quantization],
    extra: Mapping[str, Any],
    receipt: Mapping[str, Any],
) -> None:
    library = f"lib{program.name}.so"
    link_library(program, target, folder / library, work, quantization)
    files = {
        library: (folder / library).read_bytes(),
        f"{program.name}.h": model_header(program, target).encode(),
        "receipt.json": to_json({**build_receipt(program, target), **receipt}),
    }
    extra = dict(extra)
    if golden is not None:
        files["golden.npz"] = _golden_bytes(program, golden)
        extra["golden"] = {
            "reference": golden.reference,
            "tolerance": golden.tolerance,
            "integer_tolerance": golden.integer_tolerance,
        }
    manifest = build_manifest(program, target, files, model_sha256, quantization, extra)
    files["manifest.json"] = to_json(manifest)
    for name, data in files.items():
        if name != library:
            (folder / name).write_bytes(data)


def _replace(new: Path, out_dir: Path) -> None:
    """Moves `new` to `out_dir`; an earlier package there stays until the move has worked."""
    if not out_dir.exists():
        new.rename(out_dir)
        return
    old = new.with_name(new.name + ".old")
    out_dir.rename(old)
    try:
        new.rename(out_dir)
    except BaseException:
        old.rename(out_dir)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_package(
    program: Program,
    target: Target,
    out_dir: str | Path,
    *,
    golden: Golden | None = None,
    model_sha256: str = "",
    quantization: Mapping[str, Quantization] | None = None,
    extra: Mapping[str, Any] | None = None,
    receipt: Mapping[str, Any] | None = None,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Links the program and writes the package folder.

    The folder is built next to its destination and renamed, so that an error or an interrupt
    leaves nothing behind and an earlier package untouched.

    Args:
        out_dir: the package folder; an earlier package there is replaced.
        golden: data for `verify`; without it the package can't be verified.
        model_sha256: of the model file.
        quantization: of quantized inputs and outputs, by name.
        extra: further entries of manifest.json (recipe, calibration digest, ...).
        receipt: further entries of receipt.json.
        check: called with the finished folder before it moves to its place; an exception of it
            leaves nothing behind.
    Returns:
        The package folder.
    Raises:
        EdgeccError: the folder can't be written, golden data do not fit the model, linking fails.
    """
    out_dir = Path(out_dir)
    _check_program(program)
    _check_destination(out_dir)
    # Named before it is made: a signal in between must find it.
    temporary = out_dir.parent / f".{out_dir.name}.{secrets.token_hex(4)}"
    folder, work = temporary / "package", temporary / "work"
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700)
        folder.mkdir()
        work.mkdir()
        _fill(
            folder,
            work,
            program,
            target,
            golden,
            model_sha256,
            quantization or {},
            extra or {},
            receipt or {},
        )
        if check is not None:
            check(folder)
        _replace(folder, out_dir)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EdgeccError(
            f"can't write {out_dir}: {reason}", f"is {os.path.abspath(out_dir.parent)} writable?"
        ) from error
    finally:
        _remove(temporary)
    return out_dir


def _remove(folder: Path) -> None:
    """Remove a folder in which processes of an interrupted linker may still write."""
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(REMOVAL_SECONDS)
