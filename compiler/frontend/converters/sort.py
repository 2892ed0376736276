"""Order: TopK, ArgMax, ArgMin. No sort of TVM's runtime is called; the device has none."""

from __future__ import annotations

from tvm import relax, te, tirx

from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node, reduce_axis


@converter("ArgMax", "ArgMin")
def arg_extreme(node: Node) -> relax.Expr:
    rank = node.rank(0)
    axis = node.axis_in(node.attr("axis", 0), rank)
    keep = bool(node.attr("keepdims", 1))
    largest = node.op == "ArgMax"
    search = relax.op.argmax if largest else relax.op.argmin
    if not node.attr("select_last_index", 0):
        return search(node[0], axis, keep)
    flipped = node.emit(search(node.emit(relax.op.flip(node[0], axis)), axis, keep))
    return relax.op.subtract(node.scalar(node.shape(0)[axis] - 1, "int64"), flipped)


@converter("TopK")
def top_k(node: Node) -> list[relax.Expr]:
    """Each element's rank is counted, then rank r goes to place r; ties keep their order.

    O(n^2) comparisons that vectorise, without scratch memory.
    """
    dims = node.shape(0)
    k = int(node.const(1, "k").reshape(-1)[0]) if node.opset >= 10 else node.attr("k")
    axis = node.axis_in(node.attr("axis", -1), len(dims))
    if not 0 <= k <= dims[axis]:
        raise ConversionError(f"k is {k}, but the axis has {dims[axis]} elements")
    ranks = node.te(_ranks, node[0], axis, bool(node.attr("largest", 1)), name="rank")
    indices = node.te(_by_rank, ranks, axis, k, name="top_k_indices")

    def values(x: te.Tensor, index: te.Tensor) -> te.Tensor:
        return te.compute(
            index.shape, lambda *i: x(*i[:axis], index(*i), *i[axis + 1 :]), name="top_k_values"
        )

    return [node.te(values, node[0], indices, name="top_k_values"), indices]


def _ranks(x: te.Tensor, axis: int, largest: bool) -> te.Tensor:
    """How many elements of the same row come before each one."""
    other = reduce_axis(x.shape[axis], "other")

    def count(*i: tirx.Expr) -> tirx.Expr:
        mine, theirs = x(*i), x(*i[:axis], other, *i[axis + 1 :])
        ahead = theirs > mine if largest else theirs < mine
        tie = tirx.all(theirs == mine, other < i[axis])
        return te.sum(tirx.Cast("int32", tirx.any(ahead, tie)), other)

    return te.compute(x.shape, count, name="rank")


def _by_rank(ranks: te.Tensor, axis: int, k: int) -> te.Tensor:
    """The position of the element of rank 0, 1, ... k - 1."""
    shape = [*ranks.shape[:axis], k, *ranks.shape[axis + 1 :]]
    source = reduce_axis(ranks.shape[axis], "source")

    def find(*i: tirx.Expr) -> tirx.Expr:
        hit = ranks(*i[:axis], source, *i[axis + 1 :]) == tirx.Cast("int32", i[axis])
        position = tirx.Cast("int64", source)
        return te.sum(tirx.Select(hit, position, tirx.const(0, "int64")), source)

    return te.compute(shape, find, name="top_k_indices")
