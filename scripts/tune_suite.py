"""Make the tuning records that come with edgecc.

    python scripts/tune_suite.py --target x86_64_v3
    python scripts/tune_suite.py --target arm_cortex_a72 --emulated --trials 60
    python scripts/tune_suite.py --target x86_64_v3 --quantize int8

Tunes every network of the benchmark for one target, into a log of its own, and writes the best
record of each operator to tuning_logs/TARGET.tar.gz, together with those that are there already. A
run that is interrupted goes on where it was. Records whose template has changed are left out;
`--models` without a name does only that.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from compiler.cli.console import note  # noqa: E402
from compiler.cli.tuning_view import View  # noqa: E402
from compiler.target import load_target  # noqa: E402
from compiler.tuning import manage  # noqa: E402
from compiler.tuning.api import Where, tune  # noqa: E402
from scripts.bench.suite import SUITE, write_network  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--models", nargs="*", default=list(SUITE), choices=SUITE)
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--quantize", choices=("none", "int8"), default="none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, help="for each network")
    parser.add_argument("--log", type=Path, default=ROOT / "build" / "tuning_logs")
    options = parser.parse_args()
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder, View() as view:
            network = write_network(name, Path(folder) / name)
            result = tune(
                network / "model.onnx",
                options.target,
                quantize=options.quantize,
                calibration=None if options.quantize == "none" else network / "calibration.npz",
                trials=options.trials,
                threads=options.threads,
                tuning_logs=options.log,
                where=Where(emulated=options.emulated),
                notify=view,
            )
        gain = result.default_ms / result.best_ms
        note(
            f"{name}: {result.default_ms:.3f} -> {result.best_ms:.3f} ms ({gain:.3f}x), "
            f"{result.trials} trials in {result.seconds:.0f} s"
        )
    shipped = ROOT / "tuning_logs" / f"{options.target}.tar.gz"
    with tempfile.TemporaryDirectory() as folder:
        if shipped.is_file():
            manage.import_archive(shipped, Path(folder))
        if (options.log / options.target).is_dir():
            manage.merge([options.log / options.target], Path(folder))
        outdated = manage.drop_outdated(Path(folder) / options.target, load_target(options.target))
        count = manage.export(Path(folder) / options.target, shipped)
    note(f"{outdated} outdated records left out")
    note(f"{shipped.relative_to(ROOT)}: {count} records, {shipped.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
