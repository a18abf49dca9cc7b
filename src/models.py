"""Networks: the CNN builder, residual blocks, a table of layers, saving and loading."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

from src import config
from src.config import CLASSES, DAMAGE, IMAGE_SHAPE, expect


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
    dense_units = [dense_units] if isinstance(dense_units, int) else list(dense_units)
    expect(min(dense_units, default=1) >= 1, "dense_units", dense_units, "1 or more of each")
    _check_rates(
        batch_norm_momentum=batch_norm_momentum, block_dropout=block_dropout, dropout=dropout
    )
    in_order = sorted(order) == ["norm", "pool", "relu"]
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
    many = isinstance(filters, Sequence)
    expect(many, "filters", filters, f"one number per block, such as ({filters},)")
    each = {"filters": filters, "kernel_size": kernel_size, "padding": padding, "pool": pool}
    for name, value in each.items():
        if isinstance(value, str) or not isinstance(value, Sequence):
            each[name] = [value] * len(filters)
        elif len(value) != len(filters):
            found = f"{len(value)} values for {len(filters)} filters"
            raise ValueError(
                f"{name} has {found}: give one value for all blocks, or one per block."
            )
    for name in ("filters", "kernel_size"):
        sizes = list(each[name])
        expect(min(sizes, default=1) >= 1, name, sizes, "1 or more of each")
    known = set(each["padding"]) <= {"same", "valid"}
    expect(known, "padding", list(each["padding"]), "'same' or 'valid'")
    return list(zip(*each.values(), strict=True))


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        expect(0 <= rate < 1, name, rate, "0 or more and less than 1")


def build_resnet(
    blocks=(32, 64, 128), batch_norm_momentum=0.9, dropout=0.3, name="resnet"
) -> keras.Model:
    """Build residual blocks of so many filters each, then a softmax over the ten digits.

    A block adds what goes in (through a 1x1 convolution where its shape differs) to what two 3x3
    convolutions with batch norm make of it; all but the first halve height and width.
    He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016).
    """
    whole = blocks and min(blocks) >= 1
    expect(whole, "blocks", list(blocks), "filters, 1 or more, of each block")
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
    path = Path(path)
    if not path.exists():
        ways = "02_training writes your own, `git restore models` brings back the published ones"
        raise FileNotFoundError(f"{path}: no such file; {ways}.")
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
        reason = f"not a whole Keras model ({type(error).__name__})"
        raise ValueError(f"{path}: {reason}: train or get it again.") from error
    config.check_network(takes, gives, str(path))
    return model


def open_result(name: str, source: str = "mnist") -> keras.Model:
    """Load your own network of that name, else the published one, and print which."""
    path = config.find_result(name, source=source)
    print(config.display_path(path))
    return load_model(path)
