"""One picture in, one digit out."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from src import config, models
from src.inference import MODEL, predict_digit
from src.models import build_cnn, save_model

BAD_IMAGES = {
    "too small": (np.zeros((8, 8), np.uint8), r"shape \(8, 8\), expected \(28, 28\)"),
    "colour": (np.zeros((28, 28, 3), np.uint8), r"shape \(28, 28, 3\)"),
    "batch": (np.zeros((1, 28, 28), np.uint8), r"shape \(1, 28, 28\)"),
    "flat": (np.zeros(784, np.uint8), r"shape \(784,\)"),
    "empty": (np.zeros((0, 28), np.uint8), r"shape \(0, 28\)"),
    "nothing": (None, r"shape \(\)"),
    "a string": ("digit.png", r"shape \(\)"),
    "strings": (np.full((28, 28), "0"), "<U1, expected uint8"),
    "integers": (np.zeros((28, 28), np.int64), "int64, expected uint8"),
    "truth values": (np.zeros((28, 28), bool), "bool, expected uint8"),
    "objects": (np.full((28, 28), None), "object, expected uint8"),
    "0 to 255": (np.full((28, 28), 255.0), "from 255.0 to 255.0.*divide by 255"),
    "just above": (np.full((28, 28), 1.001), "expected floats in"),
    "negative": (np.full((28, 28), -0.5), "from -0.5 to -0.5"),
    "not a number": (np.full((28, 28), np.nan), "from nan to nan"),
    "infinite": (np.full((28, 28), np.inf), "from inf to inf"),
}


def says_always(digit: int) -> keras.Model:
    """A network that gives `digit` 91% whatever it sees."""
    model = build_cnn((1,), pool=True, batch_norm=False, dense_units=(), dropout=0.0)
    bias = np.eye(10)[digit] * np.log(91)  # e ** bias: 91 of 91 + 9
    output = model.get_layer("output")
    output.set_weights([np.zeros(output.kernel.shape), bias])
    return model


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return build_cnn((4,), pool=True, dense_units=16)


@pytest.fixture
def picture(sample):
    return sample.x_test[0]


def test_fields(picture):
    prediction = predict_digit(picture, says_always(7))
    assert prediction._fields == ("digit", "confidence", "probabilities", "pixels")
    assert prediction.digit == 7 and type(prediction.digit) is int
    assert prediction.confidence == pytest.approx(0.91) and type(prediction.confidence) is float
    assert prediction.confidence == prediction.probabilities[7]
    np.testing.assert_allclose(np.delete(prediction.probabilities, 7), 0.01, rtol=1e-5)


def test_the_answer_is_the_networks_own(network, sample):
    images = sample.x_test[:20]
    expected = np.asarray(network(images[..., None].astype(np.float32) / 255, training=False))
    found = [predict_digit(image, network) for image in images]
    assert [p.digit for p in found] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose([p.probabilities for p in found], expected, atol=1e-6)


def test_bytes_and_floats_of_either_shape_give_the_same_answer(network, picture):
    first = predict_digit(picture, network)
    assert first.pixels.shape == (28, 28) and first.pixels.dtype == np.float32
    np.testing.assert_array_equal(first.pixels, picture.astype(np.float32) / 255)
    scaled = (picture / 255).astype(np.float32)
    for image in (picture[..., None], picture / 255, scaled, scaled[..., None], scaled.tolist()):
        again = predict_digit(image, network)
        np.testing.assert_array_equal(again.pixels, first.pixels)
        np.testing.assert_array_equal(again.probabilities, first.probabilities)
        again.pixels[:] = 0
    assert scaled.max() == 1  # the caller's image is left alone


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_what_is_no_image_is_refused(kind, network):
    image, message = BAD_IMAGES[kind]
    with pytest.raises(ValueError, match=f"image: .*{message}"):
        predict_digit(image, network)


@pytest.mark.parametrize("kind", ["path", "string"])
def test_a_model_file_is_opened_once_and_again_when_rewritten(kind, picture, tmp_path, monkeypatch):
    opened = []
    load = models.load_model
    monkeypatch.setattr(models, "load_model", lambda path: opened.append(path) or load(path))
    path = save_model(says_always(3), tmp_path / "model.keras")
    path = str(path) if kind == "string" else path
    assert [predict_digit(picture, path).digit for _ in range(3)] == [3, 3, 3]
    assert len(opened) == 1
    before = os.stat(path).st_mtime_ns
    save_model(says_always(8), path)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    assert predict_digit(picture, path).digit == 8
    assert len(opened) == 2


def test_without_a_model_yours_comes_before_the_published_one(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path / "project")
    with pytest.raises(ValueError, match="image: shape"):  # before a model is looked for
        predict_digit(np.zeros((5, 5)))
    with pytest.raises(FileNotFoundError, match=f"{MODEL} is not in .*02_training.ipynb"):
        predict_digit(picture)
    save_model(says_always(4), tmp_path / "project" / "models" / MODEL)
    assert predict_digit(picture).digit == 4
    save_model(says_always(5), config.results_dir("models") / MODEL)
    assert predict_digit(picture).digit == 5


def test_a_missing_or_damaged_model_file_is_named(picture, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.keras"):
        predict_digit(picture, tmp_path / "absent.keras")
    (tmp_path / "damaged.keras").write_text("no model")
    with pytest.raises(ValueError, match="damaged.keras"):
        predict_digit(picture, tmp_path / "damaged.keras")


def test_importing_it_loads_no_deep_learning_library():
    code = "import src.inference, sys; print({'keras', 'tensorflow', 'torch'} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=config.ROOT, capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stdout.strip()) == (0, "set()"), run.stderr
