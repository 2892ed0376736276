"""The onnx package's backend tests, imported, compiled for this machine and run.

What fails is listed in expected_failures.toml with the reason; an entry that passes fails here,
so that the list can only shrink.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conformance.cases import Case, load_cases
from tests.conformance.runner import run_case

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_LIST = Path(__file__).with_name("expected_failures.toml")
EXPECTED = {
    case: reason
    for reason, cases in tomllib.loads(_LIST.read_text(encoding="utf-8")).items()
    for case in cases
}
CASES = load_cases()
MINIMUM_NODE_TESTS = 1000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_backend(case: Case, tmp_path: Path) -> None:
    reason = EXPECTED.get(case.id)
    if reason is None:
        run_case(case, tmp_path)
        return
    try:
        run_case(case, tmp_path)
    except Exception:
        pytest.xfail(reason)
    pytest.fail(f"passes now: take it off {_LIST.name} (it was there because: {reason})")


def test_list_names_existing_cases() -> None:
    assert set(EXPECTED) <= {case.id for case in CASES}


def test_enough_node_tests_pass() -> None:
    passing = [case for case in CASES if case.kind == "node" and case.id not in EXPECTED]
    assert len(passing) >= MINIMUM_NODE_TESTS
