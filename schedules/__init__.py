"""Fused operator -> loop nest: one template an operator family, tried in order."""

from schedules.registry import apply

__all__ = ["apply"]
