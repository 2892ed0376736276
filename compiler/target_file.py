"""Reads and checks targets/*.toml and the user's own target files."""

from __future__ import annotations

import difflib
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import targets
from compiler.errors import EdgeccError
from compiler.target import Caches, Emulator, LatencyFit, Target, Vector

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ARCHITECTURES = ("x86_64", "aarch64", "arm", "riscv64")
_TRIPLE_ARCH = {"arm64": "aarch64", "amd64": "x86_64"}  # other spellings of the same
_SIZE = re.compile(r"(\d+) ?(KiB|MiB)")
_MAX_BYTES = 1024 * 1024  # of a target file: far beyond any real one


class _FaultError(Exception):
    """What is wrong with a value; the reader adds file and key."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise _FaultError("must be a non-empty line of text")
    return value


def _maybe_empty_text(value: Any) -> str:
    return "" if value == "" else _text(value)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _FaultError("must be a list of texts")
    return tuple(_text(item) for item in value)


def _architecture(value: Any) -> str:
    if value not in ARCHITECTURES:
        raise _FaultError("must be one of " + ", ".join(ARCHITECTURES))
    return value


def _features(value: Any) -> tuple[str, ...]:
    features = _texts(value)
    for feature in features:
        if not re.fullmatch(r"[+-][A-Za-z0-9._-]+", feature):
            raise _FaultError(f'must be a list like ["+neon", "-sve"], not "{feature}"')
    return features


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:  # bool is an int too
            raise _FaultError(f"must be a whole number from {low} to {high}")
        return value

    return check


def _positive(value: Any) -> float:
    if type(value) not in (int, float) or not (value > 0 and math.isfinite(value)):
        raise _FaultError("must be a number above 0")
    return float(value)


def _not_negative(value: Any) -> float:
    if type(value) not in (int, float) or not (value >= 0 and math.isfinite(value)):
        raise _FaultError("must be a number, 0 or above")
    return float(value)


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise _FaultError("must be true or false")
    return value


def _vector_bits(value: Any) -> int:
    if type(value) is not int or (value != 0 and (value not in (64, 128, 256, 512, 1024, 2048))):
        raise _FaultError("must be 0 (no vector unit) or 64, 128, 256, 512, 1024 or 2048")
    return value


def _size(value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not match:
        raise _FaultError('must be bytes or a size like "32 KiB" or "1 MiB"')
    return int(match[1]) * {"KiB": 1024, "MiB": 1024 * 1024}[match[2]]


def _nonzero_size(value: Any) -> int:
    size = _size(value)
    if size == 0:
        raise _FaultError("must be above 0")
    return size


def _line(value: Any) -> int:
    if type(value) is not int or value not in (16, 32, 64, 128, 256):
        raise _FaultError("must be 16, 32, 64, 128 or 256")
    return value


Schema = Mapping[str, "Callable[[Any], Any] | Schema"]  # type: ignore[misc]

_EMULATOR: Schema = {"command": _texts, "sysroot": _text, "packages": _texts}
_SCHEMA: Schema = {
    "description": _text,
    "boards": _texts,
    "arch": _architecture,
    "triple": _text,
    "cpu": _text,
    "features": _features,
    "abi": _maybe_empty_text,
    "cores": _integer(1, 1024),
    "frequency_ghz": _positive,
    "in_order": _boolean,
    "vector": {
        "bits": _vector_bits,
        "registers": _integer(1, 256),
        "fma": _boolean,
        "fma_latency": _integer(1, 100),
        "fma_per_cycle": _positive,
    },
    "caches": {
        "l1d": _nonzero_size,
        "l2": _size,
        "l3": _size,
        "line": _line,
        "l1d_ways": _integer(1, 64),
        "l2_ways": _integer(1, 64),
    },
    "linker": {"triple": _text, "cpu": _text},
    "emulator": _EMULATOR,
    "estimate": {
        "cycles_per_instruction": _positive,
        "cycles_per_l1d_miss": _not_negative,
        "cycles_per_l2_miss": _not_negative,
        "error": _positive,
        "source": _text,
    },
}
_OPTIONAL = ("emulator", "estimate", "in_order")


def names() -> list[str]:
    """Names of the shipped targets, sorted, and "host"."""
    return [*sorted(path.stem for path in _folder().glob("*.toml")), "host"]


def load(name_or_file: str | Path) -> Target:
    """See ``compiler.target.load_target``."""
    text = os.fspath(name_or_file)
    if text == "host":
        from compiler.host import host_target

        return host_target()
    path = _find(text)
    values = _check(_read(path, ()), _SCHEMA, path, "")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path.stem):
        raise EdgeccError(
            f"{path}: a target file's name may hold only letters, digits, . _ -",
            "rename the file",
        )
    _check_triple(values, path)
    _check_ways(values["caches"], path)
    return make_target(path.stem, values)


def make_target(name: str, values: Mapping[str, Any]) -> Target:
    """A Target of values with the layout and types of a checked file."""
    linker = values["linker"]
    emulator, estimate = values.get("emulator"), values.get("estimate")
    tables = ("vector", "caches", "linker", "emulator", "estimate")
    plain = {key: value for key, value in values.items() if key not in tables}
    return Target(
        name=name,
        vector=Vector(**values["vector"]),
        caches=Caches(**values["caches"]),
        linker_triple=linker["triple"],
        linker_cpu=linker["cpu"],
        # An empty command says that nothing emulates this CPU.
        emulator=Emulator(**emulator) if emulator and emulator["command"] else None,
        estimate=LatencyFit(**estimate) if estimate else None,
        **plain,
    )


def _folder() -> Path:
    return Path(targets.__path__[0])


def _find(text: str) -> Path:
    if text.endswith(".toml") or os.sep in text:
        return _find_file(text)
    if text in names():
        return _folder() / f"{text}.toml"
    close = difflib.get_close_matches(text, names(), n=1, cutoff=0.5)
    if not close:  # "a72" is too short for a ratio
        close = [name for name in names() if text and text.lower() in name][:1]
    question = f"did you mean {close[0]}? " if close else ""
    raise EdgeccError(
        f"unknown target '{text}'",
        f"{question}known targets: {', '.join(names())}; or give a file: ./my_board.toml",
    )


def _find_file(text: str) -> Path:
    path = Path(text)
    if "\0" in text:
        raise EdgeccError(f"target file {text!r}: a path can't hold a zero byte")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise EdgeccError(
            f"target file {text}: no such file",
            "shipped targets go by name, without folder or .toml: " + ", ".join(names()),
        ) from None
    except OSError as error:
        raise EdgeccError(f"target file {text}: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise EdgeccError(f"target file {text}: is a folder or device, not a TOML file")
    return path


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's tables, laid over those of its ``base``."""
    real = path.resolve()
    if real in seen:
        raise EdgeccError(f"{path}: base: the file is its own base")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise EdgeccError(f"{path}: too large for a target file")
        tables = tomllib.loads(path.read_bytes().decode("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise EdgeccError(f"{path}: not valid TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise EdgeccError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise EdgeccError(f"target file {path}: {error.strerror or error}") from None
    if "base" not in tables:
        return tables
    base = tables.pop("base")
    if not isinstance(base, str) or base in ("", "host"):
        raise EdgeccError(
            f"{path}: base: must be the name of a shipped target or another TOML file"
        )
    if base.endswith(".toml") or os.sep in base:
        base_path = path.parent / base  # relative to the file that says it
        if not base_path.is_file():
            raise EdgeccError(f"{path}: base: no such file {base_path}")
    else:
        try:
            base_path = _find(base)
        except EdgeccError as error:
            raise EdgeccError(f"{path}: base: {error.message}", error.hint) from None
    return _overlay(_read(base_path, (*seen, real)), tables)


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _overlay(below[key], value) if both else value
    return merged


def _check(tables: Any, schema: Schema, path: Path, prefix: str) -> dict[str, Any]:
    for key in tables:
        if key not in schema:
            close = difflib.get_close_matches(key, schema, n=1)
            hint = f"did you mean {prefix}{close[0]}?" if close else f"known: {', '.join(schema)}"
            raise EdgeccError(f"{path}: unknown key {prefix}{key}", hint)
    values = {}
    for key, check in schema.items():
        name = prefix + key
        if key not in tables:
            if prefix == "" and key in _OPTIONAL:
                continue
            raise EdgeccError(
                f"{path}: missing key {name}",
                'give it, or inherit what is missing: base = "arm_cortex_a72"',
            )
        value = tables[key]
        if isinstance(check, Mapping):
            if not isinstance(value, dict):
                raise EdgeccError(f"{path}: {name}: must be a table [{name}]")
            values[key] = _check(value, check, path, name + ".")
            continue
        try:
            values[key] = check(value)
        except _FaultError as fault:
            raise EdgeccError(f"{path}: {name}: {fault}, not {_shown(value)}") from None
    return values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_triple(values: Mapping[str, Any], path: Path) -> None:
    """The architecture that schedules and the loader see must be the one LLVM and zig build for."""
    for key, triple in (
        ("triple", values["triple"]),
        ("linker.triple", values["linker"]["triple"]),
    ):
        head = triple.split("-")[0]
        arch = _TRIPLE_ARCH.get(head, head)
        if arch != values["arch"] and not (values["arch"] == "arm" and arch.startswith("armv")):
            raise EdgeccError(f"{path}: {key}: '{triple}' is not of arch {values['arch']}")


def _check_ways(caches: Mapping[str, int], path: Path) -> None:
    for level in ("l1d", "l2"):
        size, ways, line = caches[level], caches[f"{level}_ways"], caches["line"]
        if size % (ways * line):
            raise EdgeccError(
                f"{path}: caches.{level}_ways: {size} bytes are not whole sets of {ways} lines of "
                f"{line} bytes"
            )
