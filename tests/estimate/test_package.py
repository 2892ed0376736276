"""Estimates of packages: determinism, the model of time, and counts that may not creep up."""

import dataclasses
import shutil

import pytest

from compiler.errors import EdgeccError
from compiler.estimate import estimate_package
from compiler.package import open_package
from compiler.target import load_target
from tests.estimate import recorded

pytestmark = pytest.mark.skipif(
    not shutil.which("qemu-aarch64"), reason="needs the Debian package qemu-user"
)
TARGET = "arm_cortex_a72"


@pytest.fixture(scope="module")
def estimated(tmp_path_factory):
    """The digits model's package for a Cortex-A72 and its estimate."""
    folder = tmp_path_factory.mktemp("estimate")
    found = recorded.measure("digits", TARGET, folder)
    return open_package(folder / TARGET), found


def test_counts_repeat_exactly(estimated, tmp_path):
    """Also from another folder, whose path is longer."""
    package, first = estimated
    again = tmp_path / "a-folder-with-a-longer-name" / "package"
    shutil.copytree(package.path, again)
    second = estimate_package(open_package(again))
    assert [o.counts for o in second.operators] == [o.counts for o in first.operators]


def test_counts_are_plausible(estimated):
    package, found = estimated
    rows = package.receipt()["operators"]
    assert [o.label for o in found.operators] == [row["label"] for row in rows]
    assert found.macs == package.receipt()["macs"]
    # Four lanes: no fewer than a quarter of the nominal work, and no idle recomputation.
    accumulates = found.counts["vector_fma"] + found.counts["fma"] / 4
    assert 0.9 < 4 * accumulates / found.macs < 1.3
    assert sum(o.counts.instructions for o in found.operators) == found.counts.instructions
    assert sum(o.share for o in found.operators) == pytest.approx(1)
    for operator in found.operators:
        if operator.label.startswith("conv2d"):
            assert operator.counts.vector_share > 0.5, operator.label


def test_time_is_the_fit_of_the_target_file(estimated):
    _, found = estimated
    counts = found.counts
    cycles = 0.79 * counts.instructions + 12.35 * counts.l1d_misses + 8.95 * counts.l2_misses
    assert found.ms == pytest.approx(cycles / 1.8e6)
    assert found.error_ms == pytest.approx(0.059 * found.ms)
    assert sum(o.ms for o in found.operators) == pytest.approx(found.ms)


def test_another_target_of_the_same_architecture(estimated):
    package, found = estimated
    a76 = estimate_package(package, load_target("arm_cortex_a76"))
    assert a76.counts.classes == found.counts.classes
    assert a76.counts.l1d_misses < found.counts.l1d_misses
    assert a76.ms < found.ms
    unfitted = estimate_package(package, load_target("arm_neoverse_n1"))
    assert unfitted.ms is None
    assert unfitted.error_ms is None
    assert {o.ms for o in unfitted.operators} == {None}
    assert sum(o.share for o in unfitted.operators) == pytest.approx(1)
    with pytest.raises(EdgeccError, match="riscv64"):
        estimate_package(package, load_target("riscv64"))


def test_a_target_that_does_not_ship(estimated, tmp_path):
    package, _ = estimated
    manifest = {**package.manifest, "target": {**package.manifest["target"], "name": "my_board"}}
    other = dataclasses.replace(package, manifest=manifest)
    with pytest.raises(EdgeccError, match="my_board") as caught:
        estimate_package(other)
    assert "--target" in caught.value.hint


@pytest.mark.parametrize("model", recorded.read())
def test_counts_do_not_creep_up(model, estimated, tmp_path):
    for target, before in recorded.read()[model].items():
        known = (model, target) == ("digits", TARGET)
        found = estimated[1] if known else recorded.measure(model, target, tmp_path)
        for name, now in recorded.numbers(found).items():
            assert now <= before[name] * recorded.ALLOWED, (
                f"{model} on {target}: {name} rose from {before[name]:,} to {now:,} "
                f"({100 * (now / before[name] - 1):+.1f} %; 3 % are allowed). If that is the price "
                "of something, run `python -m tests.estimate.recorded` and give the reason in "
                "CHANGELOG.md."
            )
