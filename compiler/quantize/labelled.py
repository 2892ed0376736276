"""Data that a bound is checked on: samples, and labels where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compiler.errors import EdgeccError
from compiler.program import TensorInfo
from compiler.quantize.data import CalibrationData, Sample, fitted, open_data
from compiler.quantize.images import Preprocessing, class_files

LABELS = ("labels", "label")
# Every fourth sample is held out where there are at least 32.
EVERY = 4
FEWEST = 32


@dataclass(frozen=True)
class Validation:
    """Args:
    data: samples; of several where labels count, the last of its inputs is the labels.
    name: where it comes from, for people.
    held_out: whether none of it calibrates.
    labels: what the labels are called in ``data``; None without.
    """

    data: CalibrationData
    name: str
    held_out: bool
    labels: str | None = None

    def __iter__(self) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        for sample in self.data:
            labels = sample.pop(self.labels) if self.labels else None
            yield sample, labels


def open_validation(
    source: Any,
    inputs: tuple[TensorInfo, ...],
    labels: tuple[int, ...] | None,
    preprocessing: Preprocessing | None = None,
) -> Validation:
    """Samples of their own, with labels where a shape of one sample's labels is given.

    Args:
        source: as for ``open_data``; with labels: an .npz file (or a folder of them) with an array
            "labels", a folder of one folder of pictures for each class, or an iterable of pairs
            (sample, label) or of dictionaries with "labels", or a function that makes one.

    Raises:
        EdgeccError: nothing can be read there, or the labels are missing.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the validation data"
    if labels is None:
        return Validation(open_data(source, inputs, preprocessing, "--validation"), name, True)
    data = _labelled(source, inputs, labels, preprocessing, name)
    return Validation(data, name, True, data.inputs[-1].name)


def split(
    source: Any,
    inputs: tuple[TensorInfo, ...],
    labels: tuple[int, ...] | None,
    preprocessing: Preprocessing | None = None,
) -> tuple[CalibrationData, Validation]:
    """One source for both: every fourth sample validates alone, or all do both where there are few.

    Raises:
        EdgeccError: nothing can be read there, or the labels are missing.
    """
    if labels is None:
        calibration = open_data(source, inputs, preprocessing)
        whole = Validation(calibration, calibration.name, False)
    else:
        name = str(source) if isinstance(source, (str, Path)) else "the calibration data"
        data = _labelled(source, inputs, labels, preprocessing, name)
        calibration = data.of(inputs)
        whole = Validation(data, data.name, False, data.inputs[-1].name)
    if sum(1 for _ in calibration) < FEWEST:
        return calibration, whole
    kept = calibration.part(lambda index: index % EVERY != EVERY - 1)
    held = whole.data.part(lambda index: index % EVERY == EVERY - 1)
    name = f"every {EVERY}th sample of {whole.name}"
    return kept, replace(whole, data=held, name=name, held_out=True)


def _labelled(
    source: Any,
    inputs: tuple[TensorInfo, ...],
    shape: tuple[int, ...],
    preprocessing: Preprocessing | None,
    name: str,
) -> CalibrationData:
    """Samples with the labels as one more input of int64."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir() and (files := class_files(path)):
            return _of_classes(path, files, inputs, shape, preprocessing)
        packed = sorted(path.glob("*.npz"))[:1] if path.is_dir() else [path]
        if not path.exists() or not packed or packed[0].suffix != ".npz":
            raise _no_labels(name)
        with np.load(packed[0], allow_pickle=False) as arrays:
            key = next((n for n in LABELS if n in arrays.files), None)
            dtype = str(arrays[key].dtype) if key else ""
        if key is None:
            raise _no_labels(name)
        _check_integers(dtype, name)
        return open_data(source, (*inputs, TensorInfo(key, dtype, shape)), preprocessing)
    make: Callable[[], Iterable] = source if callable(source) else lambda: source
    info = TensorInfo(LABELS[0], "int64", shape)

    def samples() -> Iterator[Sample]:
        for item in make():
            sample, label = _pair(item, inputs, name)
            array = np.asarray(label)
            _check_integers(str(array.dtype), name)
            yield {**sample, LABELS[0]: fitted({info.name: array.astype("int64")}, info, name)}

    if isinstance(source, Iterator) or not (callable(source) or isinstance(source, Iterable)):
        open_data(source, inputs)  # says what is wrong
    return CalibrationData(samples, (*inputs, info), name)


def _pair(item: Any, inputs: tuple[TensorInfo, ...], name: str) -> tuple[Sample, Any]:
    if isinstance(item, Mapping):
        key = next((n for n in LABELS if n in item), None)
        if key is None:
            raise _no_labels(name)
        return {k: v for k, v in item.items() if k != key}, item[key]
    if not isinstance(item, tuple) or len(item) != 2:
        raise _no_labels(name)
    sample, label = item
    return sample if isinstance(sample, Mapping) else {inputs[0].name: np.asarray(sample)}, label


def _of_classes(
    path: Path,
    files: list[tuple[Path, int]],
    inputs: tuple[TensorInfo, ...],
    shape: tuple[int, ...],
    preprocessing: Preprocessing | None,
) -> CalibrationData:
    pictures = open_data(path, inputs, preprocessing)
    info = TensorInfo(LABELS[0], "int64", shape)

    def samples() -> Iterator[Sample]:
        for sample, (_, label) in zip(pictures, files, strict=True):
            yield {**sample, info.name: np.full(shape, label, "int64")}

    return CalibrationData(samples, (*inputs, info), str(path), pictures.preprocessing)


def _check_integers(dtype: str, name: str) -> None:
    if np.dtype(dtype).kind not in "iu":
        raise EdgeccError(f"{name}: labels are {dtype}", "they must be indices of classes")


def _no_labels(name: str) -> EdgeccError:
    return EdgeccError(
        f"--max-drop accuracy: no labels in {name}",
        "--validation FILE.npz with an array 'labels', or a folder of one folder of pictures for "
        "each class",
    )
