"""The network builder, the table of its layers, and saved models."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest

from src import models
from src.config import ROOT
from src.data import scale_images
from src.models import build, build_cnn, build_resnet, layer_table, load_model, save_model

PLAIN = {"pool": True, "batch_norm": False, "dropout": 0.0}
SUFFIXES = pytest.mark.parametrize("suffix", [".keras", ".h5"])


def tiny_cnn(**arguments) -> keras.Model:
    return build_cnn((4,), **{**PLAIN, "dense_units": (), **arguments})


def small_cnn(dense_units=16) -> keras.Model:
    """All kinds of layers."""
    return build_cnn((4,), pool=True, block_dropout=0.1, dense_units=dense_units)


def names(model):
    return " ".join(layer.name for layer in model.layers)


@pytest.fixture(scope="module")
def images(sample):
    return scale_images(sample.x_test[:50])


@pytest.fixture(scope="module")
def trained(images):
    model = small_cnn()
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(images, np.arange(50) % 10, verbose=0)
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
    convolution, dense = model.get_layer("conv2"), model.get_layer("dense1")
    assert convolution.activation is dense.activation is keras.activations.relu
    assert model.get_layer("dropout").rate == 0.5
    np.testing.assert_allclose(np.sum(model(images), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "filters, arguments, parameters, flat",
    [
        # 320 + 18,496, then 28 -> 26 -> 13 -> 11 -> 5: 1,600 * 128 + 128, 128 * 10 + 10
        ((32, 64), {"padding": "valid"}, 225_034, 1_600),
        # three pools, 28 -> 14 -> 7 -> 3: 320 + 18,496 + 36,928 + 73,856 + 1,290
        ((32, 64, 64), {}, 130_890, 576),
        # 5x5, then 3x3: 208 + 1,168; dense layers 25,120 + 528; output 170
        ((8, 16), {"kernel_size": (5, 3), "dense_units": (32, 16)}, 27_194, 784),
        # no pool: 40 + 3,136 * 10 + 10
        ((4,), {"pool": False, "dense_units": ()}, 31_410, 3_136),
    ],
)
def test_other_networks_have_the_parameters_counted_by_hand(filters, arguments, parameters, flat):
    model = build_cnn(filters, **{**PLAIN, **arguments})
    assert model.count_params() == parameters
    assert model.get_layer("flatten").output.shape == (None, flat)
    assert model.output_shape == (None, 10)


def test_layers_come_in_the_order_asked_for():
    model = build_cnn((4, 4), block_dropout=0.25, pool=(False, True), dense_units=(8, 6))
    blocks = "conv1 bn1 block_dropout1 conv2 bn2 pool2 block_dropout2"
    assert names(model) == f"image {blocks} flatten dense1 dense2 dropout output"
    assert model.get_layer("block_dropout2").rate == 0.25
    assert model.get_layer("dense2").units == 6
    order = ("norm", "pool", "relu")
    model = build_cnn((4,), pool=True, order=order, global_pool=True, dense_units=(), dropout=0)
    assert names(model) == "image conv1 bn1 pool1 relu1 global_pool output"
    assert not model.get_layer("conv1").use_bias  # batch norm has one
    model = tiny_cnn(order=order)
    assert names(model) == "image conv1 pool1 relu1 flatten output"
    assert model.get_layer("conv1").use_bias


def test_a_residual_network_has_the_parameters_counted_by_hand():
    model = build_resnet((4, 8), dropout=0)
    # 36; two of 144; 288 + 576 and 32 of the 1x1; batch norm 4 * 4 * 3 and 4 * 8 * 3; output 90
    assert model.count_params() == 36 + 288 + 896 + 48 + 96 + 90
    assert model.get_layer("add2").output.shape == (None, 7, 7, 8)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"filters": 32}, "filters=32: expected one number per block, such as (32,)"),
        ({"filters": (4, 4)}, "pool has 3 values for 2 filters"),
        ({"kernel_size": (3, 3)}, "kernel_size has 2 values for 3 filters"),
        ({"filters": np.int64(32)}, "filters=np.int64(32): expected one number per block, such as"),
        ({"filters": (4.0, 4, 4)}, "filters=[4.0, 4, 4]: expected 1 or more of each, in whole num"),
        ({"kernel_size": "3"}, "kernel_size=['3', '3', '3']: expected 1 or more of each"),
        ({"pool": "yes"}, "pool=['yes', 'yes', 'yes']: expected False or True"),
        ({"dense_units": 16.0}, "dense_units=[16.0]: expected 1 or more of each"),
        ({"dropout": None}, "dropout=None: expected 0 or more and less than 1"),
        ({"order": None}, "order=None: expected 'relu', 'norm' and 'pool'"),
        ({"blocks": 32}, "blocks=32: expected one number per block, such as (32,)"),
        ({"filters": (4, 0, 4)}, "filters=[4, 0, 4]: expected 1 or more"),
        ({"kernel_size": 0}, "kernel_size=[0, 0, 0]: expected 1 or more"),
        ({"dense_units": (8, 0)}, "dense_units=[8, 0]: expected 1 or more"),
        ({"dropout": 1.0}, "dropout=1.0: expected 0 or more and less than 1"),
        ({"batch_norm_momentum": 1}, "batch_norm_momentum=1: expected 0 or more"),
        ({"padding": "full"}, "padding=['full', 'full', 'full']: expected 'same' or 'valid'"),
        ({"order": ("pool", "relu")}, "order=('pool', 'relu'): expected 'relu', 'norm' and 'pool'"),
        ({"filters": (4,) * 5, "pool": True}, "block 5 would leave no pixel of the image: take"),
        ({"filters": (4,) * 4, "pool": True, "padding": "valid"}, "block 4 would leave no pixel"),
        ({"blocks": ()}, "blocks=[]: expected filters, 1 or more, of each block"),
        ({"blocks": (4,), "dropout": 1}, "dropout=1: expected 0 or more"),
    ],
)
def test_arguments_that_make_no_network_are_named(arguments, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        build(arguments)


def test_sizes_may_be_numpys():
    sizes = {"filters": np.array([4, 4]), "kernel_size": np.int64(3), "dense_units": np.int32(8)}
    same = build_cnn((4, 4), kernel_size=3, dense_units=8, pool=True)
    assert layer_table(build_cnn(**sizes, pool=np.array([True, True]))) == layer_table(same)


def test_settings_of_another_project_stay_out(tmp_path):
    settings = {"image_data_format": "channels_first", "floatx": "float64", "backend": "torch"}
    (tmp_path / "keras.json").write_text(json.dumps(settings))
    code = "from src.models import build_cnn; print(build_cnn().output.dtype)"
    environ = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "jax"}
    said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environ, text=True)
    assert said.splitlines()[-1] == "float32"
    assert "image_data_format was channels_first" in said and "floatx was float64" in said


@SUFFIXES
def test_a_saved_model_predicts_the_same(suffix, trained, images, tmp_path):
    path = save_model(trained, tmp_path / "new" / f"model{suffix}")
    assert os.listdir(tmp_path / "new") == [path.name] == [f"model{suffix}"]
    loaded = load_model(str(path))
    assert not loaded.compiled
    assert layer_table(loaded) == layer_table(trained)
    np.testing.assert_allclose(loaded(images), trained(images), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_saved_weights_fit_the_same_network_only(trained, images, tmp_path):
    path, same = save_model(trained, tmp_path / "a.weights.h5"), small_cnn()
    same.load_weights(path)
    np.testing.assert_allclose(same(images), trained(images), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="could not be loaded"):
        small_cnn(dense_units=17).load_weights(path)
    with pytest.raises(ValueError, match="a.weights.h5: not a whole Keras model but weights"):
        load_model(path)


def test_files_are_known_by_what_they_hold_and_named_for_what_they_are(tmp_path):
    for ending in (".keras", ".h5"):
        path = save_model(tiny_cnn(), tmp_path / f"a{ending}")
        assert load_model(path.rename(tmp_path / f"A{ending.upper()}")).count_params() == 7_890
    with h5py.File(tmp_path / "A.H5", "a") as file:
        file.attrs["keras_version"] = b"2.2.4"
        file.attrs["model_config"] = b"{}"
    (tmp_path / "model.ckpt.index").touch()
    (tmp_path / "net.keras").mkdir()
    (tmp_path / "net.keras" / "saved_model.pb").touch()
    named = {"A.H5": "saved by Keras 2.2.4, which Keras 3", "model.ckpt": "a TensorFlow checkpoint"}
    named |= {"net.keras": "a SavedModel", "a.pth": "PyTorch's, expected a name ending in .onnx"}
    for name, said in named.items():
        with pytest.raises(ValueError, match=f"{name}: {said}") as error:
            load_model(tmp_path / name)
        assert len(str(error.value)) - len(str(tmp_path)) < 300


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
def test_a_saved_model_holds_no_optimiser_state(suffix, trained, tmp_path):
    own = trained.save_weights if "weights" in suffix else trained.save
    own(tmp_path / f"all{suffix}")
    save_model(trained, tmp_path / f"model{suffix}")
    found = {}
    for name in ("all", "model"):
        raw = (tmp_path / f"{name}{suffix}").read_bytes()
        if suffix == ".keras":
            raw = zipfile.ZipFile(io.BytesIO(raw)).read("model.weights.h5")
        with h5py.File(io.BytesIO(raw)) as file:
            found[name] = " ".join([*file, *file.attrs])
    assert "optimizer" in found["all"]
    assert "optimizer" not in found["model"] and "training" not in found["model"]
    assert trained.optimizer.variables  # the model itself keeps it


@SUFFIXES
@pytest.mark.parametrize(
    "damage", ["text", "half", "last bytes lost", "a byte changed", "an empty archive"]
)
def test_a_file_that_is_no_whole_model_is_named(damage, suffix, tmp_path):
    model = tiny_cnn()
    path = save_model(model, tmp_path / f"model{suffix}")
    raw = path.read_bytes()
    # a .keras file has a checksum of its weights, an .h5 file of nothing
    place = raw.index(model.get_weights()[0].tobytes() if suffix == ".keras" else b"HEAP")
    changed = raw[:place] + bytes([raw[place] ^ 255]) + raw[place + 1 :]
    no_network = io.BytesIO()
    zipfile.ZipFile(no_network, "w").close()
    content = {"text": b"hello\n", "half": raw[: len(raw) // 2], "last bytes lost": raw[:-30]}
    content |= {"a byte changed": changed, "an empty archive": no_network.getvalue()}
    path.write_bytes(content[damage])
    with pytest.raises(ValueError, match=f"model{suffix}: not a whole Keras model"):
        load_model(path)


@pytest.mark.parametrize(
    "shape, units, message",
    [
        ((32, 32, 1), 10, r"takes \(32, 32, 1\) to \(10,\), expected \(28, 28, 1\)"),
        ((28, 28, 1), 9, r"takes .* to \(9,\), expected .* to \(10,\)"),
        (None, 10, "not a whole Keras model"),
    ],
)
@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
def test_a_model_for_other_images_or_classes_is_refused(shape, units, message, tmp_path):
    flat = [keras.layers.Flatten(), keras.layers.Dense(units)]
    model = keras.Sequential([keras.Input(shape), *flat] if shape else flat)
    model.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=f"other.keras: {message}"):
        load_model(tmp_path / "other.keras")


def test_a_missing_model_an_export_and_another_ending_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt: .*\.keras.*\.h5"):
        save_model(tiny_cnn(), tmp_path / "model.pt")
    assert not os.listdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="absent.keras.*02_training"):
        load_model(tmp_path / "absent.keras")
    (tmp_path / "robust.onnx").write_bytes(b"whole")
    with pytest.raises(ValueError, match="robust.onnx: an export; `inference.open_model`"):
        load_model(tmp_path / "robust.onnx")


def test_your_own_result_is_opened_and_named(results, capsys):
    save_model(tiny_cnn(name="own"), results / "sample" / "models" / "fast.keras")
    assert models.open_result("fast.keras", "sample").name == "own"
    assert capsys.readouterr().out == "fast.keras\n"  # below no path that would name one's home
    assert models.open_result("fast.keras").count_params() == 55_170
    assert capsys.readouterr().out == "models/fast.keras\n"
