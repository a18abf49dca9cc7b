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
from src.reading.export import export_litert, export_model, export_onnx
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
    ranges = export.representative_images(sample, 100)
    exported = export.export_all(loaded, folder / "new", "small", ranges)
    return {path.name: path for path in (saved, *exported)}


def layers_between(takes: tuple, gives: int, activation="softmax") -> keras.Model:
    inputs = keras.Input(takes)
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(gives, activation)(flat))


# --- what is written, and read back ----------------------------------------------------------


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
    for same in (images[:10:2], images[:10:2].astype(np.float64)):  # not contiguous
        np.testing.assert_allclose(read(same), found[:10:2], atol=1e-5)
    for wrong in (images[0], images[:, :14], images * 255, (images * 255).astype(np.uint8)):
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


@pytest.mark.parametrize(
    "write, name, model, options, message",
    [
        (
            export_litert,
            "a.tflite",
            None,
            {"precision": "int4"},
            "'int4': expected one of float32, ",
        ),
        (export_litert, "a.tflite", None, {"precision": "int8"}, "needs images"),
        (export_litert, "a.tflite", None, {"precision": "int8", "images": []}, "needs images"),
        (export_litert, "a.tflite", None, {"precision": "int8", "images": [1]}, "images: shape"),
        (export_litert, "a.onnx", None, {}, "a.onnx: expected a name ending in .tflite"),
        (export_litert, "a.tflite", None, {}, "disk full"),
        (export_onnx, "a.onnx", None, {}, "disk full"),
        (export_onnx, "a.tflite", None, {}, "a.tflite: expected a name ending in .onnx"),
        (export_onnx, "a.onnx", ((14, 14, 1), 10), {}, r"model: takes \(14.* expected \(28, 28, 1"),
        (export_litert, "a.tflite", ((28, 28, 1), 5), {}, r"model: takes \(28, 28, 1\) to \(5,\)"),
        (export_litert, "a.tflite", ((28, 28), 10), {}, r"model: takes \(28, 28\)"),
        (export_onnx, "a.onnx", "robust.keras", {}, r"model: takes \(\) to \(\)"),
    ],
)
def test_a_failing_export_says_why_and_leaves_the_old_file(
    write, name, model, options, message, network, tmp_path, monkeypatch
):
    def breaks_off(self, filepath, **_):
        Path(filepath).write_text("half")
        raise ValueError("disk full")

    (tmp_path / name).write_text("old")
    monkeypatch.setattr(keras.Model, "export", breaks_off)
    if isinstance(model, tuple):
        model = layers_between(*model)
    with pytest.raises(ValueError, match=message):
        write(model or network, tmp_path / name, **options)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "old")]


def test_int8_ranges_come_from_training_images_of_every_digit(sample):
    chosen = export.representative_images(sample, 100)
    assert chosen.shape == (100, 28, 28, 1) and chosen.dtype == np.float32
    known = {image.tobytes(): label for image, label in zip(*sample.part("train"), strict=True)}
    counts = np.bincount([known[image.tobytes()] for image in chosen], minlength=10)
    assert counts.min() >= 9 and counts.max() <= 11
    np.testing.assert_array_equal(chosen, export.representative_images(sample, 100))
    assert not np.array_equal(chosen, export.representative_images(sample, 100, seed=1))


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
    "layers, kind, message",
    [
        (((32, 32, 1), 10), "float32", r"takes \(32, 32, 1\) to \(10,\), expected"),
        (((28, 28, 1), 12), "float32", r"to \(12,\), expected"),
        (((28, 28, 1), 10, "sigmoid"), "float32", "expected .* of sum 1"),
        (((28, 28, 1), 10), "int8", "expected type INT8"),
    ],
)
def test_a_litert_model_of_something_else_is_refused(layers, kind, message, tmp_path):
    model, path, options = layers_between(*layers), tmp_path / "foreign.tflite", {}
    if kind == "int8":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        options["representative_dataset"] = lambda: [[np.zeros((1, 28, 28, 1), np.float32)]]
        options["inference_input_type"] = options["inference_output_type"] = tf.int8
    model.export(str(path), format="litert", verbose=False, **options)
    with pytest.raises(ValueError, match=f"foreign.tflite.*{message}"):
        open_model(path)


@pytest.mark.parametrize("first", [(0, 0), (2, 0), (2, -1)])
def test_a_keras_model_that_gives_no_probabilities_is_refused(first, tmp_path):
    model = layers_between((28, 28, 1), 10, None)
    model.layers[-1].set_weights([np.zeros((784, 10)), np.array([*first, *[0] * 8])])
    path = save_model(model, tmp_path / "logits.keras")
    with pytest.raises(ValueError, match="logits.keras.* of sum 1"):
        open_model(path)


