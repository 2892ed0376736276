"""Inner loops of RISC-V and 32-bit ARM: multiply-accumulates and little else, no spills; and right
results at ragged sizes."""

import re

import numpy as np
import pytest
from tvm import te, tirx

import schedules
from compiler.passes.packed_ops import Window, conv2d, matmul
from compiler.passes.packed_values import preferred_block
from compiler.target import Target, load_target
from schedules.constants import CONSTANT_INPUTS, rearrangements
from tests import kernels
from tests.schedules.inner_loop_cases import CASES

RVV = ["riscv_spacemit_x60", "riscv_sifive_x280"]
TARGETS = [*RVV, "arm_cortex_a7"]
# Multiply-accumulates, and how large a part of all instructions they are at least.
MACS = {
    "riscv_spacemit_x60": (r"vfm(acc|add)\.vf", 0.8),
    "riscv_sifive_x280": (r"vfm(acc|add)\.vf", 0.75),
    "riscv64": (r"fmadd\.s", 0.55),
    "riscv_sifive_u74": (r"fmadd\.s", 0.55),
    "arm_cortex_a7": (r"vmla\.f32 q\d+, q\d+, d\d+\[[01]\]", 0.6),
}


def with_constant_weights(func: tirx.PrimFunc, target: Target) -> tirx.PrimFunc:
    """Scheduled for weights, the second parameter, that are known when compiling."""
    return schedules.apply(func.with_attr(CONSTANT_INPUTS, [1]), target)[0]


def run(func: tirx.PrimFunc, inputs: list[np.ndarray], target: Target) -> np.ndarray:
    """Runs a scheduled function, with its constants in the order that it wants."""
    for position, wanted in rearrangements(func).items():
        inputs[position] = wanted.apply(inputs[position])
    (result,) = kernels.run(func, inputs, target)
    return result


