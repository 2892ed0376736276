"""Program -> the C file that calls the kernels one after the other and describes the model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compiler.package.cpu import required_features
from compiler.program import ALIGNMENT, KernelCall, Location, Program, Space, TensorInfo, align
from compiler.target import Target

DTYPES = {
    "bool": "EDGECC_BOOL",
    "int8": "EDGECC_INT8",
    "uint8": "EDGECC_UINT8",
    "int16": "EDGECC_INT16",
    "uint16": "EDGECC_UINT16",
    "int32": "EDGECC_INT32",
    "uint32": "EDGECC_UINT32",
    "int64": "EDGECC_INT64",
    "uint64": "EDGECC_UINT64",
    "float16": "EDGECC_FLOAT16",
    "bfloat16": "EDGECC_BFLOAT16",
    "float32": "EDGECC_FLOAT32",
    "float64": "EDGECC_FLOAT64",
}


@dataclass(frozen=True)
class Quantization:
    """real = scale * (stored - zero_point)."""

    scale: float
    zero_point: int


def c_string(text: str) -> str:
    """A C string literal of the UTF-8 bytes of `text`; safe for any text.

    >>> c_string('a"b')
    '"a\\\\"b"'
    """
    out = []
    for byte in text.encode():
        char = chr(byte)
        if char in '"\\?':
            out.append("\\" + char)
        elif 32 <= byte < 127:
            out.append(char)
        else:
            out.append(f"\\{byte:03o}")
    return '"' + "".join(out) + '"'


def arena_bytes(program: Program) -> int:
    """Bytes of the arena with the caller's kernel workspace behind the planned tensors."""
    return align(program.arena.nbytes) + align(program.arena.scratch_bytes)


def exported_symbols(program: Program) -> list[str]:
    """Every name that the library shows; all others are local."""
    return sorted(
        {
            f"edgecc_{program.name}_v1",
            "edgecc_model_v1",
            "__tvm_ffi_main",
            f"__tvm_ffi_{program.name}",
            "__tvm_ffi_set_threads",
            "__TVMFFIErrorSetRaisedFromCStr",
        }
    )


def _address(location: Location) -> str:
    offset = location.offset
    return {
        Space.INPUT: f"in[{offset}].data",
        Space.OUTPUT: f"out[{offset}].data",
        Space.ARENA: f"arena + {offset}",
        Space.WEIGHTS: f"W + {offset}",
    }[location.space]


def _prototypes(calls: Sequence[KernelCall]) -> list[str]:
    arity = {call.symbol: len(call.args) for call in calls}
    lines = []
    for symbol, n in sorted(arity.items()):
        if not re.fullmatch(r"[A-Za-z_]\w*", symbol, re.ASCII):
            raise ValueError(f"kernel symbol {symbol!r} is not a C identifier")
        lines.append(f"extern int32_t {symbol}({', '.join(['void *'] * n) or 'void'});")
    return lines


def _tensor_infos(
    kind: str, tensors: Sequence[TensorInfo], quantization: Mapping[str, Quantization]
) -> list[str]:
    lines = []
    for i, tensor in enumerate(tensors):
        extents = ", ".join(str(extent) for extent in tensor.shape) or "0"
        lines.append(f"static const int64_t {kind}_{i}_shape[] = {{{extents}}};")
    lines.append(f"static const edgecc_tensor_info {kind}s[] = {{")
    for i, tensor in enumerate(tensors):
        q = quantization.get(tensor.name, Quantization(0.0, 0))
        lines.append(
            f"    {{{c_string(tensor.name)}, {tensor.nbytes}, {kind}_{i}_shape, "
            f"{len(tensor.shape)}, {DTYPES[tensor.dtype]}, {q.scale!r}, {q.zero_point}, 0}},"
        )
    if not tensors:
        lines.append("    {0}")
    lines.append("};")
    return lines


def _step(calls: Sequence[KernelCall]) -> list[str]:
    lines = [
        "int32_t edgecc_step(uint32_t i, const edgecc_tensor *in, const edgecc_tensor *out,",
        "                    unsigned char *arena) {",
        "  (void)in, (void)out, (void)arena;",
        "  switch (i) {",
    ]
    for i, call in enumerate(calls):
        args = ", ".join(_address(location) for location in call.args)
        lines.append(f"    case {i}: return {call.symbol}({args});")
    return [*lines, "    default: return 0;", "  }", "}"]


