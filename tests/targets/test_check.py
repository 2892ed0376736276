"""Names that LLVM would only warn about are errors."""

from dataclasses import replace

import pytest

from compiler.api import build
from compiler.errors import EdgeccError
from compiler.shipped import DIGITS
from compiler.target import list_targets, load_target
from compiler.target_check import check_llvm


@pytest.mark.parametrize("name", list_targets())
def test_our_own_targets_pass(name, capfd):
    check_llvm(load_target(name))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"cpu": "cortex-a27"}, ["cpu", "'cortex-a27'"]),
        ({"cpu": "znver3"}, ["cpu", "'znver3'", "aarch64"]),
        ({"triple": "aarch65-linux-gnu"}, ["triple", "'aarch65-linux-gnu'"]),
        ({"features": ("+neon", "+avx2")}, ["features", "'avx2'"]),
        ({"features": ("-sve9",)}, ["features", "'sve9'"]),
    ],
)
def test_unknown_names(change, parts):
    with pytest.raises(EdgeccError) as caught:
        check_llvm(replace(load_target("arm_cortex_a72"), **change))
    assert caught.value.message.startswith("target arm_cortex_a72: ")
    for part in parts:
        assert part in caught.value.message


def test_the_nearest_cpus_are_named():
    with pytest.raises(EdgeccError) as caught:
        check_llvm(replace(load_target("arm_cortex_a72"), cpu="cortex-a73x"))
    assert "cortex-a73" in caught.value.hint


def test_build_refuses_them(tmp_path):
    (tmp_path / "board.toml").write_text('base = "arm_cortex_a72"\ncpu = "cortex-a999"\n')
    with pytest.raises(EdgeccError, match="target board: cpu"):
        build(DIGITS, tmp_path / "board.toml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zig_refuses_a_linker_cpu(tmp_path):
    (tmp_path / "board.toml").write_text('base = "arm_cortex_a72"\nlinker.cpu = "cortex-a999"\n')
    with pytest.raises(EdgeccError, match="unknown CPU: 'cortex'"):
        build(DIGITS, tmp_path / "board.toml", tmp_path / "out", verify=False)
    assert not (tmp_path / "out").exists()
