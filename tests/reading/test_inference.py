"""A picture in, digits out: what is passed on, what is prepared, whose answer it is, the CLI."""

import hashlib
import json
import os
import subprocess
import sys
from contextlib import nullcontext

import cv2
import keras
import numpy as np
import onnx.parser
import pytest
from PIL import Image

from src import config
from src.models import build_cnn
from src.reading import __main__ as command_line
from src.reading import inference
from src.reading.inference import MODEL, NoDigitError, PictureError, predict_digit, read_digits


def save_onnx(path, digit=6, takes="n, 28, 28, 1", gives="n, 10", end="Softmax", more=""):
    """A network that gives `digit` 91% whatever it sees; or one of another shape."""
    size = int(gives.split()[1])
    bias = ", ".join(f"{value:.7f}" for value in np.eye(size)[digit] * np.log(91))
    text = f"""<ir_version: 8, opset_import: ["": 13]>
        always (float[{takes}] images{more}) => (float[{gives}] probabilities)
        <float[{size}] bias = {{{bias}}}, float[{size}] nothing = {{{", ".join("0" * size)}}}> {{
            means = ReduceMean<axes = [1, 2], keepdims = 0>(images)
            zeros = Mul(means, nothing)
            sums = Add(zeros, bias)
            probabilities = {end}(sums)
        }}"""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def by_place(images) -> np.ndarray:
    """Stands for a model: names the row, from 0 to 9, that most of the ink above the middle is
    in, and is as sure of it as there is ink."""
    rows = np.asarray(images)[:, 4:14, :, 0].sum(axis=2) + 1e-3
    return rows / rows.sum(axis=1, keepdims=True)


@pytest.fixture
def picture(sample):
    return sample.x_test[0]


def page(*bars) -> np.ndarray:
    """White paper with black bars: left, top, height."""
    sheet = np.full((240, 320), 255, np.uint8)
    for left, top, height in bars:
        sheet[top : top + height, left : left + 12] = 0
    return sheet


def test_the_answer_is_the_networks_own(sample):
    keras.utils.set_random_seed(0)
    network = build_cnn((4,), pool=True, dense_units=16)
    images = sample.x_test[:20]
    expected = np.asarray(network(images[..., None].astype(np.float32) / 255, training=False))
    found = [predict_digit(image, network) for image in images]
    np.testing.assert_allclose([p.probabilities for p in found], expected, atol=1e-6)
    for p in found:
        assert p._fields == ("digit", "confidence", "probabilities", "pixels", "box")
        assert p.digit == p.probabilities.argmax() and type(p.digit) is int
        assert p.confidence == p.probabilities[p.digit] and type(p.confidence) is float
        assert p.box == (0, 0, 28, 28)


def test_28x28_arrays_of_all_types_reach_the_network_unchanged(picture):
    expected = picture.astype(np.float32) / 255
    for image in (picture, picture / 255, expected[..., None], picture.astype(np.uint16) * 257):
        before = image.copy()
        found = predict_digit(image, by_place)
        assert found.pixels.shape == (28, 28) and found.pixels.dtype == np.float32
        np.testing.assert_array_equal(found.pixels, expected)
        found.pixels[:] = 0
        np.testing.assert_array_equal(image, before)  # the caller's is left alone
    assert predict_digit(np.zeros((28, 28)), by_place).pixels.max() == 0  # a blank one, too


def test_any_other_28x28_is_prepared(picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "digit.png")
    (alone,) = read_digits(picture, by_place)  # which prepares arrays, too
    for image in (tmp_path / "digit.png", str(tmp_path / "digit.png"), Image.fromarray(picture)):
        found = predict_digit(image, by_place)
        assert not np.array_equal(found.pixels, picture / np.float32(255))
        np.testing.assert_allclose(found.pixels, alone.pixels, atol=0.01)


@pytest.mark.parametrize("read", [predict_digit, read_digits])
@pytest.mark.parametrize(
    "image, message",
    [
        (np.full((28, 28), 1.001), "image: values from 1.001.*divide by 255"),
        (np.zeros((28, 28), np.int64), "image: int64, expected uint8"),
        (page(), "blank"),
    ],
)
def test_what_is_no_image_is_refused_before_a_model_is_looked_for(read, image, message):
    with pytest.raises(NoDigitError if message == "blank" else PictureError, match=message):
        read(image, "absent.onnx")
    assert issubclass(NoDigitError, PictureError) and issubclass(PictureError, ValueError)


def test_all_digits_are_read_left_to_right_in_one_call():
    calls = []

    def model(images):
        calls.append(images.shape)
        return by_place(images)

    sheet = page((200, 60, 90), (40, 40, 160), (120, 80, 100))
    found = read_digits(sheet, model)
    assert calls == [(3, 28, 28, 1)]
    boxes = [(40, 40, 52, 200), (120, 80, 132, 180), (200, 60, 212, 150)]
    np.testing.assert_allclose([p.box for p in found], boxes, atol=1)
    for p in found:
        np.testing.assert_allclose(p.probabilities, by_place(p.pixels[None, ..., None])[0])
    assert predict_digit(sheet, by_place).box == found[0].box  # the largest


