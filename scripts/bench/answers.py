"""How often int8 gives the same answer as float32: lines of text that are read, types of files.

    python scripts/bench/answers.py lines [--max-drop 0.5%]
    python scripts/bench/answers.py files /usr/lib /usr/share [--max-drop 0.5%] [--int16]

`lines` renders words in matplotlib's DejaVu fonts, in many sizes, colours and amounts of noise, and
has PP-OCRv4's recognition network read them; `files` asks magika for the types of files of as many
suffixes as the folders hold. Other samples calibrate than test. `--max-drop` leaves as many
operators in float32 as it takes to answer alike on yet others. With `--int16` activations have 16
bits.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import compiler  # noqa: E402
from compiler.cli.console import error_line, note, table  # noqa: E402
from compiler.errors import EdgeccError  # noqa: E402
from compiler.quantize.recipe import DEFAULT, Recipe, Rule  # noqa: E402
from scripts.bench.accuracy import wilson  # noqa: E402
from scripts.modelzoo.registry import default_cache  # noqa: E402
from scripts.modelzoo.store import fetch  # noqa: E402

HEIGHT, WIDTH = 48, 320  # of a line of text
HALF = 1024  # bytes of a file's beginning and end
PADDING = 256
OF_A_SUFFIX = 12  # files
CALIBRATION, VALIDATION = 100, 200  # samples; others test

WORDS = Recipe((*DEFAULT.rules, Rule("*", activations="int16")))

Sample = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
Answer = Callable[[Mapping[str, np.ndarray]], Any]


@dataclass(frozen=True)
class Task:
    """A network, what it is asked, and what counts as its answer."""

    model: str
    shapes: dict[str, tuple[int, ...]]
    samples: list[Sample]
    answer: Answer


def lines(count: int) -> Task:
    rng = random.Random(0)
    samples = [{"x": line_of_text(rng)} for _ in range(count)]
    return Task("ppocrv4_rec", {"x": (1, 3, HEIGHT, WIDTH)}, samples, text_of)


def line_of_text(rng: random.Random) -> np.ndarray:
    """float32 [1, 3, 48, 320] of -1 to 1 in BGR, zeros right of the text."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    font = ImageFont.truetype(str(rng.choice(fonts())), rng.randint(24, 40))
    text = " ".join(rng.choice(words()) for _ in range(rng.randint(1, 3)))
    text += f" {rng.randint(0, 99999)}" if rng.random() < 0.3 else ""
    left, top, right, bottom = font.getbbox(text)
    while (right - left) * HEIGHT > (WIDTH - 20) * (bottom - top) and " " in text:
        text = text.rsplit(" ", 1)[0]
        left, top, right, bottom = font.getbbox(text)
    paper, ink = rng.randint(150, 255), rng.randint(0, 100)
    if rng.random() < 0.2:
        paper, ink = ink, paper
    tint = [rng.randint(-20, 20) for _ in range(3)]
    colors = [tuple(min(255, max(0, level + t)) for t in tint) for level in (paper, ink)]
    size = int(right - left) + rng.randint(6, 18), int(bottom - top) + rng.randint(6, 18)
    image = Image.new("RGB", size, colors[0])
    corner = rng.randint(3, 6) - left, rng.randint(3, 6) - top
    ImageDraw.Draw(image).text(corner, text, font=font, fill=colors[1])
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))
    width = min(WIDTH, round(image.width * HEIGHT / image.height))
    pixels = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), "float32")
    noise = np.random.default_rng(rng.randrange(1 << 30)).normal(0, rng.uniform(0, 8), pixels.shape)
    pixels = np.rint(np.clip(pixels + noise, 0, 255))[..., ::-1]
    made = np.zeros((1, 3, HEIGHT, WIDTH), "float32")
    made[0, :, :, :width] = (pixels / 127.5 - 1).transpose(2, 0, 1)
    return made


