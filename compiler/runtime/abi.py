"""ctypes mirror of runtime/edgecc.h."""

from __future__ import annotations

import ctypes

ABI_VERSION = 1
DTYPE_NAMES = (
    "",
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "bfloat16",
    "float32",
    "float64",
)


class Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("nbytes", ctypes.c_uint64),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    )


class TensorInfoC(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("nbytes", ctypes.c_uint64),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
        ("scale", ctypes.c_double),
        ("zero_point", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    )


class OperatorC(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_char_p),
        ("macs", ctypes.c_uint64),
        ("nbytes", ctypes.c_uint64),
    )


class State(ctypes.Structure):
    _fields_ = (("opaque", ctypes.c_uint64 * 64),)


_StateP = ctypes.POINTER(State)
_Tensors = ctypes.POINTER(Tensor)


class Descriptor(ctypes.Structure):
    _fields_ = (
        ("abi_version", ctypes.c_uint32),
        ("struct_bytes", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        ("target", ctypes.c_char_p),
        ("inputs", ctypes.POINTER(TensorInfoC)),
        ("outputs", ctypes.POINTER(TensorInfoC)),
        ("operators", ctypes.POINTER(OperatorC)),
        ("n_inputs", ctypes.c_uint32),
        ("n_outputs", ctypes.c_uint32),
        ("n_operators", ctypes.c_uint32),
        ("default_threads", ctypes.c_uint32),
        ("arena_bytes", ctypes.c_uint64),
        ("weights_bytes", ctypes.c_uint64),
        ("init", ctypes.CFUNCTYPE(ctypes.c_int, _StateP, ctypes.c_void_p, ctypes.c_int)),
        ("run", ctypes.CFUNCTYPE(ctypes.c_int, _StateP, _Tensors, _Tensors)),
        (
            "profile",
            ctypes.CFUNCTYPE(
                ctypes.c_int, _StateP, _Tensors, _Tensors, ctypes.POINTER(ctypes.c_double)
            ),
        ),
        ("set_threads", ctypes.CFUNCTYPE(ctypes.c_int, _StateP, ctypes.c_int)),
        (
            "set_spin",
            ctypes.CFUNCTYPE(ctypes.c_int, _StateP, ctypes.c_uint32, ctypes.c_uint32),
        ),
        ("last_error", ctypes.CFUNCTYPE(ctypes.c_char_p, _StateP)),
        ("threads", ctypes.CFUNCTYPE(ctypes.c_int, _StateP)),
        ("close", ctypes.CFUNCTYPE(None, _StateP)),
        ("clock_ghz", ctypes.CFUNCTYPE(ctypes.c_double)),
    )
