"""Instruction counts that may not creep up.

python -m tests.estimate.recorded      # measures again and rewrites recorded.json
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import compiler
from compiler.estimate import Estimate, estimate_package
from compiler.package import open_package
from compiler.shipped import DIGITS

FILE = Path(__file__).with_suffix(".json")
ALLOWED = 1.03
MODELS = {"digits": DIGITS}
COUNTED = ("instructions", "l1d_misses")


def measure(model: str, target: str, folder: Path) -> Estimate:
    built = compiler.build(MODELS[model], target, folder / target, verify=False, tuning_logs=())
    return estimate_package(open_package(built.path))


def numbers(estimated: Estimate) -> dict[str, int]:
    return {name: getattr(estimated.counts, name) for name in COUNTED}


def read() -> dict[str, dict[str, dict[str, int]]]:
    """Counts by model and target."""
    return json.loads(FILE.read_text(encoding="ascii"))


def main() -> None:
    recorded = read()
    with tempfile.TemporaryDirectory() as folder:
        for model, by_target in recorded.items():
            for target, before in by_target.items():
                by_target[target] = numbers(measure(model, target, Path(folder)))
                print(f"{model} on {target}: {before} -> {by_target[target]}")
    FILE.write_text(json.dumps(recorded, indent=2) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
