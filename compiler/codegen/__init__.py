"""PrimFuncs to object code, the static memory plan, and the Program that the packager takes."""

from compiler.codegen.compile import KernelCache, compile_module, label

__all__ = ["KernelCache", "compile_module", "label"]
