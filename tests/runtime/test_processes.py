"""What needs a process of its own: fork, exit, dlclose, allocations."""

from __future__ import annotations

from tests.package import kernels

PRELUDE = """
import ctypes, os, sys
import numpy as np
import compiler
from tests.package import kernels
x = kernels.golden().inputs["x"]
y = kernels.golden().outputs["y"]
path = sys.argv[1]
"""


def run(source: str, *arguments: object) -> str:
    done = kernels.run_python(PRELUDE + source, *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_child_process_gets_workers_of_its_own(toy):
    source = """
model = compiler.load(path, 4)
assert np.array_equal(model(x)[0], y)
child = os.fork()
if child == 0:
    ok = all(np.array_equal(model(x)[0], y) for _ in range(100))
    ok = ok and len(os.listdir("/proc/self/task")) >= 4
    model.close()
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(model(x)[0], y)
print("ok")
"""
    assert run(source, toy) == "ok\n"


def test_threads_start_with_the_first_instance_and_end_with_the_last(toy):
    source = """
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
a, b = compiler.load(path, 4), compiler.load(path, 2)
assert count() == before + 3, count()
a.close()
b(x)
assert count() == before + 3
b.close()
assert count() == before, count()
print("ok")
"""
    assert run(source, toy) == "ok\n"


def test_one_thread_starts_none(toy):
    source = """
before = len(os.listdir("/proc/self/task"))
model = compiler.load(path, 1)
model(x)
assert len(os.listdir("/proc/self/task")) == before
print("ok")
"""
    assert run(source, toy) == "ok\n"


def test_exit_with_an_open_model_is_clean(toy):
    assert run("model = compiler.load(path, 4); model(x); print('ok')", toy) == "ok\n"


def test_library_unloads_and_loads_again(toy):
    source = """
import _ctypes
from compiler.runtime.loader import Model
before = len(os.listdir("/proc/self/task"))
for _ in range(5):
    model = compiler.load(path, 4)
    assert np.array_equal(model(x)[0], y)
    library = ctypes.CDLL(str(model.library.resolve()))
    # Two handles are open: close both, with the instance still open.
    state, model._state = model._state, None
    _ctypes.dlclose(library._handle)
    _ctypes.dlclose(library._handle)
    assert "libtoy" not in open("/proc/self/maps").read()
    assert len(os.listdir("/proc/self/task")) == before
print("ok")
"""
    assert run(source, toy) == "ok\n"


def test_a_process_may_load_more_libraries_than_it_has_thread_keys(toy, tmp_path):
    source = """
import shutil
for i in range(1100):  # glibc has 1,024 keys, and ctypes never unloads
    copy = f"{sys.argv[2]}/lib{i}.so"
    shutil.copy(f"{path}/libtoy.so", copy)
    with compiler.load(copy, 1) as model:
        ok = np.array_equal(model(x)[0], y)
    os.unlink(copy)
    assert ok
print("ok")
"""
    assert run(source, toy, tmp_path) == "ok\n"
