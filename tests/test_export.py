"""The network as ONNX and LiteRT: each file read back and compared with Keras."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper

from src import config, data, export, inference
from src.export import compare, export_litert, export_model, export_onnx, latencies
from src.inference import open_model, sha256
from src.models import build_cnn, save_model

FILES = ("small.onnx", "small.tflite", "small_float16.tflite", "small_int8.tflite")


@pytest.fixture(scope="module")
def images(sample):
    return data.scale_images(sample.x_test)


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
def expected(network, images):
    return network.predict(images, batch_size=500, verbose=0)


@pytest.fixture(scope="module")
def exported(network, sample, tmp_path_factory):
    """All four files, made once: name -> path."""
    folder = tmp_path_factory.mktemp("exported")
    calibration = export.representative_images(sample, 100)
    return {path.name: path for path in export.export_all(network, folder, "small", calibration)}


@pytest.fixture(scope="module")
def saved(network, tmp_path_factory):
    return save_model(network, tmp_path_factory.mktemp("saved") / "small.keras")


def says_always(digit: int) -> keras.Model:
    """A network that gives `digit` 91% whatever it sees."""
    model = build_cnn((1,), pool=True, batch_norm=False, dense_units=(), dropout=0.0)
    output = model.get_layer("output")
    output.set_weights([np.zeros(output.kernel.shape), np.eye(10)[digit] * np.log(91)])
    return model


def layers_between(takes: tuple, gives: int, activation="softmax") -> keras.Model:
    inputs = keras.Input(takes)
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(gives, activation)(flat))


def changed(path, folder, at: int, name: str | None = None):
    """A copy of a file with one bit of byte `at` turned."""
    content = bytearray(path.read_bytes())
    content[at] ^= 64
    copy = folder / (name or path.name)
    copy.write_bytes(content)
    return copy


# --- what is written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, apart", [("small.onnx", 1e-5), ("small.tflite", 1e-5), ("small_float16.tflite", 0.01)]
)
def test_floats_give_what_keras_gives(name, apart, exported, images, expected):
    found = open_model(exported[name])(images)
    assert found.dtype == np.float32 and len(images) > inference.PART
    np.testing.assert_allclose(found, expected, atol=apart)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_int8_gives_nearly_the_same_answers_as_probabilities(exported, images, expected):
    found = open_model(exported["small_int8.tflite"])(images)
    assert np.mean(found.argmax(axis=1) == expected.argmax(axis=1)) >= 0.99
    assert np.abs(found - expected).mean() < 0.01
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)  # 256ths, brought to 1


def test_each_precision_stores_its_own_numbers(exported, network):
    weights = network.count_params()
    sizes = {name: path.stat().st_size for name, path in exported.items()}
    assert tuple(sizes) == FILES
    for name, bytes_each in zip(FILES, (4, 4, 2, 1), strict=True):
        assert bytes_each * weights < sizes[name] < bytes_each * weights + 9_000, name
    interpreter = Interpreter(str(exported["small_int8.tflite"]))
    kinds = [np.dtype(t["dtype"]).name for t in interpreter.get_tensor_details()]
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    assert [np.dtype(end["dtype"]).name for end in ends] == ["float32", "float32"]
    assert kinds.count("float32") == 2  # nothing but these is computed in floats


def test_onnx_is_well_formed_with_a_free_batch(exported):
    model = onnx.load(exported["small.onnx"])
    onnx.checker.check_model(model, full_check=True)
    first = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert first.dim_value == 0


def test_a_model_just_loaded_exports_into_a_new_folder(saved, tmp_path, images):
    model = keras.models.load_model(saved, compile=False)  # never called
    for path in (tmp_path / "new" / "a.onnx", tmp_path / "newer" / "a.tflite"):
        written = (export_onnx if path.suffix == ".onnx" else export_litert)(model, path)
        assert len(open_model(written)(images[:2])) == 2


@pytest.mark.parametrize("takes, gives", [((14, 14, 1), 10), ((28, 28, 1), 5), ((28, 28), 10)])
def test_a_model_of_another_shape_is_refused(takes, gives, tmp_path):
    model = layers_between(takes, gives)
    for write, name in ((export_onnx, "a.onnx"), (export_litert, "a.tflite")):
        with pytest.raises(ValueError, match=r"model: takes .*expected \(None, 28, 28, 1\)"):
            write(model, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="takes None to None"):
        export_onnx("robust.keras", tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"precision": "int4"}, "precision='int4': expected one of float32, float16, int8"),
        ({"precision": "int8"}, "needs images"),
        ({"precision": "int8", "images": np.zeros((0, 28, 28, 1), np.float32)}, "needs images"),
        ({"precision": "int8", "images": np.zeros((3, 28, 28), np.float32)}, "images: shape"),
        ({"precision": "int8", "images": np.full((3, 28, 28, 1), 255.0)}, "expected 0 to 1"),
        ({"path": "a.onnx"}, "a.onnx: expected a name ending in .tflite"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, network, tmp_path):
    path = tmp_path / arguments.pop("path", "a.tflite")
    with pytest.raises(ValueError, match=message):
        export_litert(network, path, **arguments)
    with pytest.raises(ValueError, match="a.tflite: expected a name ending in .onnx"):
        export_onnx(network, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write, name", [(export_onnx, "a.onnx"), (export_litert, "a.tflite")])
def test_a_failing_export_leaves_the_old_file(write, name, network, tmp_path, monkeypatch):
    def breaks_off(self, filepath, **_):
        with open(filepath, "w") as file:
            file.write("half")
        raise OSError("disk full")

    (tmp_path / name).write_text("old")
    monkeypatch.setattr(keras.Model, "export", breaks_off)
    with pytest.raises(OSError, match="disk full"):
        write(network, tmp_path / name)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "old")]


def test_int8_ranges_come_from_fitting_images_of_every_digit(sample):
    found = export.representative_images(sample, 100)
    assert found.shape == (100, 28, 28, 1) and found.dtype == np.float32
    fit = data.split_fit_select_held(sample.y_train)[0]
    known = {image.tobytes(): label for image, label in zip(*rows_of(sample, fit), strict=True)}
    counts = np.bincount([known[image.tobytes()] for image in found], minlength=10)
    assert counts.min() >= 9 and counts.max() <= 11
    np.testing.assert_array_equal(found, export.representative_images(sample, 100))
    assert not np.array_equal(found, export.representative_images(sample, 100, seed=1))


def rows_of(sample, rows):
    return data.scale_images(sample.x_train[rows]), sample.y_train[rows]


# --- what is read --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FILES, "small.keras"])
def test_any_number_of_images_gives_as_many_rows(name, exported, saved, images):
    read = open_model(exported.get(name, saved))
    many = read(images[:5])
    assert [read(images[:n]).shape for n in (0, 1, 3)] == [(0, 10), (1, 10), (3, 10)]
    np.testing.assert_allclose(read(images[3:4])[0], many[3], atol=1e-5)
    np.testing.assert_allclose(read(images[:10:2])[1], many[2], atol=1e-5)  # not contiguous
    np.testing.assert_allclose(read(images[:5].astype(np.float64)), many, atol=1e-5)
    for wrong in (images[0], images[:, :14], (images[:2] * 255).astype(np.uint8)):
        with pytest.raises(ValueError, match="expected float32"):
            read(wrong)


@pytest.mark.parametrize("ending, form", [(".onnx", "onnx"), (".tflite", "litert")])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_fixed_at_one_is_read_in_turn_another_refused(
    batch, ending, form, network, images, expected, tmp_path
):
    path = tmp_path / f"fixed{ending}"
    fixed = [keras.InputSpec(shape=(batch, 28, 28, 1), dtype="float32", name="image")]
    network.export(str(path), format=form, verbose=False, input_signature=fixed)
    if batch == 1:
        np.testing.assert_allclose(open_model(path)(images[:7]), expected[:7], atol=1e-5)
    else:
        with pytest.raises(ValueError, match=rf"fixed{ending}: .*\(4, 28, 28, 1\)"):
            open_model(path)


def test_threads_may_share_a_model(exported, images):
    read = open_model(exported["small_int8.tflite"])
    alone = read(images)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(read, [images] * 16))
    for found in together:
        np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("name", [*FILES, "small.keras"])
@pytest.mark.parametrize("kind", ["empty", "text", "cut", "no end"])
def test_a_damaged_file_is_named(kind, name, exported, saved, tmp_path):
    whole = exported.get(name, saved).read_bytes()
    content = {
        "empty": b"",
        "text": b"<!DOCTYPE html><title>404</title>" * 99,
        "cut": whole[: len(whole) // 2],
        "no end": whole[:-200],
    }[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        open_model(tmp_path / name)


def test_files_of_another_kind_are_refused(exported, tmp_path):
    (tmp_path / "a.tflite").write_bytes(exported["small.onnx"].read_bytes())
    (tmp_path / "a.onnx").write_bytes(exported["small.tflite"].read_bytes())
    for name in ("a.tflite", "a.onnx"):
        with pytest.raises(ValueError, match=name):
            open_model(tmp_path / name)
    (tmp_path / "a.pt").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"a\.pt: expected a name ending in .onnx, .tflite"):
        open_model(tmp_path / "a.pt")


@pytest.mark.parametrize("ending", [".onnx", ".tflite", ".keras"])
def test_a_missing_file_is_named(ending, tmp_path):
    (tmp_path / f"folder{ending}").mkdir()
    for name in (f"absent{ending}", f"folder{ending}"):
        with pytest.raises(FileNotFoundError, match=name):
            open_model(tmp_path / name)


@pytest.mark.parametrize("ending, form", [(".onnx", "onnx"), (".tflite", "litert")])
@pytest.mark.parametrize(
    "takes, gives, activation, message",
    [
        ((32, 32, 1), 10, "softmax", r"\(n, 32, 32, 1\) to float32 \(n, 10\), expected"),
        ((28, 28, 1), 12, "softmax", r"to float32 \(n, 12\), expected"),
        ((28, 28, 1), 10, "sigmoid", "expected .* of sum 1"),
    ],
)
def test_a_model_of_something_else_is_refused(
    takes, gives, activation, message, ending, form, tmp_path
):
    model = layers_between(takes, gives, activation)
    model(np.zeros((1, *takes), np.float32))
    path = tmp_path / f"foreign{ending}"
    model.export(str(path), format=form, verbose=False)
    with pytest.raises(ValueError, match=f"foreign{ending}.*{message}"):
        open_model(path)


@pytest.mark.parametrize("first", [(0, 0), (2, 0), (2, -1)])
def test_a_keras_model_that_gives_no_probabilities_is_refused(first, tmp_path):
    model = layers_between((28, 28, 1), 10, None)
    model.layers[-1].set_weights([np.zeros((784, 10)), np.array([*first, *[0] * 8])])
    path = save_model(model, tmp_path / "logits.keras")
    with pytest.raises(ValueError, match="logits.keras.* of sum 1"):
        open_model(path)


def test_other_types_and_several_inputs_are_refused(network, images, tmp_path):
    path = tmp_path / "integers.tflite"
    network.export(
        str(path),
        format="litert",
        verbose=False,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([image[None]] for image in images[:5]),
        inference_input_type=tf.int8,
        inference_output_type=tf.int8,
    )
    with pytest.raises(ValueError, match=r"integers.tflite: .*takes int8 \(n, 28, 28, 1\)"):
        open_model(path)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 28, 28, 1]) for name in "abc"
    ]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "g", ends[:2], ends[2:])
    opset = [helper.make_opsetid("", 15)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "two.onnx")
    with pytest.raises(ValueError, match="two.onnx: .* and float32 .*expected"):
        open_model(tmp_path / "two.onnx")


@pytest.mark.parametrize("name", ["small.onnx", "small_int8.tflite"])
def test_a_changed_file_is_told_by_the_listing_beside_it(name, exported, network, images, tmp_path):
    where = weights_in(exported[name], network)
    path = changed(exported[name], tmp_path, where)
    open_model(path)  # nothing tells
    listing = {"sha256": {name: sha256(exported[name]), "robust.keras": "0" * 64}}
    config.write_json(tmp_path / inference.EXPORTS, listing)
    with pytest.raises(ValueError, match=rf"{name}: not the file that exports\.json"):
        open_model(path)
    path.write_bytes(exported[name].read_bytes())
    open_model(path)
    open_model(changed(exported[name], tmp_path, where, f"own-{name}"))  # not listed


def weights_in(path, network) -> int:
    """Where in a file a weight of the last layer lies, so that turning a bit there breaks no
    structure: as float32 its lowest byte."""
    if path.suffix == ".onnx":
        kernel = np.asarray(network.get_layer("output").kernel, np.float32)
        return path.read_bytes().index(kernel.tobytes())
    interpreter = Interpreter(str(path))
    kernels = [t for t in interpreter.get_tensor_details() if list(t["shape"]) == [10, 392]]
    return path.read_bytes().index(interpreter.get_tensor(kernels[0]["index"]).tobytes())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"sha256": 1}', '{"sha256": null}'])
def test_a_damaged_listing_is_named(content, exported, tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(exported["small.onnx"].read_bytes())
    (tmp_path / inference.EXPORTS).write_text(content)
    with pytest.raises(ValueError, match=r"exports\.json: damaged"):
        open_model(path)


def test_exported_files_are_read_without_tensorflow(exported):
    code = (
        "import sys, numpy as np; from src.inference import open_model\n"
        "for path in sys.argv[1:]: print(open_model(path)(np.zeros((2, 28, 28, 1), 'f')).shape)\n"
        "print({'keras', 'tensorflow', 'torch'} & set(sys.modules))"
    )
    paths = [str(exported["small.onnx"]), str(exported["small_int8.tflite"])]
    command = [sys.executable, "-c", code, *paths]
    run = subprocess.run(command, cwd=config.ROOT, capture_output=True, text=True, timeout=120)
    assert run.stdout.split("\n") == ["(2, 10)", "(2, 10)", "set()", ""], run.stderr


# --- what is compared ----------------------------------------------------------------------


def test_rows_hold_what_the_answers_say(saved, sample, images, expected, tmp_path):
    other = export_onnx(says_always(3), tmp_path / "three.onnx")
    rows = {row["name"]: row for row in compare(saved, [other], images, sample.y_test, rounds=1)}
    assert list(rows) == ["model.predict", "model(x)", "three.onnx"]
    for name in ("model.predict", "model(x)"):
        row = rows[name]
        assert row["bytes"] == saved.stat().st_size and row["n"] == len(images)
        assert row["errors"] == np.sum(expected.argmax(axis=1) != sample.y_test)
        assert row["accuracy"] > 0.9
        assert row["agreement"] == 1 and row["largest_difference"] < 1e-5
    row = rows["three.onnx"]
    assert row["bytes"] == other.stat().st_size and row["threads"] == 1
    assert row["errors"] == np.sum(sample.y_test != 3)
    assert row["agreement"] == pytest.approx(np.mean(expected.argmax(axis=1) == 3))
    three = np.where(np.arange(10) == 3, 0.91, 0.01)
    assert row["largest_difference"] == pytest.approx(np.abs(expected - three).max(), abs=1e-5)
    assert "model(x)" in export.table(list(rows.values())).splitlines()[2]


def test_compare_names_what_is_missing(saved, images, sample, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.tflite"):
        compare(saved, [tmp_path / "absent.tflite"], images, sample.y_test)
    with pytest.raises(FileNotFoundError, match="absent.keras"):
        compare(tmp_path / "absent.keras", [], images, sample.y_test)


def test_times_are_taken_in_turn_and_warm(images, monkeypatch):
    """With a clock that the readers move: cold calls take long, and b one second more than a."""
    clock, turns = [0.0], []

    def reader(name, takes):
        def read(image):
            assert image.shape == (1, 28, 28, 1)
            cold = turns.count(name) % (export.WARM + export.TIMED) < export.WARM
            turns.append(name)
            clock[0] += 100 if cold else takes

        return read

    monkeypatch.setattr(export.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(export, "WARM", 10)  # as many as are timed: they would show
    found = latencies({"a": reader("a", 1), "b": reader("b", 2)}, images, rounds=3)
    turn = export.WARM + export.TIMED
    assert turns == (["a"] * turn + ["b"] * turn) * 3
    assert found["a"] == {"milliseconds": 1000, "quartiles": [1000, 1000]}
    assert found["b"] == {"milliseconds": 2000, "quartiles": [2000, 2000]}
    with pytest.raises(ValueError, match="rounds=0"):
        latencies({}, images, rounds=0)


# --- what is published ---------------------------------------------------------------------


@pytest.fixture
def loose(monkeypatch):
    """On the sample's 360 images one more error is more than MNIST's limit of 0.1 points."""
    monkeypatch.setattr(export, "LARGEST_LOSS", 0.01)


def test_the_command_writes_four_files_and_says_how_each_did(
    saved, sample, tmp_path, monkeypatch, capsys, loose
):
    folder = tmp_path / "models"
    monkeypatch.setenv("MNIST_RESULTS_DIR", str(tmp_path))
    monkeypatch.setattr(export, "MODELS", tmp_path / "published")
    monkeypatch.setattr(export, "ROUNDS", 1)
    monkeypatch.setattr(data, "load_mnist", lambda: sample)
    monkeypatch.setattr(sys, "argv", ["export", str(saved)])
    assert export.main() == 0
    assert {path.name for path in folder.iterdir()} == {*FILES, "exports.json"}
    found = json.loads((folder / "exports.json").read_text())
    assert [row["name"] for row in found["rows"]] == ["model.predict", "model(x)", *FILES]
    for row in found["rows"]:
        assert row["agreement"] >= 0.99 and row["n"] == 360
        assert row["milliseconds"] > 0 and len(row["quartiles"]) == 2
    hashes = {name: sha256(folder / name) for name in FILES}
    assert found["sha256"] == hashes | {"small.keras": sha256(saved)}
    assert found["made_from"] == "small.keras" and found["data"] == "sample digits"
    for name in ("onnxruntime", "ai-edge-litert", "tensorflow"):
        assert found["environment"][name] == version(name)
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[-6:]] == ["model.predict", "model(x)", *FILES]
    for name in FILES:
        open_model(folder / name)
    assert not (tmp_path / "published").exists()


def test_nothing_is_replaced_where_a_file_reads_otherwise(
    saved, sample, exported, tmp_path, monkeypatch, loose
):
    def exports_another(model, folder, name, images):
        made = [folder / name for name in FILES]
        for path in made[:3]:
            path.write_bytes(exported[path.name].read_bytes())
        return [*made[:3], export_litert(says_always(3), made[3])]

    for name in (*FILES, "exports.json"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(export, "export_all", exports_another)
    with pytest.raises(ValueError, match="small_int8.tflite: .* right, Keras 9.*too far apart"):
        export_model(saved, sample, tmp_path, rounds=1)
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert left == dict.fromkeys((*FILES, "exports.json"), "old")


@pytest.mark.parametrize("arguments", [["--help"], ["a.keras", "b.keras"]])
def test_the_command_explains_itself(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    assert export.main() == 2
    assert "python -m src.export MODEL.keras" in capsys.readouterr().out


def test_the_command_names_a_bad_model(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MNIST_RESULTS_DIR", str(tmp_path))
    monkeypatch.setattr(export, "MODELS", tmp_path / "published")
    monkeypatch.setattr(data, "load_mnist", lambda: sample)
    (tmp_path / "text.keras").write_text("no model")
    for arguments, message in (
        ([], "robust.keras: no such file"),
        ([str(tmp_path / "text.keras")], "text.keras: not a whole Keras model"),
    ):
        monkeypatch.setattr(sys, "argv", ["export", *arguments])
        assert export.main() == 1
        shown = capsys.readouterr()
        assert message in shown.err and not shown.out
    assert not list(tmp_path.glob("*/*"))


def test_published_exports_are_those_described():
    listing = config.ROOT / "models" / inference.EXPORTS
    found = json.loads(listing.read_text(encoding="utf-8"))
    for name, stated in found["sha256"].items():
        assert sha256(listing.with_name(name)) == stated, name
    sizes = {row["name"]: row["bytes"] for row in found["rows"]}
    stem = found["made_from"].removesuffix(".keras")
    assert 3 * sizes[f"{stem}_int8.tflite"] <= sizes[f"{stem}.tflite"]
    for row in found["rows"]:
        assert abs(row["accuracy"] - found["rows"][0]["accuracy"]) <= export.LARGEST_LOSS
        assert row["n"] == 10_000
