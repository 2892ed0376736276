"""Calibration data: where samples come from, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compiler.errors import EdgeccError
from compiler.program import TensorInfo
from compiler.quantize.arrays import npy_samples, npz_samples
from compiler.quantize.images import IMAGES, Preprocessing, class_files, image_samples

Sample = Mapping[str, np.ndarray]
Source = Any  # str | Path | Iterable | Callable[[], Iterable]; see ``open_data``


class CalibrationData:
    """Samples that fit a model's inputs; can be walked more than once.

    Args:
        samples: makes an iterator of raw samples: arrays by input name.
        inputs: of the model.
        name: of the source, for messages.
        preprocessing: what was done to pictures; None for numbers.
    """

    def __init__(
        self,
        samples: Callable[[], Iterator[Sample]],
        inputs: tuple[TensorInfo, ...],
        name: str,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        self._samples = samples
        self.inputs = inputs
        self.name = name
        self.preprocessing = preprocessing
        self.count = 0
        self._sha256 = ""

    @property
    def sha256(self) -> str:
        """Of all samples in order; known once they have been walked."""
        return self._sha256

    def part(self, takes: Callable[[int], bool]) -> CalibrationData:
        """Samples of some indices."""

        def samples() -> Iterator[Sample]:
            return (s for index, s in enumerate(self._samples()) if takes(index))

        return CalibrationData(samples, self.inputs, self.name, self.preprocessing)

    def of(self, inputs: tuple[TensorInfo, ...]) -> CalibrationData:
        """The same samples, of some of the inputs."""
        return CalibrationData(self._samples, inputs, self.name, self.preprocessing)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Samples as the model takes them.

        Raises:
            EdgeccError: there is none, or one has a wrong shape or type, or NaN.
        """
        digest = hashlib.sha256()
        count = 0
        for raw in self._samples():
            where = f"{self.name}: sample {count}"
            sample = {info.name: fitted(raw, info, where) for info in self.inputs}
            for name, array in sample.items():
                digest.update(f"{name}:{array.dtype}{array.shape}".encode())
                digest.update(array.tobytes())
            count += 1
            yield sample
        if not count:
            raise EdgeccError(
                f"{self.name}: no calibration samples",
                "give an .npz file, or a folder of .npy files or pictures",
            )
        self.count, self._sha256 = count, digest.hexdigest()


