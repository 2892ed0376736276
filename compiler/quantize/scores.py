"""Labels from what a classifier hands over."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compiler.errors import EdgeccError
from compiler.program import TensorInfo


def class_axis(rank: int) -> int:
    """Of scores: the channels of pictures and volumes, the last axis of anything else."""
    return 1 if rank in (4, 5) else rank - 1


def labels_of(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """The labels that a model's first output says: the best scores' indices, or its integers."""
    scores = next(iter(outputs.values()))
    if scores.dtype.kind in "iub":
        return scores
    return scores.argmax(axis=class_axis(scores.ndim))


def label_shape(output: TensorInfo) -> tuple[int, ...]:
    """The shape of one sample's labels.

    Raises:
        EdgeccError: the output holds no scores of several classes.
    """
    if np.dtype(output.dtype).kind in "iub":
        return output.shape
    axis = class_axis(len(output.shape))
    if not output.shape or output.shape[axis] < 2:
        raise EdgeccError(
            f"--max-drop: output '{output.name}' holds no scores of several classes",
            "sqnr:20 bounds any output; in Python a metric may be a function",
        )
    return output.shape[:axis] + output.shape[axis + 1 :]
