"""An item becomes a prepared picture, or a reason why not: whatever is in the file."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from PIL import Image

from mirror_pl.images import Condition, Limits, PreparedPicture, PreprocessSpec, prepare
from mirror_pl.images.condition import AS_IT_IS
from mirror_pl.images.origin import has_credentials, read_origin
from mirror_pl.prediction.inputs import Item


def prepare_item(
    item: Item,
    spec: PreprocessSpec,
    crops: str,
    limits: Limits,
    condition: Condition = AS_IT_IS,
    *,
    with_digest: bool = False,
    with_origin: bool = False,
) -> PreparedPicture:
    """Decode an item and cut its crops, as `prepare` does; whatever goes wrong is the picture's reason.

    Args:
        item: What to decode.
        spec: The detector's recipe.
        crops: See `plan_crops`.
        limits: What it may cost.
        condition: What is done to it; its path names it.
        with_digest: Whether to read its bytes for a hash, too.
        with_origin: Whether to read what its file says of its own origin, too.
    """
    if item.problem:
        return PreparedPicture(None, status="undecodable", reason=item.problem)
    try:
        with limits.of_size():
            found = prepare(item.source, spec, crops, item.suffix, condition, item.path)
        if found.reason.startswith(Image.DecompressionBombError.__name__):
            found = replace(found, reason=f"{found.reason} max_megapixels={limits.max_megapixels:g}")
        if with_digest and found.pixels is not None:
            content = hashlib.sha256(item.source if isinstance(item.source, bytes) else item.source.read_bytes())
            content.update(str(item.suffix).encode("utf-8", "surrogateescape"))  # which a recipe goes by
            found = replace(found, digest=content.digest())
        if with_origin and found.pixels is not None:
            found = replace(found, origin=read_origin(item.source, credentials=has_credentials()))
        return found
    except Exception as error:  # of memory, say: a row, and never the run
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        return PreparedPicture(None, status="undecodable", reason=f"{type(error).__name__}: {reason or 'no message'}")
