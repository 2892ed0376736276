"""What the plugin counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# In the order of `enum instruction_class` in plugin.h.
CLASSES = (
    "int",
    "fp",
    "fma",
    "vector",
    "vector_fma",
    "load",
    "vector_load",
    "store",
    "vector_store",
    "branch",
    "other",
)
_VECTOR = ("vector", "vector_fma", "vector_load", "vector_store")


@dataclass(frozen=True)
class Counts:
    """Executed instructions of each class of ``CLASSES``, and misses of the simulated caches.

    Classes: "int" general registers; "fp" and "fma" scalar floating point without and with
    multiply-add; "vector" and "vector_fma" (multiply-accumulates, integer dot products) the same on
    vector registers; "load" and "store" of general and scalar floating-point registers;
    "vector_load" and "vector_store" of whole vector registers; "branch"; "other" (barriers,
    prefetches, vector length settings, system calls). Every instruction is of one class.
    """

    classes: tuple[int, ...]
    l1d_misses: int
    l2_misses: int

    @classmethod
    def parse(cls, line: str) -> Counts:
        """A line of the plugin's output."""
        *classes, l1d, l2 = (int(number) for number in line.split())
        if len(classes) != len(CLASSES):
            raise ValueError(f"{len(classes)} classes instead of {len(CLASSES)}")
        return cls(tuple(classes), l1d, l2)

    @classmethod
    def sum(cls, counts: Iterable[Counts]) -> Counts:
        counts = list(counts)
        columns = zip(*(c.classes for c in counts), strict=True)
        classes = tuple(map(sum, columns)) or (0,) * len(CLASSES)
        return cls(classes, sum(c.l1d_misses for c in counts), sum(c.l2_misses for c in counts))

    def __getitem__(self, name: str) -> int:
        return self.classes[CLASSES.index(name)]

    @property
    def instructions(self) -> int:
        return sum(self.classes)

    @property
    def vector_share(self) -> float:
        """Instructions that work on whole vector registers, 0 to 1 of all."""
        return sum(self[name] for name in _VECTOR) / (self.instructions or 1)

    @property
    def fma_share(self) -> float:
        """Multiply-accumulate instructions, scalar and vector, 0 to 1 of all."""
        return (self["fma"] + self["vector_fma"]) / (self.instructions or 1)
