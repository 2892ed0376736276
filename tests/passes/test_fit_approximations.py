"""The coefficients in the code are those that the fitting script derives."""

import re
import runpy
from pathlib import Path

import pytest

from compiler.passes.approximations import exponential, logarithm, rational, trigonometry

SCRIPT = Path(__file__).parents[2] / "scripts" / "fit_approximations.py"


@pytest.mark.slow
def test_coefficients_come_from_the_script(capsys):
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = re.findall(r"^([A-Z]\w+) = \((.*?)\)", capsys.readouterr().out, re.MULTILINE | re.S)
    assert len(printed) == 12
    for name, text in printed:
        fitted = [float(v) for v in text.replace(",", " ").split()]
        modules = (exponential, logarithm, rational, trigonometry)
        (used,) = [getattr(m, f"_{name}") for m in modules if hasattr(m, f"_{name}")]
        # The last bits depend on the linear algebra library.
        scale = max(abs(v) for v in fitted)
        assert list(used) == pytest.approx(fitted, rel=1e-3, abs=1e-6 * scale)
