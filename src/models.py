"""Networks: the CNN builder, residual blocks, a table of layers, saving and loading."""

import math
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import h5py
import keras
import numpy as np
from keras import layers

from src import config
from src.config import CLASSES, DAMAGE, IMAGE_SHAPE, expect, is_count, is_share

SEVERAL = (list, tuple, np.ndarray)

if (_found := keras.backend.backend()) != "tensorflow":
    raise ImportError(f"Keras runs on {_found}: restart Python, and import src before keras.")
for _name, _needed in {"image_data_format": "channels_last", "floatx": "float32"}.items():
    if (_found := getattr(keras.config, _name)()) != _needed:  # by a keras.json of other projects
        print(f"Keras' {_name} was {_found}: here it is {_needed}.")
        getattr(keras.config, f"set_{_name}")(_needed)


def build_cnn(
    filters: Sequence[int] = (32, 64, 64),
    kernel_size: int | Sequence[int] = 3,
    padding: str | Sequence[str] = "same",
    pool: bool | Sequence[bool] = (True, True, False),
    batch_norm: bool = True,
    batch_norm_momentum: float = 0.99,
    order: Sequence[str] = ("relu", "norm", "pool"),
    block_dropout: float = 0.0,
    global_pool: bool = False,
    dense_units: int | Sequence[int] = 128,
    dropout: float = 0.5,
    name: str = "mnist_cnn",
) -> keras.Model:
    """Build convolution blocks, then dense layers, then a softmax over the ten digits.

    A block is Conv2D; in the `order` given ReLU, BatchNormalization (if `batch_norm`) and 2x2 max
    pooling (if `pool`); then dropout (`block_dropout`). ReLU after pooling gives the same values
    for a quarter of the work. `kernel_size`, `padding` and `pool` are one value or one per block,
    `dense_units` one size, several, or () for none; `dropout` follows them. `global_pool` takes
    each filter's largest value in place of flattening. `batch_norm_momentum` 0.99 needs a
    thousand steps or more to settle, 0.9 a hundred. Images (n, 28, 28, 1) in [0, 1] to
    probabilities (n, 10); 459,210 parameters by default.
    """
    blocks = _blocks(filters, kernel_size, padding, pool)
    dense_units = dense_units if isinstance(dense_units, SEVERAL) else [dense_units]
    dense_units = _sizes("dense_units", dense_units)
    _check_rates(
        batch_norm_momentum=batch_norm_momentum, block_dropout=block_dropout, dropout=dropout
    )
    in_order = isinstance(order, SEVERAL) and sorted(map(str, order)) == ["norm", "pool", "relu"]
    expect(in_order, "order", order, "'relu', 'norm' and 'pool', each once")
    relu = "relu" if order[0] == "relu" else None  # then part of the convolution
    # batch norm right after a convolution would subtract its bias, and adds one of its own
    bias = not batch_norm or list(order).index("relu") < list(order).index("norm")
    inputs = x = keras.Input(IMAGE_SHAPE, name="image")
    for i, (count, kernel, padded, pooled) in enumerate(blocks, 1):
        side = x.shape[1] if padded == "same" else x.shape[1] - kernel + 1
        if side < (2 if pooled else 1):
            ways = "fewer blocks, a smaller kernel_size, padding='same', or pool=False there"
            raise ValueError(f"block {i} would leave no pixel of the image: take {ways}.")
        how = {"padding": padded, "activation": relu, "use_bias": bias}
        x = layers.Conv2D(count, kernel, **how, name=f"conv{i}")(x)
        for step in order:
            if step == "norm" and batch_norm:
                x = layers.BatchNormalization(momentum=batch_norm_momentum, name=f"bn{i}")(x)
            elif step == "pool" and pooled:
                x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
            elif step == "relu" and not relu:
                x = layers.ReLU(name=f"relu{i}")(x)
        if block_dropout:
            x = layers.Dropout(block_dropout, name=f"block_dropout{i}")(x)
    flat = layers.GlobalMaxPooling2D if global_pool else layers.Flatten
    x = flat(name="global_pool" if global_pool else "flatten")(x)
    for i, units in enumerate(dense_units, 1):
        x = layers.Dense(units, activation="relu", name=f"dense{i}")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax", name="output")(x), name=name)


def _blocks(filters: Sequence[int], kernel_size, padding, pool) -> list[tuple]:
    """List (filters, kernel size, padding, pool) of each block, checked."""
    filters = _sizes("filters", filters)
    each = {"kernel_size": kernel_size, "padding": padding, "pool": pool}
    for name, value in each.items():
        each[name] = list(value) if isinstance(value, SEVERAL) else [value] * len(filters)
        if len(each[name]) != len(filters):
            found = f"{len(value)} values for {len(filters)} filters"
            raise ValueError(f"{name} has {found}: give one value for all, or one per block.")
    each["kernel_size"] = _sizes("kernel_size", each["kernel_size"])
    for name, known in {"padding": ["same", "valid"], "pool": [False, True]}.items():
        right, ways = all(one in known for one in each[name]), " or ".join(map(repr, known))
        expect(right, name, each[name], ways)
    return list(zip(filters, *each.values(), strict=True))


def _sizes(name: str, sizes) -> list[int]:
    """Return sizes, Python's or numpy's whole numbers, as a list, checked."""
    example = f"one number per block, such as ({sizes},)"
    expect(isinstance(sizes, SEVERAL), name, sizes, example)
    expect(all(map(is_count, sizes)), name, list(sizes), "1 or more of each, in whole numbers")
    return [int(size) for size in sizes]


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        expect(is_share(rate), name, rate, "0 or more and less than 1")


