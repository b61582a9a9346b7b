"""Files that nobody means well with: mutated pictures of every format, bombs, and what is no picture at all."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image


def pictures() -> dict[str, bytes]:
    """Small whole pictures, several of each format, by suffix-like names."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
    smooth = noise.resize((96, 72), Image.Resampling.BICUBIC)
    alpha = smooth.convert("RGBA")
    alpha.putalpha(128)
    wide = Image.fromarray(rng.integers(0, 2**16, (40, 50), np.uint16))
    ways: list[tuple[str, Image.Image, str, dict[str, object]]] = [
        ("jpg", smooth, "JPEG", {"quality": 80}),
        ("jpg", smooth, "JPEG", {"progressive": True}),
        ("jpg", smooth.convert("CMYK"), "JPEG", {}),
        ("jpg", smooth.convert("L"), "JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08" + bytes(40)}),
        ("png", smooth, "PNG", {}),
        ("png", smooth.quantize(32), "PNG", {}),
        ("png", wide, "PNG", {}),
        ("png", alpha, "PNG", {"save_all": True, "append_images": [alpha.rotate(9)]}),
        ("webp", smooth, "WEBP", {"quality": 70}),
        ("webp", alpha, "WEBP", {"lossless": True}),
        ("webp", smooth, "WEBP", {"save_all": True, "append_images": [noise.resize(smooth.size)]}),
        ("bmp", smooth, "BMP", {}),
        ("bmp", smooth.quantize(16), "BMP", {}),
        ("tif", smooth, "TIFF", {}),
        ("tif", smooth, "TIFF", {"compression": "tiff_lzw"}),
        ("tif", smooth, "TIFF", {"compression": "jpeg"}),
        ("tif", wide, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("gif", smooth.quantize(64), "GIF", {}),
        ("gif", smooth.quantize(64), "GIF", {"save_all": True, "append_images": [noise.quantize(64).resize(smooth.size)]}),
    ]
    found = {}
    for number, (suffix, image, form, options) in enumerate(ways):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found[f"{number}.{suffix}"] = buffer.getvalue()
    return found


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` names and contents; a picture damaged in one to four places, and now and then bytes of no kind."""
    rng = random.Random(seed)
    whole = pictures()
    names = sorted(whole)
    for number in range(count):
        if number % 20 == 19:
            yield (
                f"{number:06d}.{rng.choice(['jpg', 'png', 'bin', 'txt.webp'])}",
                rng.randbytes(rng.choice([1, 7, 100, 5000])),
            )
            continue
        name = names[number % len(names)]
        content = bytearray(whole[name])
        for _ in range(rng.randint(1, 4)):
            content = _damaged(content, rng, whole[rng.choice(names)])
        yield f"{number:06d}.{name.split('.')[1]}", bytes(content)


def _damaged(content: bytearray, rng: random.Random, other: bytes) -> bytearray:
    if not content:
        return content
    place = rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(min(64, len(content)))
    way = rng.randrange(8)
    if way == 0:
        content[place] ^= 1 << rng.randrange(8)
    elif way == 1:
        content[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
    elif way == 2:
        del content[place:]
    elif way == 3:
        del content[place : place + rng.randint(1, 50)]
    elif way == 4:
        content[place:place] = rng.randbytes(rng.randint(1, 50))
    elif way == 5:
        content[place : place + 4] = struct.pack(
            rng.choice("<>") + "I", rng.choice([0, 1, 65535, 2**24, 2**31 - 1, 2**32 - 1])
        )
    elif way == 6:
        content[place:] = other[rng.randrange(len(other)) :]
    else:
        content[place : place + 30] = content[place : place + 30] * rng.randint(2, 40)
    return content


def png(width: int, height: int, rows: bytes | None = None, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG that declares a size; its pixels are zeros, as many as asked for, whatever `rows` holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    content = zlib.compress(bytes(16)) if rows is None else rows
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    """Compressed zeros, made without having them all."""
    squeeze = zlib.compressobj(9)
    block, parts = bytes(2**20), []
    for _ in range(count // len(block)):
        parts.append(squeeze.compress(block))
    parts.append(squeeze.compress(bytes(count % len(block))))
    return b"".join([*parts, squeeze.flush()])


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again, each time for all of its pixels: small, and slow."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (10, 200, 90)).save(buffer, "JPEG", progressive=True, quality=30)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def bombs(megapixels: int) -> Iterator[tuple[str, bytes]]:
    """Small files that ask for much: of pixels more and less than a limit of so many megapixels, of time, and of memory."""
    side = int((megapixels * 1e6) ** 0.5)
    yield "declares-too-much.png", png(side + 50, side + 50)
    yield "declares-most.png", png(2**31 - 1, 2**31 - 1)
    yield "declares-nothing.png", png(0, 0)
    yield "all-zeros-within.png", png(side - 50, side - 50, _zeros((side - 50) * ((side - 50) * 3 + 1)))
    yield "all-zeros-beyond.png", png(2 * side, 2 * side, _zeros(10**8))
    yield "one-row.png", png(megapixels * 10**6 - 1, 1, _zeros(3 * megapixels * 10**6))
    yield "one-column.png", png(1, megapixels * 10**6 - 1, _zeros(4 * megapixels * 10**6))
    yield "wide-channels.png", png(side - 50, side - 50, _zeros((side - 50) * ((side - 50) * 8 + 1)), bits=16, colour=6)
    text = b"".join(
        struct.pack(">I", len(z)) + b"zTXt" + z + struct.pack(">I", zlib.crc32(b"zTXt" + z))
        for z in [b"k\0\0" + _zeros(5 * 10**7)] * 4
    )
    whole = png(8, 8, zlib.compress(bytes(8 * 25)))
    yield "much-text.png", whole[:33] + text + whole[33:]
    yield "many-scans.jpg", many_scans(min(side, 6000), 3000)
    header = bytearray(pictures()["11.bmp"])
    header[18:26] = struct.pack("<ii", side - 10, side - 10)
    yield "cut-short.bmp", bytes(header)
    # Run-length coded, which Pillow decodes in Python: lines of 255 pixels in two bytes.
    runs = b"\xff\x00" * ((side - 10) ** 2 // 255)
    yield (
        "runs.bmp",
        b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078)
        + struct.pack("<IiiHHIIiiII", 40, side - 10, side - 10, 1, 8, 1, len(runs), 0, 0, 256, 0)
        + bytes(1024) + runs,
    )  # fmt: skip
    yield (
        "runs.qoi",
        b"qoif" + struct.pack(">IIBB", side - 10, side - 10, 3, 0) + b"\xfd" * ((side - 10) ** 2 // 62) + bytes(8),
    )
    gif = bytearray(pictures()["17.gif"])
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield "large-screen.gif", bytes(gif)
    plain = b"P3 %d %d 255\n" % (side - 10, side - 10) + b"1 " * 10**6
    yield "plain-text.ppm", plain
    buffer = io.BytesIO()
    Image.new("RGB", (min(side - 10, 16000),) * 2).save(buffer, "WEBP", quality=1, method=0)
    yield "large-and-flat.webp", buffer.getvalue()
    buffer = io.BytesIO()
    Image.new("L", (side - 10,) * 2).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    yield "large-and-flat.tif", buffer.getvalue()
    buffer = io.BytesIO()
    Image.new("RGB", (side - 10,) * 2).save(buffer, "JPEG2000", irreversible=True, quality_layers=[1000])
    yield "large-and-flat.jp2", buffer.getvalue()
