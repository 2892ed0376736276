"""Latency of boards that are not on the desk: counts of an emulator, times a fit of the CPU."""

from compiler.estimate.counts import CLASSES, Counts
from compiler.estimate.package import Estimate, OperatorEstimate, estimate_package

__all__ = ["CLASSES", "Counts", "Estimate", "OperatorEstimate", "estimate_package"]
