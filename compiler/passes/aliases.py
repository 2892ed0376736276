"""Relax operators that only name memory: they never become kernels."""

ALIAS_OPS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
# Where ``place_views`` left them: parts side by side, and parts of a whole.
VIEW_OPS = ("relax.concat", "relax.strided_slice")
