"""From a picture, however it is given, to the crops that a detector sees of it, or to the reason why there are none."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mirror_pl.images.condition import AS_IT_IS, Condition
from mirror_pl.images.crops import Crop, cut, plan_crops
from mirror_pl.images.decode import UndecodableImageError, as_rgb, decode
from mirror_pl.images.origin import Origin
from mirror_pl.images.spec import Decoder, PreprocessSpec
from mirror_pl.sources.source import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

Picture: TypeAlias = "str | Path | ImageSource | bytes | Image.Image | NDArray[Any] | Tensor"
"""What can be scored: a file by its path, a part of one, an encoded file's bytes, an image, or pixels: ``(H, W, 3)`` in
numpy, ``(3, H, W)`` in torch; RGB, uint8 in [0, 255] or floating point in [0, 1], which is rounded to 255ths."""


@dataclass(frozen=True)
class PreparedPicture:
    """A picture that was decoded and cut, or the reason why not; made without a detector, in any process.

    Attributes:
        pixels: ``(C, crop, crop, 3)`` uint8; None where there is no image.
        plan: Where the crops are.
        size: Of the decoded image, width and height.
        status: As in `Prediction`.
        reason: Likewise.
        digest: Of the file's bytes and suffix, where that was asked for; else empty.
        origin: What the file says of its own origin, where that was asked for; else None.
    """

    pixels: NDArray[np.uint8] | None
    plan: tuple[Crop, ...] = ()
    size: tuple[int, int] | None = None
    status: str = "ok"
    reason: str = ""
    digest: bytes = b""
    origin: Origin | None = None


def prepare(
    picture: Picture,
    spec: PreprocessSpec,
    crops: str = "center",
    suffix: str | None = None,
    condition: Condition = AS_IT_IS,
    image_id: str = "",
) -> PreparedPicture:
    """Decode a picture and cut what a detector sees of it.

    The format alignment of the recipe goes by the suffix of a file's name; for bytes, and for a picture in a shard without a
    suffix, by the format that they are in; for an image, by the file it was opened from, or else its format. Pixels are not
    aligned, but where the condition aligns all.

    Args:
        picture: See `Picture`.
        spec: The detector's recipe.
        crops: See `plan_crops`.
        suffix: To go by instead, with the dot; of a picture in a shard, that of its name there.
        condition: What is done to it besides.
        image_id: Names it, for what is random in a perturbation; see `Perturbation`.

    Raises:
        TypeError: If it is none of the kinds of `Picture`.
        ValueError: If pixels have another shape, dtype or range than those of `Picture`.
    """
    return prepare_each(picture, spec, crops, (condition,), suffix, image_id)[0]


def prepare_each(
    picture: Picture,
    spec: PreprocessSpec,
    crops: str,
    conditions: Sequence[Condition],
    suffix: str | None = None,
    image_id: str = "",
) -> list[PreparedPicture]:
    """Decode a picture once, and do what `prepare` does under each of some conditions.

    Where a perturbation cannot be done, as with a picture too large for a codec, it is as if the picture were undecodable
    under that condition.
    """
    try:
        opened = _opened(picture, suffix, spec.decoder)
    except UndecodableImageError as error:
        return [PreparedPicture(None, status="undecodable", reason=str(error))] * len(conditions)
    return [_under(condition, opened, spec, crops, image_id) for condition in conditions]


def as_image(picture: Picture) -> Image.Image:
    """Return what can be scored as an RGB image, as it is decoded by Pillow.

    Raises:
        UndecodableImageError: If it cannot be read.
        TypeError, ValueError: If it is no picture.
    """
    return _opened(picture, None, "pillow").image


def shrunk(image: Image.Image, side_px: int) -> Image.Image:
    """Return a copy of an image whose longer side is `side_px` at most."""
    small = image.copy()
    small.thumbnail((side_px, side_px))
    return small


def as_data_url(image: Image.Image) -> str:
    """Return an image as the ``data:`` address of a PNG, for a page that holds all it shows."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


class _Opened(NamedTuple):
    image: Image.Image
    suffix: str
    flaw: str


def _opened(picture: Picture, suffix: str | None, decoder: Decoder) -> _Opened:
    """Decode a picture, and say which suffix its format alignment goes by."""
    if isinstance(picture, str | Path | ImageSource | bytes):
        source = Path(picture) if isinstance(picture, str) else picture
        decoded = decode(source, decoder)
        file = _file_of(source)
        own_suffix = _SUFFIXES.get(decoded.format, "") if file is None else file.suffix
        if isinstance(source, ImageSource) and file is None:
            suffix = suffix or None  # a row of a Parquet file need not be called by a file's name
        return _Opened(decoded.image, own_suffix if suffix is None else suffix, decoded.flaw)
    if isinstance(picture, Image.Image):
        own_suffix = Path(str(getattr(picture, "filename", ""))).suffix or _SUFFIXES.get(picture.format or "", "")
        return _Opened(_rgb(picture, decoder), own_suffix if suffix is None else suffix, "")
    return _Opened(_from_pixels(picture), suffix or "", "")


def _under(condition: Condition, opened: _Opened, spec: PreprocessSpec, crops: str, image_id: str) -> PreparedPicture:
    spec = condition.recipe(spec)
    try:
        image, suffix = condition.perturbation(opened.image, opened.suffix, image_id)
        plan = plan_crops(image.size, spec, crops)
    except UndecodableImageError as error:
        return PreparedPicture(None, status="undecodable", reason=str(error))
    return PreparedPicture(
        cut(image, suffix, spec, plan), plan, image.size, "truncated" if opened.flaw else "ok", opened.flaw
    )


_SUFFIXES: Final = {"PNG": ".png", "BMP": ".bmp"}
"""Suffixes of files in the formats that recipes align."""


def _file_of(source: Path | ImageSource | bytes) -> Path | None:
    """Return the file that is the picture; None for bytes, and for a part of a file."""
    if isinstance(source, ImageSource):
        return source.path if source.offset is None else None
    return source if isinstance(source, Path) else None


def _rgb(picture: Image.Image, decoder: Decoder) -> Image.Image:
    try:
        return as_rgb(picture, decoder)
    except Exception as error:  # it is read only now, and Pillow's plugins raise almost anything on malformed files
        raise UndecodableImageError(f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _from_pixels(pixels: NDArray[Any] | Tensor) -> Image.Image:
    from torch import Tensor

    if isinstance(pixels, Tensor):
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            raise ValueError(f"torch pixels must be (3, H, W), got {tuple(pixels.shape)}")
        array: NDArray[Any] = pixels.detach().cpu().permute(1, 2, 0).numpy()
    elif isinstance(pixels, np.ndarray):
        array = pixels
    else:
        raise TypeError(f"a picture must be a path, bytes, an image or pixels; got {type(pixels).__name__}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"numpy pixels must be (H, W, 3), got {array.shape}")
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"pixels must be uint8 in [0, 255] or floating point in [0, 1], got {array.dtype}")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"floating point pixels must be in [0, 1], got {array.min()} to {array.max()}")
    return Image.fromarray(np.rint(array * 255).astype(np.uint8))