def fonts() -> list[Path]:
    import matplotlib

    found = (Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("DejaVu*.ttf")
    return sorted(f for f in found if "Display" not in f.name)


def words() -> list[str]:
    """Of the standard library's own documentation."""
    import decimal
    import json
    import unittest

    text = " ".join(str(m.__doc__) for m in (argparse, json, decimal, unittest, random, re))
    return sorted(set(re.findall(r"[A-Za-z][A-Za-z,.'-]{1,11}", text)))


def text_of(outputs: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    """Numbers of the characters: the best of each step without blanks (0) and repetitions."""
    (scores,) = outputs.values()
    best = scores[0].argmax(axis=-1)
    changed = np.diff(best, prepend=0) != 0
    return tuple(best[changed & (best != 0)].tolist())


def files(folders: list[Path], count: int) -> Task:
    rng = random.Random(0)
    chosen = some_files(folders, rng)[:count]
    samples = [{"bytes": ends_of(path.read_bytes())} for path in chosen]
    return Task("magika", {"bytes": (1, 2 * HALF)}, samples, label_of)


def some_files(folders: list[Path], rng: random.Random) -> list[Path]:
    """Some of each suffix, in random order."""
    by_suffix: dict[str, list[Path]] = {}
    for path in sorted(p for folder in folders for p in walk(folder)):
        by_suffix.setdefault(path.suffix.lower(), []).append(path)
    taken = [
        p for _, of in sorted(by_suffix.items()) for p in rng.sample(of, min(len(of), OF_A_SUFFIX))
    ]
    rng.shuffle(taken)
    return taken


def walk(folder: Path) -> Iterator[Path]:
    """Files with something in them that may be read."""
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink() and path.stat().st_size >= 64:
                path.open("rb").close()
                yield path
        except OSError:
            continue


def ends_of(content: bytes) -> np.ndarray:
    """int32 [1, 2048]: the first and the last 1024 bytes without white space around, padded."""
    first = content[: 4 * HALF].lstrip()[:HALF]
    last = content[-4 * HALF :].rstrip()[-HALF:]
    made = np.full((1, 2 * HALF), PADDING, "int32")
    made[0, : len(first)] = np.frombuffer(first, "uint8")
    made[0, 2 * HALF - len(last) :] = np.frombuffer(last, "uint8")
    return made


def label_of(outputs: Mapping[str, np.ndarray]) -> int:
    (scores,) = outputs.values()
    return int(scores.argmax())


def float_runner(path: Path) -> Run:
    """ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda sample: dict(zip(names, session.run(None, dict(sample)), strict=True))


def compare(task: Task, options: argparse.Namespace, folder: Path) -> list[str]:
    """Same answers, their 95 % interval and operators in float32, as text."""
    path = fetch(task.model, default_cache())
    exact = float_runner(path)
    checked = task.samples[CALIBRATION : CALIBRATION + options.validation]
    tests = task.samples[CALIBRATION + options.validation :]
    bounds: dict[str, Any] = {}
    if options.max_drop is not None:
        wanted = [task.answer(exact(sample)) for sample in checked]

        def same_answers(run: Run) -> float:
            found = [task.answer(run(sample)) for sample in checked]
            return float(np.mean([f == w for f, w in zip(found, wanted, strict=True)]))

        bounds = {
            "max_drop": f"metric:{options.max_drop}",
            "metric": same_answers,
            "validation": checked,
        }
    built = compiler.build(
        path,
        output=folder / "package",
        shapes=task.shapes,
        quantize="int8",
        calibration=task.samples[:CALIBRATION],
        recipe=WORDS if options.int16 else "auto",
        verify=False,
        progress=lambda stage, done, total: note(stage) if not done or "try" in stage else None,
        **bounds,
    )
    model = compiler.load(folder / "package")
    same = sum(task.answer(exact(sample)) == task.answer(model.run(sample)) for sample in tests)
    low, high = wilson(same, len(tests))
    trade = built.manifest["quantization"].get("max_drop")
    kept = f"{len(trade['layers'])} of {trade['candidates']}" if trade else "0"
    share = f"{same / len(tests):.1%} of {len(tests)}"
    return [task.model, share, f"{low:.1%} to {high:.1%}", kept]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("lines", "files"))
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR")
    parser.add_argument("--count", type=int, default=1000, help="samples, 100 of which calibrate")
    parser.add_argument("--validation", type=int, default=VALIDATION, help="samples for --max-drop")
    parser.add_argument("--max-drop", metavar="SHARE", help="of answers that may differ")
    parser.add_argument("--int16", action="store_true", help="activations of 16 bits")
    options = parser.parse_args()
    if options.task == "files" and not options.folders:
        parser.error("files: name folders to take them from")
    task = (
        lines(options.count) if options.task == "lines" else files(options.folders, options.count)
    )
    untested = CALIBRATION + options.validation
    if len(task.samples) <= untested:
        error_line(f"{len(task.samples)} samples are too few: {untested} don't test")
        return 1
    try:
        with tempfile.TemporaryDirectory() as folder:
            row = compare(task, options, Path(folder))
    except EdgeccError as error:
        error_line(str(error))
        return 1
    table(["model", "same answer", "95 % interval", "operators in float32"], [row], right=(1, 2, 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
