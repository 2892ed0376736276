"""Which pairs of convolutions become one function, and what it looks like."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tvm_ffi
from tvm import relax, s_tir

from compiler.codegen.work import multiply_accumulates
from compiler.passes import fuse_depthwise, optimize
from compiler.passes.packed_ops import ANCHOR
from compiler.passes.row_blocks import Pair, choose_rows
from compiler.target import list_targets, load_target
from tests.passes.test_packing import conv, module, operators

TARGET = load_target("arm_cortex_a76")
X = (1, 16, 12, 10)


@pytest.fixture
def always(monkeypatch):
    """Costs have tests of their own."""
    monkeypatch.setattr(fuse_depthwise, "choose_rows", lambda target, pair: 2)


def depthwise(x, *kernel: int, **attributes):
    kernel = kernel or (3, 3)
    padding = [k // 2 for k in kernel]
    return conv(x, 16, 1, *kernel, groups=16, padding=padding, **attributes)


def optimized(build, *shapes):
    """The module after all passes, and how many of its functions hold two convolutions."""
    result = optimize(module(build, *shapes), TARGET)
    names = [name[1:] for name in operators(result) if name.startswith("@")]
    return result, [
        result[name] for name in names if fuse_depthwise.BLOCK_ROWS in result[name].attrs
    ]


def test_a_pair_is_one_function(always):
    def build(b, x, residual):
        y = b.emit(relax.op.nn.relu(b.emit(depthwise(x))))
        y = b.emit(conv(y, 24, 16, 1, 1))
        return relax.op.nn.relu(b.emit(relax.op.add(y, residual)))

    result, fused = optimized(build, X, (1, 24, 12, 10))
    assert sum("conv2d" in name for name in operators(result)) == 1
    (func,) = fused
    blocks: list[s_tir.SBlock] = []
    tvm_ffi.structural_walk(func.body, [(s_tir.SBlock, blocks.append)])
    kinds = [block.annotations.get(ANCHOR) for block in blocks]
    assert [kind for kind in kinds if kind] == ["depthwise", "conv2d"]
    assert multiply_accumulates(func) == 12 * 10 * 16 * (9 + 24)
    # x, residual, two weights and the result: what lies between is no parameter.
    assert len(func.params) == 5


def test_equal_pairs_share_a_function(always):
    def build(b, x):
        for _ in range(3):
            x = b.emit(conv(b.emit(depthwise(x)), 16, 16, 1, 1))
        return x

    result, fused = optimized(build, X)
    assert len(fused) == 3
    assert len({name for name in operators(result) if "conv2d" in name}) == 1


def test_a_result_that_others_read_stays(always):
    def twice(b, x):
        y = b.emit(depthwise(x))
        return relax.op.add(b.emit(conv(y, 16, 16, 1, 1)), y)

    def returned(b, x):
        y = b.emit(depthwise(x))
        return relax.Tuple([b.emit(conv(y, 16, 16, 1, 1)), y])

    for build in (twice, returned):
        assert not optimized(build, X)[1]


@pytest.mark.parametrize(
    "build",
    [
        lambda b, x: conv(b.emit(depthwise(x)), 16, 16, 3, 3),
        lambda b, x: conv(b.emit(depthwise(x)), 16, 16, 1, 1, strides=(2, 2)),
        lambda b, x: conv(b.emit(depthwise(x)), 16, 16, 1, 1, padding=(1, 1)),
        lambda b, x: conv(b.emit(depthwise(x)), 16, 8, 1, 1, groups=2),
        lambda b, x: conv(b.emit(depthwise(x, 7, 7)), 16, 16, 1, 1),
        lambda b, x: conv(b.emit(relax.op.nn.avg_pool2d(b.emit(depthwise(x)))), 16, 16, 1, 1),
        lambda b, x: conv(b.emit(conv(x, 16, 16, 3, 3)), 16, 16, 1, 1),
    ],
    ids=["3x3", "strided", "padded", "grouped", "large window", "pool", "dense"],
)
def test_other_pairs_stay(build, always):
    assert not optimized(build, X)[1]


def test_batches_stay(always):
    assert not optimized(lambda b, x: conv(b.emit(depthwise(x)), 16, 16, 1, 1), (2, *X[1:]))[1]


LARGE = Pair(112, 56, 56, 96, 24, 3, 3)


@pytest.mark.parametrize("target", list_targets())
def test_what_exceeds_the_cache_is_worth_it(target):
    target = load_target(target)
    rows = choose_rows(target, LARGE)
    if target.arch != "aarch64" and target.vector.bits:
        assert rows is None  # not measured to pay there
        return
    assert rows is not None
    assert LARGE.height % rows == 0
    near = target.caches.l2 or target.caches.l1d
    assert rows == 1 or rows * LARGE.result_bytes / LARGE.height <= near / 2
    assert LARGE.height // rows >= target.cores


@pytest.mark.parametrize("target", list_targets())
def test_what_fits_in_the_cache_is_not(target):
    assert choose_rows(load_target(target), Pair(14, 14, 14, 32, 64, 3, 3)) is None


def test_weights_that_exceed_the_cache_are_read_once():
    """MobileNetV2's last block: each block of rows would read 1.2 MB of weights again."""
    assert choose_rows(TARGET, Pair(7, 7, 7, 960, 320, 3, 3)) is None


def test_a_larger_cache_takes_more_rows():
    smaller = replace(TARGET, caches=replace(TARGET.caches, l2=TARGET.caches.l2 // 4))
    narrow = Pair(112, 112, 112, 32, 16, 3, 3)
    few, many = choose_rows(smaller, narrow), choose_rows(TARGET, narrow)
    assert few is not None
    assert many is not None
    assert few < many


def test_a_row_cannot_be_cut():
    assert choose_rows(TARGET, Pair(1, 1, 1 << 16, 64, 16, 1, 3)) is None
