"""manifest.json and receipt.json: what a package says about itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from compiler.errors import EdgeccError
from compiler.package.cpu import required_features
from compiler.package.entry import Quantization, arena_bytes
from compiler.program import KernelCall, Program, TensorInfo
from compiler.target import Target

FORMAT = 1
_TOOLS = ("edgecc", "apache-tvm", "ziglang", "numpy", "onnx")


def target_digest(target: Target) -> str:
    """SHA-256 of everything the target's description says."""
    text = json.dumps(dataclasses.asdict(target), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tool_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _TOOLS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    from compiler import __version__

    return {**versions, "edgecc": __version__}


def _tensor(tensor: TensorInfo, quantization: Mapping[str, Quantization]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "nbytes": tensor.nbytes,
    }
    if tensor.name in quantization:
        row |= dataclasses.asdict(quantization[tensor.name])
    return row


def build_manifest(
    program: Program,
    target: Target,
    files: Mapping[str, bytes],
    model_sha256: str,
    quantization: Mapping[str, Quantization],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of manifest.json. `files` are all other files of the package, by name."""
    plan = program.arena
    return {
        "format": FORMAT,
        "model": {"name": program.name, "sha256": model_sha256},
        "target": {
            "name": target.name,
            "arch": target.arch,
            "triple": target.triple,
            "cpu": target.cpu,
            "features": list(target.features),
            "required": list(required_features(target)),
            "cores": target.cores,
            "linker_triple": target.linker_triple,
            "linker_cpu": target.linker_cpu,
            "emulator": dataclasses.asdict(target.emulator) if target.emulator else None,
            "digest": target_digest(target),
        },
        "tools": tool_versions(),
        "inputs": [_tensor(t, quantization) for t in program.inputs],
        "outputs": [_tensor(t, quantization) for t in program.outputs],
        "arena": {
            "nbytes": arena_bytes(program),
            "planned": plan.nbytes,
            "peak_live": plan.peak_live,
            "scratch_bytes": plan.scratch_bytes,
            "allocations": [dataclasses.asdict(a) for a in plan.allocations],
        },
        "weights_bytes": len(program.weights),
        "n_operators": len(program.calls),
        "library": f"lib{program.name}.so",
        "header": f"{program.name}.h",
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "nbytes": len(data)}
            for name, data in sorted(files.items())
        },
        **extra,
    }


def _cycles(call: KernelCall, target: Target) -> float:
    """A rough cost: multiply-accumulates at the vector peak plus 8 bytes of traffic a cycle."""
    return call.macs / (target.vector.lanes() * target.vector.fma_per_cycle) + call.nbytes / 8


def build_receipt(program: Program, target: Target) -> dict[str, Any]:
    """The content of receipt.json: per operator what was asked for and what came out.

    ``share`` is the operator's estimated part of the run time, from its multiply-accumulates and
    bytes and the target's peak, 0 to 1.
    """
    total = sum(_cycles(call, target) for call in program.calls) or 1.0
    operators = []
    for index, call in enumerate(program.calls):
        row: dict[str, Any] = {
            "index": index,
            "label": call.label,
            "symbol": call.symbol,
            "nodes": list(call.nodes),
            "macs": call.macs,
            "nbytes": call.nbytes,
            "share": round(_cycles(call, target) / total, 6),
        }
        operators.append(row | {k: v for k, v in sorted(call.report.items()) if k not in row})
    columns = ("template", "executed_dtype", "dtype", "intrinsic", "tuned", "fallback")
    return {
        "format": FORMAT,
        "model": program.name,
        "target": target.name,
        "macs": sum(call.macs for call in program.calls),
        "summary": {column: _shares(operators, column) for column in columns},
        "operators": operators,
    }


def _shares(operators: list[dict[str, Any]], column: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for row in operators:
        if column in row:
            shares[row[column]] = shares.get(row[column], 0.0) + row["share"]
    return {key: round(value, 6) for key, value in sorted(shares.items())}


def to_json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Package:
    """A package folder that has been read.

    Args:
        path: the folder.
        manifest: the content of manifest.json.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.manifest["model"]["name"]

    @property
    def target_name(self) -> str:
        return self.manifest["target"]["name"]

    @property
    def library(self) -> Path:
        return self.path / self.manifest["library"]

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self._tensors("inputs")

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self._tensors("outputs")

    def _tensors(self, key: str) -> tuple[TensorInfo, ...]:
        rows = self.manifest[key]
        return tuple(TensorInfo(r["name"], r["dtype"], tuple(r["shape"])) for r in rows)

    def receipt(self) -> dict[str, Any]:
        return json.loads((self.path / "receipt.json").read_text(encoding="utf-8"))

    def check_files(self) -> None:
        """Compares every file with its hash in the manifest.

        Raises:
            EdgeccError: a file is missing or was changed.
        """
        for name, row in self.manifest["files"].items():
            file = self.path / name
            if not file.is_file():
                raise EdgeccError(f"{file} is missing from the package", "build it again")
            if hashlib.sha256(file.read_bytes()).hexdigest() != row["sha256"]:
                raise EdgeccError(
                    f"{file} is not the file that was built (its hash differs)", "build it again"
                )


def open_package(path: str | Path) -> Package:
    """Reads a package folder's manifest.

    Raises:
        EdgeccError: no such folder, not a package, or of another format version.
    """
    folder = Path(path)
    file = folder / "manifest.json"
    if not file.is_file():
        raise EdgeccError(
            f"{folder} is not a package: it has no manifest.json",
            "give the folder that `build` wrote, for example build/digits-host",
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        version = manifest["format"]
        if not all(key in manifest for key in ("model", "target", "library", "inputs", "files")):
            raise KeyError("library")
        if "/" in manifest["library"]:
            raise ValueError("library")
    except (ValueError, KeyError, TypeError) as error:
        raise EdgeccError(f"{file} is damaged", "build the package again") from error
    if version != FORMAT:
        raise EdgeccError(
            f"{file} has format {version}, this edgecc reads {FORMAT}", "build the package again"
        )
    return Package(folder, manifest)
