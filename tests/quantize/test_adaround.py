"""Adaptive rounding: errors of sums of products by NumPy, and by search through all roundings."""

from itertools import product

import numpy as np
import pytest

from compiler.frontend import import_model
from compiler.passes import simplify
from compiler.passes.dot_layout import DotLayout, dot_layouts
from compiler.quantize.data import open_data
from compiler.quantize.neighbours import bounded
from compiler.quantize.ptq import quantize
from compiler.quantize.recipe import DEFAULT, Recipe, Rule
from compiler.quantize.reference import evaluate
from compiler.quantize.regions import weights_of
from compiler.quantize.rounding import neighbours, round_sums, shrunk
from compiler.quantize.scales import quantize_weights, symmetric
from compiler.target import load_target
from tests.quantize.models import Builder


def correlated(rng, rows: int, depth: int) -> np.ndarray:
    """What a ReLU hands over: non-negative, and several inputs say the same."""
    mixed = rng.standard_normal((rows, depth // 4 + 1)) @ rng.standard_normal(
        (depth // 4 + 1, depth)
    )
    noise = 0.5 * rng.standard_normal((rows, depth))
    return np.maximum(mixed / np.sqrt(depth / 4) + noise, 0).astype("float32")


def squared_error(x: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Mean square of the sums' errors, one a channel."""
    return np.square(x.astype("float64") @ d).mean(axis=0)


def moments_of(x: np.ndarray) -> np.ndarray:
    return (x.T @ x / len(x))[None]


def test_nearly_the_best_of_all_roundings():
    rng = np.random.default_rng(3)
    depth, channels = 8, 40
    x = correlated(rng, 400, depth)
    steps = rng.uniform(-20, 20, (depth, channels))
    nearest = np.rint(steps)
    found = round_sums([moments_of(x)], [slice(0, depth)], steps[None], nearest[None])[0]
    assert (np.abs(found - steps) < 1).all()
    best = np.full(channels, np.inf)
    for ups in product((0, 1), repeat=depth):
        every = np.floor(steps) + np.array(ups)[:, None]
        best = np.minimum(best, squared_error(x, every - steps))
    errors = [squared_error(x, made - steps) for made in (nearest, found)]
    assert (errors[1] >= best * (1 - 1e-6)).all()
    assert (errors[1] <= errors[0]).all()
    # found for most channels; where single changes lead no further, most of the way is gone
    assert np.mean(errors[1] <= best * 1.001) > 0.5
    assert errors[1].sum() - best.sum() < 0.3 * (errors[0].sum() - best.sum())


@pytest.mark.parametrize("rows", [40, 4000])
def test_sums_are_nearer_on_inputs_not_seen(rows):
    """Fewer rows than weights in a sum, and many more; in parts, and of several groups."""
    rng = np.random.default_rng(0)
    groups, depth, channels = 2, 75, 24
    both = correlated(rng, rows + 4000, groups * depth)
    seen, unseen = np.split(both - both[:rows].mean(axis=0), [rows])
    steps = rng.uniform(-127, 127, (groups, depth, channels))
    nearest = np.rint(steps)

    def of_group(x: np.ndarray, group: int) -> np.ndarray:
        return x[:, group * depth : (group + 1) * depth]

    whole = np.concatenate([moments_of(of_group(seen, g)) for g in range(groups)])
    for parts in ([slice(0, depth)], [slice(0, 40), slice(40, depth)]):
        moments = [shrunk(whole[:, p, p], rows) for p in parts]
        found = round_sums(moments, parts, steps, nearest)
        assert np.abs(found - steps).max() < 1
        for g in range(groups):
            for p in parts:  # what is seen is never further away than by rounding to nearest
                cut = of_group(seen, g)[:, p]
                before, after = (squared_error(cut, (v - steps)[g, p]) for v in (nearest, found))
                assert (after <= before).all()
            cut = of_group(unseen, g)
            before, after = (squared_error(cut, (v - steps)[g]).sum() for v in (nearest, found))
            assert after < (1 if rows < depth else 0.85) * before
        np.testing.assert_array_equal(found, round_sums(moments, parts, steps, nearest))


@pytest.mark.parametrize("parts", [1, 2])
def test_neighbours_stay_within_their_bound(parts):
    rng = np.random.default_rng(1)
    # 9 channels of 3 taps, most sums at the bound
    weights = rng.uniform(0.4, 1, (12, 9, 3, 1)).astype("float32")
    layout = DotLayout(8, 4 * parts, "uint8", "uint8", most_neighbours=128, part=4)
    quantum = symmetric(weights, 0)
    values = bounded(quantize_weights(weights, quantum), 1, layout)
    x = correlated(rng, 2000, 27)
    flat = [v.reshape(1, 12, 27).transpose(0, 2, 1) for v in (weights, values)]
    steps = flat[0] / quantum.scale
    whole = [slice(0, 27)]
    found = round_sums([moments_of(x)], whole, steps, flat[1], neighbours(layout, 27, 3))
    free = round_sums([moments_of(x)], whole, steps, flat[1])
    assert layout.takes(found[0].T.reshape(weights.shape))
    assert not layout.takes(free[0].T.reshape(weights.shape))
    before, after = (squared_error(x, (v - steps)[0]) for v in (flat[1], found))
    assert (after <= before).all()
    assert after.sum() < before.sum()


def branches(path):
    """A dense, a grouped and a depthwise convolution of one input, a product of another."""
    b = Builder()
    b.conv("x", 8, 16, name="dense")
    b.conv("x", 8, 12, name="grouped", group=2)
    b.conv("x", 8, 8, name="depthwise", group=8, strides=[2, 1])
    b.node("MatMul", "v", b.weight(32, 6), name="fc")
    shapes = {"dense": (1, 16, 12, 12), "grouped": (1, 12, 12, 12), "depthwise": (1, 8, 6, 12)}
    return b.save(path, {"x": (1, 8, 12, 12), "v": (9, 32)}, {**shapes, "fc": (9, 6)})


def smooth(rng) -> np.ndarray:
    """Neighbouring pixels and channels say the same."""
    coarse = correlated(rng, 16, 8).T.reshape(1, 8, 4, 4)
    fine = coarse.repeat(3, axis=2).repeat(3, axis=3)
    return (fine + 0.05 * rng.standard_normal(fine.shape)).astype("float32")


@pytest.mark.parametrize(
    ("target", "granularity"), [("x86_64_v3", "per_channel"), ("arm_cortex_a76", "per_tensor")]
)
def test_operators_of_all_forms(tmp_path, target, granularity):
    """Results for data not seen are nearer to floats; bounds on neighbours hold."""
    rng = np.random.default_rng(2)
    samples = [{"x": smooth(rng), "v": v} for v in np.split(correlated(rng, 40 * 9, 32), 40)]
    machine, model = load_target(target), import_model(branches(tmp_path / "m.onnx"))
    module = simplify(model.module, machine)
    rules = (*DEFAULT.rules, Rule("*", granularity=granularity))
    stages: list[tuple[str, int, int]] = []
    made = []
    for adaround in (False, True):
        data = open_data(samples[:24], model.inputs)
        stages.clear()
        recipe = Recipe(rules, adaround=adaround)
        made.append(quantize(module, machine, data, recipe, lambda *said: stages.append(said)))
    names = [stage for stage, *_ in stages]
    assert ("round weights", 4, 4) in stages
    assert names.index("round weights") < names.index("correct biases")
    nearest, rounded = made
    assert len(rounded.weights) == 4
    for region in rounded.plan.graph.regions:
        if region.anchor in rounded.weights:
            before, after = nearest.weights[_same(nearest, region)], rounded.weights[region.anchor]
            np.testing.assert_array_equal(before.quantum.scale, after.quantum.scale)
            assert (before.values != after.values).any(), region.name
            _, axis = weights_of(rounded.plan.graph, region)
            rows = [np.moveaxis(w.values, axis, 0) for w in (before, after)]
            for layout in dot_layouts(machine):
                assert layout.takes(rows[1]) or not layout.takes(rows[0]), region.name
    errors = np.zeros((2, 4))
    for sample in samples[24:]:
        # what the inputs' own rounding costs is no matter of weights
        stored = [rounded.activations[var] for var in rounded.plan.graph.params]
        sample = {
            name: quantum.dequantize(quantum.quantize(x))
            for (name, x), quantum in zip(sample.items(), stored, strict=True)
        }
        exact = evaluate(module, sample)
        for total, q in zip(errors, made, strict=True):
            pairs = zip(evaluate(q.module, sample), exact, strict=True)
            total += [np.square(found - wanted).mean() for found, wanted in pairs]
    assert (errors[1] < 0.9 * errors[0]).all()


def _same(quantized, region):
    """The anchor of the same region in another quantisation of the module."""
    (found,) = (r.anchor for r in quantized.plan.graph.regions if r.name == region.name)
    return found


def test_what_the_recipe_leaves_in_floats_is_not_rounded(tmp_path):
    b = Builder()
    b.conv(b.conv("x", 2, 4, name="first"), 4, 2, name="y")
    path = b.save(tmp_path / "m.onnx", {"x": (1, 2, 6, 6)}, {"y": (1, 2, 6, 6)})
    model, machine = import_model(path), load_target("host")
    recipe = Recipe((*DEFAULT.rules, Rule("first", "float32")), adaround=True)
    data = open_data([np.ones((1, 2, 6, 6), "float32")], model.inputs)
    found = quantize(simplify(model.module, machine), machine, data, recipe)
    assert [found.plan.graph.region_of[anchor].name for anchor in found.weights] == ["y"]
