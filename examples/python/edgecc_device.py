"""Runs a library that edgecc built, on the device. One file; needs only the standard library.

    python3 edgecc_device.py libdigits.so                     # describe and time it
    python3 edgecc_device.py libdigits.so image.bin           # run on raw bytes, one file an input

    from edgecc_device import Model
    with Model("libdigits.so") as model:
        (logits,) = model.run(pixels)     # a list, bytes, array.array or NumPy array of each input

Outputs are NumPy arrays where NumPy is installed, else memoryviews of the right shape.
"""

# ruff: noqa: B905 - zip has no `strict` before Python 3.10, and devices have older ones

import ctypes
import sys
import threading
import time

try:
    import numpy
except ImportError:
    numpy = None

# dtype code in <model>.h -> name, ctypes element, memoryview format
DTYPES = {
    1: ("bool", ctypes.c_bool, "?"),
    2: ("int8", ctypes.c_int8, "b"),
    3: ("uint8", ctypes.c_uint8, "B"),
    4: ("int16", ctypes.c_int16, "h"),
    5: ("uint16", ctypes.c_uint16, "H"),
    6: ("int32", ctypes.c_int32, "i"),
    7: ("uint32", ctypes.c_uint32, "I"),
    8: ("int64", ctypes.c_int64, "q"),
    9: ("uint64", ctypes.c_uint64, "Q"),
    10: ("float16", ctypes.c_uint16, "H"),  # as bits where NumPy is missing
    11: ("bfloat16", ctypes.c_uint16, "H"),
    12: ("float32", ctypes.c_float, "f"),
    13: ("float64", ctypes.c_double, "d"),
}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("nbytes", ctypes.c_uint64),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    ]


class _Info(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("nbytes", ctypes.c_uint64),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("zero_point", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    ]


class _State(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_uint64 * 64)]


_int, _state = ctypes.c_int, ctypes.POINTER(_State)
_tensors = ctypes.POINTER(_Tensor)


