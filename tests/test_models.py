"""The network builder, the table of its layers, and saved models."""

import io
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest

from src.data import scale_images
from src.models import build_cnn, layer_table, load_model, save_model

PLAIN = {"pool": True, "batch_norm": False, "dropout": 0.0}
SUFFIXES = pytest.mark.parametrize("suffix", [".keras", ".h5"])


def tiny_cnn(**arguments) -> keras.Model:
    return build_cnn((4,), **{**PLAIN, "dense_units": (), **arguments})


@pytest.fixture(scope="module")
def images(sample):
    return scale_images(sample.x_test[:50])


def small_cnn() -> keras.Model:
    """All kinds of layers."""
    return build_cnn((4,), pool=True, block_dropout=0.1, dense_units=16)


@pytest.fixture(scope="module")
def trained(sample):
    model = small_cnn()
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(scale_images(sample.x_train[:64]), sample.y_train[:64], verbose=0)
    return model


def test_the_default_network_layer_by_layer(images):
    model = build_cnn()
    assert [tuple(row.values()) for row in layer_table(model)] == [
        ("image", "InputLayer", "28 × 28 × 1", 0),
        ("conv1", "Conv2D", "28 × 28 × 32", 320),
        ("bn1", "BatchNormalization", "28 × 28 × 32", 128),
        ("pool1", "MaxPooling2D", "14 × 14 × 32", 0),
        ("conv2", "Conv2D", "14 × 14 × 64", 18_496),
        ("bn2", "BatchNormalization", "14 × 14 × 64", 256),
        ("pool2", "MaxPooling2D", "7 × 7 × 64", 0),
        ("conv3", "Conv2D", "7 × 7 × 64", 36_928),
        ("bn3", "BatchNormalization", "7 × 7 × 64", 256),
        ("flatten", "Flatten", "3136", 0),
        ("dense1", "Dense", "128", 401_536),
        ("dropout", "Dropout", "128", 0),
        ("output", "Dense", "10", 1_290),
    ]
    assert list(layer_table(model)[0]) == ["layer", "kind", "output", "parameters"]
    assert model.count_params() == 459_210
    assert sum(w.shape.num_elements() for w in model.trainable_weights) == 458_890
    for name in ("conv1", "conv2", "conv3"):
        layer = model.get_layer(name)
        assert (layer.padding, layer.kernel_size, layer.strides) == ("same", (3, 3), (1, 1))
        assert layer.activation is keras.activations.relu
    assert model.get_layer("dense1").activation is keras.activations.relu
    assert model.get_layer("dropout").rate == 0.5
    probabilities = np.asarray(model(images, training=False))
    assert probabilities.shape == (50, 10) and probabilities.dtype == np.float32
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("filters", "arguments", "parameters", "flat"),
    [
        # 320 + 18,496, then 28 -> 26 -> 13 -> 11 -> 5: 1,600 * 128 + 128, 128 * 10 + 10
        ((32, 64), {"padding": "valid"}, 225_034, 1_600),
        # the same with 7 * 7 * 64 = 3,136 values, so 401,536 in the dense layer
        ((32, 64), {"padding": "same"}, 421_642, 3_136),
        # the example on keras.io: 320 + 18,496 + 16,010
        ((32, 64), {"padding": "valid", "dense_units": (), "dropout": 0.5}, 34_826, 1_600),
        # three pools, 28 -> 14 -> 7 -> 3: 320 + 18,496 + 36,928 + 73,856 + 1,290
        ((32, 64, 64), {}, 130_890, 576),
        # 5x5, then 3x3: 208 + 1,168; dense layers 25,120 + 528; output 170
        ((8, 16), {"kernel_size": (5, 3), "dense_units": (32, 16)}, 27_194, 784),
        # no pool: 40 + 3,136 * 10 + 10
        ((4,), {"pool": False, "dense_units": ()}, 31_410, 3_136),
        # a kernel as large as the image: 4 * 785, 4 * 10 + 10
        (
            (4,),
            {"kernel_size": 28, "padding": "valid", "pool": False, "dense_units": []},
            3_190,
            4,
        ),
    ],
)
def test_other_networks_have_the_parameters_counted_by_hand(filters, arguments, parameters, flat):
    model = build_cnn(filters, **{**PLAIN, **arguments})
    assert model.count_params() == parameters
    assert model.get_layer("flatten").output.shape == (None, flat)
    assert model.output_shape == (None, 10)


