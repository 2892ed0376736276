"""One decision of one task -> a shared library that the measuring program loads.

``build`` runs in worker processes, here or in a cluster: all it takes and gives is plain data.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import EdgeccError
from compiler.package.header import RUNTIME_DIR
from compiler.package.link import cache_dir, zig
from compiler.target import Target

DEVICE_DIR = Path(__file__).parent / "device"
KERNEL = "edgecc_kernel"  # as candidate.c calls it
MAX_SCRATCH = 16 << 20  # SCRATCH_BYTES of candidate.c
_COMPILE = ("-O2", "-g0", "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-fno-sanitize=all")


@dataclass(frozen=True)
class Request:
    """What to build.

    Args:
        function: ``Task.as_json``, of ``n_inputs`` inputs.
        values: of the decision.
    """

    function: str
    n_inputs: int
    target: Target
    values: tuple[int, ...]


@dataclass(frozen=True)
class Candidate:
    """A decision, compiled.

    Args:
        library: exports edgecc_candidate_open and edgecc_candidate_run.
        buffers: lines of the measuring program's request, see device/measurer.c.
        nbytes: of all buffers.
        digest: of the kernel's code: equal code need not be measured twice.
        decision: what a person reads.
        record: MetaSchedule's trace, target and argument descriptions, as JSON, and the template.
        intrinsic: that the loops were tensorised with; "" for none.
    """

    values: tuple[int, ...]
    library: bytes
    buffers: tuple[str, ...]
    nbytes: int
    digest: str
    decision: str
    record: dict[str, Any]
    intrinsic: str = ""


def build(request: Request) -> Candidate:
    """Compile and link.

    Raises:
        UnknownDecisionError: the template does not offer the decision.
        EdgeccError: the kernel needs too much scratch memory, or linking fails.
    """
    # A worker imports TVM once; the command line should not.
    from compiler.codegen.compile import compile_kernel
    from compiler.codegen.lower import object_code
    from schedules.choices import TakeValues

    func = _function(request.function)
    choose = TakeValues(request.values)
    kernel = compile_kernel(func, KERNEL, request.target, choose)
    if kernel.lowered.scratch > MAX_SCRATCH:
        raise EdgeccError(f"needs {kernel.lowered.scratch} bytes of scratch memory a thread")
    code = object_code({KERNEL: kernel.lowered}, request.target)
    buffers, nbytes = _buffers(func, request.n_inputs, kernel)
    return Candidate(
        request.values,
        _link(code, request.target),
        buffers,
        nbytes,
        hashlib.sha256(code + repr(buffers).encode()).hexdigest(),
        kernel.report.get("decision", str(request.values)),
        {**_record(func, choose.schedule, request.target), "template": kernel.report["template"]},
        kernel.report.get("intrinsic", ""),
    )


@functools.lru_cache(maxsize=64)
def _function(text: str) -> Any:
    from compiler.tuning.tasks import read_function

    return read_function(text)


def _buffers(func: Any, n_inputs: int, kernel: Any) -> tuple[tuple[str, ...], int]:
    """The kernel's arguments in order: inputs, outputs, temporaries."""
    from compiler.codegen.lower import dtype_bytes

    lines, total = [], 0
    for position, param in enumerate(func.params):
        dtype = str(param.ty.dtype)
        shape = [int(d) for d in param.ty.shape]
        nbytes = functools.reduce(int.__mul__, shape, dtype_bytes(dtype))
        total += nbytes
        if position >= n_inputs:
            lines.append(f"o {'f' if dtype == 'float32' else 'b'} {nbytes}")
            continue
        kind = {"float32": "f", "int8": "b", "uint8": "b"}.get(dtype, "z")
        order = kernel.rearranged.get(position)
        layout = [len(order.shape), *order.shape, *order.axes] if order else [0]
        lines.append(f"i {kind} {position + 1} {nbytes} {' '.join(map(str, layout))}")
    for nbytes in kernel.lowered.workspaces:
        total += nbytes
        lines.append(f"w {nbytes}")
    return tuple(lines), total


def _record(func: Any, schedule: Any, target: Target) -> dict[str, Any]:
    import tvm
    from tvm.s_tir import meta_schedule as ms

    arguments = [info.as_json() for info in ms.arg_info.ArgInfo.from_prim_func(func)]
    trace = tvm.get_global_func("s_tir.schedule.TraceAsJSON")(schedule.trace, False)
    return {
        "trace": _plain(trace),
        "target": _plain(tvm.target.Target(target.tvm()).export()),
        "arguments": _plain(arguments),
    }


def _plain(value: Any) -> Any:
    """TVM's containers as lists and dictionaries, other objects as their JSON text.

    ``Trace.as_json`` does not know the index maps in traces.
    """
    from tvm.ir import save_json
    from tvm.tirx import FloatImm, IntImm
    from tvm_ffi import Array, Map

    if isinstance(value, (Array, list)):
        return [_plain(item) for item in value]
    if isinstance(value, (Map, dict)):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (IntImm, FloatImm)):
        return value.value
    if isinstance(value, str):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float)) else save_json(value)


def _link(code: bytes, target: Target) -> bytes:
    support = device_object(target)
    with tempfile.TemporaryDirectory(prefix="edgecc-candidate-") as folder:
        work = Path(folder)
        (work / "kernel.o").write_bytes(code)
        zig(
            [
                *("-target", target.linker_triple, f"-mcpu={target.linker_cpu}", "-shared", "-s"),
                *("kernel.o", str(support), "-lm", "-lpthread", "-o", "candidate.so"),
            ],
            work,
        )
        return (work / "candidate.so").read_bytes()


def device_object(target: Target) -> Path:
    """threads.c and candidate.c for the target; compiled once and kept."""
    sources = (RUNTIME_DIR / "threads.c", DEVICE_DIR / "candidate.c")
    names = ("runtime.h", "edgecc.h", "tvm_ffi.h")
    headers = (DEVICE_DIR / "canary.h", *(RUNTIME_DIR / name for name in names))
    arguments = ["-r", *_COMPILE, f"-I{RUNTIME_DIR}", *map(str, sources)]
    return _kept("candidate", ".o", (*sources, *headers), arguments, target)


def probe_library(target: Target) -> bytes:
    """A candidate without a kernel: loads wherever the target's candidates do."""
    arguments = ["-shared", "-s", str(device_object(target)), "-lpthread"]
    return _kept("probe", ".so", (device_object(target),), arguments, target).read_bytes()


def measurer(target: Target) -> Path:
    """The measuring program for the target; compiled once and kept."""
    source = DEVICE_DIR / "measurer.c"
    # Kernels may call what only these hold, and on older systems they are libraries of their own.
    libraries = ["-Wl,--no-as-needed", "-ldl", "-lm", "-lpthread"]
    arguments = ["-O2", "-g0", "-s", "-std=gnu11", "-fno-sanitize=all", str(source), *libraries]
    return _kept("measurer", "", (source, DEVICE_DIR / "canary.h"), arguments, target)


def _kept(
    name: str, suffix: str, sources: tuple[Path, ...], arguments: list[str], target: Target
) -> Path:
    digest = hashlib.sha256()
    for source in sources:
        digest.update(source.read_bytes())
    command = ["-target", target.linker_triple, f"-mcpu={target.linker_cpu}", *arguments]
    digest.update(" ".join(command).encode())
    kept = cache_dir() / f"{name}-{digest.hexdigest()[:16]}{suffix}"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix="tune-") as folder:
            zig([*command, "-o", "out"], Path(folder))
            # Renamed when complete: another process may be looking for it.
            (Path(folder) / "out").replace(kept)
    return kept
