"""LSTM, GRU and RNN, unrolled over time.

Gate order and equations are those of the ONNX operators' documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from compiler.frontend import limits
from compiler.frontend.converters.registry import converter
from compiler.frontend.node import ConversionError, Node

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ACTIVATIONS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}
Activation = Callable[[relax.Expr], relax.Expr]


@dataclass
class _Direction:
    """One direction's operands, leading direction axis removed; weights are transposed."""

    index: int
    weight: relax.Expr  # input, gates * hidden
    recurrence: relax.Expr  # hidden, gates * hidden
    bias: Any  # input bias and recurrent bias, each gates * hidden, or None
    peephole: relax.Expr | None  # 3 * hidden
    activations: list[Activation]


@converter("LSTM", "GRU", "RNN")
def recurrent(node: Node) -> list[relax.Expr]:
    """Outputs Y, Y_h and for LSTM Y_c; only batches of static length are unrolled."""
    batch_first = bool(node.attr("layout", 0))
    dims = node.shape(0)
    steps, batch = (dims[1], dims[0]) if batch_first else (dims[0], dims[1])
    if steps > limits.MAX_LOOP_TRIPS:
        raise ConversionError(f"{steps} time steps cannot be unrolled", "bind a shorter sequence")
    hidden = node.shape(2)[-1]
    kind = node.attr("direction", "forward")
    count = 2 if kind == "bidirectional" else 1
    x = node.emit(relax.op.permute_dims(node[0], [1, 0, 2])) if batch_first else node[0]
    flat = node.emit(relax.op.reshape(x, (steps * batch, dims[-1])))
    sequences, finals = [], []
    for index in range(count):
        direction = _direction(node, index, count)
        backwards = kind == "reverse" or index == 1
        cell = _Cell(node, direction, flat, steps, batch, hidden, batch_first)
        rows, state = cell.run(backwards)
        sequences.append(rows)
        finals.append(state)
    return _results(node, sequences, finals, batch_first)


def _results(
    node: Node, sequences: list[list[relax.Expr]], finals: list[list[relax.Expr]], batch_first: bool
) -> list[Any]:
    """Stacks the rows: Y is steps, directions, batch, hidden, or batch first."""
    results: list[Any] = [None]
    if node.wants(0):
        outer = [
            _joined([node.emit(relax.op.expand_dims(row, [0, 1])) for row in rows], 0)
            for rows in sequences
        ]
        y = node.emit(_joined([node.emit(part) for part in outer], 1))
        results[0] = relax.op.permute_dims(y, [2, 0, 1, 3]) if batch_first else y
    for part in range(len(finals[0])):
        axis = 1 if batch_first else 0
        items = [node.emit(relax.op.expand_dims(state[part], axis)) for state in finals]
        results.append(_joined(items, axis))
    return results


def _joined(parts: list[relax.Expr], axis: int) -> relax.Expr:
    return relax.op.concat(parts, axis) if len(parts) > 1 else parts[0]


def _direction(node: Node, index: int, count: int) -> _Direction:
    names = node.attr("activations") or _ACTIVATIONS[node.op] * count
    per = len(_ACTIVATIONS[node.op])
    alphas, betas = node.attr("activation_alpha") or [], node.attr("activation_beta") or []
    functions = []
    for place in range(index * per, index * per + per):
        alpha = alphas[place] if place < len(alphas) else None
        beta = betas[place] if place < len(betas) else None
        functions.append(_activation(node, names[place], alpha, beta))
    return _Direction(
        index,
        _matrix(node, 1, index),
        _matrix(node, 2, index),
        _part(node, 3, index),
        _part(node, 7, index) if node.op == "LSTM" else None,
        functions,
    )


def _matrix(node: Node, position: int, index: int) -> relax.Expr:
    if node.is_const(position):
        return node.make_constant(np.ascontiguousarray(node.inputs[position][index].T))
    return node.emit(relax.op.permute_dims(_part(node, position, index), [1, 0]))


def _part(node: Node, position: int, index: int, axis: int = 0) -> Any:
    """Entry ``index`` of the direction axis of an optional input."""
    if not node.has(position):
        return None
    if node.is_const(position):
        return node.make_constant(np.ascontiguousarray(node.inputs[position].take(index, axis)))
    part = relax.op.strided_slice(node[position], [axis], [index], [index + 1])
    return node.emit(relax.op.squeeze(node.emit(part), [axis]))


