"""The network as ONNX and LiteRT: each file read back and compared with Keras."""

import shutil
import sys
import timeit
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from src import config, data
from src.models import build_cnn, save_model
from src.reading import export
from src.reading.export import convert, export_model
from src.reading.inference import open_model, sha256

FILES = ("small.onnx", "small.tflite", "small_float16.tflite", "small_int8.tflite")


@pytest.fixture(scope="module")
def network(sample):
    """A small network that reads the sample well: its last layer is solved for, not trained."""
    keras.utils.set_random_seed(0)
    model = build_cnn((4, 8), pool=True, dense_units=(), dropout=0.0, name="small")
    inside = keras.Model(model.input, model.get_layer("flatten").output)
    x = inside.predict(data.scale_images(sample.x_train), batch_size=500, verbose=0)
    wanted = 20 * data.one_hot(sample.y_train)
    kernel = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ wanted)
    model.get_layer("output").set_weights([kernel, np.zeros(10)])
    return model


@pytest.fixture(scope="module")
def images(sample):
    return data.scale_images(sample.x_test)


@pytest.fixture(scope="module")
def expected(network, images):
    return network.predict(images, batch_size=500, verbose=0)


@pytest.fixture(scope="module")
def files(network, sample, tmp_path_factory):
    """The Keras file, and the four exported from it in a new folder: name -> path."""
    folder = tmp_path_factory.mktemp("models")
    saved = save_model(network, folder / "small.keras")
    loaded = keras.models.load_model(saved, compile=False)  # never called
    paths, images = [folder / "new" / name for name in FILES], sample.part("train")[0][:100]
    kinds = zip(paths, export.FILES.values(), strict=True)
    exported = [convert(loaded, path, kind, images) for path, kind in kinds]
    return {path.name: path for path in (saved, *exported)}


def layers_between(takes: tuple, gives: int, activation="softmax") -> keras.Model:
    inputs = keras.Input(takes)
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(gives, activation)(flat))


@pytest.mark.parametrize(
    "name, apart",
    [*zip(FILES, (1e-6, 1e-6, 1e-3, 1e-2), strict=True), ("small.keras", 1e-6)],
)
def test_a_file_gives_what_keras_gives_for_any_number_of_images(
    name, apart, files, images, expected
):
    read = open_model(files[name])
    found = read(images)
    assert np.abs(found - expected).mean() < apart and found.dtype == np.float32
    assert np.mean(found.argmax(axis=1) == expected.argmax(axis=1)) >= (1 - apart)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)  # int8's 256ths brought to 1
    assert [read(images[:n]).shape for n in (0, 1, 3)] == [(0, 10), (1, 10), (3, 10)]
    np.testing.assert_allclose(read(images[:10:2].astype(float)), found[:10:2], atol=1e-5)
    for wrong in (images[0], images * 255, (images * 255).astype(np.uint8)):
        with pytest.raises(ValueError, match="images: .*expected"):
            read(wrong)


def test_each_precision_stores_its_own_numbers(files, network):
    for name, bytes_each in zip(FILES, (4, 4, 2, 1), strict=True):
        extra = files[name].stat().st_size - bytes_each * network.count_params()
        assert 0 < extra < 9_000, name
    interpreter = Interpreter(str(files["small_int8.tflite"]))
    kinds = [np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()]
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    assert [np.dtype(end["dtype"]).name for end in ends] == ["float32", "float32"]
    assert kinds.count("float32") == 2  # nothing but these is computed in floats
    model = onnx.load(files["small.onnx"])
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 0  # a free batch


INT8 = {"precision": "int8"}