class _Descriptor(ctypes.Structure):
    _fields_ = [
        ("abi_version", ctypes.c_uint32),
        ("struct_bytes", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        ("target", ctypes.c_char_p),
        ("inputs", ctypes.POINTER(_Info)),
        ("outputs", ctypes.POINTER(_Info)),
        ("operators", ctypes.c_void_p),
        ("n_inputs", ctypes.c_uint32),
        ("n_outputs", ctypes.c_uint32),
        ("n_operators", ctypes.c_uint32),
        ("default_threads", ctypes.c_uint32),
        ("arena_bytes", ctypes.c_uint64),
        ("weights_bytes", ctypes.c_uint64),
        ("init", ctypes.CFUNCTYPE(_int, _state, ctypes.c_void_p, _int)),
        ("run", ctypes.CFUNCTYPE(_int, _state, _tensors, _tensors)),
        ("profile", ctypes.c_void_p),
        ("set_threads", ctypes.c_void_p),
        ("set_spin", ctypes.c_void_p),
        ("last_error", ctypes.CFUNCTYPE(ctypes.c_char_p, _state)),
        ("threads", ctypes.CFUNCTYPE(_int, _state)),
        ("close", ctypes.CFUNCTYPE(None, _state)),
    ]


class TensorSpec:
    """Name, dtype, shape and bytes of an input or output; scale and zero_point if quantized."""

    def __init__(self, info):
        self.name = info.name.decode()
        self.code = info.dtype
        self.dtype, self._element, self._format = DTYPES[info.dtype]
        self.shape = tuple(info.shape[: info.rank])
        self.nbytes = info.nbytes
        self.scale, self.zero_point = info.scale, info.zero_point

    def __repr__(self):
        return f"{self.name} {self.dtype} {list(self.shape)}"

    def buffer(self, value=None):
        """A C array of this tensor's size, filled from `value` if there is one."""
        array = (self._element * (self.nbytes // ctypes.sizeof(self._element)))()
        if value is None:
            return array
        if numpy is not None and isinstance(value, numpy.ndarray):
            if value.dtype.name != self.dtype or value.shape != self.shape:
                got = f"{value.dtype} {list(value.shape)}"
                raise ValueError(f"{self!r} wanted, got {got}")
            value = numpy.ascontiguousarray(value).tobytes()
        try:
            data = memoryview(value).cast("B")
        except TypeError:  # a flat list of numbers
            values = list(value)
            if len(values) != len(array):
                raise ValueError(f"{self!r} wanted, got {len(values)} numbers") from None
            array[:] = values
            return array
        if data.nbytes != self.nbytes:
            raise ValueError(f"{self!r} wanted, got {data.nbytes} bytes")
        ctypes.memmove(array, bytes(data), self.nbytes)
        return array

    def view(self, array):
        """The C array as a NumPy array or a memoryview of the tensor's shape."""
        if numpy is not None and self.dtype != "bfloat16":
            return numpy.frombuffer(array, self.dtype).reshape(self.shape)
        data = memoryview(array).cast("B")
        if not self.shape or 0 in self.shape:
            return data.cast(self._format)
        return data.cast(self._format, self.shape)


class Model:
    """One instance of a model. Calls from several threads take turns.

    Raises:
        OSError: the library can't be loaded on this machine.
        RuntimeError: it can't start, for example because this CPU lacks an instruction set.
    """

    def __init__(self, library, threads=0):
        self._open = False
        if "/" not in library:
            library = "./" + library
        entry = ctypes.CDLL(library).edgecc_model_v1
        entry.restype = ctypes.POINTER(_Descriptor)
        self._d = entry().contents
        if self._d.abi_version != 1:
            raise RuntimeError(f"{library} has ABI version {self._d.abi_version}")
        self.name = self._d.name.decode()
        self.target = self._d.target.decode()
        self.inputs = [TensorSpec(row) for row in self._d.inputs[: self._d.n_inputs]]
        self.outputs = [TensorSpec(row) for row in self._d.outputs[: self._d.n_outputs]]
        self._lock = threading.Lock()
        self._state = _State()
        self._check(self._d.init(self._state, None, threads))
        self._open = True
        self.threads = self._d.threads(self._state)

    def run(self, *inputs):
        """The outputs, in order, for the inputs, in order."""
        if len(inputs) != len(self.inputs):
            raise ValueError(f"{len(self.inputs)} inputs wanted: {self.inputs!r}")
        arrays = [spec.buffer(value) for spec, value in zip(self.inputs, inputs)]
        results = [spec.buffer() for spec in self.outputs]
        args = self._table(self.inputs, arrays), self._table(self.outputs, results)
        with self._lock:
            if not self._open:
                raise RuntimeError("the model is closed")
            self._check(self._d.run(self._state, *args))
        return [spec.view(array) for spec, array in zip(self.outputs, results)]

    def close(self):
        if self._open:
            self._open = False
            self._d.close(self._state)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check(self, status):
        if status:
            raise RuntimeError(self._d.last_error(self._state).decode())

    @staticmethod
    def _table(specs, arrays):
        table = (_Tensor * (len(specs) + 1))()
        for row, spec, array in zip(table, specs, arrays):
            row.data = ctypes.addressof(array)
            row.nbytes = spec.nbytes
            row.dtype = spec.code
        return table


def _numbers(view):
    """The first numbers of an output, as text."""
    if numpy is not None:
        view = memoryview(numpy.ascontiguousarray(view).reshape(-1))
    flat = view.cast("B").cast(view.format)
    return " ".join(f"{number:.4g}" for number in flat[:10])


def main(arguments):
    if not arguments:
        print(__doc__)
        return 2
    with Model(arguments[0]) as model:
        files = arguments[1:]
        inputs = [bytes(spec.nbytes) for spec in model.inputs]
        for i, path in enumerate(files[: len(inputs)]):
            with open(path, "rb") as file:
                inputs[i] = file.read()
        print(f"{model.name} for {model.target}: {model.inputs!r} -> {model.outputs!r}")
        samples = []
        for _ in range(20):
            start = time.perf_counter()
            outputs = model.run(*inputs)
            samples.append((time.perf_counter() - start) * 1e3)
        for spec, output in zip(model.outputs, outputs):
            print(f"{spec.name}: {_numbers(output)}")
        print(f"median {sorted(samples)[10]:.3f} ms, {model.threads} threads")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
