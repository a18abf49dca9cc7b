"""The CNN builder, a table of its layers, and saving and loading."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import keras
from keras import layers

from src.config import CLASSES, IMAGE_SHAPE, replacing

READ_ERRORS = (  # RuntimeError comes from h5py, AttributeError from a model that was never built
    *(OSError, ValueError, TypeError, KeyError),
    *(AttributeError, RuntimeError, zipfile.BadZipFile),
)


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
    """Convolution blocks, then dense layers, then a softmax over the ten digits.

    A block is Conv2D, then, in the `order` given, ReLU, BatchNormalization (if `batch_norm`)
    and 2x2 max pooling (if `pool`), then dropout (`block_dropout`). ReLU after the pooling
    gives the same values for a quarter of the work; batch norm after it takes a quarter of
    the time. `global_pool` takes each filter's largest value in place of flattening.
    `kernel_size`, `padding` and `pool` take one value for all blocks or one per block.
    `dense_units` may be one size, several, or () for none; `dropout` comes after the last of
    them. `batch_norm_momentum` is how much of its running mean and variance batch
    normalisation keeps at each step: 0.99 needs a thousand steps or more to settle, 0.9 a
    hundred. The defaults give 459,210 parameters, 458,890 of them trainable.

    Input float32 (n, 28, 28, 1) in [0, 1], output float32 (n, 10), rows summing to 1.
    Raises ValueError naming the argument that makes no network.
    """
    dense_units = [dense_units] if isinstance(dense_units, int) else list(dense_units)
    blocks = _blocks(filters, kernel_size, padding, pool)
    _check_arguments(blocks, dense_units, order)
    _check_rates(
        batch_norm_momentum=batch_norm_momentum, block_dropout=block_dropout, dropout=dropout
    )

    momentum = batch_norm_momentum if batch_norm else None
    inputs = x = keras.Input(IMAGE_SHAPE, name="image")
    for i, block in enumerate(blocks, 1):
        for layer in _block_layers(i, *block, order, momentum, block_dropout):
            x = layer(x)
    x = (
        layers.GlobalMaxPooling2D(name="global_pool")(x)
        if global_pool
        else layers.Flatten(name="flatten")(x)
    )
    for i, units in enumerate(dense_units, 1):
        x = layers.Dense(units, activation="relu", name=f"dense{i}")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="output")(x)
    return keras.Model(inputs, outputs, name=name)


def _block_layers(
    i: int, filters: int, kernel: int, padding: str, pooled: bool, order: Sequence[str],
    momentum: float | None, dropout: float,
) -> list[keras.layers.Layer]:  # fmt: skip
    """The layers of the i-th block of build_cnn; no batch norm without a `momentum`."""
    first = order[0] == "relu"  # then part of the convolution
    centred = momentum is not None and list(order).index("norm") < list(order).index("relu")
    made = [
        layers.Conv2D(
            filters,
            kernel,
            padding=padding,
            activation="relu" if first else None,
            use_bias=not centred,  # batch norm takes it off and adds one of its own
            name=f"conv{i}",
        )
    ]
    for step in order:
        if step == "norm" and momentum is not None:
            made.append(layers.BatchNormalization(momentum=momentum, name=f"bn{i}"))
        elif step == "pool" and pooled:
            made.append(layers.MaxPooling2D(2, name=f"pool{i}"))
        elif step == "relu" and not first:
            made.append(layers.ReLU(name=f"relu{i}"))
    return made + [layers.Dropout(dropout, name=f"block_dropout{i}")] * (dropout > 0)


def build_resnet(
    blocks: Sequence[int] = (32, 64, 128),
    batch_norm_momentum: float = 0.9,
    dropout: float = 0.3,
    name: str = "resnet",
) -> keras.Model:
    """Residual blocks of so many filters each, then a softmax over the ten digits.

    A 3x3 convolution of blocks[0] filters and 2x2 max pooling; then blocks of two 3x3
    convolutions, each with batch norm, to which what went in is added (through a 1x1
    convolution where its shape differs); all but the first halve height and width. The mean
    over all places, dropout and a dense layer of ten close it.
    After He, Zhang, Ren and Sun, "Deep residual learning for image recognition" (2016).

    Input float32 (n, 28, 28, 1) in [0, 1], output float32 (n, 10), rows summing to 1.
    Raises ValueError naming the argument that makes no network.
    """
    if not blocks or min(blocks) < 1:
        raise ValueError(f"blocks={list(blocks)}: expected filters, 1 or more, of each block.")
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
    """The network that a recipe describes: build_resnet where it names `blocks`, else
    build_cnn."""
    return (build_resnet if "blocks" in network else build_cnn)(**network)


def _blocks(filters: Sequence[int], kernel_size, padding, pool) -> list[tuple]:
    """(filters, kernel size, padding, pool) of each block."""
    columns = [filters]
    for name, value in (("kernel_size", kernel_size), ("padding", padding), ("pool", pool)):
        one = isinstance(value, str) or not isinstance(value, Sequence)
        columns.append([value] * len(filters) if one else value)
        if len(columns[-1]) != len(filters):
            raise ValueError(
                f"{name} has {len(value)} values for {len(filters)} filters: give one value for "
                "all blocks, or one per block."
            )
    return list(zip(*columns, strict=True))


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name}={rate}: expected 0 or more and less than 1.")


def _check_arguments(blocks: list[tuple], dense_units, order: Sequence[str]) -> None:
    filters, kernels, paddings, pools = zip(*blocks, strict=True) if blocks else [()] * 4
    sizes = {"filters": filters, "kernel_size": kernels, "dense_units": dense_units}
    for name, values in sizes.items():
        if any(value < 1 for value in values):
            raise ValueError(f"{name}={list(values)}: expected 1 or more of each.")
    if not set(paddings) <= {"same", "valid"}:
        raise ValueError(f"padding={list(paddings)}: expected 'same' or 'valid'.")
    if sorted(order) != ["norm", "pool", "relu"]:
        raise ValueError(f"order={order!r}: expected 'relu', 'norm' and 'pool', each once.")
    side = IMAGE_SHAPE[0]
    for i, (kernel, padding, pooled) in enumerate(zip(kernels, paddings, pools, strict=True), 1):
        side = side if padding == "same" else side - kernel + 1
        side = side // 2 if pooled else side
        if side < 1:
            raise ValueError(
                f"block {i} would leave no pixel of the image: take fewer blocks, a smaller "
                "kernel_size, padding='same', or pool=False there."
            )


def multiply_adds(model: keras.Model) -> int:
    """Multiplications (each with an addition) that the convolutions and dense layers take for
    one image; the rest is small beside them."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.Dense):
            positions = math.prod(layer.output.shape[1:-1])  # 1 for a dense layer
            total += positions * math.prod(layer.kernel.shape)
    return total


