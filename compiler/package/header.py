"""<model>.h: what a C or C++ program includes. Self-contained."""

from __future__ import annotations

from pathlib import Path

from compiler.package.entry import DTYPES, arena_bytes
from compiler.program import Program, TensorInfo
from compiler.target import Target

RUNTIME_DIR = Path(__file__).resolve().parent.parent / "runtime"

C_TYPES = {
    "bool": "uint8_t",
    "float16": "uint16_t",
    "bfloat16": "uint16_t",
    "float32": "float",
    "float64": "double",
} | {f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def _comment_safe(text: str) -> str:
    printable = "".join(char if char.isprintable() else "?" for char in text)
    return printable.replace("*/", "* /").replace("/*", "/ *")


def _describe(kind: str, tensors: tuple[TensorInfo, ...]) -> list[str]:
    lines = []
    for i, tensor in enumerate(tensors):
        shape = "x".join(str(extent) for extent in tensor.shape) or "scalar"
        name = _comment_safe(tensor.name)
        lines.append(f" *   {kind} {i}: {tensor.dtype} {shape} '{name}'")
    return lines


def _tensor_row(tensor: TensorInfo, variable: str) -> str:
    dtype = DTYPES[tensor.dtype]
    return f"{{{variable}, sizeof {variable}, NULL, 0, {dtype}}}"


def _usage(program: Program) -> list[str]:
    """About ten lines of C that run the model once."""
    name, upper = program.name, program.name.upper()
    arrays = []
    for kind, tensors in (("input", program.inputs), ("output", program.outputs)):
        for i, tensor in enumerate(tensors):
            count = tensor.nbytes // max(1, _itemsize(tensor.dtype))
            arrays.append(f"static {C_TYPES[tensor.dtype]} {kind}{i}[{max(1, count)}];")
    inputs = ", ".join(_tensor_row(t, f"input{i}") for i, t in enumerate(program.inputs))
    outputs = ", ".join(_tensor_row(t, f"output{i}") for i, t in enumerate(program.outputs))
    return [
        *arrays,
        f"static _Alignas(64) unsigned char arena[EDGECC_{upper}_ARENA_BYTES];",
        f"const edgecc_model *model = edgecc_{name}_v1();",
        "edgecc_state state;",
        f"edgecc_tensor in[] = {{{inputs or '{NULL, 0, NULL, 0, 0}'}}};",
        f"edgecc_tensor out[] = {{{outputs or '{NULL, 0, NULL, 0, 0}'}}};",
        "if (model->init(&state, arena, 0) || model->run(&state, in, out))",
        '  fprintf(stderr, "%s\\n", model->last_error(&state));',
        "model->close(&state);",
    ]


def _itemsize(dtype: str) -> int:
    digits = "".join(char for char in dtype if char.isdigit())
    return int(digits) // 8 if digits else 1


def model_header(program: Program, target: Target) -> str:
    """The text of ``<model>.h``: the ABI, the model's constants and a usage example."""
    name, upper = program.name, program.name.upper()
    abi = (RUNTIME_DIR / "edgecc.h").read_text(encoding="utf-8")
    guard = f"EDGECC_{upper}_H"
    constants = {
        "ARENA_BYTES": max(1, arena_bytes(program)),
        "WEIGHTS_BYTES": len(program.weights),
        "N_INPUTS": len(program.inputs),
        "N_OUTPUTS": len(program.outputs),
        "N_OPERATORS": len(program.calls),
    }
    for kind, tensors in (("INPUT", program.inputs), ("OUTPUT", program.outputs)):
        for i, tensor in enumerate(tensors):
            constants[f"{kind}{i}_BYTES"] = tensor.nbytes
    lines = [
        f"/* {name}, compiled by edgecc for {target.name}. Link with lib{name}.so.",
        " *",
        *_describe("input", program.inputs),
        *_describe("output", program.outputs),
        " *",
        " * Usage (C11; in C++ write alignas for _Alignas):",
        " *",
        *(f" *   {line}" for line in _usage(program)),
        " */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        abi,
        *(f"#define EDGECC_{upper}_{key} {value}" for key, value in constants.items()),
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "/** The model's constant descriptor, never NULL. With dlopen: edgecc_model_v1. */",
        f"const edgecc_model *edgecc_{name}_v1(void);",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        f"#endif /* {guard} */",
    ]
    return "\n".join(lines) + "\n"