def _operators(calls: Sequence[KernelCall]) -> list[str]:
    rows = [f"    {{{c_string(c.label)}, {c.macs}, {c.nbytes}}}," for c in calls] or ["    {0}"]
    return ["static const edgecc_operator operators[] = {", *rows, "};"]


def _weights(weights: bytes) -> list[str]:
    if not weights:
        return ["static unsigned char W[1];"]
    digest = hashlib.sha256(weights).hexdigest()
    return [
        f"/* sha256 {digest}: the C compiler's cache must see a change of the file. */",
        '__asm__(".section .rodata.edgecc_weights,\\"a\\",%progbits\\n"',
        f'        ".balign {ALIGNMENT}\\n"',
        '        ".hidden edgecc_weights\\n"',
        '        ".globl edgecc_weights\\n"',
        '        "edgecc_weights:\\n"',
        '        ".incbin \\"weights.bin\\"\\n"',
        '        ".previous\\n");',
        'extern unsigned char edgecc_weights[] __attribute__((visibility("hidden")));',
        "#define W edgecc_weights",
    ]


def _exports(name: str) -> list[str]:
    entries = {"__tvm_ffi_main": "main", f"__tvm_ffi_{name}": "main"}
    entries["__tvm_ffi_set_threads"] = "set_threads"
    lines = [
        '#define EXPORT __attribute__((visibility("default")))',
        f"EXPORT const edgecc_model *edgecc_{name}_v1(void) {{ return &edgecc_descriptor; }}",
    ]
    if name != "model":
        lines.append(
            "EXPORT const edgecc_model *edgecc_model_v1(void) { return &edgecc_descriptor; }"
        )
    for symbol, function in sorted(entries.items()):
        lines += [
            f"EXPORT int {symbol}(void *self, const void *args, int32_t n, void *result) {{",
            f"  return edgecc_tvm_{function}(self, args, n, result);",
            "}",
        ]
    return lines


def entry_source(
    program: Program, target: Target, quantization: Mapping[str, Quantization] | None = None
) -> str:
    """The C source of the entry; expects ``weights.bin`` in the compiler's working directory.

    Args:
        quantization: of inputs and outputs, by tensor name.
    Raises:
        ValueError: a kernel symbol is not a C identifier.
    """
    quantization = quantization or {}
    features = "".join(f"{c_string(name)}, " for name in required_features(target))
    fields = [
        ("abi_version", "EDGECC_ABI_VERSION"),
        ("struct_bytes", "sizeof(edgecc_model)"),
        ("name", c_string(program.name)),
        ("target", c_string(target.name)),
        ("inputs", "inputs"),
        ("outputs", "outputs"),
        ("operators", "operators"),
        ("n_inputs", str(len(program.inputs))),
        ("n_outputs", str(len(program.outputs))),
        ("n_operators", str(len(program.calls))),
        ("default_threads", str(max(1, target.cores))),
        ("arena_bytes", f"UINT64_C({arena_bytes(program)})"),
        ("weights_bytes", f"UINT64_C({len(program.weights)})"),
    ]
    functions = [
        "init",
        "run",
        "profile",
        "set_threads",
        "set_spin",
        "last_error",
        "threads",
        "close",
        "clock_ghz",
    ]
    fields += [(function, f"edgecc_{function}") for function in functions]
    lines = [
        '#include "runtime.h"',
        *_prototypes(program.calls),
        *_weights(program.weights),
        *_tensor_infos("input", program.inputs, quantization),
        *_tensor_infos("output", program.outputs, quantization),
        *_operators(program.calls),
        f"const char *const edgecc_cpu_features[] = {{{features}NULL}};",
        f"const uint64_t edgecc_scratch_bytes = UINT64_C({align(program.arena.scratch_bytes)});",
        f"const uint64_t edgecc_scratch_offset = UINT64_C({align(program.arena.nbytes)});",
        *_step(program.calls),
        "const edgecc_model edgecc_descriptor = {",
        *(f"    .{key} = {value}," for key, value in fields),
        "};",
        *_exports(program.name),
    ]
    return "\n".join(lines) + "\n"
