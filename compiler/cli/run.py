"""``edgecc run PACKAGE``: one inference on the user's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compiler.cli import console
from compiler.cli.model import load_npy
from compiler.cli.options import Debug, Json, Package, Threads
from compiler.errors import EdgeccError

if TYPE_CHECKING:
    import numpy as np


def run(
    package: Package,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=x.npy",
            help="An input; repeatable. Without any, the package's golden inputs are used.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="out.npz", help="Write the outputs, by name."),
    ] = None,
    threads: Threads = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a package once; natively, or under emulation where the target is foreign."""
    from compiler.package import open_package
    from compiler.package.runner import Runner
    from compiler.package.verify import golden_inputs
    from compiler.runtime.arrays import name_inputs

    opened = open_package(package)
    if output is not None and not output.parent.is_dir():
        raise EdgeccError(f"--output {output}: there is no folder {output.parent}")
    arrays = _read_inputs(inputs or [])
    if not inputs and opened.inputs:
        golden = golden_inputs(opened)
        if golden is None:
            raise EdgeccError(
                f"{package}: no inputs given, and the package has no golden ones",
                "give each input: " + " ".join(f"--input {t.name}=x.npy" for t in opened.inputs),
            )
        console.note("inputs: the package's golden inputs")
        arrays = golden
    arrays = name_inputs(opened.inputs, (), arrays)
    runner = Runner(opened)
    if runner.emulator:
        console.note(f"running under {runner.emulator}: the target is {opened.target_name}")
        results = runner.run(arrays, threads or 1)
    else:
        import compiler

        with compiler.load(package, threads or 0) as model:
            results = model.run(arrays)
    if output is not None:
        _write(output, results)
    _print(results, json)


def _read_inputs(options: list[str]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for option in options:
        name, equals, file = option.rpartition("=")
        if not equals or not name or not file:
            raise EdgeccError(f"--input {option}: must be NAME=FILE.npy")
        if name in arrays:
            raise EdgeccError(f"--input {option}: '{name}' is given twice")
        arrays[name] = load_npy(Path(file), f"--input {name}")
    return arrays


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise EdgeccError(f"--output {path}: {error.strerror or error}") from None
    console.note(f"wrote {path}")


def _print(arrays: dict[str, np.ndarray], json: bool) -> None:
    import numpy as np

    if json:
        console.result_json({name: array.tolist() for name, array in arrays.items()})
        return
    for name, array in arrays.items():
        console.heading(f"{name}  {array.dtype} {console.shape(array.shape)}")
        console.result(np.array2string(array, threshold=64, precision=6, max_line_width=100))
