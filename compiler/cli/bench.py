"""``edgecc bench PACKAGE``: how long one inference takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compiler.cli import console
from compiler.cli.options import Debug, Emulate, Json, Package, Threads
from compiler.errors import EdgeccError

if TYPE_CHECKING:
    from compiler.runtime.timing import Timing

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def bench(
    package: Package,
    threads: Threads = None,
    seconds: Annotated[
        float, typer.Option(min=0.01, max=3600, help="How long to measure, at least ten runs.")
    ] = 1.0,
    emulate: Emulate = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time a package: warm-up, then minimum, median and 90th percentile of whole runs."""
    from compiler.package import open_package
    from compiler.package.verify import golden_inputs

    opened = open_package(package)
    inputs = golden_inputs(opened)
    emulator = refuse_foreign(opened, emulate)
    timing: Timing
    if emulator:
        from compiler.package.runner import Runner

        timing = Runner(opened).bench(inputs, threads=threads or 0)
    else:
        import compiler

        with compiler.load(package, threads or 0) as model:
            timing = model.bench(inputs, seconds=seconds)
    governor = read_governor()
    if json:
        extra = {"target": opened.target_name, "emulator": emulator, "governor": governor}
        console.result_json({**dataclasses.asdict(timing), **extra})
        return
    console.pairs(
        [
            ("median", _ms(timing.median_ms)),
            ("minimum", _ms(timing.min_ms)),
            ("90th percentile", _ms(timing.p90_ms)),
            ("runs", f"{timing.runs} after {timing.warmup} to warm up"),
            ("threads", str(timing.threads)),
            ("governor", governor or "unknown"),
        ]
    )
    if governor and governor != "performance":
        console.warning_line(
            f"the frequency governor is '{governor}': times may vary; 'performance' is steadier"
        )


def refuse_foreign(package: Any, emulate: bool) -> str | None:
    """The emulator to use, None for a package that runs on this CPU.

    Raises:
        EdgeccError: the package is foreign and emulation was not asked for, or is not possible.
    """
    from compiler.package.runner import Runner

    emulator = Runner(package).emulator
    if emulator is None:
        return None
    if not emulate:
        raise EdgeccError(
            f"{package.path}: built for {package.target_name}, which this CPU is not",
            f"copy it to the board and time it there; --emulate times it under {emulator}, which "
            "says nothing about the board's speed",
        )
    console.warning_line(
        f"measured under {emulator}: these times say nothing about the real {package.target_name}"
    )
    return emulator


def read_governor(path: Path = GOVERNOR) -> str | None:
    """The CPU's frequency governor, None where the kernel does not tell."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip() or None
    except OSError:
        return None


def _ms(value: float) -> str:
    return f"{value:.4g} ms"
