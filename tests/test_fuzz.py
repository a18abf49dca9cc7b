"""Whatever a picture holds, it is read or refused in words; 10,000 cases: benchmarks/fuzz.py."""

import hypothesis
import numpy as np
import pytest
from benchmarks import fuzz

WEIGHTS = np.random.default_rng(0).normal(size=(784, 10))


def network(images) -> np.ndarray:
    """Stands for a model: one layer and softmax."""
    sums = images.reshape(len(images), -1) @ WEIGHTS
    powers = np.exp(sums - sums.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def home(tmp_path):
    """Whatever Hypothesis stores goes to a temporary folder."""
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path / "hypothesis")
    yield
    hypothesis.configuration.set_hypothesis_home_dir(None)


def test_any_array_is_read_or_refused():
    counts = fuzz.fuzz_arrays(120, network)
    assert counts.total() >= 120 and {"read", "PictureError", "NoDigitError"} <= set(counts)


def test_any_damaged_file_is_read_or_refused(tmp_path, capfd):
    counts = fuzz.fuzz_files(180, tmp_path, network)
    assert counts.total() >= 180 and {"read", "PictureError"} <= set(counts)


def test_whole_files_are_read(tmp_path):
    results = {}
    for name, raw in fuzz.WHOLE.items():
        (tmp_path / "picture").write_bytes(raw)
        results[name] = fuzz.check(tmp_path / "picture", network)
    refused = {"PNG 6", "JPEG 2", "GIF 2", "TIFF 4", "WEBP 2"}  # several frames, or CMYK
    assert results == {name: "PictureError" if name in refused else "read" for name in fuzz.WHOLE}
