"""What files say of their own origin: made here, of each kind, and hostile ones."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from PIL import ExifTags, Image, PngImagePlugin

from mirror_pl.errors import ConfigError
from mirror_pl.images import origin
from mirror_pl.images.origin import MOST_BYTES, Origin, read_origin

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
PARAMETERS = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 64x64"


def xmp(inside: str) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description {inside}</rdf:RDF></x:xmpmeta>'.encode()


def file_of(kind: str = "JPEG", **saved: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(buffer, kind, **saved)
    return buffer.getvalue()


def png(**texts: str) -> bytes:
    chunks = PngImagePlugin.PngInfo()
    for key, value in texts.items():
        chunks.add_text(key, value)
    return file_of("PNG", pnginfo=chunks)


def exif(kind: str = "JPEG", comment: bytes = b"", **tags: str) -> bytes:
    made = Image.Exif()
    for name, value in tags.items():
        made[ExifTags.Base[name]] = value
    if comment:
        made.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return file_of(kind, exif=made)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("inside", "says", "term"),
    [
        (f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}trainedAlgorithmicMedia"/>', "says_ai", "trainedAlgorithmicMedia"),
        (
            f"><Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType>",
            "says_ai", "compositeWithTrainedAlgorithmicMedia",
        ),
        (f"><Iptc4xmpExt:DigitalSourceType rdf:resource='{SOURCE_TYPE}digitalCapture'/>", "says_camera", "digitalCapture"),
        (f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}algorithmicallyEnhanced"/>', "edited", "algorithmicallyEnhanced"),
        (f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}screenCapture"/>', "unknown", "screenCapture"),
    ],
)  # fmt: skip
def test_the_source_type_in_xmp(kind: str, inside: str, says: str, term: str) -> None:
    saved = {"pnginfo": PngImagePlugin.PngInfo()} if kind == "PNG" else {"xmp": xmp(inside)}
    if kind == "PNG":
        saved["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp(inside).decode())
    assert read_origin(file_of(kind, **saved), credentials=False) == Origin(says, f"XMP: source type {term}")


@pytest.mark.parametrize(
    ("content", "says", "detail"),
    [
        (png(parameters=PARAMETERS), "says_ai", "PNG text: parameters of a Stable Diffusion program"),
        (png(prompt='{"3": {}}', workflow='{"a": 1}'), "says_ai", "PNG text: a ComfyUI prompt; PNG text: a ComfyUI workflow"),
        (png(Software="NovelAI"), "says_ai", "PNG text: made with NovelAI"),
        (png(Software="Matplotlib"), "unknown", "PNG text: made with Matplotlib"),
        (png(prompt="a cat", parameters="none"), "unknown", ""),
        (exif(comment=b"UNICODE\0" + PARAMETERS.encode("utf-16-be")), "says_ai", "EXIF: parameters of a Stable Diffusion program"),
        (exif(comment=b"UNICODE\0" + PARAMETERS.encode("utf-16-le")), "says_ai", "EXIF: parameters of a Stable Diffusion program"),
        (exif(Make="ACME", Model="One"), "says_camera", "EXIF: camera ACME One"),
        (exif(Make="ACME", Software="Adobe Photoshop 25"), "edited", "EXIF: made with Adobe Photoshop 25; EXIF: camera ACME"),
        (exif("WEBP", Software="Midjourney"), "says_ai", "EXIF: made with Midjourney"),
        (file_of(xmp=xmp('photoshop:Credit="Made with Google AI"/>')), "says_ai", "XMP: credit Made with Google AI"),
        (file_of(xmp=xmp('photoshop:Credit="A. Person" xmp:CreatorTool="GIMP"/>')), "edited", "XMP: made with GIMP"),
        (file_of(), "unknown", ""),
    ],
)  # fmt: skip
def test_what_programs_and_cameras_write(content: bytes, says: str, detail: str) -> None:
    assert read_origin(content, credentials=False) == Origin(says, detail)


def test_a_path_is_read_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(Software="NovelAI"))
    assert read_origin(tmp_path / "a.png", credentials=False) == read_origin(str(tmp_path / "a.png"), credentials=False)
    assert read_origin(tmp_path / "a.png", credentials=False).says == "says_ai"
    assert read_origin(tmp_path / "none.png", credentials=False) == Origin("unknown", "not read: FileNotFoundError")


def test_hostile_files_come_to_an_answer() -> None:
    signed = png(parameters=PARAMETERS, Software="x" * 2000 + "\n\x1b[31m\u202e")
    found = read_origin(signed, credentials=False)
    assert len(found.detail) < 300
    assert found.detail.isprintable()
    bomb = zlib.compress(b"a" * 2**28)
    chunk = b"zTXtparameters\0\0" + bomb
    whole = file_of("PNG")
    at = whole.index(b"IDAT") - 4
    added = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    assert read_origin(whole[:at] + added + whole[at:], credentials=False) == Origin("unknown", "not read: ValueError")
    long = xmp("DigitalSourceType=" * 20_000 + "DigitalSourceType " + "x" * 200_000)
    assert read_origin(file_of("WEBP", xmp=long), credentials=False).says == "unknown"
    random.seed(1)
    for start in (signed, exif(Make="a", comment=b"b" * 99), file_of("WEBP", xmp=xmp('xmp:CreatorTool="GIMP"/>'))):
        for _ in range(60):
            content = bytearray(start[: random.randint(1, len(start))])
            for _ in range(4):
                content[random.randrange(len(content))] = random.randrange(256)
            assert read_origin(bytes(content), credentials=False).says in origin.SAYS


def test_nobody_can_write_a_finding_or_very_many() -> None:
    forged = read_origin(png(Software="GIMP; Content Credentials: Trusted, by a camera"), credentials=False)
    assert forged.detail == "PNG text: made with GIMP, Content Credentials: Trusted, by a camera"
    terms = " ".join(f'DigitalSourceType="x{n}"' for n in range(5_000)) + ' DigitalSourceType="digitalCapture"'
    found = read_origin(file_of("WEBP", xmp=xmp(terms)), credentials=False)
    assert (found.says, found.detail.count("; ")) == ("says_camera", 20)
    assert found.detail.endswith("; and 4,981 more")


def test_the_pixels_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would, of a PNG; a file that ends early keeps what it said before."""
    whole = png(parameters=PARAMETERS)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    for content in (whole, whole[:-30]):
        assert read_origin(content, credentials=False).says == "says_ai"
    assert read_origin(exif("PNG", Make="ACME"), credentials=False).says == "says_camera"


