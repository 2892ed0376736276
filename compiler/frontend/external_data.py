"""External tensor data, read only from regular files in the model's own folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from compiler.errors import EdgeccError
from compiler.frontend import limits
from compiler.frontend.tensors import declared_elements, element_bits

if TYPE_CHECKING:
    import onnx


def load_external_data(
    model_path: Path, tensors: list[tuple[str, onnx.TensorProto]], digest: Any
) -> None:
    """Reads the data of all tensors that keep it outside into ``raw_data``.

    Args:
        model_path: the model file; locations are relative to its folder.
        tensors: every tensor of the model, with how messages name it.
        digest: a hash object, updated with the referenced files in order of their names.

    Raises:
        EdgeccError: a file is missing or short, or its path leaves the folder.
    """
    import onnx

    external = [
        (owner, tensor)
        for owner, tensor in tensors
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    files: set[Path] = set()
    total = 0
    for owner, tensor in external:
        nbytes = _needed_bytes(model_path, owner, tensor)
        total += nbytes
        if total > limits.MAX_WEIGHT_BYTES:
            raise EdgeccError(
                f"{model_path}: the external weights take more than "
                f"{limits.MAX_WEIGHT_BYTES >> 30} GiB",
                "edgecc compiles models for small machines; quantize or shrink the model",
            )
        files.add(_read_tensor(model_path, owner, tensor, nbytes))
    for file in sorted(files):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)


def _needed_bytes(model_path: Path, owner: str, tensor: onnx.TensorProto) -> int:
    bits = element_bits(tensor.data_type)
    if not bits:
        raise EdgeccError(
            f"{model_path}: {owner} has an element type that cannot be external data",
            "export the model again",
        )
    return (declared_elements(model_path, owner, tensor) * bits + 7) // 8


def _read_tensor(model_path: Path, owner: str, tensor: onnx.TensorProto, nbytes: int) -> Path:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = _resolve(model_path, owner, entries.get("location", ""))
    offset = _number(model_path, owner, entries, "offset", 0)
    length = _number(model_path, owner, entries, "length", nbytes)
    if length != nbytes:
        raise EdgeccError(
            f"{model_path}: {owner} has shape {tuple(tensor.dims)} and needs {nbytes} bytes, "
            f"but names {length} bytes of external data",
            "the file is damaged; fetch or export it again",
        )
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise EdgeccError(
            f"{model_path}: external data file '{file.name}' of {owner}: {error.strerror}",
            "keep the model and its data files together in one folder",
        ) from None
    with os.fdopen(descriptor, "rb") as stream:
        size = os.fstat(descriptor).st_size
        if offset + nbytes > size:
            raise EdgeccError(
                f"{model_path}: {owner} needs bytes {offset} to {offset + nbytes} of "
                f"'{file.name}', which has {size}",
                "the external data is truncated; fetch or export it again",
            )
        stream.seek(offset)
        tensor.raw_data = stream.read(nbytes)
    tensor.data_location = type(tensor).DEFAULT
    del tensor.external_data[:]
    return file


def _number(model_path: Path, owner: str, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise EdgeccError(
            f"{model_path}: external data {key} '{text[:40]}' of {owner} is not a number",
            "the file is damaged; fetch or export it again",
        )
    return int(text)


def _resolve(model_path: Path, owner: str, location: str) -> Path:
    """The file that ``location`` names, refused unless it is a plain file below the model."""
    shown = location[:200]
    path = PurePosixPath(location)
    windows = PureWindowsPath(location)
    if (
        not location
        or "\0" in location
        or path.is_absolute()
        or windows.drive
        or windows.root
        or ".." in path.parts
        or ".." in windows.parts
    ):
        raise EdgeccError(
            f"{model_path}: external data path '{shown}' of {owner} leaves the model's folder",
            "only files beside the model are read; save the data there",
        )
    folder = model_path.parent
    current = folder
    for part in path.parts:
        current = current / part
        try:
            mode = current.lstat().st_mode
        except OSError:
            raise EdgeccError(
                f"{model_path}: external data file '{shown}' of {owner} is missing",
                "keep the model and its data files together in one folder",
            ) from None
        if stat.S_ISLNK(mode):
            raise EdgeccError(
                f"{model_path}: external data path '{shown}' of {owner} is a symbolic link",
                "only plain files beside the model are read; copy the data there",
            )
    if not stat.S_ISREG(mode):
        raise EdgeccError(
            f"{model_path}: external data path '{shown}' of {owner} is not a regular file",
            "only plain files beside the model are read",
        )
    return current
