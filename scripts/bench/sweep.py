"""Measure every decision of twelve operators' templates, as a yardstick for the tuner's search.

    python scripts/bench/sweep.py --target x86_64_v3 --output tests/tuning/sweep.json

The operators are those of the benchmark's networks: four convolutions, two depthwise, two Winograd,
two dense, two batched products of activations. Times are seconds of one call on one thread; a
decision that fails has none. `tests/tuning/test_sweep.py` lets the search play against the record.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compiler.cli.console import note  # noqa: E402
from compiler.frontend import import_model  # noqa: E402
from compiler.passes import optimize  # noqa: E402
from compiler.target import Target, load_target  # noqa: E402
from compiler.tuning.builders import LocalBuilders  # noqa: E402
from compiler.tuning.candidates import Candidate, Request  # noqa: E402
from compiler.tuning.fleet import Fleet  # noqa: E402
from compiler.tuning.measure import Measurement, Settings, local_device  # noqa: E402
from compiler.tuning.tasks import Task, extract  # noqa: E402

BATCH = 32
# name -> (operator, shape of the input, shape of the other operand, attributes, template)
OPERATORS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any], str]] = {
    "conv_first": ("Conv", (1, 3, 224, 224), (32, 3, 3, 3), {"strides": [2, 2]}, "conv2d"),
    "conv_1x1_wide": ("Conv", (1, 24, 56, 56), (144, 24, 1, 1), {}, "conv2d"),
    "conv_1x1_deep": ("Conv", (1, 576, 14, 14), (96, 576, 1, 1), {}, "conv2d"),
    "conv_3x3_stride_2": (
        "Conv",
        (1, 128, 56, 56),
        (128, 128, 3, 3),
        {"strides": [2, 2]},
        "conv2d",
    ),
    "depthwise_3x3": ("Conv", (1, 144, 56, 56), (144, 1, 3, 3), {"group": 144}, "depthwise"),
    "depthwise_5x5": (
        "Conv",
        (1, 240, 28, 28),
        (240, 1, 5, 5),
        {"group": 240, "strides": [2, 2]},
        "depthwise",
    ),
    "winograd_wide": ("Conv", (1, 64, 56, 56), (64, 64, 3, 3), {}, "winograd"),
    "winograd_deep": ("Conv", (1, 128, 28, 28), (128, 128, 3, 3), {}, "winograd"),
    "dense": ("MatMul", (128, 384), (384, 1536), {}, "matmul"),
    "dense_ragged": ("MatMul", (100, 320), (320, 500), {}, "matmul"),
    "attention_scores": ("MatMul", (12, 128, 32), (12, 32, 128), {"free": True}, "matmul"),
    "attention_values": ("MatMul", (12, 128, 128), (12, 128, 32), {"free": True}, "matmul"),
}


def network(name: str, folder: Path) -> Path:
    """One operator and a relu as an ONNX file."""
    op, left, right, attributes, _ = OPERATORS[name]
    attributes = dict(attributes)
    free = attributes.pop("free", False)
    if op == "Conv":
        attributes["pads"] = [k // 2 for k in right[2:]] * 2
    inputs = [helper.make_tensor_value_info("left", 1, left)]
    constants = []
    if free:
        inputs.append(helper.make_tensor_value_info("right", 1, right))
    else:
        values = np.random.default_rng(0).standard_normal(right, np.float32) * 0.1
        constants.append(numpy_helper.from_array(values, "right"))
    nodes = [
        helper.make_node(op, ["left", "right"], ["product"], **attributes),
        helper.make_node("Relu", ["product"], ["result"]),
    ]
    result = helper.make_tensor_value_info("result", 1, None)
    graph = helper.make_graph(nodes, name, inputs, [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(model), folder / f"{name}.onnx")
    return folder / f"{name}.onnx"


def task_of(name: str, target: Target) -> Task:
    """The operator as the tuner sees it."""
    with tempfile.TemporaryDirectory() as folder:
        module = optimize(import_model(network(name, Path(folder))).module, target)
    (task,) = (t for t in extract(module, target) if t.template == OPERATORS[name][4])
    return task


def sweep(task: Task, target: Target, builders: LocalBuilders, fleet: Fleet) -> list[float | None]:
    """Seconds of each decision in the order of the space."""
    seconds: dict[tuple[int, ...], float] = {}
    rows = task.space.rows
    default: Candidate | None = None
    for start in range(0, len(rows), BATCH):
        requests = [
            Request(task.as_json, task.n_inputs, target, row) for row in rows[start : start + BATCH]
        ]
        built = [c for c in builders.build(requests) if isinstance(c, Candidate)]
        default = default or built[0]
        for candidate, found in fleet.measure(default, built):
            if isinstance(found, Measurement) and found.error <= 1e-4:
                seconds[candidate.values] = found.best
    return [seconds.get(row) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="host")
    parser.add_argument("--operators", nargs="*", default=list(OPERATORS), choices=OPERATORS)
    parser.add_argument("--output", type=Path, default=Path("sweep.json"))
    options = parser.parse_args()
    target = load_target(options.target)
    settings = Settings(1, cold_bytes=2 * target.caches.l2)
    builders, fleet = LocalBuilders(), Fleet([local_device(target, settings)], note)
    found = {}
    try:
        for name in options.operators:
            task = task_of(name, target)
            seconds = sweep(task, target, builders, fleet)
            known = [s for s in seconds if s is not None]
            found[name] = {
                "names": task.space.names,
                "rows": task.space.rows,
                "seconds": [s and round(s, 9) for s in seconds],
            }
            first = seconds[0] or math.inf
            note(
                f"{name}: {len(known)} of {len(seconds)} decisions, default {first * 1e6:.1f} us, "
                f"best {min(known) * 1e6:.1f} us"
            )
    finally:
        builders.close()
        fleet.close()
    options.output.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
