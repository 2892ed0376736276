"""Bounds on what a model may ask for: model files come from strangers."""

from __future__ import annotations

GIB = 1 << 30

MAX_MODEL_BYTES = 2 * GIB - 1  # protobuf's own limit for one message
MAX_WEIGHT_BYTES = 4 * GIB  # all initializers and constants of a model together
MAX_TENSOR_BYTES = 2 * GIB  # one activation
MAX_FOLDED_BYTES = GIB // 2  # one tensor made while folding constants
MAX_FOLDED_TOTAL = 4 * GIB  # all of them together
MAX_FOLDED_NODES = 20_000  # evaluated at compile time
MAX_NODES = 50_000  # after functions are inlined and loops unrolled
MAX_LOOP_TRIPS = 4096
MAX_DEPTH = 24  # nested subgraphs and functions
MAX_RANK = 16
