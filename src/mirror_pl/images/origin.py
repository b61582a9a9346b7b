"""What a picture's file says of its own origin. It takes no part in a score: whoever writes a file can write anything there.

Looked at are signed Content Credentials (C2PA, by its own library), the IPTC's *digital source type* in XMP, what generators
write into PNG text and EXIF, and the camera or program that EXIF names. A file that says nothing is ``unknown``: it is
neither real nor fake for that.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from PIL import ExifTags, Image

from mirror_pl.errors import ConfigError
from mirror_pl.images.decode import encoded, readable_formats
from mirror_pl.sources.source import ImageSource

Says: TypeAlias = Literal["says_ai", "edited", "says_camera", "unknown"]

SAYS: Final[tuple[Says, ...]] = ("says_ai", "edited", "says_camera", "unknown")
"""Where a file says several things, the first of these counts."""
SOURCE_TYPES: Final[Mapping[str, Says]] = {
    "trainedAlgorithmicMedia": "says_ai",
    "compositeWithTrainedAlgorithmicMedia": "says_ai",
    "compositeSynthetic": "edited",
    "compositeCapture": "edited",
    "composite": "edited",
    "algorithmicallyEnhanced": "edited",
    "humanEdits": "edited",
    "minorHumanEdits": "edited",
    "digitalCapture": "says_camera",
    "computationalCapture": "says_camera",
    "negativeFilm": "says_camera",
    "positiveFilm": "says_camera",
    "print": "says_camera",
}
"""Terms of https://cv.iptc.org/newscodes/digitalsourcetype; others, such as ``screenCapture``, are ``unknown`` here."""
GENERATORS: Final = (
    "stable diffusion", "novelai", "midjourney", "dall-e", "dall·e", "adobe firefly", "comfyui", "invokeai", "fooocus",
    "draw things", "made with google ai",
)  # fmt: skip
EDITORS: Final = (
    "photoshop", "lightroom", "gimp", "affinity", "paint.net", "pixelmator", "snapseed", "darktable", "krita", "capture one",
)  # fmt: skip
"""Programs, as ``Software`` names them, in lower case."""
GENERATOR_KEYS: Final = {
    "prompt": "a ComfyUI prompt",
    "workflow": "a ComfyUI workflow",
    "invokeai_metadata": "InvokeAI metadata",
    "sd-metadata": "InvokeAI metadata",
    "fooocus_scheme": "Fooocus parameters",
}
"""Text chunks of PNG that generators write JSON or the like into; ``parameters`` is looked at by what it holds."""
MOST_BYTES: Final = 2**26
"""Of a file that Content Credentials are looked for in: the library reads all of it."""
_MOST_TEXT: Final = 2**20
"""Of XMP and of any text, in characters; what follows is not looked at."""
_MOST_SHOWN: Final = 80
"""Of one text, in characters."""
_MOST_FOUND: Final = 20
"""Things that are named; all count."""

_SOURCE_TYPE: Final = re.compile(
    r"""DigitalSourceType(?:\s{0,9}=\s{0,9}["']|\s{0,9}>\s{0,99}|\s[^<>]{0,99}resource=["'])"""
    r"""(?:https?://cv\.iptc\.org/newscodes/digitalsourcetype/)?(\w{1,64})""",
    re.IGNORECASE,
)
_CREATOR: Final = re.compile(r"""(CreatorTool|photoshop:Credit)(?:\s{0,9}=\s{0,9}["']|\s{0,9}>)([^<>"']{1,200})""")
_PARAMETERS: Final = re.compile(r"\bSteps: \d+, (?:(?!\bSteps: ).){0,2000}?\bSampler: ", re.DOTALL)
_KEPT_AS_IT_WAS: Final = frozenset(
    f"c2pa.{name}" for name in ("created", "opened", "published", "converted", "transcoded", "repackaged")
)
"""Actions of Content Credentials that change no pixel but by encoding; others are edits."""


@dataclass(frozen=True)
class Origin:
    """What a file says of its own origin.

    Attributes:
        says: One of `SAYS`.
        detail: All that was found, in one line; empty where there is nothing.
    """

    says: Says = "unknown"
    detail: str = ""


_Found: TypeAlias = tuple[Says, str]


def read_origin(picture: str | Path | ImageSource | bytes, *, credentials: bool = True) -> Origin:
    """Read what a picture's file says of its own origin. Pixels are not decoded, and nothing is asked of the network.

    Whatever is in the file, this comes to an answer: what cannot be read is said in `Origin.detail`.

    Args:
        picture: A file by its path, a part of one, or an encoded file's bytes.
        credentials: Whether to look for signed Content Credentials, too.

    Raises:
        ConfigError: If they are to be looked for, and their library is not installed.

    Example::

        origin = read_origin("picture.jpg")
        print(origin.says, origin.detail)
    """
    if credentials:
        require_credentials()
    source = ImageSource(Path(picture)) if isinstance(picture, str | Path) else picture
    found: list[_Found] = []
    try:
        content = encoded(source)
        with Image.open(content, formats=readable_formats()) as image:
            if credentials:
                found += _in_credentials(content, image.get_format_mimetype() or "")
            for one in _in_metadata(image):  # one by one: what comes before malformed parts counts
                found.append(one)
    except Exception as error:  # Pillow's plugins raise almost anything on malformed input
        found.append(("unknown", f"not read: {type(error).__name__}"))
    said, details = {one for one, _ in found}, list(dict.fromkeys(detail for _, detail in found))
    if len(details) > _MOST_FOUND:
        details[_MOST_FOUND:] = [f"and {len(details) - _MOST_FOUND:,} more"]
    return Origin(next((one for one in SAYS if one in said), "unknown"), "; ".join(details))