def convolution(target: Target, size: int, channels: tuple[int, int], k: int, stride: int):
    """Scheduled conv2d + bias on [1, IC/c, size, size, c]."""
    c = preferred_block(target)
    ic, oc = (n // c for n in channels)
    x = te.placeholder((1, ic, size, size, c), name="x")
    w = te.placeholder((oc, ic, k, k, c, c), name="w")
    b = te.placeholder((1, oc, 1, 1, c), name="b")
    y = conv2d(x, w, Window((k, k), (stride, stride), (k // 2,) * 4, (1, 1)))
    z = te.compute(y.shape, lambda n, o, i, j, v: y[n, o, i, j, v] + b[n, o, 0, 0, v])
    return with_constant_weights(te.create_prim_func([x, w, b, z]), target)


def product(target: Target, rows: int, depth: int, columns: int):
    """Scheduled [rows, depth] @ [depth, columns] + bias with packed columns."""
    c = preferred_block(target)
    a = te.placeholder((rows, depth), name="a")
    b = te.placeholder((-(-columns // c), depth, c), name="b")
    bias = te.placeholder((columns,), name="bias")
    y = matmul(a, b, columns)
    z = te.compute(y.shape, lambda *i: y(*i) + bias(i[-1]))
    return with_constant_weights(te.create_prim_func([a, b, bias, z]), target)


FUNCTIONS = {
    "conv3x3": lambda t: convolution(t, 56, (64, 64), 3, 1),
    "conv3x3_stride2": lambda t: convolution(t, 56, (64, 128), 3, 2),
    "conv1x1": lambda t: convolution(t, 28, (128, 192), 1, 1),
    "matmul": lambda t: product(t, 128, 384, 384),
}


def inner_loop(text: str, macs: str) -> list[str]:
    """The instructions of the innermost loop with most multiply-accumulates."""
    return max(loop_bodies(text), key=lambda body: sum(bool(re.match(macs, x)) for x in body))


def loop_bodies(text: str) -> list[list[str]]:
    """The instructions of all innermost loops."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [x for x in lines if x and (x.startswith(".LBB") or x[0] not in ".#@")]
    labels = {x.split(":")[0]: i for i, x in enumerate(lines) if x.startswith(".LBB")}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"b\w+ (.*, )?(\.LBB\w+)$", line)
        if jump and labels.get(jump[2], i) < i:
            body = lines[labels[jump[2]] + 1 : i + 1]
            if not any(x.startswith(".LBB") for x in body):
                loops.append(body)
    return loops


@pytest.mark.parametrize("target", MACS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_inner_loops_multiply_and_accumulate(name, target):
    pattern, share = MACS[target]
    target = load_target(target)
    loop = inner_loop(kernels.assembly(FUNCTIONS[name](target), target), pattern)
    macs = sum(bool(re.match(pattern, x)) for x in loop)
    assert macs / len(loop) >= share
    assert not [x for x in loop if re.search(r"\bsp\b", x)]


@pytest.mark.parametrize("target", RVV)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_riscv_vectors_are_plain(name, target):
    """Nothing masked or of run-time length, and 9 in 10 vector instructions do the arithmetic."""
    pattern = MACS[target][0]
    target = load_target(target)
    text = kernels.assembly(FUNCTIONS[name](target), target)
    assert "v0.t" not in text
    vector = [x for x in inner_loop(text, pattern) if x.startswith("v")]
    lengths = [x for x in vector if x.startswith("vset")]
    assert len(lengths) <= 1  # a register group is copied now and then
    assert not [x for x in vector if x.startswith("vs") and x not in lengths]  # no stores
    assert sum(bool(re.match(pattern, x)) for x in vector) / len(vector) >= 0.9


@pytest.mark.parametrize("target", RVV)
# Without attention_ragged: its reduction is unrolled, and the loop around it joins rows of 13.
@pytest.mark.parametrize("case", [c for c in CASES if c != "attention_ragged"])
def test_no_riscv_loop_is_masked_or_scalable(case, target):
    """Loops of all templates that multiply, at sizes that fit and at ragged ones."""
    for text in CASES[case].assemblies(load_target(target)):
        for loop in loop_bodies(text):
            if any(re.match(r"vfm(acc|add|ul)", x) for x in loop):
                assert not [x for x in loop if "v0.t" in x or "vlenb" in x]
                # Those that the processor answers a request with.
                assert not [x for x in loop if re.match(r"vsetvli (?!zero)\w+, (?!zero)", x)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [1, 7, 9, 13])
def test_ragged_rows(size, target):
    target = load_target(target)
    c = preferred_block(target)
    func = convolution(target, size, (c, 3 * c), 1, 1)
    rng = np.random.default_rng(size)
    x = rng.uniform(-1, 1, (1, 1, size, size, c)).astype(np.float32)
    w = rng.uniform(-1, 1, (3, 1, 1, 1, c, c)).astype(np.float32)
    b = rng.uniform(-1, 1, (1, 3, 1, 1, c)).astype(np.float32)
    got = run(func, [x, w, b], target)
    wanted = np.einsum("niyxk,oiabkc->noyxc", x, w) + b
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("shape", [(1, 4, 8), (7, 8, 33), (31, 20, 64), (33, 9, 31)])
def test_ragged_products(shape, target):
    target = load_target(target)
    rows, depth, columns = shape
    c = preferred_block(target)
    rng = np.random.default_rng(rows)
    a = rng.uniform(-1, 1, (rows, depth)).astype(np.float32)
    b = rng.uniform(-1, 1, (depth, columns)).astype(np.float32)
    bias = rng.uniform(-1, 1, columns).astype(np.float32)
    padded = np.pad(b, ((0, 0), (0, -columns % c)))
    packed = padded.reshape(depth, -1, c).transpose(1, 0, 2)
    got = run(product(target, *shape), [a, packed, bias], target)
    np.testing.assert_allclose(got, a @ b + bias, rtol=1e-5, atol=1e-5)


def test_unnamed_cores_may_have_longer_registers():
    assert load_target("riscv_spacemit_x60").has_known_vector_length
    assert not load_target("riscv64").has_known_vector_length