def _activation(node: Node, name: str, alpha: float | None, beta: float | None) -> Activation:
    dtype, op = node.dtype(0), relax.op
    a = node.scalar(alpha if alpha is not None else _ALPHA.get(name, 1.0), dtype)
    b = node.scalar(beta if beta is not None else _BETA.get(name, 0.0), dtype)
    one, zero = node.scalar(1, dtype), node.scalar(0, dtype)
    table: dict[str, Activation] = {
        "sigmoid": op.sigmoid,
        "tanh": op.tanh,
        "relu": op.nn.relu,
        "affine": lambda x: op.add(op.multiply(x, a), b),
        "leakyrelu": lambda x: op.where(op.less(x, zero), op.multiply(x, a), x),
        "thresholdedrelu": lambda x: op.where(op.less(x, a), zero, x),
        "scaledtanh": lambda x: op.multiply(a, op.tanh(op.multiply(b, x))),
        "hardsigmoid": lambda x: op.clip(op.add(op.multiply(x, a), b), 0.0, 1.0),
        "elu": lambda x: op.where(op.less(x, zero), op.multiply(a, op.subtract(op.exp(x), one)), x),
        "softsign": lambda x: op.divide(x, op.add(one, op.abs(x))),
        "softplus": lambda x: op.log(op.add(op.exp(x), one)),
    }
    if name.lower() not in table:
        raise ConversionError(f"unknown activation '{name}'")
    return table[name.lower()]


_ALPHA = {"LeakyRelu": 0.01, "HardSigmoid": 0.2}
_BETA = {"HardSigmoid": 0.5}