@pytest.mark.parametrize(
    "name, shapes, options, message",
    [
        ("a.tflite", None, {"precision": "int4"}, "'int4': expected one of float32, float16, int8"),
        ("a.onnx", None, INT8, "'int8': expected one of float32"),
        ("a.tflite", None, INT8, "needs images"),
        ("a.tflite", None, INT8 | {"images": []}, "needs images"),
        ("a.tflite", None, INT8 | {"images": [1]}, "images: shape"),
        ("a.pt", None, {}, "a.pt: expected a name ending in .onnx or .tflite"),
        ("a.tflite", None, {}, "disk full"),
        ("a.onnx", None, {}, "disk full"),
        ("a.onnx", ((14, 14, 1), 10), {}, r"model: takes \(14.* expected \(28, 28, 1"),
        ("a.tflite", ((28, 28, 1), 5), {}, r"model: takes \(28, 28, 1\) to \(5,\)"),
        ("a.tflite", ((28, 28), 10), {}, r"model: takes \(28, 28\)"),
    ],
)
def test_a_failing_export_says_why_and_leaves_the_old_file(
    name, shapes, options, message, network, tmp_path, monkeypatch
):
    def breaks_off(self, filepath, **_):
        Path(filepath).write_text("half")
        raise ValueError("disk full")

    (tmp_path / name).write_text("old")
    monkeypatch.setattr(keras.Model, "export", breaks_off)
    with pytest.raises(ValueError, match=message):
        convert(layers_between(*shapes) if shapes else network, tmp_path / name, **options)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "old")]


def test_threads_may_share_a_model(files, images):
    read = open_model(files["small_int8.tflite"])
    alone = read(images)
    with ThreadPoolExecutor(8) as pool:
        for together in pool.map(read, [images] * 16):
            np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", [*FILES, "small.keras"])
