"""Arrays and damaged picture files at random: each is read, or refused in words.

FUZZ_CASES=10000 python -m pytest tests/reading/test_fuzz.py     with the published model, minutes
"""

import io
import os
import struct
import warnings
import zlib

import cv2
import hypothesis
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy.special import softmax

from src.reading.inference import PictureError, predict_digit, read_digits

CASES = int(os.environ.get("FUZZ_CASES", 300))
WEIGHTS = np.random.default_rng(0).normal(size=(784, 10))


def network(images) -> np.ndarray:
    """Stands for a model: one layer and softmax."""
    return softmax(images.reshape(len(images), -1) @ WEIGHTS, axis=1)


MODEL = None if "FUZZ_CASES" in os.environ else network


def check(image) -> str:
    """Read the picture both ways, no warning let through; what came of it, in a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            predictions = [predict_digit(image, MODEL), *read_digits(image, MODEL)]
        except (PictureError, FileNotFoundError) as error:
            assert str(error).strip().endswith((".", "?")), error
            return type(error).__name__
    for one in predictions:
        assert one.pixels.shape == (28, 28) and one.pixels.dtype == np.float32
        assert one.pixels.min() >= 0 and one.pixels.max() <= 1  # NaN is neither
        assert one.probabilities.shape == (10,) and np.isfinite(one.probabilities).all()
        assert one.probabilities.min() >= 0 and abs(one.probabilities.sum() - 1) < 1e-4
        assert one.digit in range(10) and one.confidence == one.probabilities[one.digit]
        left, top, right, bottom = one.box
        assert 0 <= left < right and 0 <= top < bottom, one.box
    return "read"


REPEATABLE = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def outcomes(cases: int, strategy, make) -> set[str]:
    """What came of `cases` cases."""
    found = []

    @settings(REPEATABLE, max_examples=cases)
    @given(strategy)
    def run(words):
        found.append(check(make(words)))

    run()
    assert len(found) >= cases
    return set(found)


@pytest.fixture(autouse=True)
def home(tmp_path):
    """Whatever Hypothesis stores goes to a temporary folder."""
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path / "hypothesis")
    yield
    hypothesis.configuration.set_hypothesis_home_dir(None)


SHAPES = st.one_of(
    st.tuples(st.integers(1, 130), st.integers(1, 130)),
    st.tuples(st.integers(8, 90), st.integers(8, 90), st.sampled_from((1, 3, 4))),
    st.sampled_from([(28, 28), (28, 28, 1), (8, 3000), (3000, 9), (700, 700)]),
)
KINDS = ("u1", "u2", ">u2", "f2", "f4", "f8", ">f4")


def drawing(shape, kind, strokes, noise, view, seed) -> np.ndarray:
    """Strokes, dark on light or the reverse, of a few words, so that a failing one is a line."""
    rng = np.random.default_rng(seed)
    sheet = np.zeros(shape[:2], np.float32)
    for _ in range(strokes):
        places = rng.integers(0, max(*shape[:2], 2), (rng.integers(2, 6), 1, 2))
        cv2.polylines(sheet, [places.astype(np.int32)], False, 1, int(rng.integers(1, 9)))
    low, high = rng.random(2)
    sheet = (low + (high - low) * sheet).reshape(sheet.shape + (1,) * (len(shape) - 2))
    sheet = np.clip(sheet + rng.normal(0, noise, shape), 0, 1)
    top = {"u1": 255, "u2": 65_535, ">u2": 65_535}.get(kind, 1)
    array = (sheet * top).astype(kind)[:: -1 if view == "reversed" else 1]
    array.flags.writeable = view == "plain"
    return array.T if view == "transposed" else array


def values(kind: str):
    """Whatever Hypothesis puts into small arrays of a type: mostly even, with odd places."""
    limits = {"min_value": 0, "max_value": 1, "allow_nan": False} if "f" in kind else {}
    elements = hnp.from_dtype(np.dtype(kind), **limits) | hnp.from_dtype(np.dtype(kind))
    return hnp.arrays(
        kind, hnp.array_shapes(min_dims=2, max_dims=3, max_side=40), elements=elements
    )


ARRAYS = st.one_of(
    st.builds(
        drawing,
        SHAPES,
        st.sampled_from(KINDS),
        st.integers(0, 6),
        st.sampled_from((0, 0, 0.03, 0.5)),
        st.sampled_from(("plain", "reversed", "transposed", "read only")),
        st.integers(0, 2**32 - 1),
    ),
    st.sampled_from(KINDS).flatmap(values),
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=5, max_side=12)),
)


def test_any_array_is_read_or_refused():
    found = outcomes(round(0.4 * CASES), ARRAYS, np.asarray)
    assert found == {"read", "PictureError", "NoDigitError"}


def seven(mode: str) -> Image.Image:
    sheet = np.full((90, 80), 230, np.uint8)
    places = np.array([(20, 20), (60, 20), (35, 75)], np.int32)
    cv2.polylines(sheet, [places], False, 20, 6, cv2.LINE_AA)
    if mode == "I;16":
        return Image.fromarray(sheet.astype(np.uint16) * 257)
    return Image.fromarray(sheet / np.float32(255) if mode == "F" else sheet).convert(mode)


def encoded(kind: str, mode: str, **options) -> bytes:
    buffer = io.BytesIO()
    seven(mode).save(buffer, kind, **options)
    return buffer.getvalue()


SIDEWAYS = Image.Exif()
SIDEWAYS[274] = 6
MODES = {
    **{"PNG": "RGB L LA P 1 I;16", "TIFF": "RGB RGBA L P F I;16", "JPEG": "RGB L CMYK"},
    **{"GIF": "RGB L P", "BMP": "RGB P 1", "WEBP": "RGB RGBA", "PPM": "RGB 1"},
}
WHOLE = {
    f"{kind} {mode}": encoded(kind, mode, exif=SIDEWAYS)
    for kind, modes in MODES.items()
    for mode in modes.split()
}
for kind in ("PNG", "GIF", "TIFF", "WEBP", "MPO"):
    frames = {"save_all": True, "append_images": [seven("RGB").rotate(90)]}
    WHOLE[f"{kind} frames"] = encoded(kind, "RGB", **frames)
WHOLE |= {
    "PNG clear": encoded("PNG", "P", transparency=3),
    "GIF clear": encoded("GIF", "P", transparency=3, interlace=0),
    "JPEG progressive": encoded("JPEG", "RGB", progressive=True, icc_profile=bytes(99)),
    "TIFF lzw": encoded("TIFF", "RGBA", compression="tiff_lzw"),
    "TIFF packbits": encoded("TIFF", "P", compression="packbits"),
    "WEBP lossless": encoded("WEBP", "RGBA", lossless=True),
}
CHANGES = st.tuples(
    st.sampled_from(("set", "set", "set", "flip", "flip", "insert", "delete", "cut")),
    st.integers(0, 120) | st.integers(0, 2**20),  # the place; headers come first
    st.binary(min_size=1, max_size=4) | st.sampled_from([b"\x00", b"\xff", b"\x80", b"\xff" * 4]),
)
FILES = st.tuples(
    st.sampled_from(sorted(WHOLE)), st.lists(CHANGES, min_size=1, max_size=5), st.booleans()
)


def make_file(words) -> bytes:
    """A whole file with some bytes changed; with `sums`, a PNG's checksums agree again."""
    name, changes, sums = words
    raw = bytearray(WHOLE[name])
    for kind, place, new in changes:
        at = place % max(len(raw), 1)
        end = {"insert": at, "cut": len(raw)}.get(kind, at + len(new))
        if kind == "flip":
            new = bytes(old ^ bit for old, bit in zip(raw[at:end], new, strict=False))
        raw[at:end] = b"" if kind in ("delete", "cut") else new
    at = 8 if sums and name.startswith("PNG") else len(raw)
    while at + 12 <= len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        end = at + 8 + length
        if end + 4 <= len(raw):
            raw[end : end + 4] = struct.pack(">I", zlib.crc32(raw[at + 4 : end]))
        at = end + 4
    return bytes(raw)


def test_any_damaged_file_is_read_or_refused(tmp_path):
    def save(words):
        (tmp_path / "picture").write_bytes(make_file(words))
        return tmp_path / "picture"

    found = outcomes(round(0.6 * CASES), FILES, save)
    assert {"read", "PictureError"} <= found <= {"read", "PictureError", "NoDigitError"}


def test_whole_files_are_read(tmp_path):
    results = {}
    for name, raw in WHOLE.items():
        (tmp_path / "picture").write_bytes(raw)
        results[name] = check(tmp_path / "picture")
    refused = {"PNG frames", "GIF frames", "TIFF frames", "WEBP frames", "JPEG CMYK"}
    assert results == {name: "PictureError" if name in refused else "read" for name in WHOLE}
