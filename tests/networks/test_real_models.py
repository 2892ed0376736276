"""Published networks, built for this machine, for ARM and for AVX-512, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import pytest

from tests.networks.check import check
from tests.real_models import NAMES, real_model

# Those that Bochs runs in seconds; it takes minutes for the others.
SMALL = {"crepe_tiny", "shufflenet", "silero_vad", "squeezenet"}
# Those that take an emulated core most of a minute, and have nothing that the others have not.
LARGE = {"densenet121", "inception_v1", "inception_v2", "ppocrv4_det", "resnet50"}


def cases() -> list[Any]:
    """Every model for every target."""
    all_of_them = []
    for name in NAMES:
        on_arm = [pytest.mark.exhaustive] if name in LARGE else []
        in_bochs = [] if name in SMALL else [pytest.mark.exhaustive]
        all_of_them.append(pytest.param(name, "host"))
        all_of_them.append(pytest.param(name, "arm_cortex_a72", marks=on_arm))
        all_of_them.append(pytest.param(name, "x86_64_v4", marks=in_bochs))
    return all_of_them


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), cases())
def test_real_model(name, target, tmp_path):
    model = real_model(name)
    program = check(
        model.path,
        target,
        tmp_path,
        inputs=model.feeds,
        shapes=model.shapes,
        consts=model.consts,
        threads=2 if target == "host" else 1,  # emulation is slow
    )
    assert program.arena.nbytes <= 1.1 * program.arena.peak_live
    serial = [call.label for call in program.calls if call.report.get("serial")]
    assert serial == []