def test_a_damaged_file_is_named(name, files, tmp_path):
    whole = files[name].read_bytes()
    other = files["small.tflite" if name == "small.onnx" else "small.onnx"].read_bytes()
    page = b"<!DOCTYPE html><title>404</title>" * 99
    for content in (b"", page, whole[: len(whole) // 2], whole[:-200], other):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            open_model(tmp_path / name)


@pytest.mark.parametrize(
    "layers, message",
    [
        (((32, 32, 1), 10), r"takes \(32, 32, 1\) to \(10,\), expected"),
        (((28, 28, 1), 10, "sigmoid"), "expected .* of sum 1"),
        (((28, 28, 1), 10), "expected type INT8"),
    ],
)
def test_a_litert_model_of_something_else_is_refused(layers, message, tmp_path):
    model, path, options = layers_between(*layers), tmp_path / "foreign.tflite", {}
    if "INT8" in message:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        options["representative_dataset"] = lambda: [[np.zeros((1, 28, 28, 1), np.float32)]]
        options["inference_input_type"] = options["inference_output_type"] = tf.int8
    model.export(str(path), format="litert", verbose=False, **options)
    with pytest.raises(ValueError, match=f"foreign.tflite.*{message}"):
        open_model(path)


def test_rows_hold_what_the_answers_say(files, sample, images, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ROUNDS", 1)
    always = layers_between((28, 28, 1), 10)
    always.layers[-1].set_weights([np.zeros((784, 10)), np.eye(10)[3] * np.log(91)])
    three = convert(always, tmp_path / "three.onnx")  # gives three 91% whatever it sees
    saved = files["small.keras"]
    *both, row = export.compare(saved, [three], images, sample.y_test)
    for name, by_keras in zip(("model.predict", "model(x)"), both, strict=True):
        assert by_keras["name"] == name and by_keras["bytes"] == saved.stat().st_size
        assert by_keras["errors"] == np.sum(expected.argmax(axis=1) != sample.y_test)
        assert by_keras["agreement"] == 1 and by_keras["largest_difference"] < 1e-5
    assert (row["name"], row["bytes"], row["threads"]) == ("three.onnx", three.stat().st_size, 1)
    assert row["errors"] == np.sum(sample.y_test != 3) and row["n"] == len(images)
    assert row["agreement"] == pytest.approx(np.mean(expected.argmax(axis=1) == 3))
    difference = np.abs(expected - np.where(np.arange(10) == 3, 0.91, 0.01)).max()
    assert row["largest_difference"] == pytest.approx(difference, abs=1e-5)
    assert min(one["times_fastest"] for one in (*both, row)) == 1


def test_times_are_taken_in_turn_and_warm(monkeypatch):
    """With a clock that the readers move: cold calls take long, and b one second more than a."""
    clock, turns = [0.0], []

    def read(name, takes, image):
        clock[0] += 100 if turns.count(name) % 20 < 10 else takes
        turns.append(name)

    monkeypatch.setattr(timeit, "repeat", partial(timeit.repeat, timer=lambda: clock[0]))
    monkeypatch.setattr(export, "WARM", 10)  # as many as are timed: they would show
    monkeypatch.setattr(export, "ROUNDS", 3)
    found = export.latencies({"a": partial(read, "a", 1), "b": partial(read, "b", 2)}, None)
    assert turns == (["a"] * 20 + ["b"] * 20) * 3
    assert found == {"a": [1000, 1000, 1000], "b": [2000, 2000, 2000]}


@pytest.fixture
def folder(files, sample, tmp_path, monkeypatch):
    """The readers' own folder of models: empty. Exports are copied there, not made."""
    digit_of = {image.tobytes(): one for image, one in zip(*sample.part("train"), strict=True)}

    def convert(model, path, precision, images):
        counts = np.bincount([digit_of[image.tobytes()] for image in images], minlength=10)
        assert counts.sum() == 300 and counts.min() > 27 and counts.max() < 33
        return Path(shutil.copy(files[path.name], path))

    monkeypatch.setattr(export, "convert", convert)
    monkeypatch.setattr(export, "ROUNDS", 1)
    monkeypatch.setattr(export, "LARGEST_LOSS", 0.01)  # one of 360 is more than MNIST's 0.1%
    monkeypatch.setattr(config, "ROOT", tmp_path / "project")
    monkeypatch.setattr(data, "load_mnist", lambda: sample)
    monkeypatch.setenv("MNIST_RESULTS_DIR", str(tmp_path))
    return config.results_dir("models")


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
    export.main()


def test_the_command_writes_four_files_and_says_how_each_did(files, folder, monkeypatch, capsys):
    run(monkeypatch, files["small.keras"])
    assert {path.name for path in folder.iterdir()} == {*FILES, "exports.json"}
    assert all(open_model(folder / name, listed=True) for name in FILES)
    found = config.read_json(folder / "exports.json")
    assert [row["name"] for row in found["rows"]] == ["model.predict", "model(x)", *FILES]
    for row in found["rows"]:
        assert row["agreement"] >= 0.99 and row["n"] == 360 and row["milliseconds"] > 0
    assert found["sha256"] == {name: sha256(path) for name, path in files.items()}
    assert found["made_from"] == "small.keras" and found["data"] == "sample digits"
    assert found["environment"]["onnxruntime"] == version("onnxruntime")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["name", "bytes", "accuracy"]
    assert [line.split()[0] for line in lines] == ["model.predict", "model(x)", *FILES]


def test_nothing_is_replaced_where_a_file_reads_otherwise(files, sample, folder, monkeypatch):
    def reads_otherwise(path):
        read = open_model(path)
        return (lambda x: np.roll(read(x), 1, axis=1)) if path.name == FILES[3] else read

    for name in (*FILES, "exports.json"):
        (folder / name).write_text("old")
    monkeypatch.setattr(export, "open_model", reads_otherwise)
    with pytest.raises(ValueError, match="small_int8.tflite: .* right, Keras 9.*too far apart"):
        export_model(files["small.keras"], sample, folder)
    left = {path.name: path.read_text() for path in folder.iterdir()}
    assert left == dict.fromkeys((*FILES, "exports.json"), "old")


def test_after_a_kill_files_of_another_export_are_refused(files, sample, folder, monkeypatch):
    def killed_at_the_second(path, target):
        if path.name == FILES[1]:
            raise KeyboardInterrupt
        return shutil.move(path, target)

    for name in FILES:  # whole, but without a listing
        (folder / name).write_bytes(files[name].read_bytes() + b"\0")
    monkeypatch.setattr(Path, "replace", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        export_model(files["small.keras"], sample, folder)
    open_model(folder / FILES[0])
    for name in FILES[1:]:
        with pytest.raises(ValueError, match=f"{name} is not.* `make export`"):
            open_model(folder / name)


def test_the_command_names_a_bad_model(folder, tmp_path, monkeypatch):
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(SystemExit, match="text.keras: not a whole Keras model"):
        run(monkeypatch, tmp_path / "text.keras")
    assert not list(tmp_path.glob("*/*"))
