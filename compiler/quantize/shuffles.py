"""Weights of convolutions behind a channel shuffle, in the order in which channels then lie."""

from __future__ import annotations

import numpy as np
from tvm import relax

from compiler.passes.packed_followers import SWAP
from compiler.passes.packed_values import shape_of
from compiler.quantize.regions import POINTWISE, Graph


def shuffled_groups(graph: Graph, convolution: relax.Var) -> int:
    """Groups of the channel shuffle that a convolution reads through; 1 where there is none.

    Depthwise convolutions and element-wise operators may lie between.
    """
    var = graph.operands[convolution][0]
    while var in graph.values:
        operator, operands = graph.op(var), graph.operands[var]
        if (operator in POINTWISE and len(operands) == 1) or _is_depthwise(graph, var):
            var = operands[0]
        elif operator == "relax.reshape":
            return _groups_of_shuffle(graph, var)
        else:
            break
    return 1


def _is_depthwise(graph: Graph, var: relax.Var) -> bool:
    if graph.op(var) not in ("relax.nn.conv1d", "relax.nn.conv2d"):
        return False
    weight, groups = graph.values[var].args[1], int(graph.values[var].attrs.groups)
    return groups == shape_of(var)[1] == shape_of(weight)[0]


def _groups_of_shuffle(graph: Graph, var: relax.Var) -> int:
    """Of reshape(permute(reshape(x)))."""
    swapped = graph.operands[var][0]
    if graph.op(swapped) != "relax.permute_dims":
        return 1
    axes, parts = graph.values[swapped].attrs.axes, graph.operands[swapped][0]
    if axes is None or tuple(int(a) for a in axes) != SWAP or graph.op(parts) != "relax.reshape":
        return 1
    whole = shape_of(graph.operands[parts][0])
    return shape_of(parts)[1] if whole == shape_of(var) else 1


def neighbours_behind_shuffle(channels: int, inputs: int, groups: int, parts: int) -> np.ndarray:
    """[OC, slots]: which of its inputs each output channel has in which slot; -1 for none.

    Args:
        channels, inputs: output channels, and inputs of each of their groups.
        groups: of the convolution.
        parts: groups of the shuffle: channel i lies behind channel i - parts.
    """
    first = np.arange(channels) // (channels // groups) * inputs
    members = -(-(inputs + 2 * parts) // (2 * parts)) * 2
    start = first // parts // 2 * 2
    member = start[:, None, None] + np.arange(members)
    channel = member * parts + np.arange(parts)[:, None] - first[:, None, None]
    channel = np.where((channel >= 0) & (channel < inputs), channel, -1)
    return channel.reshape(channels, -1)
