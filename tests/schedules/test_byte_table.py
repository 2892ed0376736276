"""Bytes looked up in tables: by each target's instructions what NumPy finds there."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tvm import te, tirx

import schedules
from compiler.passes.byte_tables import ATTRIBUTE, look_up
from compiler.target import load_target
from tests.kernels import assembly, run

INSTRUCTIONS = {
    "x86_64_v3": "vpshufb.*ymm",
    "x86_64_v4": "vpshufb.*zmm",
    "arm_cortex_a72": r"tbx\s.*\{.*,.*,.*,.*\}",
    "riscv_spacemit_x60": r"vsetvli.*e8, m8.*(\n.*)*vrgather\.vv",
    "riscv_sifive_x280": r"vsetvli.*e8, m4.*(\n.*)*vrgather\.vv",
}
TARGETS = ("host", "x86_64", "arm_cortex_a72", "arm_cortex_a7", "riscv_spacemit_x60", "riscv64")


def kernel(shape: tuple[int, ...], dtype: str, result: str) -> tirx.PrimFunc:
    x = te.placeholder(shape, dtype, name="x")
    table = te.placeholder((256,), result, name="table")
    return te.create_prim_func([x, table, look_up(x, table)]).with_attr(ATTRIBUTE, True)


def looked_up(func: tirx.PrimFunc, name: str) -> None:
    target = load_target(name)
    scheduled, report = schedules.apply(func, target)
    assert report["template"] == "byte_table"
    source, table = ([int(d) for d in p.ty.shape] for p in func.params[:2])
    rng = np.random.default_rng(sum(source))
    x, entries = (
        rng.integers(0, 256, shape).astype("uint8").view(str(p.ty.dtype))
        for shape, p in zip((source, table), func.params, strict=False)
    )
    x.reshape(-1)[:256] = np.arange(x.size)[:256].astype("uint8").view(x.dtype)
    (got,) = run(scheduled.with_attr("tirx.noalias", False), [x, entries], target)
    np.testing.assert_array_equal(got, entries[x.view("uint8")])


@pytest.mark.parametrize("name", TARGETS)
def test_ragged_lengths(name):
    """A whole step of a loop, vectors behind it, and a rest, of either sign."""
    looked_up(kernel((3, 11, 9), "int8", "uint8"), name)
    looked_up(kernel((2, 2, 509), "uint8", "int8"), name)


@pytest.mark.parametrize("size", [1, 7, 31, 33, 255, 257])
def test_short_vectors(size):
    looked_up(kernel((size,), "int8", "int8"), "host")


@pytest.mark.parametrize("name", ["host", "riscv64"])
def test_tasks(name):
    looked_up(kernel((5, 7, 4099), "uint8", "uint8"), name)


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions(name):
    target = load_target(name)
    scheduled, report = schedules.apply(kernel((4, 1024), "int8", "int8"), target)
    assert "intrinsic" in report
    assert re.search(INSTRUCTIONS[name], assembly(scheduled, target))
