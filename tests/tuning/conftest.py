"""The program in a process of its own, as the tests of the commands have it."""

from tests.cli.conftest import edgecc

__all__ = ["edgecc"]
