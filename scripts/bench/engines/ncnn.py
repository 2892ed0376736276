"""ncnn, with models converted by pnnx."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np

from .base import Engine, Network

CONVERT_SECONDS = 600
# pnnx tries integer inputs with values below this one while it folds constants.
SMALLEST_TABLE = 32


class Ncnn(Engine):
    """float32 throughout; Winograd and packed layouts as ncnn has them by default."""

    name = "ncnn"
    title = "ncnn"
    # pnnx asks pip for all of PyTorch, which its converter does not need.
    requires = {"ncnn": "ncnn", "pnnx": "--no-deps pnnx"}  # noqa: RUF012

    def version(self) -> str:
        import ncnn

        return ncnn.__version__

    def prepare(self, network: Network, folder: Path) -> None:
        model = folder / "model.onnx"
        _with_larger_tables(network.model, model)
        shapes = ",".join(_shape(value) for value in network.inputs.values())
        command = [_converter(), model.name, f"inputshape={shapes}", "fp16=0"]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=CONVERT_SECONDS
        )
        param = folder / "model.ncnn.param"
        if done.returncode or not param.is_file():
            words = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            last = words[-1] if words else "no output"
            raise RuntimeError(f"pnnx ended with status {done.returncode}: {last}")
        text, as_float = _without_casts(param.read_text())
        param.write_text(text)
        (folder / "as_float.json").write_text(json.dumps(sorted(as_float)))
        for leftover in ("model.onnx", "model.pnnx.bin", "model.pnnx.onnx", "model.pnnxsim.onnx"):
            (folder / leftover).unlink(missing_ok=True)

    def open(self, network: Network, folder: Path, threads: int) -> None:
        import ncnn

        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = threads
        options.use_vulkan_compute = False
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        if self._net.load_param(str(folder / "model.ncnn.param")):
            raise RuntimeError("ncnn does not know a layer of the converted model")
        if self._net.load_model(str(folder / "model.ncnn.bin")):
            raise RuntimeError("ncnn can't load the converted weights")
        as_float = set(json.loads((folder / "as_float.json").read_text()))
        self._inputs = []
        for index, value in enumerate(network.inputs.values()):
            blob = f"in{index}"
            floating = value.dtype.kind == "f" or blob in as_float
            array = np.ascontiguousarray(value[0], np.float32 if floating else np.int32)
            self._inputs.append((blob, ncnn.Mat(array).clone()))
        self._names = network.outputs
        self._results: list = []

    def step(self) -> None:
        results = []
        with self._net.create_extractor() as extractor:
            for blob, mat in self._inputs:
                extractor.input(blob, mat)
            for index in range(len(self._names)):
                status, mat = extractor.extract(f"out{index}")
                if status:
                    raise RuntimeError(f"ncnn could not compute out{index} (status {status})")
                results.append(mat)
        self._results = results

    def outputs(self) -> dict[str, np.ndarray]:
        values = (np.array(mat) for mat in self._results)
        return dict(zip(self._names, values, strict=True))


def _converter() -> str:
    """The program inside the wheel; the wheel's module can't be imported without PyTorch."""
    spec = importlib.util.find_spec("pnnx")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / "pnnx").is_file():
            return str(Path(folder) / "pnnx")
    found = shutil.which("pnnx")
    if found is None:
        raise RuntimeError("the wheel of pnnx has no program in it")
    return found


def _shape(value: np.ndarray) -> str:
    kinds = {"float32": "f32", "int64": "i64", "int32": "i32"}
    return f"[{','.join(map(str, value.shape))}]{kinds[value.dtype.name]}"


def _with_larger_tables(source: Path, target: Path) -> None:
    """Copy with rows of zeros behind small embedding tables.

    pnnx runs the model on integers of its own, and ends with a crash when one exceeds a table.
    Rows that are never read cost no time.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    tables = {node.input[0] for node in model.graph.node if node.op_type == "Gather"}
    for tensor in model.graph.initializer:
        if tensor.name in tables and len(tensor.dims) == 2 and tensor.dims[0] < SMALLEST_TABLE:
            rows = numpy_helper.to_array(tensor)
            padding = ((0, SMALLEST_TABLE - rows.shape[0]), (0, 0))
            tensor.CopyFrom(numpy_helper.from_array(np.pad(rows, padding), tensor.name))
    onnx.save(model, str(target))


def _without_casts(param: str) -> tuple[str, set[str]]:
    """Drops casts of inputs, which ncnn has no layer for.

    Returns:
        The text, and the inputs to be given as float32 instead.
    """
    as_float: set[str] = set()
    lines = []
    for line in param.splitlines():
        match = re.match(r"Tensor\.to\s+\S+\s+1 1 (in\d+) ", line)
        if match:
            as_float.add(match[1])
            line = "Noop" + line[len("Tensor.to") :].split("=")[0]
        lines.append(line)
    return "\n".join(lines) + "\n", as_float
