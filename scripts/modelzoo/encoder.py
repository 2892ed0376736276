"""MiniLM-L6-H384 sentence encoder (Wang et al., 2020, arXiv 2002.10957), a 6-layer BERT."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx

from .graph import Graph, RandomWeights

HIDDEN, HEADS, INNER, LAYERS = 384, 12, 1536, 6
VOCABULARY, POSITIONS = 30522, 512


def minilm(
    weights: Mapping[str, np.ndarray],
    batch: int | str = "batch",
    sequence: int | str = "sequence",
    sentence: bool = True,
) -> onnx.ModelProto:
    """Encoder graph from BERT weights under their usual names.

    Inputs ``input_ids``, ``attention_mask``, ``token_type_ids``: int64 [batch, sequence]. Outputs
    ``last_hidden_state`` [batch, sequence, 384] and, if ``sentence``, ``sentence_embedding``
    [batch, 384]: the mean over unmasked tokens, scaled to length 1.
    """
    net = _Encoder(weights)
    ids = net.input("input_ids", [batch, sequence], "int64")
    mask = net.input("attention_mask", [batch, sequence], "int64")
    types = net.input("token_type_ids", [batch, sequence], "int64")
    mask = net.node("Cast", mask, to=onnx.TensorProto.FLOAT)
    blocked = net.node("Sub", net.scalar(1.0), net.node("Unsqueeze", mask, net.integers(1, 2)))
    blocked = net.node("Mul", blocked, net.scalar(-1e9))
    x = net.embeddings(ids, types)
    for layer in range(LAYERS):
        x = net.layer(x, blocked, f"encoder.layer.{layer}")
    net.output(x, "last_hidden_state", [batch, sequence, HIDDEN])
    if sentence:
        mask = net.node("Unsqueeze", mask, net.integers(2))
        total = net.node("ReduceSum", net.node("Mul", x, mask), net.integers(1), keepdims=0)
        count = net.node("ReduceSum", mask, net.integers(1), keepdims=0)
        mean = net.node("Div", total, net.node("Max", count, net.scalar(1e-9)))
        length = net.node("ReduceL2", mean, axes=[1], keepdims=1)
        x = net.node("Div", mean, net.node("Max", length, net.scalar(1e-12)))
        net.output(x, "sentence_embedding", [batch, HIDDEN])
    return net.model()


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded weights with the names and shapes of the published ones, near their scale."""
    source = RandomWeights(seed)
    weights = {
        "embeddings.word_embeddings.weight": source.he(VOCABULARY, HIDDEN, rectified=False),
        "embeddings.position_embeddings.weight": source.he(POSITIONS, HIDDEN, rectified=False),
        "embeddings.token_type_embeddings.weight": source.he(2, HIDDEN, rectified=False),
    }

    def dense(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.weight"] = source.he(outputs, inputs, rectified=False)
        weights[f"{name}.bias"] = source.near(0.0, 0.1, outputs)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = source.near(1.0, 0.2, HIDDEN)
        weights[f"{name}.bias"] = source.near(0.0, 0.1, HIDDEN)

    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            dense(f"{prefix}.attention.self.{part}", HIDDEN, HIDDEN)
        dense(f"{prefix}.attention.output.dense", HIDDEN, HIDDEN)
        norm(f"{prefix}.attention.output.LayerNorm")
        dense(f"{prefix}.intermediate.dense", HIDDEN, INNER)
        dense(f"{prefix}.output.dense", INNER, HIDDEN)
        norm(f"{prefix}.output.LayerNorm")
    return weights


class _Encoder(Graph):
    """Layers of BERT (Devlin et al., 2018), written as exporters write them."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        super().__init__("minilm")
        self.weights = weights

    def dense(self, x: str, name: str) -> str:
        weight = self.constant(self.weights[f"{name}.weight"].T, f"{name}.weight")
        bias = self.constant(self.weights[f"{name}.bias"], f"{name}.bias")
        return self.node("Add", self.node("MatMul", x, weight), bias)

    def norm(self, x: str, name: str) -> str:
        scale = self.constant(self.weights[f"{name}.weight"], f"{name}.weight")
        bias = self.constant(self.weights[f"{name}.bias"], f"{name}.bias")
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=1e-12)

    def embeddings(self, ids: str, types: str) -> str:
        def table(part: str) -> str:
            name = f"embeddings.{part}_embeddings.weight"
            return self.constant(self.weights[name], name)

        length = self.node("Shape", ids, start=1, end=2)
        positions = self.node("Slice", table("position"), self.integers(0), length)
        words = self.node("Gather", table("word"), ids)
        x = self.node("Add", words, self.node("Gather", table("token_type"), types))
        return self.norm(self.node("Add", x, positions), "embeddings.LayerNorm")

    def layer(self, x: str, blocked: str, name: str) -> str:
        y = self.attention(x, blocked, f"{name}.attention")
        x = self.norm(self.node("Add", x, y), f"{name}.attention.output.LayerNorm")
        y = self.gelu(self.dense(x, f"{name}.intermediate.dense"))
        y = self.dense(y, f"{name}.output.dense")
        return self.norm(self.node("Add", x, y), f"{name}.output.LayerNorm")

    def attention(self, x: str, blocked: str, name: str) -> str:
        def heads(part: str, perm: list[int]) -> str:
            y = self.dense(x, f"{name}.self.{part}")
            y = self.node("Reshape", y, self.integers(0, 0, HEADS, HIDDEN // HEADS))
            return self.node("Transpose", y, perm=perm)

        scores = self.node("MatMul", heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]))
        scores = self.node("Div", scores, self.scalar(math.sqrt(HIDDEN / HEADS)))
        share = self.node("Softmax", self.node("Add", scores, blocked), axis=-1)
        y = self.node("MatMul", share, heads("value", [0, 2, 1, 3]))
        y = self.node("Transpose", y, perm=[0, 2, 1, 3])
        y = self.node("Reshape", y, self.integers(0, 0, HIDDEN))
        return self.dense(y, f"{name}.output.dense")

    def gelu(self, x: str) -> str:
        """x / 2 (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel, 2016)."""
        y = self.node("Erf", self.node("Div", x, self.scalar(math.sqrt(2.0))))
        y = self.node("Mul", x, self.node("Add", y, self.scalar(1.0)))
        return self.node("Mul", y, self.scalar(0.5))
