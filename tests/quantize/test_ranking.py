"""The order in which a search tries operators, and the model that measures it."""

import numpy as np
import pytest

from compiler.codegen import KernelCache
from compiler.frontend import import_model
from compiler.passes import simplify
from compiler.program import TensorInfo
from compiler.quantize.data import open_data
from compiler.quantize.observe import build_for_host
from compiler.quantize.ptq import quantize
from compiler.quantize.ranking import SWITCHES, Disturbed, flips, noise
from compiler.quantize.recipe import DEFAULT, Recipe, Rule
from compiler.quantize.reference import evaluate
from compiler.target import load_target
from tests.quantize.models import Builder

INTEGERS = Recipe((*DEFAULT.rules, Rule("*", "int8")))
INPUT = (TensorInfo("x", "float32", (1, 4, 8, 8)),)


@pytest.mark.parametrize("rows", [False, True])
def test_switches_make_the_quantised_model_of_the_float_one(rows, tmp_path):
    """All off is the float model, all on what NumPy makes of the quantised one."""
    b = Builder()
    x = b.node("Relu", b.conv("x", 4, 8, name="c0"), name="r0")
    x = b.node("Relu", b.conv(x, 8, 8, name="c1"), name="r1")
    if rows:  # quantised at run time
        b.node("MatMul", x, b.weight(8, 12), name="y")
    else:
        b.node("Identity", b.conv(x, 8, 12, name="c2"), name="y")
    path = b.save(
        tmp_path / "m.onnx", {"x": INPUT[0].shape}, {"y": (1, 8, 8, 12) if rows else (1, 12, 8, 8)}
    )
    target, model = load_target("host"), import_model(path)
    module = simplify(model.module, target)
    samples = np.random.default_rng(0).standard_normal((40, *INPUT[0].shape)).astype("float32")
    found = quantize(module, target, open_data(samples, INPUT), INTEGERS)
    disturbed = Disturbed(found, "uint8")
    switches = TensorInfo(SWITCHES, "float32", (len(disturbed.names),))
    built = build_for_host(
        disturbed.module(), (*INPUT, switches), model.outputs, tmp_path / "model", KernelCache()
    )
    for value, reference in ((0.0, module), (1.0, found.module)):
        given = {"x": samples[0], SWITCHES: np.full(switches.shape, value, "float32")}
        made = built.run(given)["y"]
        (wanted,) = evaluate(reference, {reference["main"].params[0].name: samples[0]})
        # Near the edge between two steps both may round apart.
        allowed = 1e-5 if value == 0 else 0.02
        assert np.abs(made - wanted).max() <= allowed * np.abs(wanted).max()
    built.close()


def test_flips_count_near_things_and_noise_power():
    exact = [{"y": np.array([[0.1, 0.5, 0.4]])}, {"y": np.array([[0.9, 0.0, 0.1]])}]
    close = [{"y": np.array([[0.1, 0.45, 0.45]])}, exact[1]]  # now a tie
    sure = [exact[0], {"y": np.array([[0.7, 0.0, 0.3]])}]
    assert flips(exact, close) == pytest.approx(0.5)
    assert flips(exact, sure) == pytest.approx(0.5 * 0.4 / 0.8)
    assert noise(exact, sure) > noise(exact, close)
    assert flips(exact, exact) == 0
    integers = [{"y": np.array([3])}]
    assert flips(integers, [{"y": np.array([5])}]) == pytest.approx(4 / 9)
