"""Published networks, built for an x86 and an ARM target, against ONNX Runtime."""

from __future__ import annotations

import pytest

from tests.networks.check import check
from tests.real_models import NAMES, real_model


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86_64_v4", "arm_cortex_a72"])
@pytest.mark.parametrize("name", NAMES)
def test_real_model(name, target, tmp_path):
    model = real_model(name)
    program = check(
        model.path,
        target,
        tmp_path,
        inputs=model.feeds,
        shapes=model.shapes,
        consts=model.consts,
        threads=1 if target.startswith("arm") else 2,  # emulation is slow
    )
    assert program.arena.nbytes <= 1.1 * program.arena.peak_live
    serial = [call.label for call in program.calls if call.report.get("serial")]
    assert serial == []
