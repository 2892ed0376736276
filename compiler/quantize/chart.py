"""The picture of a diagnosis: each layer's SQNR and share of the error, in order of execution."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from compiler.errors import EdgeccError
from compiler.quantize.debug import BAD_DB, Layer

TOP_DB = 80.0


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_chart(layers: list[Layer], path: Path) -> None:
    """Writes a PNG.

    Args:
        layers: in order of execution.

    Raises:
        EdgeccError: the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(40, 4 + 0.18 * len(layers)), 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(layers))
    colours = ["tab:red" if layer.sqnr_db < BAD_DB else "tab:blue" for layer in layers]
    above.bar(places, [min(layer.sqnr_db, TOP_DB) for layer in layers], color=colours)
    above.axhline(BAD_DB, color="grey", linewidth=0.8, linestyle="--")
    above.set_ylabel("SQNR, dB")
    below.bar(places, [100 * layer.share for layer in layers], color=colours)
    below.set_ylabel("share of added error, %")
    below.set_xticks(places, [layer.name for layer in layers], rotation=90, fontsize=6)
    try:
        FigureCanvasAgg(figure).print_png(path)
    except OSError as error:
        raise EdgeccError(f"can't write {path}: {error.strerror or error}") from None
