"""The library in TVM's own hands: load_module, errors, an RPC server."""

from __future__ import annotations

import numpy as np
import pytest

from tests.package import kernels

tvm = pytest.importorskip("tvm")


def tensors(x: np.ndarray):
    return (
        tvm.runtime.tensor(x),
        tvm.runtime.tensor(np.zeros(1000, np.float32)),
        tvm.runtime.tensor(np.zeros((), np.int64)),
    )


@pytest.mark.parametrize("entry", ["main", "toy"])
def test_load_module_runs_it(toy, entry):
    module = tvm.runtime.load_module(str(toy / "libtoy.so"))
    golden = kernels.golden()
    x, y, n = tensors(golden.inputs["x"])
    module[entry](x, y, n)
    assert np.array_equal(y.numpy(), golden.outputs["y"])
    assert n.numpy() == golden.outputs["n"]
    module["set_threads"](3)
    module[entry](x, y, n)
    assert np.array_equal(y.numpy(), golden.outputs["y"])


def test_errors_are_tvm_exceptions(toy):
    module = tvm.runtime.load_module(str(toy / "libtoy.so"))
    x, y, n = tensors(kernels.golden().inputs["x"])
    with pytest.raises(TypeError, match="takes the model's inputs, then its outputs"):
        module["main"](x, y)
    with pytest.raises(TypeError, match="not a tensor"):
        module["main"](1, y, n)
    with pytest.raises(ValueError, match="input 'x' has shape 1000, the model wants 10x100"):
        module["main"](y, y, n)
    with pytest.raises(ValueError, match="output 'y' is int64, the model wants float32"):
        module["main"](x, n, y)
    with pytest.raises(TypeError, match="takes one integer"):
        module["set_threads"]("two")


def test_failing_operator_is_an_exception(broken):
    module = tvm.runtime.load_module(str(broken / "libbroken.so"))
    with pytest.raises(ValueError, match=r"operator 2 \(broken\) failed"):
        module["main"](*tensors(kernels.golden().inputs["x"]))


def test_rpc_server_loads_and_times_it(toy):
    pytest.importorskip("cloudpickle")  # the server starts its workers with it
    from tvm import rpc

    server = rpc.Server(host="127.0.0.1", port=9190, port_end=9290)
    try:
        remote = rpc.connect("127.0.0.1", server.port)
        remote.upload(str(toy / "libtoy.so"))
        module = remote.load_module("libtoy.so")
        golden = kernels.golden()
        device = remote.cpu()
        x = tvm.runtime.tensor(golden.inputs["x"], device)
        y = tvm.runtime.tensor(np.zeros(1000, np.float32), device)
        n = tvm.runtime.tensor(np.zeros((), np.int64), device)
        result = module.time_evaluator("main", device, number=3, repeat=2)(x, y, n)
        assert len(result.results) == 2
        assert np.array_equal(y.numpy(), golden.outputs["y"])
    finally:
        server.terminate()
