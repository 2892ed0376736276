"""Geometry that convolutions and poolings share."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.frontend.node import ConversionError, Node


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes; every list has one entry an axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    out: list[int]

    @property
    def padding(self) -> list[int]:
        """As Relax takes it: all begins, then all ends."""
        return [*self.before, *self.after]

    @property
    def padded(self) -> bool:
        return any(self.padding)


def window(node: Node, spatial: tuple[int, ...], kernel: list[int], ceil: bool = False) -> Window:
    """Reads strides, dilations, pads, auto_pad; computes the output's extents as ONNX defines them.

    ``after`` is the padding that makes exactly the output's windows fit: more than the model says
    where ``ceil_mode`` adds a window.
    """
    rank = len(spatial)
    strides = node.attr("strides") or [1] * rank
    dilations = node.attr("dilations") or [1] * rank
    pads = node.attr("pads") or [0] * (2 * rank)
    if not len(kernel) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        raise ConversionError(f"kernel, strides, dilations or pads do not fit {rank} spatial axes")
    if min([*kernel, *strides, *dilations]) < 1:
        raise ConversionError("kernel, strides and dilations must be positive")
    auto = node.attr("auto_pad", "NOTSET")
    before, after, out = [], [], []
    for axis, extent in enumerate(spatial):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        stride = strides[axis]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-extent // stride)
            total = max(0, (count - 1) * stride + reach - extent)
            small, large = total // 2, total - total // 2
            first, last = (small, large) if auto == "SAME_UPPER" else (large, small)
        else:
            first, last = (0, 0) if auto == "VALID" else (pads[axis], pads[axis + rank])
            span = extent + first + last - reach
            if span < 0:
                raise ConversionError("the window is larger than the padded input")
            count = span // stride + 1
            if ceil and span % stride:
                # a window that starts in the end padding does not count
                count += (span // stride + 1) * stride < extent + first
                last = max(last, (count - 1) * stride + reach - extent - first)
        before.append(first)
        after.append(last)
        out.append(count)
    if any(n < 0 for n in before + after):
        raise ConversionError("negative pads")
    return Window(list(kernel), list(strides), list(dilations), before, after, out)


def layout(rank: int) -> tuple[str, str]:
    """Names of data and kernel layout for ``rank`` spatial axes."""
    axes = {1: "W", 2: "HW", 3: "DHW"}.get(rank)
    if axes is None:
        raise ConversionError(f"{rank} spatial axes are not supported, only 1 to 3")
    return f"NC{axes}", f"OI{axes}"