class _Cell:
    """Runs one direction; all input projections are one matrix product up front."""

    def __init__(
        self,
        node: Node,
        direction: _Direction,
        flat: relax.Expr,
        steps: int,
        batch: int,
        hidden: int,
        batch_first: bool,
    ) -> None:
        self.node, self.direction = node, direction
        self.steps, self.batch, self.hidden = steps, batch, hidden
        self.gates = _GATES[node.op]
        self.clip = node.attr("clip")
        self.input_bias, self.recurrent_bias = self._biases()
        projected = relax.op.matmul(flat, direction.weight)
        if self.input_bias is not None:
            projected = relax.op.add(projected, self.input_bias)
        self.projected = node.emit(projected)
        axis = 1 if batch_first else 0
        self.state = [self._initial(5, axis)]
        if node.op == "LSTM":
            self.state.append(self._initial(6, axis))
        self.mask = self._mask()

    def _biases(self) -> tuple[Any, Any]:
        bias, size = self.direction.bias, self.gates * self.hidden
        if bias is None:
            return None, None
        node = self.node
        halves = [
            node.emit(relax.op.strided_slice(bias, [0], [begin], [begin + size]))
            for begin in (0, size)
        ]
        return halves[0], halves[1]

    def _initial(self, position: int, axis: int) -> relax.Expr:
        part = _part(self.node, position, self.direction.index, axis)
        if part is not None:
            return part
        return self.node.make_constant(np.zeros((self.batch, self.hidden), self.node.dtype(0)))

    def _mask(self) -> Any:
        """lengths as batch, 1, where sequences of a batch may end early."""
        node = self.node
        if not node.has(4) or (node.is_const(4) and (node.inputs[4] == self.steps).all()):
            return None
        return node.emit(relax.op.reshape(node[4], (self.batch, 1)))

    def run(self, backwards: bool) -> tuple[list[relax.Expr], list[relax.Expr]]:
        """Hidden states by time step, and the final states."""
        node, rows = self.node, [None] * self.steps
        order = range(self.steps)[::-1] if backwards else range(self.steps)
        zero = node.scalar(0, node.dtype(0))
        for step in order:
            begin = step * self.batch
            x = node.emit(
                relax.op.strided_slice(self.projected, [0], [begin], [begin + self.batch])
            )
            new = [node.emit(item) for item in self._step(x)]
            row = new[0]
            if self.mask is not None:
                alive = node.emit(relax.op.greater(self.mask, node.scalar(step, node.dtype(4))))
                row = node.emit(relax.op.where(alive, new[0], zero))
                new = [
                    node.emit(relax.op.where(alive, item, old))
                    for item, old in zip(new, self.state, strict=True)
                ]
            rows[step] = row
            self.state = new
        return rows, self.state  # type: ignore[return-value]

    def _gate(self, x: relax.Expr, index: int) -> relax.Expr:
        begin = index * self.hidden
        return self.node.emit(relax.op.strided_slice(x, [1], [begin], [begin + self.hidden]))

    def _clipped(self, x: relax.Expr) -> relax.Expr:
        return x if self.clip is None else relax.op.clip(x, -self.clip, self.clip)

    def _step(self, x: relax.Expr) -> list[relax.Expr]:
        return {"LSTM": self._lstm, "GRU": self._gru, "RNN": self._rnn}[self.node.op](x)

    def _recurrent(self) -> relax.Expr:
        product = relax.op.matmul(self.state[0], self.direction.recurrence)
        if self.recurrent_bias is not None:
            product = relax.op.add(product, self.recurrent_bias)
        return product

    def _rnn(self, x: relax.Expr) -> list[relax.Expr]:
        (f,) = self.direction.activations
        return [f(self._clipped(relax.op.add(x, self._recurrent())))]

    def _lstm(self, x: relax.Expr) -> list[relax.Expr]:
        f, g, h = self.direction.activations
        op, cell = relax.op, self.state[1]
        total = self.node.emit(op.add(x, self._recurrent()))
        i, o, forget, c = (self._gate(total, k) for k in range(4))
        peephole = self.direction.peephole
        weights = [None] * 3
        if peephole is not None:
            weights = [
                self.node.emit(
                    op.strided_slice(peephole, [0], [k * self.hidden], [(k + 1) * self.hidden])
                )
                for k in range(3)
            ]
            i = op.add(i, op.multiply(weights[0], cell))
            forget = op.add(forget, op.multiply(weights[2], cell))
        i = f(self._clipped(i))
        if self.node.attr("input_forget", 0):
            forget = op.subtract(self.node.scalar(1, self.node.dtype(0)), self.node.emit(i))
        else:
            forget = f(self._clipped(forget))
        c = g(self._clipped(c))
        new = self.node.emit(op.add(op.multiply(forget, cell), op.multiply(i, c)))
        if peephole is not None:
            o = op.add(o, op.multiply(weights[1], new))
        return [op.multiply(f(self._clipped(o)), h(new)), new]

    def _gru(self, x: relax.Expr) -> list[relax.Expr]:
        f, g = self.direction.activations
        op, node, state = relax.op, self.node, self.state[0]
        size = self.hidden
        after = bool(node.attr("linear_before_reset", 0))
        if after:
            inner = node.emit(self._recurrent())
            gates = node.emit(op.add(x, inner))
            z = node.emit(f(self._clipped(self._gate(gates, 0))))
            r = node.emit(f(self._clipped(self._gate(gates, 1))))
            candidate = op.add(self._gate(x, 2), op.multiply(r, self._gate(inner, 2)))
        else:
            whole, bias = self.direction.recurrence, self.recurrent_bias
            both = op.matmul(state, node.emit(op.strided_slice(whole, [1], [0], [2 * size])))
            if bias is not None:
                both = op.add(both, node.emit(op.strided_slice(bias, [0], [0], [2 * size])))
            both = node.emit(op.add(node.emit(op.strided_slice(x, [1], [0], [2 * size])), both))
            z = node.emit(f(self._clipped(self._gate(both, 0))))
            r = node.emit(f(self._clipped(self._gate(both, 1))))
            last = node.emit(op.strided_slice(whole, [1], [2 * size], [3 * size]))
            product = op.matmul(node.emit(op.multiply(r, state)), last)
            if bias is not None:
                rest = node.emit(op.strided_slice(bias, [0], [2 * size], [3 * size]))
                product = op.add(product, rest)
            candidate = op.add(self._gate(x, 2), product)
        h = node.emit(g(self._clipped(candidate)))
        one = node.scalar(1, node.dtype(0))
        return [op.add(op.multiply(op.subtract(one, z), h), op.multiply(z, state))]
