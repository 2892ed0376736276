"""Reads weight files of other frameworks as NumPy arrays, without those frameworks.

``.pth`` files are pickles, so anything may hide in them: only tensors are rebuilt, every other
class or function named in the file is refused.
"""

from __future__ import annotations

import collections
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
}
_SAFETENSORS_DTYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass
class _Storage:
    """A flat run of elements that tensors are views of; the data may arrive after the views."""

    dtype: np.dtype
    count: int
    data: np.ndarray | None = None


@dataclass(frozen=True)
class _View:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        if self.storage.data is None or self.offset < 0 or min(self.strides, default=0) < 0:
            raise pickle.UnpicklingError("tensor without data")
        last = self.offset + sum(
            (extent - 1) * stride for extent, stride in zip(self.shape, self.strides, strict=True)
        )
        if last >= self.storage.count:
            raise pickle.UnpicklingError("tensor reaches beyond its storage")
        size = self.storage.dtype.itemsize
        view = np.lib.stride_tricks.as_strided(
            self.storage.data[self.offset :], self.shape, [size * s for s in self.strides]
        )
        return view.copy()


def _rebuild_tensor(storage: _Storage, offset: int, shape, strides, *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles tensors in dictionaries and nothing else."""

    def __init__(self, file: io.BytesIO, storage: Callable[[str, np.dtype, int], _Storage]) -> None:
        super().__init__(file)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weight file")

    def persistent_load(self, pid: tuple) -> _Storage:
        kind, dtype, key, _location, count, *_ = pid
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise pickle.UnpicklingError(f"unknown kind of stored object: {kind}")
        return self._storage(key, dtype, count)


def read_torch(content: bytes) -> dict[str, np.ndarray]:
    """State dict of a ``.pth`` file (zip format of torch 1.6, or the stream format before it).

    Raises:
        pickle.UnpicklingError: not a weight file, or one with more than tensors in it.
    """
    if zipfile.is_zipfile(io.BytesIO(content)):
        views = _read_zip(content)
    else:
        views = _read_stream(io.BytesIO(content))
    return {name: view.array() for name, view in views.items()}


def _read_zip(content: bytes) -> dict[str, _View]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        index = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = index.removesuffix("data.pkl") + "data/"

        def storage(key: str, dtype: np.dtype, count: int) -> _Storage:
            return _Storage(dtype, count, np.frombuffer(archive.read(folder + key), dtype, count))

        return _TensorUnpickler(io.BytesIO(archive.read(index)), storage).load()


def _read_stream(file: io.BytesIO) -> dict[str, _View]:
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype, count: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, count))

    def load() -> Any:
        return _TensorUnpickler(file, storage).load()

    if load() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("not a torch weight file")
    load()  # protocol version
    load()  # sizes of C types on the writing machine
    views = load()
    for key in load():
        stored = storages[key]
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        if count != stored.count:
            raise pickle.UnpicklingError(f"storage {key} has {count} elements, not {stored.count}")
        data = file.read(count * stored.dtype.itemsize)
        stored.data = np.frombuffer(data, stored.dtype, count)
    return views


def read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    """Tensors of a ``.safetensors`` file: length, JSON header, raw little-endian data."""
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            dtype = np.dtype(_SAFETENSORS_DTYPES[entry["dtype"]])
            flat = np.frombuffer(content[start + first : start + last], dtype)
            tensors[name] = flat.reshape(entry["shape"]).copy()
    return tensors
