"""Derive the polynomial coefficients of compiler/passes/approximations.

Run ``python scripts/fit_approximations.py`` to print every coefficient set with the largest
relative error of the approximation in exact arithmetic, on a dense grid. Needs NumPy only.

Two fits are used, both minimise the largest *relative* error of ``f`` on an interval:

* ``minimax_polynomial``: the Remez exchange algorithm (E. Remez, 1934) on the basis
  ``x**k0 ... x**k1`` with weight ``1 / f``.
* ``minimax_rational``: P/Q by Sanathanan-Koerner linearisation, with Lawson's reweighting towards
  the uniform norm (Ellacott and Williams, 1976).

The coefficients are rounded to float32 at the end (of P/Q: Q first, then P is fitted to it).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]
GRID = 8001


def chebyshev_grid(low: float, high: float, count: int) -> np.ndarray:
    """Points of [low, high], dense at both ends; shape (count,), float64."""
    k = np.arange(count)
    return 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.pi * k / (count - 1))


def minimax_polynomial(f: Function, low: float, high: float, degree: int) -> list[float]:
    """Coefficients c[0..degree], rounded to float32, of ``sum c[k] x**k`` close to f."""
    x = chebyshev_grid(low, high, GRID)
    wanted = f(x)
    basis = np.stack([x**k for k in range(degree + 1)], axis=1) / wanted[:, None]
    reference = np.linspace(0, GRID - 1, degree + 2).round().astype(int)
    for _ in range(60):
        signs = (-1.0) ** np.arange(len(reference))
        matrix = np.concatenate([basis[reference], signs[:, None]], axis=1)
        solution = np.linalg.lstsq(matrix, np.ones(len(reference)), rcond=None)[0]
        error = 1 - basis @ solution[:-1]
        exchanged = _alternating_extrema(error, len(reference))
        if exchanged is None or np.array_equal(exchanged, reference):
            break
        reference = exchanged
    return [float(np.float32(c)) for c in solution[:-1]]


def _alternating_extrema(error: np.ndarray, count: int) -> np.ndarray | None:
    """Indices of count extrema of alternating sign, or None where the error has fewer."""
    starts = np.flatnonzero(np.diff(np.sign(error)) != 0) + 1
    runs = np.split(np.arange(error.size), starts)
    peaks = [run[np.argmax(np.abs(error[run]))] for run in runs]
    while len(peaks) > count:
        drop_first = abs(error[peaks[0]]) < abs(error[peaks[-1]])
        peaks.pop(0 if drop_first else -1)
    return np.array(peaks) if len(peaks) == count else None


def minimax_rational(
    f: Function, low: float, high: float, degrees: tuple[int, int]
) -> tuple[list[float], list[float]]:
    """Float32 coefficients of P and Q (``Q[0] == 1``) with P/Q close to f on [low, high]."""
    x = chebyshev_grid(low, high, 4001)
    q = [float(np.float32(c)) for c in _lawson_denominator(x, f(x), degrees)]
    denominator = np.polynomial.Polynomial(q)
    # The numerator is fitted to the rounded denominator.
    return minimax_polynomial(lambda u: f(u) * denominator(u), low, high, degrees[0]), q


def _lawson_denominator(x: np.ndarray, wanted: np.ndarray, degrees: tuple[int, int]) -> np.ndarray:
    scale = x.max() ** -np.arange(max(degrees) + 1)
    p_basis = np.stack([x**k * scale[k] for k in range(degrees[0] + 1)], axis=1)
    q_basis = np.stack([x**k * scale[k] for k in range(1, degrees[1] + 1)], axis=1)
    linear = np.concatenate([p_basis / wanted[:, None], -q_basis], axis=1)
    weight, q_values = np.ones_like(x), np.ones_like(x)
    best, best_error = q_values, np.inf
    for _ in range(400):
        row = np.sqrt(weight) / q_values
        solution = np.linalg.lstsq(linear * row[:, None], row, rcond=None)[0]
        q_values = 1 + q_basis @ solution[degrees[0] + 1 :]
        error = np.abs(p_basis @ solution[: degrees[0] + 1] / q_values / wanted - 1)
        if error.max() < best_error:
            best_error = error.max()
            best = np.concatenate([[1.0], solution[degrees[0] + 1 :] * scale[1 : degrees[1] + 1]])
        weight = weight * (error / error.max() + 1e-3)
        weight /= weight.max()
    return best


def _over_square_root(f: Callable[[float], float], limit: float) -> Function:
    """``u -> f(sqrt(u)) / sqrt(u)``, with limit at u = 0."""

    def value(u: np.ndarray) -> np.ndarray:
        x = np.sqrt(u)
        return np.array([f(v) / v if v > 1e-9 else limit for v in x])

    return value


def _log_tail(f: np.ndarray) -> np.ndarray:
    """``(log(1 + f) - f + f**2 / 2) / f**3``; its series where that cancels."""
    series = sum((-1) ** k * f**k / (k + 3) for k in range(40))
    with np.errstate(all="ignore"):
        direct = (np.log1p(f) - f + f * f / 2) / f**3
    return np.where(np.abs(f) < 0.2, series, direct)


def _series(x: np.ndarray, signs: int, first: int) -> np.ndarray:
    """``sum signs**k u**k / (2k + first)!`` with u = x."""
    return sum(float(signs) ** k * x**k / math.factorial(2 * k + first) for k in range(20))


def _atan_series(u: np.ndarray) -> np.ndarray:
    return _over_square_root(math.atan, 1.0)(u)


def _asin_series(u: np.ndarray) -> np.ndarray:
    return _over_square_root(math.asin, 1.0)(u)


def _show(name: str, coefficients: list[float]) -> None:
    print(f"{name} = (")
    for value in coefficients:
        print(f"    {value!r},")
    print(")")


def _polynomial(name: str, f: Function, low: float, high: float, degree: int) -> None:
    coefficients = minimax_polynomial(f, low, high, degree)
    x = chebyshev_grid(low, high, 100001)
    error = np.abs(np.polynomial.Polynomial(coefficients)(x) / f(x) - 1).max()
    print(f"# {name}: [{low:.8g}, {high:.8g}], degree {degree}, relative error {error:.3g}")
    _show(name, coefficients)


def _rational(name: str, f: Function, low: float, high: float, degrees: tuple[int, int]) -> None:
    p, q = minimax_rational(f, low, high, degrees)
    x = chebyshev_grid(low, high, 100001)
    value = np.polynomial.Polynomial(p)(x) / np.polynomial.Polynomial(q)(x)
    error = np.abs(value / f(x) - 1).max()
    print(f"# {name}: [{low:.8g}, {high:.8g}], degrees {degrees}, relative error {error:.3g}")
    _show(f"{name}_NUMERATOR", p)
    _show(f"{name}_DENOMINATOR", q)


def main() -> None:
    """Print all coefficient sets."""
    half_ln2 = math.log(2) / 2
    quarter_pi = math.pi / 4
    _polynomial("TWICE_EXP", lambda r: 2 * np.exp(r), -half_ln2 * 1.01, half_ln2 * 1.01, 6)
    _polynomial("TWICE_EXP2", lambda r: 2 * np.exp2(r), -0.505, 0.505, 6)
    _polynomial("LOG_TAIL", _log_tail, math.sqrt(0.5) - 1, math.sqrt(2) - 1, 7)
    _polynomial("SIN", lambda u: _series(u, -1, 1), 0.0, quarter_pi**2, 3)
    _polynomial("COS", lambda u: _series(u, -1, 0), 0.0, quarter_pi**2, 4)
    _polynomial("SINH", lambda u: _series(u, 1, 1), 0.0, 1.0, 4)
    _polynomial("ATAN", _atan_series, 0.0, math.tan(math.pi / 8) ** 2, 4)
    _polynomial("ASIN", _asin_series, 0.0, 0.25, 5)
    _rational("TANH", _over_square_root(math.tanh, 1.0), 0.0, 9.02**2, (6, 3))
    _rational("ERF", _over_square_root(math.erf, 2 / math.sqrt(math.pi)), 0.0, 3.925**2, (6, 4))


if __name__ == "__main__":
    main()
