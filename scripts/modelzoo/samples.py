"""Seeded inputs that look like what each model was made for: random noise exercises too little."""

from __future__ import annotations

import numpy as np

Feeds = dict[str, np.ndarray]


def picture(rng: np.random.Generator, name: str, size: int = 224) -> Feeds:
    """Soft colour patches of several scales, normalised: float32 [1, 3, size, size]."""
    image = np.zeros((3, size, size))
    for cells in (2, 7, 28, size):
        patch = -(-size // cells)
        noise = rng.standard_normal((3, cells, cells))
        image += np.kron(noise, np.ones((1, patch, patch)))[:, :size, :size] / 2
    return {name: np.clip(image, -2.5, 2.5)[None].astype(np.float32)}


def page(rng: np.random.Generator, name: str, height: int, width: int) -> Feeds:
    """Lines of dark strokes on light paper, -1 is black: float32 [1, 3, height, width]."""
    image = 0.8 + 0.05 * rng.standard_normal((3, height, width))
    for top in range(8, height - 30, 48):
        left = int(rng.integers(4, 16))
        while left < width - 24:
            bottom = top + int(rng.integers(18, 28))
            image[:, top : top + 4, left : left + 14] = -0.9
            image[:, top:bottom, left + int(rng.integers(0, 10)) :][:, :, :4] = -0.9
            left += int(rng.integers(16, 30))
    return {name: np.clip(image, -1, 1)[None].astype(np.float32)}


def file_bytes(rng: np.random.Generator) -> Feeds:
    """Start and end of a short text file as magika wants it: int32 [1, 2048], 256 is padding.

    A mix of programming languages and prose, so that several of magika's classes compete.
    """
    kinds = [
        [b"import", b"return", b"def f(x):", b"\n   ", b"= 3", b"None"],
        [b"#include", b"int", b"void", b"{", b"}\n", b"->", b"0x1f;"],
        [b"<p>", b"</p>", b"<div>", b"href=", b"\n"],
        [b"the", b"of", b"and", b"a", b"house", b"went", b"by.", b"\n"],
        [b"key:", b"- 1\n", b'"name"', b"[", b"],", b"true"],
    ]
    first, second = rng.permutation(len(kinds))[:2]
    words = kinds[first] + kinds[second]
    text = b" ".join(words[i] for i in rng.integers(0, len(words), rng.integers(20, 160)))[:1024]
    tokens = np.full(2048, 256, dtype=np.int32)
    tokens[: len(text)] = np.frombuffer(text, np.uint8)
    tokens[2048 - len(text) :] = np.frombuffer(text, np.uint8)
    return {"bytes": tokens[None]}


def sentence(rng: np.random.Generator, length: int = 128) -> Feeds:
    """Word-piece ids of one sentence with padding behind: three int64 [1, length]."""
    used = int(rng.integers(length // 4, length))
    ids, mask = np.zeros((2, 1, length), dtype=np.int64)
    ids[0, :used] = rng.integers(1000, 30000, used)
    ids[0, 0], ids[0, used - 1] = 101, 102  # [CLS] and [SEP]
    mask[0, :used] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def tone(frequency: float, count: int, noise: np.ndarray | float = 0.0) -> np.ndarray:
    """A sine with two overtones at 16,000 samples a second, plus noise: float64 [count]."""
    phase = 2 * np.pi * frequency * np.arange(count) / 16000
    return np.sin(phase) + 0.5 * np.sin(2 * phase) + 0.25 * np.sin(3 * phase) + noise


def speech(rng: np.random.Generator) -> Feeds:
    """64 samples of context and 512 new ones, and a used recurrent state, of silero-vad."""
    sound = 0.1 * tone(rng.uniform(90, 250), 576, 0.2 * rng.standard_normal(576))
    state = 0.3 * rng.standard_normal((2, 1, 128))
    return {"input": sound[None].astype(np.float32), "state": state.astype(np.float32)}


def pitch_frame(rng: np.random.Generator, frequency: float | None = None) -> Feeds:
    """One frame of a tone, zero mean and unit deviation as CREPE wants it: float32 [1, 1024]."""
    sound = tone(frequency or rng.uniform(80, 800), 1024, 0.02 * rng.standard_normal(1024))
    sound = (sound - sound.mean()) / sound.std()
    return {"frames": sound[None].astype(np.float32)}