# --- what is compared ------------------------------------------------------------------------


def test_rows_hold_what_the_answers_say(files, sample, images, expected, tmp_path):
    always = layers_between((28, 28, 1), 10)
    always.layers[-1].set_weights([np.zeros((784, 10)), np.eye(10)[3] * np.log(91)])
    three = export_onnx(always, tmp_path / "three.onnx")  # gives three 91% whatever it sees
    saved = files["small.keras"]
    *both, row = export.compare(saved, [three], images, sample.y_test, rounds=1)
    for name, by_keras in zip(("model.predict", "model(x)"), both, strict=True):
        assert by_keras["name"] == name and by_keras["bytes"] == saved.stat().st_size
        assert by_keras["errors"] == np.sum(expected.argmax(axis=1) != sample.y_test)
        assert by_keras["agreement"] == 1 and by_keras["largest_difference"] < 1e-5
    assert (row["name"], row["bytes"], row["threads"]) == ("three.onnx", three.stat().st_size, 1)
    assert row["errors"] == np.sum(sample.y_test != 3) and row["n"] == len(images)
    assert row["agreement"] == pytest.approx(np.mean(expected.argmax(axis=1) == 3))
    difference = np.abs(expected - np.where(np.arange(10) == 3, 0.91, 0.01)).max()
    assert row["largest_difference"] == pytest.approx(difference, abs=1e-5)


def test_times_are_taken_in_turn_and_warm(images, monkeypatch):
    """With a clock that the readers move: cold calls take long, and b one second more than a."""
    clock, turns = [0.0], []

    def read(name, takes, image):
        assert image.shape == (1, 28, 28, 1)
        clock[0] += 100 if turns.count(name) % 20 < 10 else takes
        turns.append(name)

    monkeypatch.setattr(timeit, "repeat", partial(timeit.repeat, timer=lambda: clock[0]))
    monkeypatch.setattr(export, "WARM", 10)  # as many as are timed: they would show
    readers = {"a": partial(read, "a", 1), "b": partial(read, "b", 2)}
    found = export.latencies(readers, images, rounds=3)
    assert turns == (["a"] * 20 + ["b"] * 20) * 3
    assert found["a"] == {"milliseconds": 1000, "quartiles": [1000, 1000]}
    assert found["b"] == {"milliseconds": 2000, "quartiles": [2000, 2000]}
    with pytest.raises(ValueError, match="rounds=0"):
        export.latencies({}, images, rounds=0)


# --- what is published -----------------------------------------------------------------------


@pytest.fixture
def folder(files, sample, tmp_path, monkeypatch):
    """The readers' own folder of models: empty. Exports are copied there, not made."""

    def export_all(model, work, name, images):
        assert images.shape == (300, 28, 28, 1) and model.name == name == "small"
        return [Path(shutil.copy(files[name], work)) for name in FILES]

    monkeypatch.setattr(export, "export_all", export_all)
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
    assert found["representative_images"] == 300
    assert found["environment"]["onnxruntime"] == version("onnxruntime")
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["name", "bytes", "accuracy"]
    assert [line.split()[0] for line in lines] == ["model.predict", "model(x)", *FILES]
    assert not config.ROOT.exists()


def test_nothing_is_replaced_where_a_file_reads_otherwise(files, sample, folder, monkeypatch):
    def reads_otherwise(path):
        read = open_model(path)
        return (lambda x: np.roll(read(x), 1, axis=1)) if path.name == FILES[3] else read

    for name in (*FILES, "exports.json"):
        (folder / name).write_text("old")
    monkeypatch.setattr(export, "open_model", reads_otherwise)
    with pytest.raises(ValueError, match="small_int8.tflite: .* right, Keras 9.*too far apart"):
        export_model(files["small.keras"], sample, folder, rounds=1)
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
        export_model(files["small.keras"], sample, folder, rounds=1)
    open_model(folder / FILES[0])
    for name in FILES[1:]:
        with pytest.raises(ValueError, match=f"{name} is not.* `make export`"):
            open_model(folder / name)


def test_the_command_names_a_bad_model(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "text.keras").write_text("no model")
    for arguments, message in (
        ([], "2"),  # usage
        ([tmp_path / "text.keras"], "text.keras: not a whole Keras model"),
        (["a.keras", "b.keras"], "2"),
    ):
        with pytest.raises(SystemExit, match=message):
            run(monkeypatch, *arguments)
    assert "python -m src.reading.export [-h] MODEL.keras" in capsys.readouterr().err
    assert not list(tmp_path.glob("*/*"))
