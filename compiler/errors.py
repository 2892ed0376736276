"""The one exception that users see: a line that names what is at fault, and a hint."""

from __future__ import annotations


class EdgeccError(Exception):
    """An error of the user's input or environment, not of the compiler.

    Args:
        message: one line that names the file, node or option at fault.
        hint: what to do about it; printed after a blank line as ``hint: ...``.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