def test_a_model_file_is_opened_once_and_again_when_rewritten(picture, tmp_path, monkeypatch):
    opened, open_model = [], inference.open_model
    monkeypatch.setattr(
        inference, "open_model", lambda path: opened.append(path) or open_model(path)
    )
    path = save_onnx(tmp_path / "model.onnx", 3)
    assert [predict_digit(picture, kind(path)).digit for kind in (str, type(path))] == [3, 3]
    assert len(opened) == 1
    before = os.stat(path).st_mtime_ns
    save_onnx(path, 8)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    assert predict_digit(picture, path).digit == 8


def test_without_a_model_yours_comes_before_the_published_one(picture, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "ROOT", tmp_path / "project")
    with pytest.raises(FileNotFoundError, match=f"{MODEL} is not in "):
        predict_digit(picture)
    save_onnx(tmp_path / "project" / "models" / MODEL, 4)
    assert predict_digit(picture).digit == 4
    save_onnx(config.results_dir("models") / MODEL, 5)
    assert predict_digit(picture).digit == 5


@pytest.mark.parametrize("ending", [".onnx", ".tflite", ".keras"])
def test_a_missing_file_is_named(ending, picture, tmp_path):
    (tmp_path / f"folder{ending}").mkdir()
    for name, said in ((f"absent{ending}", "no such file"), (f"folder{ending}", "a folder")):
        with pytest.raises((FileNotFoundError, ValueError), match=f"{name}: {said}"):
            predict_digit(picture, tmp_path / name)
    with pytest.raises(ValueError, match=r"a\.pt: PyTorch.s, expected a name ending in .onnx"):
        inference.open_model(tmp_path / "a.pt")


def test_files_of_any_ending_models_and_functions_are_opened_alike(picture, tmp_path):
    network = build_cnn((4,), pool=True, dense_units=())
    expected = predict_digit(picture, network).probabilities
    for ending, other in ((".keras", ".KERAS"), (".h5", ".H5"), (".h5", ".hdf5")):
        network.save(tmp_path / f"a{ending}")
        path = (tmp_path / f"a{ending}").rename(tmp_path / f"b{other}")
        for model in (path, str(path), inference.open_model(network), network.predict):
            found = predict_digit(picture, model).probabilities
            np.testing.assert_allclose(found, expected, atol=1e-6)
    assert predict_digit(picture, save_onnx(tmp_path / "A.ONNX")).digit == 6


def layers(takes, gives, end="softmax"):
    ends = [keras.layers.Flatten(), keras.layers.Dense(gives, end)]
    return keras.Sequential([keras.Input(takes), *ends])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: layers((28, 28, 1), 10, None), "of sum .* end in softmax"),
        (lambda: layers((28, 28, 1), 10, "sigmoid"), "of sum .* end in softmax"),
        (lambda: layers((28, 28), 10), r"takes \(28, 28\) to"),
        (lambda: layers((28, 28, 1), 26), r"to \(26,\), expected"),
        (lambda: lambda images: np.full((len(images), 10), np.nan), "of sum nan"),
        (lambda: [3], r"model=\[3\]: expected a path, a Keras model, or a function"),
    ],
)
def test_what_gives_no_probabilities_is_refused_as_object_and_as_file(
    make, message, picture, tmp_path
):
    models = [make()]
    if isinstance(models[0], keras.Model):
        models += [tmp_path / "a.keras", tmp_path / "a.h5"]
        for path in models[1:]:
            models[0].save(path)
    for model in models:
        with pytest.raises(ValueError, match=message):
            predict_digit(picture, model)


@pytest.mark.parametrize(
    "network, message",
    [
        ({"takes": "n, 32, 32, 1"}, r"takes \(32, 32, 1\) to \(10,\), expected"),
        ({"takes": "n, h, w, 1"}, r"takes \('h', 'w', 1\) to \(10,\), expected"),
        ({"gives": "n, 12"}, r"to \(12,\), expected"),
        ({"takes": "4, 28, 28, 1", "gives": "4, 10"}, "Got: 1 Expected: 4"),
        ({"more": ", float[n] second"}, "too many values"),
        ({"end": "Sigmoid"}, "sum 5.49, expected .* of sum 1"),
    ],
)
def test_an_onnx_model_of_something_else_is_refused(network, message, tmp_path):
    with pytest.raises(ValueError, match=f"foreign.onnx: not a model of digits.*{message}"):
        inference.open_model(save_onnx(tmp_path / "foreign.onnx", **network))


def test_a_batch_fixed_at_one_is_read_in_turn(tmp_path):
    path = save_onnx(tmp_path / "one.onnx", 3, takes="1, 28, 28, 1", gives="1, 10")
    found = inference.open_model(path)(np.zeros((7, 28, 28, 1), np.float32))
    assert found.argmax(axis=1).tolist() == [3] * 7


