"""Where converters register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

REGISTRY: dict[tuple[str, str], Callable[..., Any]] = {}
F = TypeVar("F", bound=Callable[..., Any])


def converter(*ops: str, domain: str = "") -> Callable[[F], F]:
    """Registers a converter for the operators ``ops``."""

    def register(function: F) -> F:
        for op in ops:
            REGISTRY[(domain, op)] = function
        return function

    return register
