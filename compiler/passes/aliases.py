"""Relax operators that only rename memory: they never become kernels."""

ALIAS_OPS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
