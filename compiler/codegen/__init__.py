"""PrimFuncs to object code, the static memory plan, and the Program that the packager takes."""

from compiler.codegen.compile import compile_module, label

__all__ = ["compile_module", "label"]