def test_long_texts_take_no_long_time() -> None:
    begun = time.process_time()
    read_origin(png(parameters="Steps: 1, " * 100_000), credentials=False)
    assert time.process_time() - begun < 1, "0.1 s; 4 s where each beginning is followed to the end"


def test_without_their_library_credentials_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "has_credentials", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'mirror_pl\[provenance\]'"):
        read_origin(file_of())


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A picture that says by signed Content Credentials that AI made it; the certificate is made here."""
    c2pa = pytest.importorskip("c2pa", reason="needs mirror_pl[provenance]")
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("signing")
    (folder / "extensions").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=emailProtection\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    for line in (
        "ecparam -name prime256v1 -genkey -noout -out ca.key",
        "req -new -x509 -key ca.key -out ca.pem -days 30 -subj /CN=Test/O=Test",
        "ecparam -name prime256v1 -genkey -noout -out own.key",
        "pkcs8 -topk8 -nocrypt -in own.key -out own8.key",
        "req -new -key own.key -out own.csr -subj /CN=Signer/O=Signer",
        "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out own.pem -days 20 -extfile extensions",
    ):
        subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)
    chain = (folder / "own.pem").read_bytes() + (folder / "ca.pem").read_bytes()
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", chain, (folder / "own8.key").read_bytes(), None))
    created = {"action": "c2pa.created", "digitalSourceType": f"{SOURCE_TYPE}trainedAlgorithmicMedia"}
    manifest = {
        "claim_generator_info": [{"name": "a maker", "version": "1"}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [created]}}],
    }
    whole = io.BytesIO()
    with c2pa.Builder(json.dumps(manifest)) as builder:
        builder.sign(signer, "image/jpeg", io.BytesIO(file_of()), whole)
    return whole.getvalue()


def test_signed_content_credentials(signed: bytes) -> None:
    found = read_origin(signed)
    assert found.says == "says_ai"
    assert found.detail == (
        "Content Credentials: Valid, by a maker, signed by Signer; Content Credentials: source type trainedAlgorithmicMedia"
    )
    assert read_origin(signed, credentials=False) == Origin()


def test_credentials_of_a_changed_picture_say_nothing(signed: bytes) -> None:
    changed = bytearray(signed)
    changed[-20] ^= 255  # among the pixels
    found = read_origin(bytes(changed))
    assert found == Origin("unknown", "Content Credentials: Invalid, by a maker, signed by Signer")


def test_hostile_credentials_come_to_an_answer(signed: bytes) -> None:
    random.seed(2)
    for _ in range(60):
        content = bytearray(signed)
        for _ in range(6):
            content[random.randrange(len(content))] = random.randrange(256)
        assert read_origin(bytes(content)).says in origin.SAYS
    assert read_origin(file_of() + bytes(MOST_BYTES)).detail.startswith("Content Credentials: not looked for in 67,")
