"""Weight-only integers against floats and against ONNX Runtime's MatMulNBits.

    python scripts/bench/weights.py --folder /tmp/weights-bench    # builds once, then measures
    chrt -f 50 python scripts/bench/weights.py --folder /tmp/weights-bench --network 4096x4096

Both engines multiply the same 4-bit weights: ONNX Runtime gets edgecc's integers as MatMulNBits,
with activations in float32 (accuracy_level 1) and rounded to int8 (accuracy_level 4). Variants take
turns; medians. "Bandwidth" is the bytes of all weights a second as a share of what a plain sum of
numbers out of memory reads; a share above 1 means that caches helped.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compiler.cli.console import note, table  # noqa: E402
from compiler.quantize.groups import Groups  # noqa: E402
from compiler.quantize.noise import sqnr  # noqa: E402
from compiler.quantize.recipe import Recipe, Rule  # noqa: E402
from compiler.quantize.weight_only import quantize_to_4_bits  # noqa: E402
from scripts.modelzoo.registry import default_cache  # noqa: E402

# Layers (rows, columns) of the matrices, one after the other; all of one row of activations.
DENSE = {
    "4096x4096": [(4096, 4096)],
    "dense stack": [(4096, 4096), (4096, 2048), (2048, 8192)],
}
TOKENS = {"minilm, 8 tokens": 8, "minilm, 128 tokens": 128}
GROUPS = (32, 128)
SUM_BYTES = 1 << 28
SENTENCES = 50
WORDS = (1000, 30000)  # of MiniLM's vocabulary, without its unused entries


def dense(layers: list[tuple[int, int]]) -> onnx.ModelProto:
    """Products with normal weights and a ReLU behind each."""
    rng = np.random.default_rng(0)
    nodes, constants, x = [], [], "x"
    for i, (depth, columns) in enumerate(layers):
        weights = rng.standard_normal((depth, columns), "float32") * np.float32(1.4 / depth**0.5)
        constants.append(numpy_helper.from_array(weights, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
        x = f"r{i}"
    graph = helper.make_graph(
        nodes,
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, layers[0][0]])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, layers[-1][1]])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def with_nbits(model: onnx.ModelProto, group: int, level: int) -> onnx.ModelProto:
    """The model with its products by constant matrices as MatMulNBits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {t.name: t for t in copy.graph.initializer}
    for node in copy.graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or len(weight.dims) != 2:
            continue
        made = quantize_to_4_bits(numpy_helper.to_array(weight), group)
        depth, columns = made.integers.shape
        tables = {f"{weight.name}_q": packed(made), f"{weight.name}_s": made.scale.T.reshape(-1)}
        for name, value in tables.items():
            if name not in constants:
                constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
                copy.graph.initializer.append(constants[name])
        attrs = {"K": depth, "N": columns, "bits": 4, "block_size": group, "accuracy_level": level}
        node.CopyFrom(
            helper.make_node(
                "MatMulNBits",
                [node.input[0], *tables],
                list(node.output),
                node.name,
                domain="com.microsoft",
                **attrs,
            )
        )
    read = {name for node in copy.graph.node for name in node.input}
    kept = [t for t in copy.graph.initializer if t.name in read]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    copy.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return copy


def packed(weights: Groups) -> np.ndarray:
    """uint8 [N, G, group / 2], as MatMulNBits has them."""
    depth, columns = weights.integers.shape
    codes = np.pad(weights.integers, [(0, -depth % weights.group), (0, 0)], constant_values=8)
    codes = codes.T.reshape(columns, -1, weights.group // 2, 2).astype("uint8")
    return codes[..., 0] | codes[..., 1] << 4


def prepare(folder: Path, network: str) -> dict[str, Path]:
    """Packages of edgecc and models of ONNX Runtime by variant; built where they are not there."""
    import compiler

    home = folder / network.replace(" ", "_").replace(",", "")
    home.mkdir(parents=True, exist_ok=True)
    model = home / "model.onnx"
    tokens = TOKENS.get(network)
    if not model.exists():
        proto = onnx.load(default_cache() / "minilm.onnx") if tokens else dense(DENSE[network])
        onnx.save(proto, model)
    shapes = dict.fromkeys(_token_inputs(model), (1, tokens)) if tokens else {}
    rules = {"edgecc float32": None, "edgecc int8": Rule("*", "float32", weights="int8")}
    for group in GROUPS:
        rules[f"edgecc int4, {group}"] = Rule("*", "float32", weights="int4", group=group)
    found = {}
    for name, rule in rules.items():
        found[name] = home / name.replace(" ", "_").replace(",", "")
        if not (found[name] / "manifest.json").exists():
            note(f"{network}: {name}")
            if rule is None:
                compiler.build(model, "host", found[name], shapes=shapes, verify=False)
                continue
            recipe = Recipe((rule,), bias_correction=False)
            compiler.build(
                model,
                "host",
                found[name],
                shapes=shapes,
                quantize="weights-int8",
                recipe=recipe,
                verify=False,
            )
    found["ONNX Runtime float32"] = model
    for group in GROUPS:
        for level, kind in ((1, "float32"), (4, "int8")):
            path = home / f"nbits_{group}_{level}.onnx"
            if not path.exists():
                onnx.save(with_nbits(onnx.load(model), group, level), path)
            found[f"ONNX Runtime int4, {group}, {kind} rows"] = path
    return found


def _token_inputs(model: Path) -> list[str]:
    return [i.name for i in onnx.load(model, load_external_data=False).graph.input]


def runner(path: Path, threads: int, tokens: int | None) -> Callable[[], np.ndarray]:
    """One inference; returns the first output."""
    rng = np.random.default_rng(0)
    if path.suffix != ".onnx":
        import compiler

        model = compiler.load(path, threads)
        feeds = {}
        for info in model.inputs:
            if tokens:
                feeds[info.name] = np.ones(info.shape, "int64")
            else:
                feeds[info.name] = rng.standard_normal(info.shape).astype("float32")
        return lambda: next(iter(model.run(feeds).values()))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for info in session.get_inputs():
        if tokens:
            feeds[info.name] = np.ones((1, tokens), "int64")
        else:
            feeds[info.name] = rng.standard_normal(info.shape).astype("float32")
    return lambda: session.run(None, feeds)[0]


def size(path: Path) -> int:
    """Bytes of a library or a model."""
    if path.suffix == ".onnx":
        return path.stat().st_size
    return next(path.glob("lib*.so")).stat().st_size


def memory_rate(threads: int) -> float:
    """Bytes a second that sums over a large array read."""
    values = np.ones(SUM_BYTES // 8)
    parts = np.array_split(values, threads)
    best = np.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.max, parts))
            best = min(best, time.perf_counter() - started)
    return SUM_BYTES / best


