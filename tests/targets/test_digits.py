"""The shipped model is built for every target and proven there, natively or under emulation."""

import pytest

from compiler.api import build
from compiler.shipped import DIGITS
from compiler.target import list_targets


@pytest.mark.parametrize("name", list_targets())
def test_digits_are_verified(name, tmp_path):
    result = build(DIGITS, name, tmp_path / "package")
    assert result.verification is not None
    if result.verification.status == "skipped":
        pytest.skip(result.verification.reason)
    assert result.verification.status == "passed"
    assert result.verification.threads > 1
