"""Approximations of mathematical functions made of vector instructions only.

Each function documents its source, its largest error and its edges. ULP are units in the last
place of the float32 result. See scripts/fit_approximations.py for the coefficients.
"""
