"""Objects + generated entry + runtime -> a stripped shared library, with zig as the linker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from compiler.errors import EdgeccError
from compiler.package.elf import read_symbols
from compiler.package.entry import Quantization, entry_source, exported_symbols
from compiler.package.header import RUNTIME_DIR
from compiler.program import Program
from compiler.target import Target

RUNTIME_SOURCES = ("model.c", "threads.c", "cpu.c", "clock.c", "tvm_ffi.c")
_PROVIDED = {
    "__TVMBackendParallelLaunch",
    "__TVMBackendAllocWorkspace",
    "__TVMBackendFreeWorkspace",
    "__TVMFFIErrorSetRaisedFromCStr",
    "TVMBackendParallelLaunch",
    "TVMBackendAllocWorkspace",
    "TVMBackendFreeWorkspace",
    "TVMFFIErrorSetRaisedFromCStrParts",
}
# Left behind by TVM's code generator without being read by kernels of plain C signature.
_HARMLESS = {"__tvm_ffi__library_ctx"}

_COMPILE = (
    "-O2",
    "-g0",
    "-std=gnu11",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-sanitize=all",
    "-Wall",
    "-Wextra",
)
_LINK = (
    "-shared",
    "-s",
    "-Wl,--build-id=none",
    "-Wl,--gc-sections",
    "-Wl,-Bsymbolic",
    "-Wl,-z,noexecstack",
    "-Wl,-z,defs",
    "-Wl,--version-script=exports.map",
    "-lm",
    "-lpthread",
)


def cache_dir() -> Path:
    """Where zig keeps its libc stubs and compiler support library between builds."""
    root = os.environ.get("EDGECC_CACHE_DIR")
    if root:
        return Path(root)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgecc"


def zig(arguments: Sequence[str], cwd: Path, *, keep: bool = False) -> None:
    """Runs ``zig cc``.

    Args:
        keep: cache the compiled objects too (for files that do not change from model to model).
    Raises:
        EdgeccError: the compiler is missing or reports an error.
    """
    shared = cache_dir() / "zig"
    environment = dict(os.environ)
    try:
        shared.mkdir(parents=True, exist_ok=True)
    except OSError:
        shared = Path(tempfile.gettempdir()) / f"edgecc-zig-{os.getuid()}"
        shared.mkdir(mode=0o700, exist_ok=True)
    environment["ZIG_GLOBAL_CACHE_DIR"] = str(shared)
    environment["ZIG_LOCAL_CACHE_DIR"] = str(shared if keep else cwd / "zig-cache")
    command = [sys.executable, "-m", "ziglang", "cc", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        if "No module named ziglang" in done.stderr:
            raise EdgeccError("the linker is missing", "pip install ziglang")
        raise EdgeccError(f"linking failed: {_first_error(done)}", " ".join(command))


def _first_error(done: subprocess.CompletedProcess[str]) -> str:
    """The line that says what is wrong; zig lists every known CPU before it."""
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if "error:" in line]
    return (errors or lines or [f"exit status {done.returncode}"])[0]


def check_objects(objects: Sequence[bytes]) -> None:
    """Refuses kernels that need a function of TVM's runtime which ours does not have.

    Raises:
        EdgeccError: names the functions.
    """
    missing = set()
    for data in objects:
        for symbol in read_symbols(data):
            is_tvm = symbol.name.startswith(("TVM", "__TVM", "__tvm_ffi_"))
            if is_tvm and not symbol.local and symbol.is_open:
                missing.add(symbol.name)
    missing -= _PROVIDED | _HARMLESS
    if missing:
        raise EdgeccError(
            f"the kernels call {', '.join(sorted(missing))}, which the runtime does not have",
            "this is a fault of edgecc's code generator; please report it with the model",
        )


def link_library(
    program: Program,
    target: Target,
    library: Path,
    work: Path,
    quantization: Mapping[str, Quantization] | None = None,
) -> None:
    """Writes the shared library.

    Args:
        library: the file to write.
        work: an empty folder for intermediate files; the caller removes it.
    Raises:
        EdgeccError: the compiler fails, or a kernel needs what the runtime does not have.
    """
    check_objects(program.objects)
    (work / "weights.bin").write_bytes(program.weights)
    (work / "entry.c").write_text(entry_source(program, target, quantization), encoding="utf-8")
    exports = "".join(f" {name};" for name in exported_symbols(program))
    (work / "exports.map").write_text(f"{{ global:{exports} local: *; }};\n", encoding="utf-8")
    # Copies, so that no path of this installation gets into the library.
    for name in (*RUNTIME_SOURCES, "runtime.h", "tvm_ffi.h", "edgecc.h"):
        (work / name).write_bytes((RUNTIME_DIR / name).read_bytes())
    names = []
    for i, data in enumerate(program.objects):
        names.append(f"kernels{i}.o")
        (work / names[-1]).write_bytes(data)
    output = f"-Wl,-soname,{library.name}"
    zig(
        [
            "-target",
            target.linker_triple,
            f"-mcpu={target.linker_cpu}",
            *_COMPILE,
            "entry.c",
            *RUNTIME_SOURCES,
            *names,
            *_LINK,
            output,
            "-o",
            "library.so",
        ],
        work,
    )
    library.write_bytes((work / "library.so").read_bytes())
    library.chmod(0o755)
