"""What a hostile visitor sends, for test_fuzz.py: values, paths and files, drawn by a seeded generator."""

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF"}
HUGE = 40_000  # pixels a side


def values(rng: random.Random) -> Any:
    """No value that any argument takes."""
    return rng.choice(
        [
            float("nan"), float("inf"), -float("inf"), -1, -(2**63), 2**31, 2**64, 10**400, 1e308, -0.5, True,
            "", "\x00\x01\x1b[31m", "x" * 100_000, "\ud83d", "\u202e\u0000NaN", "7; DROP TABLE jobs", "{{7*7}}",
            "<script>alert(1)</script>", [], {}, [[[[]]]], {"a": {"b": None}}, [None] * 1000, {"__type__": "update"},
            {"path": "x"}, "null", "-1", "1e400",
        ]
    )  # fmt: skip


def paths(rng: random.Random, target: Path) -> str:
    """A way to name a file that a visitor has no business with."""
    up = "../" * 12
    return rng.choice(
        [
            str(target),
            f"/tmp/x/../..{target}",
            f"{up}{target}",
            f"/proc/self/root{target}",
            f"/proc/self/cwd/{up}{target}",
            f"file://{target}",
            f"FILE:///{target}",
            f"{target}\x00.png",
            f"//{target}",
            str(target).replace("/", "\\"),
            str(target).replace("/", "%2f"),
            str(target).replace("/", "%252f"),
            f"http://127.0.0.1/gradio_api/file={target}",
            f"http://[::1]/{target}",
            f"\\\\127.0.0.1\\{target.name}",
            "/etc/passwd",
            "/proc/self/environ",
            "~/.ssh/id_rsa",
            "." * 5000,
            "",
        ]
    )


def files(rng: random.Random, picture: Image.Image) -> list[tuple[str, bytes]]:
    """Files that are no pictures, in every format: cut off, with broken bytes, all header, far too large, misnamed."""
    found: list[tuple[str, bytes]] = []
    for ending, form in FORMATS.items():
        buffer = io.BytesIO()
        picture.save(buffer, form)
        whole = buffer.getvalue()
        found += [
            (f"cut.{ending}", whole[: rng.randrange(20, len(whole) // 2)]),
            (f"header.{ending}", whole[:12] + rng.randbytes(2000)),
            (f"broken.{ending}", _broken(rng, whole)),
            (f"long.{ending}", whole[: len(whole) // 3] + b"\x00" * 200_000),
            (f"bomb.{ending}", bomb(form, whole)),
        ]
    return found + [
        ("empty.png", b""),
        ("words.png", b"these are words"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
        ("picture.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(x) run\n"),
        ("noise.webp", rng.randbytes(5000)),
        ("../../secret/new.png", b"\x89PNG\r\n\x1a\n" + rng.randbytes(50)),
        ("..\\..\\new.png", b"GIF89a" + rng.randbytes(50)),
        ("a\r\nb\x00.png", b"II*\x00" + rng.randbytes(50)),
        ("x" * 400 + ".png", b"RIFF"),
    ]


def _broken(rng: random.Random, whole: bytes) -> bytes:
    """The middle of a file with other bytes in it."""
    data = bytearray(whole)
    for _ in range(60):
        data[rng.randrange(len(data) // 8, len(data))] = rng.randrange(256)
    return bytes(data)


def bomb(form: str, whole: bytes) -> bytes:
    """A small file that says, or is, a picture of very many pixels."""
    if form == "PNG":
        side = 9000
        packer = zlib.compressobj(9)
        data = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
        header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        parts = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
        chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    data = bytearray(whole)
    if form == "JPEG":
        at = whole.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", HUGE, HUGE)
    elif form == "GIF":
        data[6:10] = struct.pack("<HH", HUGE, HUGE)
        at = whole.index(b"\x2c", 13)
        data[at + 5 : at + 9] = struct.pack("<HH", HUGE, HUGE)
    elif form == "WEBP":
        at = whole.index(b"\x9d\x01\x2a") + 3
        data[at : at + 4] = struct.pack("<HH", 16383, 16383)  # 14 bits a side
    else:  # TIFF: each entry is a tag, a type, a count and a value
        start = struct.unpack_from("<I", whole, 4)[0]
        for entry in range(struct.unpack_from("<H", whole, start)[0]):
            at = start + 2 + 12 * entry
            if struct.unpack_from("<H", whole, at)[0] in (256, 257, 278):  # width, height, rows in a strip
                data[at : at + 12] = whole[at : at + 2] + struct.pack("<HII", 4, 1, HUGE)
    return bytes(data)