def require_credentials() -> None:
    """See that Content Credentials can be read.

    Raises:
        ConfigError: If their library is not installed.
    """
    if not has_credentials():
        raise ConfigError(
            "Content Credentials need c2pa, which is not installed: pip install 'mirror_pl[provenance]'; in Python, "
            "credentials=False goes without"
        )


@cache
def has_credentials() -> bool:
    """Whether the library that reads Content Credentials is installed."""
    return find_spec("c2pa") is not None


def _in_metadata(image: Image.Image) -> Iterator[_Found]:
    xmp = image.info.get("xmp", b"")
    packet = xmp[:_MOST_TEXT].decode("utf-8", "replace") if isinstance(xmp, bytes) else str(xmp)[:_MOST_TEXT]
    for term in dict.fromkeys(found[1] for found in _SOURCE_TYPE.finditer(packet)):
        yield SOURCE_TYPES.get(term, "unknown"), f"XMP: source type {term}"
    for key, name in dict.fromkeys(found.groups() for found in _CREATOR.finditer(packet)):
        if key == "CreatorTool":
            yield from _program("XMP", name)
        elif _says(name) == "says_ai":  # a credit is mostly a person's
            yield "says_ai", f"XMP: credit {_shown(name)}"
    texts = {key: value for key, value in image.info.items() if isinstance(key, str) and isinstance(value, str)}
    for key, what in GENERATOR_KEYS.items():
        if texts.get(key, "").lstrip()[:1] in ("{", "[") or (key == "fooocus_scheme" and key in texts):
            yield "says_ai", f"PNG text: {what}"
    # Pillow decodes a whole PNG to look for EXIF behind its pixels; what stands before them is read without.
    exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
    more = exif.get_ifd(ExifTags.IFD.Exif)
    for where, text in (("PNG text", texts.get("parameters", "")), ("EXIF", _text(more.get(ExifTags.Base.UserComment)))):
        if _PARAMETERS.search(text[:_MOST_TEXT]):
            yield "says_ai", f"{where}: parameters of a Stable Diffusion program"
    yield from _program("PNG text", texts.get("Software", ""))
    yield from _program("EXIF", _text(exif.get(ExifTags.Base.Software)))
    camera = " ".join(filter(None, (_text(exif.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))))
    if camera:
        yield "says_camera", f"EXIF: camera {_shown(camera)}"


def _program(where: str, name: str) -> Iterator[_Found]:
    """Say what a program's name tells; any name is worth a word."""
    if name.strip():
        yield _says(name), f"{where}: made with {_shown(name)}"


def _says(program: str) -> Says:
    lower = program.lower()
    if any(one in lower for one in GENERATORS):
        return "says_ai"
    return "edited" if any(one in lower for one in EDITORS) else "unknown"


def _in_credentials(content: Path | io.BytesIO, kind: str) -> Iterator[_Found]:
    import c2pa

    size = content.stat().st_size if isinstance(content, Path) else content.getbuffer().nbytes
    if size > MOST_BYTES:
        yield "unknown", f"Content Credentials: not looked for in {size:,} bytes"
        return
    if kind not in c2pa.Reader.get_supported_mime_types():
        return
    stream = io.BytesIO(content.read_bytes() if isinstance(content, Path) else content.getvalue())
    try:
        # A file may name an address that its credentials are at; nothing is fetched.
        context = c2pa.Context.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}})
        reader = c2pa.Reader.try_create(kind, stream, context=context)
        if reader is None:
            return
        with reader:
            state = str(reader.get_validation_state())
            active = reader.get_active_manifest() or {}
            yield from _in_manifest(active, state)
    except c2pa.C2paError as error:
        yield "unknown", f"Content Credentials: not read: {_shown(str(error))}"


def _in_manifest(manifest: Mapping[str, Any], state: str) -> Iterator[_Found]:
    """Say what the active manifest tells; one that is not valid tells nothing but that."""
    makers = [one.get("name", "") for one in manifest.get("claim_generator_info") or ()]
    maker = _shown(str((makers or [manifest.get("claim_generator")])[0] or "an unnamed program"))
    signer = _shown(str((manifest.get("signature_info") or {}).get("issuer") or "an unnamed signer"))
    yield "unknown", f"Content Credentials: {state}, by {maker}, signed by {signer}"
    if state not in ("Valid", "Trusted"):
        return
    assertions = [one for one in manifest.get("assertions") or () if str(one.get("label", "")).startswith("c2pa.actions")]
    for action in (action for one in assertions for action in (one.get("data") or {}).get("actions") or ()):
        name, term = str(action.get("action", "")), str(action.get("digitalSourceType") or "").rpartition("/")[2]
        if term:
            yield SOURCE_TYPES.get(term, "unknown"), f"Content Credentials: source type {_shown(term)}"
        if name not in _KEPT_AS_IT_WAS:
            yield "edited", f"Content Credentials: action {_shown(name)}"


def _text(value: Any) -> str:
    if isinstance(value, bytes):  # a comment of EXIF begins with its encoding, in eight bytes
        wide = "utf-16-le" if value[9:10] == b"\0" else "utf-16-be"  # programs write either
        return value[8 : 8 + _MOST_TEXT].decode(wide if value.startswith(b"UNICODE\0") else "utf-8", "replace")
    return value[:_MOST_TEXT] if isinstance(value, str) else ""


def _shown(text: str) -> str:
    """Return a text of the file's as one short line without semicolons, which are between what is found."""
    text = text[: 4 * _MOST_SHOWN].replace(";", ",")
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN]}..."