class NoData(CalibrationData):
    """In the place of data that nobody gave: an error where some are needed."""

    def __init__(self, inputs: tuple[TensorInfo, ...]) -> None:
        super().__init__(lambda: iter(()), inputs, "no data")

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Raises:
        EdgeccError: always.
        """
        raise EdgeccError(
            "--quantize int8 needs data that look like what the model will see",
            "--calibration FILE.npz, or a folder of .npy files or pictures; 100 are plenty",
        )


def open_data(
    source: Source,
    inputs: tuple[TensorInfo, ...],
    preprocessing: Preprocessing | None = None,
    option: str = "--calibration",
) -> CalibrationData:
    """Calibration data from whatever holds them.

    Args:
        source: an .npz file of arrays by input name, with one axis more than the input or with
            batches that are cut into the model's; a folder of .npy files (or of folders of them by
            input name), of .npz files or of pictures; an iterable of arrays or of dictionaries by
            input name; a function without arguments that makes one.
        preprocessing: of pictures; default: preprocessing.toml in their folder.
        option: what messages call it.

    Raises:
        EdgeccError: nothing can be read there.
    """
    if isinstance(source, (str, Path)):
        return _open_path(Path(source), inputs, preprocessing, option)
    if isinstance(source, CalibrationData):
        return source
    if callable(source):
        make: Callable[[], Iterable] = source
    elif isinstance(source, Iterator):
        raise EdgeccError(
            "the calibration data are an iterator, which can be walked only once",
            "give a list, or a function that makes the iterator",
        )
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):

        def make() -> Iterable:
            return source
    else:
        raise EdgeccError(
            f"calibration data can't be a {type(source).__name__}",
            "give a path, an iterable of samples, or a function that makes one",
        )

    def named() -> Iterator[Sample]:
        for item in make():
            yield item if isinstance(item, Mapping) else _single(item, inputs)

    return CalibrationData(named, inputs, "calibration data")


def _single(item: Any, inputs: tuple[TensorInfo, ...]) -> Sample:
    if len(inputs) != 1:
        raise EdgeccError(
            f"calibration data: a sample is one array, the model has {len(inputs)} inputs",
            "give dictionaries with " + ", ".join(f"'{i.name}'" for i in inputs),
        )
    return {inputs[0].name: np.asarray(item)}


def _open_path(
    path: Path,
    inputs: tuple[TensorInfo, ...],
    preprocessing: Preprocessing | None,
    option: str,
) -> CalibrationData:
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in IMAGES)
        files = files or [file for file, _ in class_files(path)]
        if files:
            chosen = preprocessing or Preprocessing.beside(path)
            return CalibrationData(
                lambda: image_samples(files, inputs, chosen), inputs, str(path), chosen
            )
        return CalibrationData(lambda: _folder_samples(path, inputs), inputs, str(path))
    if not path.exists():
        raise EdgeccError(f"{option} {path}: no such file or folder")
    if path.suffix == ".npz":
        return CalibrationData(lambda: npz_samples(path, inputs), inputs, str(path))
    if path.suffix == ".npy":
        return CalibrationData(lambda: npy_samples([path], _only(inputs, path)), inputs, str(path))
    raise EdgeccError(
        f"{option} {path}: not a kind of calibration data that is known",
        "give an .npz file, or a folder of .npy files or pictures",
    )


def _folder_samples(path: Path, inputs: tuple[TensorInfo, ...]) -> Iterator[Sample]:
    """Of .npz files, of .npy files of the only input, or of a folder of them for each input."""
    packed = sorted(path.glob("*.npz"))
    if packed:
        for file in packed:
            yield from npz_samples(file, inputs)
        return
    if len(inputs) == 1 and not (path / inputs[0].name).is_dir():
        yield from npy_samples(sorted(path.glob("*.npy")), inputs[0])
        return
    missing = [i.name for i in inputs if not (path / i.name).is_dir()]
    if missing:
        raise EdgeccError(
            f"{path}: no folder for input '{missing[0]}'",
            "a model of several inputs wants a folder of .npy files for each, or .npz files",
        )
    files = {i.name: sorted((path / i.name).glob("*.npy")) for i in inputs}
    counts = {name: len(found) for name, found in files.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{count} for '{name}'" for name, count in counts.items())
        raise EdgeccError(f"{path}: not as many files for each input: {text}")
    streams = [npy_samples(files[info.name], info) for info in inputs]
    for parts in zip(*streams, strict=True):
        yield {name: array for part in parts for name, array in part.items()}


def _only(inputs: tuple[TensorInfo, ...], path: Path) -> TensorInfo:
    if len(inputs) == 1:
        return inputs[0]
    raise EdgeccError(
        f"{path}: the model has {len(inputs)} inputs",
        "give an .npz file with " + ", ".join(f"'{i.name}'" for i in inputs),
    )


def fitted(raw: Sample, info: TensorInfo, where: str) -> np.ndarray:
    """One input of a sample in the model's shape and type.

    Raises:
        EdgeccError: it is missing, or can't be brought into them.
    """
    if info.name not in raw:
        held = ", ".join(f"'{name}'" for name in raw) or "nothing"
        raise EdgeccError(f"{where}: no array for input '{info.name}'", f"the sample holds {held}")
    array = np.asarray(raw[info.name])
    if _without_ones(array.shape) == _without_ones(info.shape):
        array = array.reshape(info.shape)
    if array.shape != info.shape:
        raise EdgeccError(
            f"{where}: '{info.name}' has shape {_text(array.shape)}, "
            f"the model takes {_text(info.shape)}",
            "calibrate with data as the model sees them, preprocessing included",
        )
    wanted = np.dtype(info.dtype)
    if array.dtype != wanted and not (array.dtype.kind == wanted.kind and wanted.kind in "fiu"):
        raise EdgeccError(
            f"{where}: '{info.name}' is {array.dtype}, the model takes {wanted}",
            "scale and convert the data as the model's preprocessing does",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise EdgeccError(
            f"{where}: '{info.name}' holds NaN or infinities", "leave such samples out"
        )
    converted = np.ascontiguousarray(array, wanted)
    if wanted.kind in "iu" and not np.array_equal(converted, array):
        raise EdgeccError(f"{where}: '{info.name}' holds numbers beyond {wanted}")
    return converted


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(extent for extent in shape if extent != 1)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "of a scalar"
