"""Every target's names must be known to LLVM and zig, and the code must run where it can."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compiler.target import Target, list_targets, load_target

# The vectorised fused multiply-add of each target; SSE2 has none, and on the Cortex-A7 kernels
# get vmla by an attribute that is not set here.
FMA = {
    "arm_cortex_a7": r"vmul\.f32\tq",
    "x86_64": r"mulps\t.*%xmm",
    "x86_64_v3": r"vfmadd\w+ps\t.*%ymm",
    "x86_64_v4": r"vfmadd\w+ps\t.*%zmm",
    "x86_64_avxvnni": r"vfmadd\w+ps\t.*%ymm",
    "x86_64_vnni": r"vfmadd\w+ps\t.*%zmm",
    "x86_64_bf16": r"vfmadd\w+ps\t.*%zmm",
    "host": r"fmadd\w*ps\t|fmla\tv|vfmacc|fmadd\.s|mulps",
    "riscv64": r"fmadd\.s",
    "riscv_sifive_u74": r"fmadd\.s",
    "riscv_spacemit_x60": r"vfmacc\.v",
    "riscv_sifive_x280": r"vfmacc\.v",
}
NEON_FMA = r"fmla\tv\d+\.4s"

# z = a * x + y over 64 floats, called as TVM's C FFI wants it; prints z.
MAIN = """
#include <stdint.h>
#include <stdio.h>
typedef struct { void *data; int32_t device[2]; int32_t ndim; uint8_t code, bits; uint16_t lanes;
                 int64_t *shape, *strides; uint64_t byte_offset; } Tensor;
typedef struct { int32_t type_index; uint32_t zero; union { void *ptr; int64_t integer; }; } Any;
int32_t __tvm_ffi_main(void *self, void *args, int32_t count, void *result);
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  for (int32_t i = 0; i < count; ++i) fputs(parts[i], stderr);
}
int main(void) {
  static float values[4][64] __attribute__((aligned(64)));
  int64_t shape = 64, stride = 1;
  Tensor tensors[4];
  Any args[4], result = {0};
  for (int i = 0; i < 64; ++i) values[0][i] = i, values[1][i] = i - 7, values[2][i] = 1000 - i;
  for (int k = 0; k < 4; ++k) {
    tensors[k] = (Tensor){values[k], {1, 0}, 1, 2, 32, 1, &shape, &stride, 0};
    args[k] = (Any){7, 0, {.ptr = &tensors[k]}};
  }
  int failed = __tvm_ffi_main(0, args, 4, &result);
  for (int i = 0; i < 64; ++i) printf("%g ", values[3][i]);
  return failed != 0;
}
"""


@pytest.mark.parametrize("name", list_targets())
def test_kernel_compiles_links_and_runs(name, tmp_path, capfd):
    target = load_target(name)

    assembly = compile_kernel(target, tmp_path / "kernel.o")
    assert re.search(FMA.get(name, NEON_FMA), assembly), assembly
    assert capfd.readouterr().err == "", "LLVM complains about names in the target"

    run_zig(target, "-shared", "-fPIC", "kernel.o", "main.c", "-o", "libkernel.so", cwd=tmp_path)
    run_zig(target, "kernel.o", "main.c", "-o", "program", cwd=tmp_path)
    command = runner(target)
    result = subprocess.run(
        [*command, tmp_path / "program"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    index = np.arange(64.0)
    np.testing.assert_array_equal(
        np.array(result.stdout.split(), "float64"), index * (index - 7) + 1000 - index
    )


def compile_kernel(target: Target, out: Path) -> str:
    import tvm
    from tvm import te

    lanes = max(target.vector.lanes(), 4)
    a, x, y = (te.placeholder((64,), "float32", name=name) for name in "axy")
    z = te.compute((64,), lambda i: a[i] * x[i] + y[i], name="z")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([a, x, y, z]))
    (loop,) = schedule.get_loops(schedule.get_sblock("z"))
    _, inner = schedule.split(loop, [None, lanes])
    schedule.vectorize(inner)
    built = tvm.tirx.build(schedule.mod, target=tvm.target.Target(target.tvm()))
    built.write_to_file(str(out), "o")
    return built.inspect_source("asm")


def run_zig(target: Target, *arguments: str, cwd: Path) -> None:
    (cwd / "main.c").write_text(MAIN)
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target.linker_triple]
    subprocess.run([*compiler, f"-mcpu={target.linker_cpu}", *arguments], cwd=cwd, check=True)


def runner(target: Target) -> list[str]:
    """The command before the program; skips where this machine can't run the target."""
    host = load_target("host")
    if target.arch == host.arch and target.vector.bits <= host.vector.bits:
        return []
    if target.emulator is None:
        pytest.skip(f"{target.name} has no emulator, and this CPU is not one")
    if not shutil.which(target.emulator.command[0]) or not Path(target.emulator.sysroot).is_dir():
        pytest.skip("needs the Debian packages " + " ".join(target.emulator.packages))
    return [*target.emulator.command, "-L", target.emulator.sysroot]
