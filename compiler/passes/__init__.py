"""Relax to Relax: simplify, fuse, choose layouts. ``pipeline.py`` lists the phases in order."""

from compiler.passes.pipeline import lower, optimize, simplify

__all__ = ["lower", "optimize", "simplify"]
