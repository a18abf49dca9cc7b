"""Arrays and damaged picture files at random: each is read, or refused in words.

FUZZ_CASES=10000 python -m pytest tests/reading/test_fuzz.py     minutes
"""

import io
import os
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from src.reading.inference import PictureError, predict_digit, read_digits

CASES = int(os.environ.get("FUZZ_CASES", 200))
WEIGHTS = np.random.default_rng(0).normal(size=(784, 10))


def network(images) -> np.ndarray:
    """Stands for a model: one layer and softmax."""
    return softmax(images.reshape(len(images), -1) @ WEIGHTS, axis=1)


def outcome(image) -> str:
    """Reads the picture both ways, no warning let through; what came of it, in a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            predictions = [predict_digit(image, network), *read_digits(image, network)]
        except (PictureError, FileNotFoundError) as error:
            assert str(error).strip().endswith((".", "?")), error
            return type(error).__name__
    for one in predictions:
        assert one.pixels.shape == (28, 28) and one.pixels.dtype == np.float32
        assert one.pixels.min() >= 0 and one.pixels.max() <= 1  # NaN is neither
        assert one.probabilities.min() >= 0 and abs(one.probabilities.sum() - 1) < 1e-4
        left, top, right, bottom = one.box
        assert 0 <= left < right and 0 <= top < bottom, one.box
    return "read"


def outcomes(make, cases: int) -> set[str]:
    """What came of so many cases; a failing one is named by its seed."""
    found = set()
    for seed in range(cases):
        try:
            found.add(outcome(make(np.random.default_rng(seed))))
        except Exception as error:
            pytest.fail(f"seed {seed}: {error!r}")
    return found


def drawing(rng) -> np.ndarray:
    """Strokes, dark on light or the reverse, of any type, size and layout in memory."""
    shapes = [rng.integers(1, 130, 2), [*rng.integers(8, 90, 2), rng.choice([1, 3, 4])]]
    shapes += [(28, 28), (28, 28, 1), (8, 3000), (700, 700)]
    shape = tuple(shapes[rng.choice(6, p=[0.35, 0.35, 0.1, 0.1, 0.05, 0.05])])
    sheet = np.zeros(shape[:2], np.float32)
    for _ in range(rng.integers(0, 7)):
        places = rng.integers(0, max(*shape[:2], 2), (rng.integers(2, 6), 1, 2), np.int32)
        cv2.polylines(sheet, [places], False, 1, int(rng.integers(1, 9)))
    low, high = rng.random(2)
    sheet = (low + (high - low) * sheet).reshape(sheet.shape + (1,) * (len(shape) - 2))
    sheet = np.clip(sheet + rng.normal(0, rng.choice([0, 0, 0.03, 0.5]), shape), 0, 1)
    kind = rng.choice(["u1", "u2", ">u2", "f2", "f4", "f8", ">f4"])
    array = (sheet * {"u1": 255, "u2": 65_535, ">u2": 65_535}.get(kind, 1)).astype(kind)
    array.flags.writeable = False
    return (array.T if rng.random() < 0.3 else array)[:: rng.choice([-1, 1])]


def numbers(rng) -> np.ndarray:
    """Any bytes as an array of some type and shape, or an even one with a few odd numbers."""
    shape = rng.integers(0 if rng.random() < 0.1 else 1, 41, rng.choice([1, 2, 2, 3, 3, 4]))
    if len(shape) == 3:
        shape[2] = rng.choice([1, 2, 3, 4])
    if rng.random() < 0.5:
        array = np.full(shape, rng.choice([0, 0.3, 1]), rng.choice(["f2", "f4", "f8"]))
        odd = [1, 1, 0.5, 0.5, 1e-40, -0.0, -1, 2, np.nan, np.inf]
        array[rng.random(shape) < 0.02] = rng.choice(odd)
        return array
    kind = np.dtype(
        rng.choice(["?", "u1", "i1", "u2", "i4", "i8", "f2", "f4", "f8", "c8", "M8[s]"])
    )
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * kind.itemsize), kind).reshape(shape)


def test_any_array_is_read_or_refused():
    assert outcomes(drawing, CASES // 3) == {"read", "PictureError", "NoDigitError"}
    assert outcomes(numbers, CASES) == {"read", "PictureError", "NoDigitError"}


def encoded(kind: str, mode: str, **options) -> bytes:
    sheet, buffer = np.full((90, 80), 230, np.uint8), io.BytesIO()
    cv2.polylines(sheet, [np.array([(20, 20), (60, 20), (35, 75)], np.int32)], False, 20, 6)
    deep = sheet.astype(np.uint16) * 257 if mode == "I;16" else sheet
    Image.fromarray(deep).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


SIDEWAYS = Image.Exif()
SIDEWAYS[274] = 6
MODES = {
    **{"PNG": "RGB L LA P 1 I;16", "TIFF": "RGB RGBA L P F I;16", "JPEG": "RGB L CMYK"},
    **{"GIF": "RGB L P", "BMP": "RGB P 1", "WEBP": "RGB RGBA", "PPM": "RGB 1"},
}
WHOLE = [
    (kind, encoded(kind, mode, exif=SIDEWAYS))
    for kind, modes in MODES.items()
    for mode in modes.split()
]
for kind in ("PNG", "GIF", "TIFF", "WEBP", "MPO"):
    more = [Image.new("RGB", (80, 90))]
    WHOLE.append((kind, encoded(kind, "RGB", save_all=True, append_images=more)))
WHOLE += [
    ("PNG", encoded("PNG", "P", transparency=3)),
    ("GIF", encoded("GIF", "P", transparency=3, interlace=0)),
    ("JPEG", encoded("JPEG", "RGB", progressive=True, icc_profile=bytes(99))),
    ("TIFF", encoded("TIFF", "RGBA", compression="tiff_lzw")),
    ("TIFF", encoded("TIFF", "P", compression="packbits")),
    ("WEBP", encoded("WEBP", "RGBA", lossless=True)),
]


def damaged(rng) -> bytes:
    """A whole file with some bytes changed; of half the PNGs the checksums agree again."""
    kind, raw = WHOLE[rng.choice(len(WHOLE))]
    raw = bytearray(raw)
    for _ in range(rng.integers(1, 6)):
        at = int(rng.integers(min(rng.choice([120, 2**20]), len(raw)) + 1))  # headers come first
        new = [rng.bytes(rng.integers(1, 5)), b"\0", b"\xff" * 4][rng.choice(3)]
        change = rng.choice(["set", "set", "set", "insert", "delete", "cut"])
        end = {"insert": at, "cut": len(raw)}.get(change, at + len(new))
        raw[at:end] = b"" if change in ("delete", "cut") else new
    at = 8 if kind == "PNG" and rng.random() < 0.5 else len(raw)
    while at + 12 <= len(raw):
        end = at + 8 + struct.unpack(">I", raw[at : at + 4])[0]
        if end + 4 <= len(raw):
            raw[end : end + 4] = struct.pack(">I", zlib.crc32(raw[at + 4 : end]))
        at = end + 4
    return bytes(raw)


def test_any_damaged_file_is_read_or_refused(tmp_path):
    def save(rng):
        (tmp_path / "picture").write_bytes(damaged(rng))
        return tmp_path / "picture"

    found = outcomes(save, CASES)
    assert {"read", "PictureError"} <= found <= {"read", "PictureError", "NoDigitError"}
