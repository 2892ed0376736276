"""Samples from .npy and .npz files, read as they are needed."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from compiler.errors import EdgeccError
from compiler.program import TensorInfo


def npz_samples(path: Path, inputs: tuple[TensorInfo, ...]) -> Iterator[dict[str, np.ndarray]]:
    """Samples of an .npz file, whose members need not fit into memory.

    Raises:
        EdgeccError: it is no such file, an input is missing, or the arrays do not go together.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            streams = [_Stream(_member(archive, path, i), i, str(path)) for i in inputs]
            counts = {s.info.name: s.count for s in streams}
            if len(set(counts.values())) > 1:
                text = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
                raise EdgeccError(f"{path}: not as many samples of each input: {text}")
            for _ in range(streams[0].count if streams else 0):
                yield {s.info.name: s.read() for s in streams}
    except (OSError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise EdgeccError(
            f"{path}: not an .npz file of numbers ({error})",
            "write it with numpy.savez(path, **{input name: array})",
        ) from None


def _member(archive: zipfile.ZipFile, path: Path, info: TensorInfo) -> IO[bytes]:
    name = f"{info.name}.npy"
    if name not in archive.namelist():
        held = ", ".join(f"'{n.removesuffix('.npy')}'" for n in archive.namelist())
        raise EdgeccError(f"{path}: no array for input '{info.name}'", f"it holds {held}")
    return archive.open(name)


class _Stream:
    """The samples of one array in .npy format, read one after the other."""

    def __init__(self, file: IO[bytes], info: TensorInfo, where: str) -> None:
        self.file, self.info = file, info
        shape, fortran, self.dtype = _header(self.file)
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects")
        self.count, self.shape = split_samples(shape, info, where)
        self.whole: np.ndarray | None = None
        if fortran and len(shape) > 1:  # its samples are not contiguous
            flat = np.frombuffer(self.file.read(), self.dtype)
            self.whole = flat.reshape(shape, order="F").reshape(self.count, *self.shape)
        self.at = 0

    def read(self) -> np.ndarray:
        if self.whole is not None:
            self.at += 1
            return self.whole[self.at - 1]
        nbytes = math.prod(self.shape) * self.dtype.itemsize
        data = self.file.read(nbytes)
        if len(data) < nbytes:
            raise ValueError("it is cut off")
        return np.frombuffer(data, self.dtype).reshape(self.shape)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the format is not known")
    return read(file)


def npy_samples(files: list[Path], info: TensorInfo) -> Iterator[dict[str, np.ndarray]]:
    """Samples of one input, one file after the other.

    Raises:
        EdgeccError: a file is no .npy file, or of another shape.
    """
    for file in files:
        try:
            with file.open("rb") as opened:
                stream = _Stream(opened, info, str(file))
                for _ in range(stream.count):
                    yield {info.name: stream.read()}
        except (OSError, ValueError, EOFError) as error:
            raise EdgeccError(
                f"{file}: not a .npy file of numbers ({error})",
                "write it with numpy.save(path, array)",
            ) from None


def split_samples(
    shape: tuple[int, ...], info: TensorInfo, where: str
) -> tuple[int, tuple[int, ...]]:
    """(samples, shape of one) of an array that holds samples of an input.

    One axis more than the input counts the samples; of the same rank, the first axis holds whole
    batches of the model's.

    Raises:
        EdgeccError: it holds neither.
    """
    if shape == info.shape:
        return 1, shape
    if len(shape) == len(info.shape) + 1 and shape[1:] == info.shape:
        return shape[0], info.shape
    if len(shape) == len(info.shape) and info.shape and shape[1:] == info.shape[1:]:
        if shape[0] % info.shape[0] == 0:
            return shape[0] // info.shape[0], info.shape
        raise EdgeccError(
            f"{where}: {shape[0]} rows of '{info.name}' are no whole batches of {info.shape[0]}",
            "leave some out, or build the model for another batch with --shape",
        )
    # a batch axis of 1 may be left out
    if info.shape[:1] == (1,) and shape[1:] == info.shape[1:]:
        return shape[0], info.shape
    wanted = "x".join(map(str, info.shape)) or "scalars"
    raise EdgeccError(
        f"{where}: '{info.name}' has shape {'x'.join(map(str, shape)) or 'of a scalar'}, "
        f"which holds no samples of {wanted}",
        f"the model takes {wanted}: stack samples along a new first axis",
    )
