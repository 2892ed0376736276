"""Merge explicit zero pads into the windows that read them.

Before:  conv2d(pad(x, 1), w)
After:   conv2d(x, w, padding=1)
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from compiler.passes.rewriter import Rewriter

_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d")


def fold_pads(module: tvm.IRModule) -> tvm.IRModule:
    """Rewrite convolutions and averages over padded tensors; nobody may be left to read those."""
    return _Folder().rewrite(module)


class _Folder(Rewriter):
    def __init__(self) -> None:
        super().__init__()
        self.pads: dict[relax.Expr, relax.Call] = {}  # by the padded tensor in the new function
        self.handlers |= dict.fromkeys(_CONVOLUTIONS, self._convolution)
        self.handlers |= {"relax.nn.pad": self._pad, "relax.nn.avg_pool2d": self._average}

    def _pad(self, call: relax.Call) -> relax.Expr:
        new = relax.Call(call.op, [self.plain(call.args[0])], call.attrs)
        result = self.emit(new)
        if call.attrs.pad_mode == "constant" and float(call.attrs.pad_value) == 0:
            self.pads[result] = new
        return result

    def _convolution(self, call: relax.Call) -> relax.Expr | None:
        attrs = call.attrs
        if not attrs.data_layout.startswith("NC"):
            return None
        source = self._window(call, len(attrs.strides))
        if source is None:
            return None
        emit = relax.op.nn.conv1d if len(attrs.strides) == 1 else relax.op.nn.conv2d
        names = ("strides", "dilation", "groups", "data_layout", "kernel_layout", "out_layout")
        kept = {name: getattr(attrs, name) for name in names}
        x, padding = source
        return self.emit(emit(x, self.plain(call.args[1]), padding=padding, **kept))

    def _average(self, call: relax.Call) -> relax.Expr | None:
        """Averages that count every element of the padded tensor, pads of their own included."""
        attrs = call.attrs
        own = any(int(p) for p in attrs.padding)
        if attrs.layout != "NCHW" or attrs.ceil_mode or (own and not attrs.count_include_pad):
            return None
        source = self._window(call, 2)
        if source is None:
            return None
        x, padding = source
        kept = {name: getattr(attrs, name) for name in ("pool_size", "strides", "dilation")}
        pool = relax.op.nn.avg_pool2d(x, padding=padding, count_include_pad=True, **kept)
        return self.emit(pool)

    def _window(self, call: relax.Call, rank: int) -> tuple[Any, list[int]] | None:
        """The tensor before its pads, and the sum of those and the window's own."""
        pad = self.pads.get(self.plain(call.args[0]))
        if pad is None:
            return None
        widths = [int(w) for w in pad.attrs.pad_width]
        own = [int(p) for p in call.attrs.padding]
        if any(widths[:4]) or len(own) != 2 * rank:
            return None
        before, after = widths[4::2], widths[5::2]
        merged = [a + b for a, b in zip(own, [*before, *after], strict=True)]
        return pad.args[0], merged