def test_dropout_after_each_block_and_after_the_last_dense_layer():
    model = build_cnn((4, 4), block_dropout=0.25, pool=(False, True), dense_units=(8, 6))
    assert [row["layer"] for row in layer_table(model)] == (
        "image conv1 bn1 block_dropout1 conv2 bn2 pool2 block_dropout2 "
        "flatten dense1 dense2 dropout output"
    ).split()
    assert model.get_layer("block_dropout2").rate == 0.25
    assert model.get_layer("dense2").units == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": (4, 4)}, "pool has 3 values for 2 filters"),
        ({"kernel_size": (3, 3)}, "kernel_size has 2 values for 3 filters"),
        ({"filters": (4, 0, 4)}, r"filters=\[4, 0, 4\]: expected 1 or more"),
        ({"kernel_size": 0}, r"kernel_size=\[0, 0, 0\]: expected 1 or more"),
        ({"dense_units": (8, 0)}, r"dense_units=\[8, 0\]: expected 1 or more"),
        ({"dropout": 1.0}, r"^dropout=1.0: .* less than 1"),
        ({"dropout": -0.1}, r"^dropout=-0.1: "),
        ({"block_dropout": 1.0}, r"^block_dropout=1.0: "),
        ({"block_dropout": -0.1}, r"^block_dropout=-0.1: "),
        ({"padding": "full"}, r"padding=\['full', 'full', 'full'\]: expected"),
        ({"filters": (4,) * 5, "pool": True}, "block 5 would leave no pixel.*pool=False"),
        ({"filters": (4,) * 4, "pool": True, "padding": "valid"}, "block 4 .*padding='same'"),
        ({"kernel_size": 29, "padding": "valid"}, "block 1 .*smaller kernel_size"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_cnn(**arguments)


@SUFFIXES
def test_a_saved_model_predicts_the_same(suffix, trained, images, tmp_path):
    path = save_model(trained, tmp_path / "new" / f"model{suffix}")
    assert path == tmp_path / "new" / f"model{suffix}"
    assert os.listdir(path.parent) == [path.name]
    loaded = load_model(str(path))
    assert not loaded.compiled
    assert layer_table(loaded) == layer_table(trained)
    np.testing.assert_allclose(loaded(images), trained(images), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_saved_weights_fit_the_same_network_only(trained, images, tmp_path):
    trained.save_weights(tmp_path / "keras.weights.h5")
    for path in (tmp_path / "keras.weights.h5", save_model(trained, tmp_path / "a.weights.h5")):
        same = small_cnn()
        same.load_weights(path)
        np.testing.assert_allclose(same(images), trained(images), rtol=0, atol=1e-6)
        with pytest.raises(ValueError, match="could not be loaded"):
            build_cnn((4,), pool=True, dense_units=17).load_weights(path)
        with pytest.raises(ValueError, match=f"{path.name}: not a whole Keras model"):
            load_model(path)


def names_in(path) -> str:
    """The groups and attributes of the HDF5 file at `path`, or inside the archive there."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            path = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(path) as file:
        return " ".join([*file, *file.attrs])


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_a_saved_model_holds_no_optimiser_state(suffix, trained, tmp_path):
    save = "save_weights" if "weights" in suffix else "save"
    getattr(trained, save)(tmp_path / f"all{suffix}")
    assert "optimizer" in names_in(tmp_path / f"all{suffix}")
    path = save_model(trained, tmp_path / f"model{suffix}")
    assert "optimizer" not in names_in(path) and "training" not in names_in(path)
    getattr(small_cnn(), save)(tmp_path / f"bare{suffix}")
    assert path.stat().st_size <= 1.2 * (tmp_path / f"bare{suffix}").stat().st_size
    if save == "save":
        assert not keras.models.load_model(path, compile=True).compiled
    assert trained.optimizer.variables  # the model itself keeps it


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt: .*\.keras.*\.h5"):
        save_model(tiny_cnn(), tmp_path / "model.pt")
    assert not os.listdir(tmp_path)


def save_half(model, path, *args, **kwargs):
    path.write_bytes(b"half a model")
    raise OSError("disk full")


def fail(*args):
    raise OSError("disk full")


@SUFFIXES
@pytest.mark.parametrize("broken", [(keras.Model, "save", save_half), (os, "replace", fail)])
def test_a_failed_save_leaves_the_earlier_file_whole(broken, suffix, tmp_path, monkeypatch):
    path = save_model(tiny_cnn(name="earlier"), tmp_path / f"model{suffix}")
    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(*broken)
        save_model(tiny_cnn(name="later"), path)
    assert path.read_bytes() == before
    save_model(tiny_cnn(name="later"), path)  # what the failed save left is not in the way
    assert os.listdir(tmp_path) == [path.name] and load_model(path).name == "later"


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.keras.*02_training"):
        load_model(tmp_path / "absent.keras")


@SUFFIXES
@pytest.mark.parametrize("damage", ["empty", "text", "half", "last bytes lost"])
def test_a_file_that_is_no_whole_model_is_named(damage, suffix, tmp_path):
    path = save_model(tiny_cnn(), tmp_path / f"model{suffix}")
    raw = path.read_bytes()
    content = {"empty": b"", "text": b"hello\n", "half": raw[: len(raw) // 2]}
    path.write_bytes(content.get(damage, raw[:-30]))
    with pytest.raises(ValueError, match=f"model{suffix}: not a whole Keras model"):
        load_model(path)


@pytest.mark.parametrize("damage", ["no config.json", "list in config.json", "a byte changed"])
def test_a_damaged_archive_is_named(damage, tmp_path):
    path = save_model(tiny_cnn(), tmp_path / "model.keras")
    with zipfile.ZipFile(path) as archive:
        weights = archive.read("model.weights.h5")
    if damage == "a byte changed":
        raw, middle = path.read_bytes(), len(weights) // 2
        changed = weights[:middle] + bytes([weights[middle] ^ 255]) + weights[middle + 1 :]
        assert raw.count(weights) == 1  # stored, not compressed
        path.write_bytes(raw.replace(weights, changed))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model.weights.h5", weights)
            if damage == "list in config.json":
                archive.writestr("metadata.json", "{}")
                archive.writestr("config.json", "[]")
    with pytest.raises(ValueError, match="model.keras: not a whole Keras model"):
        load_model(path)


def test_a_damaged_h5_file_is_named(tmp_path):
    path = save_model(tiny_cnn(), tmp_path / "model.h5")
    path.write_bytes(path.read_bytes().replace(b"HEAP", b"XXXX"))
    with pytest.raises(ValueError, match="model.h5: not a whole Keras model"):
        load_model(path)


@pytest.mark.parametrize(
    ("shape", "units", "message"),
    [
        ((32, 32, 1), 10, r"takes \(32, 32, 1\) to \(10,\), expected \(28, 28, 1\)"),
        ((28, 28, 1), 9, r"takes .* to \(9,\), expected .* to \(10,\)"),
        (None, 10, ""),
    ],
)
@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_for_other_images_or_classes_is_refused(shape, units, message, tmp_path):
    flat = [keras.layers.Flatten(), keras.layers.Dense(units)]
    model = keras.Sequential([keras.Input(shape), *flat] if shape else flat)
    model.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=f"other.keras: .*{message}"):
        load_model(tmp_path / "other.keras")


def test_an_export_is_no_keras_model(tmp_path):
    (tmp_path / "robust.onnx").write_bytes(b"whole")
    with pytest.raises(ValueError, match="robust.onnx: an export; `inference.open_model`"):
        load_model(tmp_path / "robust.onnx")
