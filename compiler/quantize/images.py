"""Pictures as calibration samples, and what is done to them before the model sees them."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compiler.errors import EdgeccError
from compiler.program import TensorInfo

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FILE = "preprocessing.toml"
LAYOUTS = ("NCHW", "NHWC")
COLORS = ("RGB", "BGR", "gray")


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to a model's input: resize, crop, scale, layout.

    value = (pixel / 255 * scale - mean) / std, with pixels of 0 to 255.

    Args:
        resize: the shorter side in pixels before the crop; 0: the whole picture is brought to the
            model's height and width.
        scale: 1 for values of 0 to 1, 255 for 0 to 255.
        mean, std: one a channel, or one for all.
        layout: "NCHW" or "NHWC".
        color: "RGB", "BGR" or "gray".
    """

    resize: int = 0
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    color: str = "RGB"

    @staticmethod
    def beside(folder: Path) -> Preprocessing:
        """That of preprocessing.toml in a folder of pictures.

        Raises:
            EdgeccError: the file is missing or wrong.
        """
        file = folder / FILE
        if not file.is_file():
            raise EdgeccError(
                f"{folder}: pictures without {FILE}, which says how the model wants them",
                "for many ImageNet models: resize = 256, mean = [0.485, 0.456, 0.406], "
                "std = [0.229, 0.224, 0.225]",
            )
        return Preprocessing.read(file)

    @staticmethod
    def read(file: Path) -> Preprocessing:
        """From a TOML file with any of the fields.

        Raises:
            EdgeccError: it can't be read, or has unknown or ill-typed entries.
        """
        try:
            table = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EdgeccError(f"{file}: {error}") from None
        return Preprocessing.of(table, str(file))

    @staticmethod
    def of(table: dict[str, Any], where: str) -> Preprocessing:
        """From a table of the fields, of which any may be left out."""
        known = {f.name for f in dataclasses.fields(Preprocessing)}
        unknown = sorted(set(table) - known)
        if unknown:
            raise EdgeccError(f"{where}: unknown entry '{unknown[0]}'", ", ".join(sorted(known)))
        try:
            fields = dict(table)
            for name in ("mean", "std"):
                if name in fields:
                    value = fields[name]
                    values = value if isinstance(value, (list, tuple)) else [value]
                    fields[name] = tuple(float(v) for v in values)
            result = Preprocessing(**fields)
            fits = result.layout in LAYOUTS and result.color in COLORS and all(result.std)
            if not fits or int(result.resize) != result.resize or not float(result.scale) > 0:
                raise ValueError("a value out of range")
        except (TypeError, ValueError) as error:
            raise EdgeccError(
                f"{where}: {error}",
                f"layout is one of {', '.join(LAYOUTS)}, color one of {', '.join(COLORS)}, resize "
                "a whole number, scale above 0, mean and std numbers, std not 0",
            ) from None
        return result

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return dataclasses.asdict(self)


def class_files(folder: Path) -> list[tuple[Path, int]]:
    """(picture, class) of a folder that has one folder of pictures for each class.

    Folders that are all numbers are their classes; others are numbered in the order of their names.
    """
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    pictures = {
        name: sorted(f for f in (folder / name).iterdir() if f.suffix.lower() in IMAGES)
        for name in names
    }
    names = [name for name in names if pictures[name]]
    numbers = all(name.isdigit() for name in names)
    return [
        (file, int(name) if numbers else index)
        for index, name in enumerate(names)
        for file in pictures[name]
    ]


def image_samples(
    files: list[Path], inputs: tuple[TensorInfo, ...], preprocessing: Preprocessing
) -> Iterator[dict[str, np.ndarray]]:
    """One sample a picture; models of larger batches see the same picture in all places.

    Raises:
        EdgeccError: Pillow is missing, a picture can't be read, or the model's input is none.
    """
    try:
        from PIL import Image
    except ImportError:
        raise EdgeccError(
            "pictures as calibration data need Pillow", "pip install 'edgecc[images]'"
        ) from None
    info = inputs[0]
    if len(inputs) != 1 or len(info.shape) != 4:
        raise EdgeccError(
            "pictures calibrate models of one input of 4 axes",
            "give an .npz file of arrays by input name",
        )
    batch = info.shape[0]
    channels_last = preprocessing.layout == "NHWC"
    height, width = info.shape[1:3] if channels_last else info.shape[2:]
    for file in files:
        try:
            with Image.open(file) as image:
                pixels = _pixels(image, height, width, preprocessing)
        except (OSError, ValueError) as error:
            raise EdgeccError(f"{file}: not a picture that can be read ({error})") from None
        mean, std = (np.asarray(v, "float32") for v in (preprocessing.mean, preprocessing.std))
        try:
            values = (pixels * np.float32(preprocessing.scale / 255) - mean) / std
        except ValueError:
            raise EdgeccError(
                f"{file}: {pixels.shape[2]} channels, but {mean.size} values of mean and "
                f"{std.size} of std",
                "give one value, or one a channel",
            ) from None
        arranged = values if channels_last else values.transpose(2, 0, 1)
        yield {info.name: np.repeat(arranged[None], batch, axis=0).astype("float32")}


def _pixels(image: Any, height: int, width: int, preprocessing: Preprocessing) -> np.ndarray:
    """float32 [height, width, channels], 0 to 255."""
    from PIL import Image

    picture = image.convert("L" if preprocessing.color == "gray" else "RGB")
    if preprocessing.resize:
        factor = preprocessing.resize / min(picture.size)
        size = (
            max(width, round(picture.width * factor)),
            max(height, round(picture.height * factor)),
        )
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    else:
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, "float32")
    if pixels.ndim == 2:
        return pixels[:, :, None]
    return pixels[:, :, ::-1] if preprocessing.color == "BGR" else pixels
