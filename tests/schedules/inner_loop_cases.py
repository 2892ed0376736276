"""Kernels whose inner loops are looked at: every template, at sizes that fit and at ragged ones.

``python -m tests.schedules.inner_loop_cases [TARGET...]`` prints what the loops do and writes
reloads.json anew for these targets (all of them by default).
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import schedules
from compiler.codegen import work
from compiler.codegen.graph import read_graph
from compiler.frontend import import_model
from compiler.passes import lower, simplify
from compiler.quantize.half import compute_in_half
from compiler.target import Target, load_target
from schedules.constants import CONSTANT_INPUTS
from tests import kernels
from tests.schedules.inner_loops import InnerLoop, inner_loops

TARGETS = (
    *("x86_64", "x86_64_v3", "x86_64_v4"),
    *("arm_cortex_a53", "arm_cortex_a72", "arm_cortex_a76", "arm_cortex_a7"),
    *("riscv64", "riscv_sifive_u74", "riscv_spacemit_x60", "riscv_sifive_x280"),
)
RELOADS = Path(__file__).with_name("reloads.json")


@dataclass(frozen=True)
class Case:
    """One operator on two operands, then relu; the second operand is constant or an input."""

    left: tuple[int, ...]
    right: tuple[int, ...]
    op: str = "Conv"
    attributes: dict[str, Any] = field(default_factory=dict)
    constant: bool = True

    def model(self) -> onnx.ModelProto:
        """As a network."""
        inputs = [helper.make_tensor_value_info("left", 1, self.left)]
        weights = []
        if self.constant:
            weights.append(numpy_helper.from_array(np.ones(self.right, np.float32), "right"))
        else:
            inputs.append(helper.make_tensor_value_info("right", 1, self.right))
        nodes = [
            helper.make_node(self.op, ["left", "right"], ["product"], **self.attributes),
            helper.make_node("Relu", ["product"], ["result"]),
        ]
        result = helper.make_tensor_value_info("result", 1, None)
        graph = helper.make_graph(nodes, "case", inputs, [result], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model)

    def assemblies(self, target: Target, half: bool = False) -> list[str]:
        """The assembly of each of its kernels that multiply and accumulate, perhaps in float16."""
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(self.model(), Path(folder) / "model.onnx")
            module = simplify(import_model(Path(folder) / "model.onnx").module, target)
        module = lower(compute_in_half(module).module if half else module, target)
        found = []
        graph = read_graph(module)
        for call in graph.calls:
            func = module[call.function]
            if work.multiply_accumulates(func):
                constants = [
                    i for i, b in enumerate(call.inputs) if graph.buffers[b].constant is not None
                ]
                scheduled, _ = schedules.apply(func.with_attr(CONSTANT_INPUTS, constants), target)
                found.append(kernels.assembly(scheduled, target))
        return found

    def loops(self, target: Target, half: bool = False) -> list[InnerLoop]:
        """The inner loops of its kernels that multiply and accumulate."""
        texts = self.assemblies(target, half)
        return [loop for text in texts for loop in inner_loops(text, target.arch)]


def conv(
    channels: tuple[int, int], size: tuple[int, ...], *kernel: int, op: str = "Conv", **attributes
) -> Case:
    """A convolution that keeps the size, but for its stride and if ``pads`` says otherwise."""
    ic, oc = channels
    groups = attributes.get("group", 1)
    first, second = (oc, ic // groups) if op == "Conv" else (ic, oc // groups)
    attributes.setdefault("pads", [k // 2 for k in kernel] * 2)
    return Case((1, ic, *size), (first, second, *kernel), op, attributes)


def product(left: tuple[int, ...], right: tuple[int, ...], constant: bool = True) -> Case:
    """A matrix product."""
    return Case(left, right, "MatMul", constant=constant)


CASES = {
    "conv_3x3": conv((64, 64), (56, 56), 3, 3),
    "conv_3x3_stride_2": conv((64, 128), (56, 56), 3, 3, strides=[2, 2]),
    "conv_3x3_ragged": conv((33, 17), (13, 13), 3, 3),
    "conv_1x1": conv((64, 128), (28, 28), 1, 1),
    "conv_1x1_deep": conv((512, 2048), (7, 7), 1, 1),
    "conv_1x1_ragged": conv((33, 17), (7, 7), 1, 1),
    "first_layer_3x3": conv((3, 32), (224, 224), 3, 3, strides=[2, 2]),
    "first_layer_7x7": conv((3, 64), (224, 224), 7, 7, strides=[2, 2]),
    "depthwise_3x3": conv((64, 64), (56, 56), 3, 3, group=64),
    "depthwise_3x3_ragged": conv((33, 33), (13, 13), 3, 3, group=33),
    "depthwise_3x3_stride_2": conv((64, 64), (56, 56), 3, 3, group=64, strides=[2, 2]),
    "depthwise_3x3_stride_2_ragged": conv((33, 33), (13, 13), 3, 3, group=33, strides=[2, 2]),
    "depthwise_5x5": conv((64, 64), (28, 28), 5, 5, group=64),
    "grouped": conv((64, 64), (28, 28), 3, 3, group=4),
    "grouped_ragged": conv((12, 18), (7, 7), 3, 3, group=3),
    "conv1d": conv((64, 64), (128,), 3),
    "conv1d_ragged": conv((5, 13), (33,), 3),
    "transposed": conv((64, 32), (14, 14), 4, 4, op="ConvTranspose", strides=[2, 2], pads=[1] * 4),
    "transposed_ragged": conv(
        (24, 17), (7, 9), 2, 2, op="ConvTranspose", strides=[2, 2], pads=[0] * 4
    ),
    "matmul": product((128, 384), (384, 384)),
    "matmul_ragged": product((13, 33), (33, 100)),
    "attention_scores": product((12, 128, 32), (12, 32, 128), constant=False),
    "attention_values": product((12, 128, 128), (12, 128, 32), constant=False),
    "attention_ragged": product((2, 13, 8), (2, 8, 13), constant=False),
    "dense": product((1, 1280), (1280, 1000)),
    "dense_ragged": product((1, 133), (133, 33)),
}


def hot(loops: list[InnerLoop]) -> InnerLoop:
    """The loop that does most multiply-accumulates a round; one without any if all are unrolled."""
    return max(loops, key=lambda loop: loop.macs, default=InnerLoop(1, 0, (), False))


def spills(loops: list[InnerLoop]) -> str:
    """What is wrong with the loops; "" if nothing is."""
    spilling = [loop for loop in loops if loop.spills]
    if not spilling:
        return ""
    worst = max(spilling, key=lambda loop: len(loop.stack))
    return f"{len(worst.stack)} of {worst.instructions} instructions"


def reloads(loops: list[InnerLoop]) -> int:
    """Most instructions of a loop without spills that write and read the stack."""
    return max((len(loop.stack) for loop in loops if not loop.spills), default=0)


def main(names: list[str]) -> None:
    """Prints a table, and records reloads."""
    reloaded = json.loads(RELOADS.read_text())
    for name in names or TARGETS:
        target = load_target(name)
        reloaded[name] = {}
        for case in CASES:
            loops = CASES[case].loops(target)
            best, spill, count = hot(loops), spills(loops), reloads(loops)
            print(
                f"{name:18} {case:30} {best.macs:4} of {best.instructions:4} multiply, "
                f"{best.share:5.0%}   {spill and 'spills: ' + spill} {count or ''}"
            )
            if count:
                reloaded[name][case] = count
    RELOADS.write_text(json.dumps(reloaded, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
