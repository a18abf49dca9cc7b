"""Networks: the CNN builder, residual blocks, a table of layers, saving and loading."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

from src import config
from src.config import CLASSES, DAMAGE, IMAGE_SHAPE


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

    A block is Conv2D, then, in the `order` given, ReLU, BatchNormalization (if `batch_norm`)
    and 2x2 max pooling (if `pool`), then dropout (`block_dropout`). ReLU after the pooling gives
    the same values for a quarter of the work. `kernel_size`, `padding` and `pool` take one value
    for all blocks or one per block; `dense_units` one size, several, or () for none. `dropout`
    comes after them; `global_pool` takes each filter's largest value in place of flattening.
    `batch_norm_momentum`: 0.99 needs a thousand steps or more to settle, 0.9 a hundred.
    Images (n, 28, 28, 1) in [0, 1] to probabilities (n, 10); 459,210 parameters by default.
    """
    dense_units = [dense_units] if isinstance(dense_units, int) else list(dense_units)
    blocks = _blocks(filters, kernel_size, padding, pool)
    rates = {"batch_norm_momentum": batch_norm_momentum, "block_dropout": block_dropout}
    _check({"dense_units": dense_units}, rates | {"dropout": dropout})
    if sorted(order) != ["norm", "pool", "relu"]:
        raise ValueError(f"order={order!r}: expected 'relu', 'norm' and 'pool', each once.")
    relu = "relu" if order[0] == "relu" else None  # then part of the convolution
    # batch norm right after a convolution would subtract its bias, and adds one of its own
    bias = not batch_norm or list(order).index("relu") < list(order).index("norm")
    inputs = x = keras.Input(IMAGE_SHAPE, name="image")
    for i, (count, kernel, padded, pooled) in enumerate(blocks, 1):
        x = layers.Conv2D(
            count, kernel, padding=padded, activation=relu, use_bias=bias, name=f"conv{i}"
        )(x)
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
    if not isinstance(filters, Sequence):
        raise ValueError(f"filters={filters}: expected one number per block, such as ({filters},).")
    each = {"filters": filters, "kernel_size": kernel_size, "padding": padding, "pool": pool}
    for name, value in each.items():
        if isinstance(value, str) or not isinstance(value, Sequence):
            each[name] = [value] * len(filters)
        elif len(value) != len(filters):
            raise ValueError(
                f"{name} has {len(value)} values for {len(filters)} filters: give one value for "
                "all blocks, or one per block."
            )
    _check({"filters": filters, "kernel_size": each["kernel_size"]}, {})
    if not set(each["padding"]) <= {"same", "valid"}:
        raise ValueError(f"padding={list(each['padding'])}: expected 'same' or 'valid'.")
    blocks, side = list(zip(*each.values(), strict=True)), IMAGE_SHAPE[0]
    for i, (_, kernel, padded, pooled) in enumerate(blocks, 1):
        side = side if padded == "same" else side - kernel + 1
        side = side // 2 if pooled else side
        if side < 1:
            raise ValueError(
                f"block {i} would leave no pixel of the image: take fewer blocks, a smaller "
                "kernel_size, padding='same', or pool=False there."
            )
    return blocks


def _check(sizes: dict, rates: dict) -> None:
    """ValueError naming a size below 1, or a rate outside 0 to 1."""
    for name, values in sizes.items():
        if any(value < 1 for value in values):
            raise ValueError(f"{name}={list(values)}: expected 1 or more of each.")
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name}={rate}: expected 0 or more and less than 1.")


def build_resnet(
    blocks: Sequence[int] = (32, 64, 128),
    batch_norm_momentum: float = 0.9,
    dropout: float = 0.3,
    name: str = "resnet",
) -> keras.Model:
    """Build residual blocks of so many filters each, then a softmax over the ten digits.

    A 3x3 convolution and 2x2 max pooling; then blocks of two 3x3 convolutions, each with batch
    norm, to which what went in is added (through a 1x1 convolution where its shape differs);
    all but the first halve height and width. Global average pooling, dropout and a dense layer
    of ten close it. He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016).
    """
    if not blocks or min(blocks) < 1:
        raise ValueError(f"blocks={list(blocks)}: expected filters, 1 or more, of each block.")
    _check({}, {"batch_norm_momentum": batch_norm_momentum, "dropout": dropout})

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
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.Dense):
            positions = math.prod(layer.output.shape[1:-1])  # 1 for a dense layer
            total += positions * math.prod(layer.kernel.shape)
    return total


def layer_table(model: keras.Model) -> list[dict]:
    """Describe each layer: name, kind, output shape without the batch axis, parameters."""
    rows = []
    for layer in model.layers:
        output = " × ".join(map(str, layer.output.shape[1:]))
        row = {"layer": layer.name, "kind": type(layer).__name__, "output": output}
        rows.append(row | {"parameters": layer.count_params()})
    return rows


def save_model(model: keras.Model, path: str | Path) -> Path:
    """Write the model without optimiser state; an earlier file stays whole until then.

    The name's ending tells the format: `.keras`, `.weights.h5` (weights alone), or `.h5`.
    """
    path = Path(path)
    if path.suffix not in (".keras", ".h5"):
        raise ValueError(f"{path.name}: expected a name ending in .keras, .weights.h5 or .h5.")
    bare = type(model).from_config(model.get_config())  # not compiled, so it has no optimiser
    bare.set_weights(model.get_weights())
    with config.replacing(path) as partial:
        save = bare.save_weights if path.name.endswith(".weights.h5") else bare.save
        save(partial)
    return path


def load_model(path: str | Path) -> keras.Model:
    """Load a saved model of digits, ready to predict (not compiled).

    Open only files that you trust: Keras' safe mode lowers the risk of running code hidden in a
    model file, it does not remove it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; 02_training writes your own, "
            "`git restore models` brings back the published ones."
        )
    if path.suffix in (".onnx", ".tflite"):
        raise ValueError(f"{path}: an export; `inference.open_model` opens it, Keras does not.")
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:  # not every Python's reading checks the sums
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(damaged)
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        takes, gives = model.input_shape[1:], model.output_shape[1:]
    except DAMAGE as error:
        raise ValueError(
            f"{path}: not a whole Keras model ({type(error).__name__}): train or get it again."
        ) from error
    config.check_network(takes, gives, str(path))
    return model


def open_result(name: str, source: str = "mnist") -> keras.Model:
    """Load your own network of that name, else the published one, and print which."""
    path = config.find_result(name, source=source)
    print(config.display_path(path))
    return load_model(path)
