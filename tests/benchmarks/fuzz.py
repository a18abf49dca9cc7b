"""Arrays and damaged picture files at random: each is read, or refused with a PictureError.

python tests/benchmarks/fuzz.py      10,000 cases with the published model, a few minutes
tests/test_fuzz.py has the same with 300 and a stand-in for the model.
"""

import io
import os
import struct
import tempfile
import warnings
import zlib
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import cv2
import hypothesis
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from src.inference import PictureError, Prediction, predict_digit, read_digits

CASES = 10_000
FILES = 0.6  # of the cases; arrays are the rest


def check(image, model) -> str:
    """Read the picture both ways, no warning let through; what came of it, in a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            predictions = [predict_digit(image, model)]
            predictions += read_digits(image, model)
        except (PictureError, FileNotFoundError) as error:
            assert str(error).strip().endswith((".", "?")), error
            return type(error).__name__
    for one in predictions:
        check_prediction(one)
    return "read"


def check_prediction(one: Prediction) -> None:
    assert one.pixels.shape == (28, 28) and one.pixels.dtype == np.float32
    assert one.pixels.min() >= 0 and one.pixels.max() <= 1  # NaN is neither
    assert one.probabilities.shape == (10,) and np.isfinite(one.probabilities).all()
    assert one.probabilities.min() >= 0 and abs(one.probabilities.sum() - 1) < 1e-4
    assert one.digit in range(10) and one.confidence == one.probabilities[one.digit]
    left, top, right, bottom = one.box
    assert 0 <= left < right and 0 <= top < bottom, one.box


# --- arrays ----------------------------------------------------------------------------------

DTYPES = ("u1", "u2", ">u2", "f2", "f4", "f8", ">f4", "i1", "i4", "i8", "?", "c8", "O", "U3")
SPECIAL = (np.nan, np.inf, -np.inf, -1.0, -0.0, 1e-45, 1 + 1e-7, 2.0, 255.0, 65_535.0, 1e30)


def drawing(shape, rng) -> np.ndarray:
    """A few strokes, dark on light or the reverse, in [0, 1]."""
    sheet = np.zeros(shape[:2], np.float32)
    for _ in range(rng.integers(1, 6)):
        places = rng.integers(0, max(*shape[:2], 2), (rng.integers(2, 6), 1, 2))
        cv2.polylines(sheet, [places.astype(np.int32)], False, 1, int(rng.integers(1, 9)))
    low, high = rng.random(2)
    sheet = low + (high - low) * sheet + rng.normal(0, rng.choice([0, 0.03]), sheet.shape)
    return np.broadcast_to(sheet.reshape(sheet.shape + (1,) * (len(shape) - 2)), shape)


KINDS = {
    "strokes": drawing,
    "even": lambda shape, rng: np.full(shape, rng.choice([0, 0.001, 0.5, 0.999, 1])),
    "noise": lambda shape, rng: rng.random(shape),
    "pale noise": lambda shape, rng: 0.9 + 0.1 * rng.random(shape),
    "two shades": lambda shape, rng: (rng.random(shape) < rng.random()).astype(float),
    "few places": lambda shape, rng: (rng.random(shape) < 0.01).astype(float),
    "gradient": lambda shape, rng: np.linspace(0, 1, int(np.prod(shape))).reshape(shape),
}
SHAPES = st.one_of(
    st.tuples(st.integers(1, 130), st.integers(1, 130)),
    st.tuples(st.integers(8, 90), st.integers(8, 90), st.sampled_from((1, 3, 4))),
    st.sampled_from([(28, 28), (28, 28, 1), (1, 28, 28, 1), (8, 3000), (3000, 9), (700, 700)]),
    st.lists(st.integers(0, 12), max_size=5).map(tuple),
)


def make_array(shape, kind, dtype, special, view, seed) -> np.ndarray:
    """An array from a few words, so that a failing one is printed in a line."""
    rng = np.random.default_rng(seed)
    plane = len(shape) >= 2 and 0 not in shape
    values = np.array(KINDS[kind](shape, rng) if plane else rng.random(shape), float)
    if special is not None and values.size:
        values.flat[rng.integers(values.size)] = special
    scale = {"u": 255 if dtype == "u1" else 65_535, "i": 127}.get(np.dtype(dtype).kind, 1)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = np.asarray(values * scale).astype(dtype)
    if view == "reversed" and array.ndim:
        array = array[::-1]
    if view == "transposed":
        array = array.T
    array.flags.writeable = view == "plain"
    return array


ARRAYS = st.builds(
    make_array,
    SHAPES,
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(DTYPES[:7]) | st.sampled_from(DTYPES),
    st.none() | st.sampled_from(SPECIAL),
    st.sampled_from(("plain", "reversed", "transposed", "read only")),
    st.integers(0, 2**32 - 1),
)


# --- files -----------------------------------------------------------------------------------


def seven(mode: str) -> Image.Image:
    sheet = np.full((90, 80), 230, np.uint8)
    places = np.array([(20, 20), (60, 20), (35, 75)], np.int32)
    cv2.polylines(sheet, [places], False, 20, 6, cv2.LINE_AA)
    if mode == "I;16":
        return Image.fromarray(sheet.astype(np.uint16) * 257)
    return Image.fromarray(sheet / np.float32(255) if mode == "F" else sheet).convert(mode)


def encoded(kind: str, mode: str, frames: int = 1, **options) -> bytes:
    buffer = io.BytesIO()
    if frames > 1:
        more = [seven(mode).rotate(90 * i) for i in range(1, frames)]
        options |= {"save_all": True, "append_images": more}
    seven(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def whole_files() -> dict[str, bytes]:
    """A seven in the formats that are read, in several modes and compressions of each."""
    exif = Image.Exif()
    exif[274] = 6
    two = {"frames": 2}
    files = {
        "PNG": [("RGB", {}), ("L", {"exif": exif}), ("P", {"transparency": 3}), ("1", {})]
        + [("LA", {}), ("I;16", {}), ("RGB", two)],
        "JPEG": [("L", {}), ("RGB", {"exif": exif, "icc_profile": bytes(99)}), ("CMYK", {})]
        + [("RGB", {"progressive": True})],
        "MPO": [("RGB", two)],
        "GIF": [("P", {"transparency": 3}), ("L", {"interlace": 0}), ("RGB", two)],
        "BMP": [("1", {}), ("P", {}), ("RGB", {})],
        "TIFF": [("L", {}), ("RGB", {"exif": exif}), ("I;16", {}), ("F", {}), ("RGB", two)]
        + [("RGBA", {"compression": "tiff_lzw"}), ("P", {"compression": "packbits"})],
        "WEBP": [("RGB", {"exif": exif}), ("RGBA", {"lossless": True}), ("RGB", two)],
        "PPM": [("RGB", {}), ("1", {})],
    }
    return {
        f"{kind} {i}": encoded(kind, mode, **options)
        for kind, variants in files.items()
        for i, (mode, options) in enumerate(variants)
    }


WHOLE = whole_files()
CHANGES = st.tuples(
    st.sampled_from(("set", "set", "set", "flip", "flip", "insert", "delete", "cut")),
    st.integers(0, 120) | st.integers(0, 2**20),  # the place; headers come first
    st.binary(min_size=1, max_size=4) | st.sampled_from([b"\x00", b"\xff", b"\x80", b"\xff" * 4]),
)


def make_file(name: str, changes: list, sums: bool) -> bytes:
    """A whole file with some bytes changed; with `sums`, a PNG's checksums agree again."""
    raw = bytearray(WHOLE[name])
    for kind, place, new in changes:
        at = place % max(len(raw), 1)
        end = {"insert": at, "cut": len(raw)}.get(kind, at + len(new))
        if kind == "flip":
            new = bytes(old ^ bit for old, bit in zip(raw[at:end], new, strict=False))
        raw[at:end] = b"" if kind in ("delete", "cut") else new
    return bytes(_with_sums(raw) if sums and name.startswith("PNG") else raw)