def layer_table(model: keras.Model) -> list[dict]:
    """One dict per layer: name, kind, output shape without the batch axis, parameters."""
    return [
        {
            "layer": layer.name,
            "kind": type(layer).__name__,
            "output": " × ".join(str(size) for size in layer.output.shape[1:]),
            "parameters": layer.count_params(),
        }
        for layer in model.layers
    ]


def save_model(model: keras.Model, path: str | Path) -> Path:
    """Write the model without optimiser state, in the format that the name's ending tells:
    `.keras`, `.weights.h5` (weights alone), or `.h5` (the legacy format).

    The file is written beside its place and then moved there, so that an interrupted save
    leaves an earlier file whole. Raises ValueError for another ending.
    """
    path = Path(path)
    if path.suffix not in (".keras", ".h5"):
        raise ValueError(f"{path.name}: expected a name ending in .keras, .weights.h5 or .h5.")
    bare = type(model).from_config(model.get_config())  # not compiled, so it has no optimiser
    bare.set_weights(model.get_weights())
    with replacing(path) as partial:
        if path.name.endswith(".weights.h5"):
            bare.save_weights(partial)
        else:
            bare.save(partial)
    return path


def load_model(path: str | Path) -> keras.Model:
    """A saved model, ready to predict (not compiled).

    Raises FileNotFoundError, or ValueError where the file is not a Keras model or does not
    take (28, 28, 1) images to ten outputs. Open only files that you trust: Keras' safe mode
    lowers the risk of running code hidden in a model file, it does not remove it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"{path}: no such file; 02_training writes your own, `git "
            "restore models` brings back the published ones."
        )
    if path.suffix in (".onnx", ".tflite"):
        raise ValueError(f"{path}: an export; `inference.open_model` opens it, Keras does not.")
    try:
        if path.suffix == ".keras":
            _check_archive(path)
        model = keras.models.load_model(path, compile=False, safe_mode=True)
        takes, gives = model.input_shape[1:], model.output_shape[1:]
    except READ_ERRORS as error:
        raise ValueError(
            f"{path}: not a whole Keras model ({type(error).__name__}): train or get it again."
        ) from error
    if takes != IMAGE_SHAPE or gives != (CLASSES,):
        raise ValueError(
            f"{path}: takes {takes} to {gives}, expected {IMAGE_SHAPE} to ({CLASSES},)."
        )
    return model


def _check_archive(path: Path) -> None:
    """BadZipFile unless each member's checksum is right; not every Python's reading checks it."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(damaged)
