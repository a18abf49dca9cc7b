"""A picture in, digits out: what is passed on, what is prepared, whose answer it is, the CLI."""

import json
import os
import subprocess
import sys

import cv2
import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from src import config, inference
from src.inference import (
    MODEL,
    NoDigitError,
    PictureError,
    Prediction,
    predict_digit,
    read_digits,
)
from src.models import build_cnn, save_model


def says_always(digit: int) -> keras.Model:
    """A network that gives `digit` 91% whatever it sees."""
    model = build_cnn((1,), pool=True, batch_norm=False, dense_units=(), dropout=0.0)
    output = model.get_layer("output")
    output.set_weights([np.zeros(output.kernel.shape), np.eye(10)[digit] * np.log(91)])
    return model


def save_onnx(path, digit: int):
    """A file of the same, which needs no Keras."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["means", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "bias"], ["sums"]),
        helper.make_node("Softmax", ["sums"], ["probabilities"], axis=1),
    ]
    bias = np.eye(10)[digit] * np.log(91)
    graph = helper.make_graph(
        nodes,
        "always",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 28, 28, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 10])],
        [
            helper.make_tensor("nothing", TensorProto.FLOAT, [10], np.zeros(10)),
            helper.make_tensor("bias", TensorProto.FLOAT, [10], bias),
        ],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def by_place(images) -> np.ndarray:
    """Stands for a model: names the row, from 0 to 9, that most of the ink above the middle is
    in, and is as sure of it as there is ink."""
    rows = np.asarray(images)[:, 4:14, :, 0].sum(axis=2) + 1e-3
    return rows / rows.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    return build_cnn((4,), pool=True, dense_units=16)


@pytest.fixture
def picture(sample):
    return sample.x_test[0]


def bar(sheet, left: int, top: int, height: int, width: int = 12):
    sheet[top : top + height, left : left + width] = 0
    return sheet


def paper(height=240, width=320) -> np.ndarray:
    return np.full((height, width), 255, np.uint8)


# --- one digit -------------------------------------------------------------------------------


def test_fields(picture):
    prediction = predict_digit(picture, says_always(7))
    assert prediction._fields == ("digit", "confidence", "probabilities", "pixels", "box")
    assert prediction.digit == 7 and type(prediction.digit) is int
    assert prediction.confidence == pytest.approx(0.91) and type(prediction.confidence) is float
    assert prediction.confidence == prediction.probabilities[7]
    np.testing.assert_allclose(np.delete(prediction.probabilities, 7), 0.01, rtol=1e-5)
    assert prediction.box == (0, 0, 28, 28)


def test_the_answer_is_the_networks_own(network, sample):
    images = sample.x_test[:20]
    expected = np.asarray(network(images[..., None].astype(np.float32) / 255, training=False))
    found = [predict_digit(image, network) for image in images]
    assert [p.digit for p in found] == expected.argmax(axis=1).tolist()
    np.testing.assert_allclose([p.probabilities for p in found], expected, atol=1e-6)


def test_28x28_arrays_of_all_types_reach_the_network_unchanged(picture):
    expected = picture.astype(np.float32) / 255
    images = [picture, picture / 255, expected, picture.astype(np.uint16) * 257]
    for image in [*images, *(image[..., np.newaxis] for image in images)]:
        before = image.copy()
        found = predict_digit(image, by_place)
        assert found.pixels.shape == (28, 28) and found.pixels.dtype == np.float32
        np.testing.assert_array_equal(found.pixels, expected)
        found.pixels[:] = 0
        np.testing.assert_array_equal(image, before)  # the caller's is left alone


def test_a_blank_28x28_array_is_passed_on_too():
    assert predict_digit(np.zeros((28, 28)), by_place).pixels.max() == 0


@pytest.mark.parametrize("kind", ["path", "string", "PIL"])
def test_any_other_28x28_is_prepared(kind, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "digit.png")
    image = {
        "path": tmp_path / "digit.png",
        "string": str(tmp_path / "digit.png"),
        "PIL": Image.fromarray(picture),
    }[kind]
    found = predict_digit(image, by_place)
    assert not np.array_equal(found.pixels, picture / np.float32(255))
    (alone,) = read_digits(picture, by_place)  # which prepares arrays, too
    np.testing.assert_allclose(found.pixels, alone.pixels, atol=0.01)


BAD_IMAGES = {
    "integers": (np.zeros((28, 28), np.int64), "image: int64, expected uint8"),
    "truth values": (np.zeros((28, 28), bool), "image: bool, expected uint8"),
    "strings": (np.full((28, 28), "0"), "image: <U1, expected uint8"),
    "0 to 255": (np.full((28, 28), 255.0), "image: values from 255.0.*divide by 255"),
    "just above": (np.full((28, 28), 1.001), "image: values from 1.001.*expected floats in"),
    "negative": (np.full((28, 28), -0.5), "image: values from -0.5"),
    "not a number": (np.full((28, 28), np.nan), "image: values from nan"),
    "a batch": (np.zeros((1, 28, 28), np.uint8), r"image: shape \(1, 28, 28\)"),
    "flat": (np.zeros(784, np.uint8), r"image: shape \(784,\)"),
    "nothing": (None, r"image: shape \(\)"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
@pytest.mark.parametrize("read", [predict_digit, read_digits])
def test_what_is_no_image_is_refused_before_a_model_is_looked_for(read, kind):
    image, message = BAD_IMAGES[kind]
    with pytest.raises(PictureError, match=message):
        read(image, "absent.onnx")


def test_errors_of_pictures_are_value_errors():
    assert issubclass(NoDigitError, PictureError) and issubclass(PictureError, ValueError)
    with pytest.raises(NoDigitError, match="blank"):
        predict_digit(paper(), by_place)


# --- several ---------------------------------------------------------------------------------


def test_all_digits_are_read_left_to_right_in_one_call():
    sheet = bar(bar(bar(paper(), 200, 60, 90), 40, 40, 160), 120, 80, 100)
    calls = []

    def model(images):
        calls.append(images.shape)
        return by_place(images)

    found = read_digits(sheet, model)
    assert calls == [(3, 28, 28, 1)]
    boxes = [(40, 40, 52, 200), (120, 80, 132, 180), (200, 60, 212, 150)]
    np.testing.assert_allclose([p.box for p in found], boxes, atol=1)
    for p in found:
        assert isinstance(p, Prediction) and p.pixels.shape == (28, 28)
        np.testing.assert_allclose(p.probabilities, by_place(p.pixels[None, ..., None])[0])
    assert predict_digit(sheet, by_place).box == found[0].box  # the largest
    turned = predict_digit(sheet[:, ::-1], by_place)  # which is the last one now
    np.testing.assert_allclose(turned.box, (268, 40, 280, 200), atol=1)
    assert calls == [(3, 28, 28, 1)]


# --- models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["path", "string"])
@pytest.mark.parametrize("suffix", [".keras", ".onnx"])
def test_a_model_file_is_opened_once_and_again_when_rewritten(
    kind, suffix, picture, tmp_path, monkeypatch
):
    def save(digit):
        if suffix == ".onnx":
            return save_onnx(tmp_path / "model.onnx", digit)
        return save_model(says_always(digit), tmp_path / "model.keras")

    opened, open_model = [], inference.open_model
    monkeypatch.setattr(
        inference, "open_model", lambda path: opened.append(path) or open_model(path)
    )
    path = save(3)
    path = str(path) if kind == "string" else path
    assert [predict_digit(picture, path).digit for _ in range(3)] == [3, 3, 3]
    assert len(opened) == 1
    before = os.stat(path).st_mtime_ns
    save(8)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    assert predict_digit(picture, path).digit == 8
    assert len(opened) == 2


def test_without_a_model_yours_comes_before_the_published_one(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path / "project")
    with pytest.raises(FileNotFoundError, match=f"{MODEL} is not in "):
        predict_digit(picture)
    save_onnx(tmp_path / "project" / "models" / MODEL, 4)
    assert predict_digit(picture).digit == 4
    save_onnx(config.results_dir("models") / MODEL, 5)
    assert predict_digit(picture).digit == 5


def test_a_missing_model_file_is_named(picture, tmp_path):
    for name in ("absent.keras", "absent.onnx"):
        with pytest.raises(FileNotFoundError, match=name):
            predict_digit(picture, tmp_path / name)


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        **{"cwd": config.ROOT, "capture_output": True, "text": True, "timeout": 300} | options,
    )


def test_reading_a_file_with_an_onnx_model_loads_no_tensorflow(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), bar(paper(), 100, 40, 160))
    model = save_onnx(tmp_path / "model.onnx", 6)
    code = (
        "import sys; from src.inference import read_digits; "
        "print([p.digit for p in read_digits(*sys.argv[1:])], "
        "{'keras', 'tensorflow', 'torch'} & set(sys.modules))"
    )
    done = run("-c", code, tmp_path / "one.png", model)
    assert (done.returncode, done.stdout.strip()) == (0, "[6] set()"), done.stderr


# --- the published model ---------------------------------------------------------------------


def test_the_published_model_reads_mnist_as_arrays_and_as_files(mnist, tmp_path):
    images, labels = mnist.x_test[:100], mnist.y_test[:100]
    assert np.mean([predict_digit(image).digit for image in images] == labels) > 0.95
    right = []
    for image, label in zip(images, labels, strict=True):
        large = cv2.resize(255 - image, (300, 300), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(np.dstack([large] * 3)).save(tmp_path / "photo.jpg")
        right.append(predict_digit(tmp_path / "photo.jpg").digit == label)
    assert np.mean(right) > 0.9


# --- the command line ------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs the command on names of files in tmp_path; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("one.png", bar(paper(), 100, 40, 160))
    cv2.imwrite("two.png", bar(bar(paper(), 100, 40, 160), 220, 40, 120))
    cv2.imwrite("blank.png", paper())
    (tmp_path / "text.png").write_text("hello")
    save_onnx(tmp_path / "model.onnx", 6)

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["inference", "--model", "model.onnx", *arguments])
        status = inference.main()
        return status, *capsys.readouterr()

    return main


def test_command_prints_a_line_per_file(command):
    assert command("one.png", "two.png") == (
        0, "one.png: 6 (91%)\ntwo.png: 6 (91%), 6 (91%)\n", ""
    )  # fmt: skip


def test_command_reads_on_after_an_error_and_says_so_in_its_status(command):
    status, out, err = command("text.png", "one.png", "absent.png", "blank.png", "two.png")
    assert status == 1
    assert [line.partition(":")[0] for line in out.splitlines()] == ["one.png", "two.png"]
    assert err.splitlines() == [
        "text.png: not a picture that can be read; save it as PNG or JPEG.",
        "absent.png: no such file.",
        "blank.png: nothing stands out from the paper: is the page blank?",
    ]
    status, out, err = command("./text.png")
    assert err == "./text.png: not a picture that can be read; save it as PNG or JPEG.\n"


def test_command_prints_a_line_of_json_per_file(command):
    status, out, err = command("--json", "two.png", "blank.png")
    assert status == 1 and err == ""
    two, blank = map(json.loads, out.splitlines())
    assert two["file"] == "two.png" and len(two["digits"]) == 2
    first = two["digits"][0]
    assert (first["digit"], first["confidence"]) == (6, pytest.approx(0.91))
    assert len(first["probabilities"]) == 10 and sum(first["probabilities"]) == pytest.approx(1)
    assert first["probabilities"][:2] == [0.01, 0.01]  # six decimals: 0.0100000001 would be noise
    np.testing.assert_allclose(first["box"], [100, 40, 112, 200], atol=1)
    assert blank.keys() == {"file", "error"} and "blank" in blank["error"]


def test_command_as_a_process(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), bar(paper(), 100, 40, 160))
    model = save_onnx(tmp_path / "model.onnx", 6)
    done = run("-m", "src.inference", "--model", model, tmp_path / "one.png", tmp_path / "absent")
    assert done.returncode == 1
    assert done.stdout == f"{tmp_path / 'one.png'}: 6 (91%)\n"
    assert done.stderr == f"{tmp_path / 'absent'}: no such file.\n"
