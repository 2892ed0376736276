"""The records that come with edgecc are current, and builds take them without being asked."""

from __future__ import annotations

import pytest

import compiler
from compiler.api import DEFAULT_LOGS
from compiler.target import load_target
from compiler.tuning.archive import ArchivedLog
from compiler.tuning.manage import best_records
from compiler.tuning.tasks import offered, read_workload
from schedules.registry import VERSIONS
from scripts.bench.suite import write_network

# Whether their records are measured, or counted under emulation.
SHIPPED = {"arm_cortex_a72": "emulated", "arm_cortex_a76": "emulated", "x86_64_v3": "measured"}
HINT = "`python scripts/tune_suite.py --target TARGET --models` leaves outdated records out"
SAMPLES = 12


@pytest.fixture(params=SHIPPED)
def shipped(request):
    return ArchivedLog(DEFAULT_LOGS[-1] / f"{request.param}.tar.gz", request.param)


def test_each_operator_has_one_current_record(shipped):
    target = shipped.folder.name.removesuffix(".tar.gz")
    assert len(best_records(shipped)) == len(shipped.records) == len(shipped.keys), HINT
    assert {r.template for r in shipped.records} >= {"conv2d", "depthwise", "matmul"}
    for record in shipped.records:
        assert not shipped.is_outdated(record), f"{record.template}: {HINT}"
        session = shipped.fingerprints[record.fingerprint]
        assert session.facts["target"] == target
        assert session.emulated == (SHIPPED[target] == "emulated")


def test_templates_still_offer_the_decisions(shipped):
    target = load_target(shipped.folder.name.removesuffix(".tar.gz"))
    for record in shipped.records[:: len(shipped.records) // SAMPLES]:
        index = record.workload
        template, space = offered(read_workload(shipped.keys[index], shipped.module(index)), target)
        assert template == record.template
        assert space is not None
        assert record.values in space.rows, f"{template}: {HINT}"
        assert shipped.versions(record)[template] == VERSIONS[template], HINT


@pytest.mark.parametrize(("target", "origin"), SHIPPED.items())
def test_a_build_takes_them_by_itself(target, origin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = write_network("ds_cnn", tmp_path / "network") / "model.onnx"
    result = compiler.build(network, target, tmp_path / "package")
    assert result.receipt["summary"]["tuned"][origin] > 0.9
    assert result.verification.status in ("passed", "skipped")
    assert result.manifest["tuning_logs"] is not None