def measure(
    variants: dict[str, Callable[[], np.ndarray]], rounds: int, seconds: float
) -> dict[str, float]:
    """Median milliseconds of each variant, in turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            time.sleep(0.02)  # until the last one's threads have stopped spinning
            run()
            end = time.perf_counter() + seconds
            while True:
                started = time.perf_counter()
                run()
                now = time.perf_counter()
                times[name].append((now - started) * 1e3)
                if now > end:
                    break
    return {name: float(np.median(t)) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where models are built")
    parser.add_argument("--network", action="append", choices=[*DENSE, *TOKENS])
    parser.add_argument("--accuracy", action="store_true", help="of MiniLM, instead of times")
    parser.add_argument("--threads", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.08, help="of a turn")
    arguments = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    for network in arguments.network or [*DENSE, *TOKENS]:
        paths = prepare(arguments.folder, network)
        if arguments.accuracy:
            if network in TOKENS:
                print(f"\n{network}, {SENTENCES} sentences of random words")
                accuracy(paths)
            continue
        for threads in arguments.threads or (1, 2):
            os.sched_setaffinity(0, cpus[-threads:])
            rate = memory_rate(threads)
            runs = {n: runner(p, threads, TOKENS.get(network)) for n, p in paths.items()}
            if network in DENSE:  # tables of rows are integers in edgecc alone
                check(runs)
            times = measure(runs, arguments.rounds, arguments.seconds)
            rows = [
                [
                    name,
                    f"{size(paths[name]) / 1e6:.1f}",
                    f"{ms:.3f}",
                    f"{times['edgecc float32'] / ms:.2f}",
                    f"{size(paths[name]) / ms * 1e3 / rate:.2f}",
                ]
                for name, ms in times.items()
            ]
            print(f"\n{network}, {threads} threads, memory {rate / 1e9:.1f} GB/s")
            table(["variant", "MB", "ms", "times float32", "bandwidth"], rows, right=(1, 2, 3, 4))
            os.sched_setaffinity(0, cpus)


def accuracy(paths: dict[str, Path]) -> None:
    """Sentence vectors (means over tokens) of random words, against float32."""
    import compiler

    models = {n: compiler.load(p, 1) for n, p in paths.items() if n.startswith("edgecc")}
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for seed in range(SENTENCES):
        rng = np.random.default_rng(seed)
        feeds = {}
        for info in models["edgecc float32"].inputs:
            shape = info.shape
            if info.name == "input_ids":
                feeds[info.name] = rng.integers(*WORDS, shape)
            else:
                feeds[info.name] = np.full(shape, int(info.name == "attention_mask"))
        for name, model in models.items():
            states = next(iter(model.run(feeds).values()))
            vectors[name].append(states.mean(axis=1).reshape(-1))
    exact = np.stack(vectors.pop("edgecc float32")).astype("float64")
    rows = []
    for name, found in vectors.items():
        off = np.stack(found) - exact
        noise = np.array([sqnr(*pair) for pair in zip(exact, exact + off, strict=True)])
        both = np.linalg.norm(exact, axis=1) * np.linalg.norm(exact + off, axis=1)
        cosine = (exact * (exact + off)).sum(axis=1) / both
        rows.append([name, f"{noise.mean():.1f}", f"{noise.min():.1f}", f"{cosine.min():.4f}"])
    table(["variant", "SQNR in dB", "worst", "least cosine"], rows, right=(1, 2, 3))


def check(runs: dict[str, Callable[[], np.ndarray]]) -> None:
    """Equal weights must give equal results."""
    for group in GROUPS:
        ours = runs[f"edgecc int4, {group}"]()
        theirs = runs[f"ONNX Runtime int4, {group}, float32 rows"]()
        off = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if off > 1e-3:
            raise SystemExit(f"groups of {group}: the engines differ by {off:.2e}")


if __name__ == "__main__":
    main()