NOT_OPENED = r", so it is not opened\. Take both .*\(git restore models\).* `make export`\."


@pytest.mark.parametrize(
    "content, problem, listed_problem",  # of a file that must be listed, if that is another
    [
        ('{"sha256": {"robust.onnx": "wrong"}}', "robust.onnx is not the file that exports.", None),
        ("{", "exports.json: damaged", None),
        ("[]", "exports.json: incomplete, without sha256", None),
        ('{"sha256": 1}', "robust.onnx is not the file", None),
        ('{"sha256": {}}', "", "exports.json holds no checksum for robust.onnx"),
        ("", "", "exports.json holds no checksum for robust.onnx"),
        ('{"sha256": {"robust.onnx": "right"}}', "", None),
    ],
)
def test_a_file_must_be_the_listed_one(content, problem, listed_problem, tmp_path):
    path = save_onnx(tmp_path / "robust.onnx")
    if content:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "exports.json").write_text(content.replace("right", digest))
    for listed, said in ((False, problem), (True, listed_problem or problem)):
        refused = pytest.raises(ValueError, match=f"^{said}.*{NOT_OPENED}$")
        with refused if said else nullcontext():
            inference.open_model(path, listed=listed)
    with pytest.raises(ValueError, match=f"(^gone.onnx is missing|^exports.json).*{NOT_OPENED}$"):
        inference.open_model(tmp_path / "gone.onnx", listed=True)


def test_the_published_model_reads_mnist_as_arrays_and_as_files(mnist, tmp_path):
    images, labels = mnist.x_test[:100], mnist.y_test[:100]
    assert np.mean([predict_digit(image).digit for image in images] == labels) > 0.95
    right = []
    for image, label in zip(images, labels, strict=True):
        large = cv2.resize(255 - image, (300, 300), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(np.dstack([large] * 3)).save(tmp_path / "photo.jpg")
        right.append(predict_digit(tmp_path / "photo.jpg").digit == label)
    assert np.mean(right) > 0.9


@pytest.fixture
def command(monkeypatch, tmp_path, capsys):
    """Runs the command on names of files in tmp_path; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("one.png", page((100, 40, 160)))
    cv2.imwrite("two.png", page((100, 40, 160), (220, 40, 120)))
    cv2.imwrite("blank.png", page())
    (tmp_path / "text.png").write_text("hello")
    save_onnx(tmp_path / "model.onnx")

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["reading", "--model", "model.onnx", *arguments])
        return command_line.main(), *capsys.readouterr()

    return main


def test_command_reads_on_after_an_error_and_says_so_in_its_status(command):
    assert command("two.png") == (0, "two.png: 6 (91%), 6 (91%)\n", "")
    status, out, err = command("./text.png", "one.png", "absent.png", "blank.png", "two.png")
    assert status == 1
    assert [line.partition(":")[0] for line in out.splitlines()] == ["one.png", "two.png"]
    assert err.splitlines() == [
        "./text.png: not a picture that can be read; save it as PNG or JPEG.",
        "absent.png: no such file.",
        "blank.png: nothing stands out from the paper: is the page blank?",
    ]


def test_command_makes_names_of_patterns_that_the_shell_left(command):
    assert command("[ot]*e.png")[:2] == (0, "one.png: 6 (91%)\n")
    assert command("*.gif") == (1, "", "*.gif: no such file.\n")


def test_command_prints_a_line_of_json_per_file(command):
    status, out, err = command("--json", "two.png", "blank.png")
    assert status == 1 and err == ""
    two, blank = map(json.loads, out.splitlines())
    assert two["file"] == "two.png" and len(two["digits"]) == 2
    first = two["digits"][0]
    assert (first["digit"], first["confidence"]) == (6, pytest.approx(0.91))
    assert first["probabilities"] == [0.01] * 6 + [0.91] + [0.01] * 3  # of six decimals
    np.testing.assert_allclose(first["box"], [100, 40, 112, 200], atol=1)
    assert blank.keys() == {"file", "error"} and "blank" in blank["error"]


@pytest.mark.parametrize("name", ["robust.onnx", "robust_int8.tflite"])
def test_command_reads_with_a_published_model_and_no_tensorflow(name, command, tmp_path):
    model = config.ROOT / "models" / name
    arguments = ["-m", "src.reading", "--model", model, tmp_path / "one.png", tmp_path / "absent"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, arguments)],  # names all that is imported
        **{"cwd": config.ROOT, "capture_output": True, "text": True, "timeout": 120},
    )
    assert done.returncode == 1 and done.stdout.startswith(f"{tmp_path / 'one.png'}: 1 (")
    assert done.stderr.endswith(f"{tmp_path / 'absent'}: no such file.\n")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "src.reading.inference" in imported
    assert not imported & {"tensorflow", "keras", "torch", "sklearn", "pandas", "src.data"}