def build_resnet(
    blocks=(32, 64, 128), batch_norm_momentum=0.9, dropout=0.3, name="resnet"
) -> keras.Model:
    """Build residual blocks of so many filters each, then a softmax over the ten digits.

    A block adds what goes in (through a 1x1 convolution where its shape differs) to what two 3x3
    convolutions with batch norm make of it; all but the first halve height and width.
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016).
    """
    blocks = _sizes("blocks", blocks)
    expect(blocks, "blocks", blocks, "filters, 1 or more, of each block")
    _check_rates(batch_norm_momentum=batch_norm_momentum, dropout=dropout)

    def convolve(x, filters, size, strides, name):
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False, name=f"conv{name}")(x)
        return layers.BatchNormalization(momentum=batch_norm_momentum, name=f"bn{name}")(x)

    inputs = keras.Input(IMAGE_SHAPE, name="image")
    x = convolve(inputs, blocks[0], 3, 1, "0")
    x = layers.ReLU(name="relu0")(layers.MaxPooling2D(2, name="pool0")(x))
    for i, filters in enumerate(blocks, 1):
        strides = 1 if i == 1 else 2
        y = layers.ReLU(name=f"relu{i}a")(convolve(x, filters, 3, strides, f"{i}a"))
        y = convolve(y, filters, 3, 1, f"{i}b")
        if x.shape != y.shape:
            x = convolve(x, filters, 1, strides, f"{i}c")
        x = layers.ReLU(name=f"relu{i}")(layers.Add(name=f"add{i}")([x, y]))
    x = layers.GlobalAveragePooling2D(name="global_pool")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return keras.Model(inputs, layers.Dense(CLASSES, "softmax", name="output")(x), name=name)


def build(network: dict) -> keras.Model:
    """Build a recipe's network: by build_resnet where it names `blocks`, else by build_cnn."""
    return (build_resnet if "blocks" in network else build_cnn)(**network)


def multiply_adds(model: keras.Model) -> int:
    """Count the multiply-adds of convolutions and dense layers for one image."""
    counted = [one for one in model.layers if isinstance(one, layers.Conv2D | layers.Dense)]
    # weights times places, of which a dense layer has one
    return sum(math.prod(one.kernel.shape + one.output.shape[1:-1]) for one in counted)


def layer_table(model: keras.Model) -> list[dict]:
    """Describe each layer: name, kind, output shape without the batch axis, parameters."""
    rows = []
    for layer in model.layers:
        output = " × ".join(map(str, layer.output.shape[1:]))
        row = {"layer": layer.name, "kind": type(layer).__name__, "output": output}
        rows.append(row | {"parameters": layer.count_params()})
    return rows


def save_model(model: keras.Model, path: str | Path) -> Path:
    """Write a model, or weights alone (.weights.h5), without optimiser state: whole, or not."""
    path = Path(path)
    if path.suffix not in (".keras", ".h5"):
        raise ValueError(f"{path.name}: expected a name ending in .keras, .weights.h5 or .h5.")
    bare = type(model).from_config(model.get_config())  # not compiled, so it has no optimiser
    bare.set_weights(model.get_weights())
    save = bare.save_weights if path.name.endswith(".weights.h5") else bare.save
    with config.replacing(path) as partial:
        save(partial)
    return path


def load_model(path: str | Path) -> keras.Model:
    """Load a saved model of digits, ready to predict (not compiled).

    Open only files that you trust: Keras' safe mode does not rule out that they run code.
    """
    path = config.check_model_file(path)
    if path.suffix.lower() in (".onnx", ".tflite"):
        raise ValueError(f"{path}: an export; `inference.open_model` opens it, Keras does not.")
    try:
        ending = ".keras" if zipfile.is_zipfile(path) else ".h5"  # whatever it is called
        if ending == ".keras":
            with zipfile.ZipFile(path) as archive:  # not every Python's reading checks the sums
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            copied = shutil.copy(path, Path(folder, f"model{ending}"))  # Keras goes by the name
            model = keras.models.load_model(copied, compile=False, safe_mode=True)
        takes, gives = model.input_shape[1:], model.output_shape[1:]
    except DAMAGE as error:
        raise ValueError(f"{path}: {_fault(path, error)}.") from error
    config.check_network(takes, gives, str(path))
    return model


def _fault(path: Path, error: Exception) -> str:
    """Say why Keras opens no model: weights alone, another Keras' file, or not a whole one."""
    reason = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:110]
    if h5py.is_hdf5(path):
        with suppress(*DAMAGE), h5py.File(path) as file:
            held, saved = {*file, *file.attrs}, file.attrs.get("keras_version", "")
            saved = saved.decode() if isinstance(saved, bytes) else saved  # older ones hold bytes
            if "model_config" not in held and held & {"layer_names", "layers"}:
                return "not a whole Keras model but weights: build their network, then load_weights"
            if saved not in ("", keras.__version__):
                other = f"saved by Keras {saved}, which Keras {keras.__version__} can't read"
                return f"{other} ({reason}): save its weights there, and build the network here"
    return f"not a whole Keras model, or one with code of its own ({reason}): train or get it again"


def open_result(name: str, source: str = "mnist") -> keras.Model:
    """Load your own network of that name, else the published one, and print which."""
    path = config.find_result(name, source=source)
    print(config.display_path(path))
    return load_model(path)