def _with_sums(raw: bytearray) -> bytearray:
    at = 8
    while at + 12 <= len(raw):
        (length,) = struct.unpack(">I", raw[at : at + 4])
        end = at + 8 + length
        if end + 4 > len(raw):
            break
        raw[end : end + 4] = struct.pack(">I", zlib.crc32(raw[at + 4 : end]))
        at = end + 4
    return raw


FILE_CASES = st.builds(
    make_file, st.sampled_from(sorted(WHOLE)), st.lists(CHANGES, min_size=1, max_size=5),
    st.booleans(),
)  # fmt: skip


# --- running ---------------------------------------------------------------------------------


def repeatable(cases: int) -> settings:
    """The same cases each time, and nothing left in the folder."""
    return settings(
        max_examples=cases, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def fuzz_arrays(cases: int, model=None) -> Counter:
    counts = Counter()

    @repeatable(cases)
    @given(ARRAYS)
    def run(array):
        counts[check(array, model)] += 1

    run()
    return counts


def fuzz_files(cases: int, folder: Path, model=None) -> Counter:
    counts = Counter()
    path = folder / "picture"

    @repeatable(cases)
    @given(FILE_CASES)
    def run(raw):
        path.write_bytes(raw)
        counts[check(path, model)] += 1

    run()
    return counts


@contextmanager
def silent():
    """Without what libtiff says of each damaged file, past Python's own sys.stderr."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def main() -> None:
    files = round(FILES * CASES)
    with tempfile.TemporaryDirectory() as folder:
        hypothesis.configuration.set_hypothesis_home_dir(folder)
        with silent():
            counts = fuzz_files(files, Path(folder))
        print("files ", dict(counts), flush=True)
        print("arrays", dict(fuzz_arrays(CASES - files)), flush=True)


if __name__ == "__main__":
    main()
