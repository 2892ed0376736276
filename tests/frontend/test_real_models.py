"""Real networks become plain Relax of static shapes; tests/networks runs what is built of them."""

from __future__ import annotations

import pytest
from tvm import relax

from compiler.frontend import import_model
from compiler.frontend.node import shape_of
from tests.real_models import NAMES, real_model

_PACKED = ("relax.call_dps_packed", "relax.call_pure_packed", "relax.call_inplace_packed")


@pytest.mark.parametrize("name", NAMES)
def test_imports_statically(name: str) -> None:
    model = real_model(name)
    imported = import_model(model.path, model.shapes, model.consts)
    assert [info.name for info in imported.inputs] == list(model.feeds)
    for info in imported.inputs:
        feed = model.feeds[info.name]
        assert (info.dtype, info.shape) == (str(feed.dtype), feed.shape)
    for block in imported.module["main"].body.blocks:
        for binding in block.bindings:
            assert not isinstance(binding.value, relax.If)
            assert getattr(getattr(binding.value, "op", None), "name", "") not in _PACKED
            if isinstance(binding.var.ty, relax.TensorType):
                assert all(extent > 0 for extent in shape_of(binding.var))
