"""Training recipes as plain data: which network, trained how. `get_recipe` hands out copies.

The five reference systems and the keras.io example follow their own descriptions; what a
description leaves open is our choice and is listed in the field `ours`.
"""

import copy
import inspect

from src.data import augment
from src.models import build_cnn

DEFAULTS = {
    "about": "",
    "reported": None,  # test accuracy that the system's own description states
    "ours": "",  # what its description leaves open
    "network": {},  # arguments of build_cnn
    "loss": "sparse_categorical_crossentropy",  # or "categorical_crossentropy", one-hot labels
    "label_smoothing": 0.0,
    "optimizer": {"learning_rate": 1e-3},  # arguments of keras.optimizers.Adam
    "schedule": "constant",  # or "one_cycle": learning_rate is then its peak
    "batch_size": 64,
    "epochs": 20,
    "images": None,  # how many of the training images are used at all, stratified; None: all
    "validation": 0.2,  # share kept for validation, or "select": the project's one split
    "augmentation": {},  # arguments of data.augment: rotation, scale, shear, shift
    "early_stopping": {},  # arguments of keras.callbacks.EarlyStopping
    "reduce_lr": {},  # arguments of keras.callbacks.ReduceLROnPlateau
    "weight_average": None,  # momentum of a running average of the weights, used at the end
}
CHOICES = {
    "loss": ("sparse_categorical_crossentropy", "categorical_crossentropy"),
    "schedule": ("constant", "one_cycle"),
}
ONE_CYCLE = {"loss": "categorical_crossentropy", "schedule": "one_cycle", "validation": "select"}
MODERN = {"activation_last": True, "batch_norm_momentum": 0.9, "dense_units": ()}

RECIPES = {
    "three_conv_augmented": {
        "about": "system A: three convolutions, each pooled; augmentation",
        "reported": 0.9924,
        "ours": "filters 32-64-128, dense 128, dropout 0.5; rotation 10°, scale 10%, shift 2.8 px",
        "network": {"filters": (32, 64, 128), "pool": True, "batch_norm": False},
        "augmentation": {"rotation": 10, "scale": 0.1, "shift": 2.8},
    },
    "conv_dropout_stopped_early": {
        "about": "system B: two convolutions with dropout; early stopping",
        "reported": 0.98,
        "ours": "filters 32-64, dense 128, dropout 0.25 and 0.5; patience 3, 20% validation",
        "network": {"filters": (32, 64), "pool": True, "batch_norm": False, "block_dropout": 0.25},
        "early_stopping": {"patience": 3},
    },
    "conv_batch_norm": {
        "about": "system C: three convolutions with batch norm; learning rate cut on a plateau",
        "reported": 0.992,
        "ours": "dropout 0.5; rate × 0.3 after 1 epoch without progress, stop after 2",
        "loss": "categorical_crossentropy",
        "early_stopping": {"patience": 2},
        "reduce_lr": {"factor": 0.3, "patience": 1},
    },
    "two_conv_plain": {
        "about": "system D: two convolutions, dense 128; nothing else",
        "reported": 0.997,
        "ours": "padding same, learning rate 0.001",
        "network": {"filters": (32, 64), "pool": True, "batch_norm": False, "dropout": 0.0},
        "loss": "categorical_crossentropy",
        "batch_size": 128,
        "epochs": 12,
        "validation": 0.1,
    },
    "kaggle_conv": {
        "about": "system E: convolutions with dropout on Kaggle's 42,000 images",
        "reported": 0.989,
        "ours": "filters 32-64, dense 128, dropout 0.25 and 0.5; batch 128, 12 epochs, 10% kept",
        "network": {"filters": (32, 64), "pool": True, "batch_norm": False, "block_dropout": 0.25},
        "loss": "categorical_crossentropy",
        "batch_size": 128,
        "epochs": 12,
        "images": 42_000,
        "validation": 0.1,
    },
    "keras_io_convnet": {
        "about": "the keras.io MNIST convnet: two convolutions, dropout 0.5",
        "network": {
            "filters": (32, 64), "padding": "valid", "pool": True, "batch_norm": False,
            "dense_units": (), "dropout": 0.5,
        },
        "loss": "categorical_crossentropy",
        "batch_size": 128,
        "epochs": 15,
        "validation": 0.1,
    },
    "sprint": {
        "about": "99% in about one epoch",
        "network": {
            "filters": (24, 32), "kernel_size": (5, 3), "pool": True, "batch_norm": False,
            "activation_last": True, "dense_units": 256, "dropout": 0.0, "padding": "valid",
        },
        **ONE_CYCLE,
        "optimizer": {"learning_rate": 1e-2, "beta_1": 0.7, "beta_2": 0.9},
        "batch_size": 256,
        "epochs": 1,
    },
    "fast": {
        "about": "two epochs of a small network with batch norm",
        "network": {
            **MODERN, "filters": (32, 64, 64), "kernel_size": (5, 3, 3), "dropout": 0.2,
            "pool": (True, True, False),
        },
        **ONE_CYCLE,
        "optimizer": {"learning_rate": 1e-2, "beta_1": 0.8, "beta_2": 0.95},
        "batch_size": 128,
        "epochs": 2,
    },
}  # fmt: skip


def get_recipe(name: str, **overrides) -> dict:
    """A copy of the recipe with every field, `overrides` in place of its own.

    An override of a field that is itself a dict (network, optimizer, augmentation, ...)
    changes the keys it names and keeps the others.
    Raises ValueError for an unknown recipe or field, or a value that a field does not take.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe named {name!r}; there are {', '.join(RECIPES)}.")
    recipe = copy.deepcopy({**DEFAULTS, **RECIPES[name]})
    for field, value in overrides.items():
        if field not in DEFAULTS:
            raise ValueError(f"no field named {field!r}; there are {', '.join(DEFAULTS)}.")
        merge = isinstance(DEFAULTS[field], dict) and isinstance(value, dict)
        recipe[field] = {**recipe[field], **value} if merge else value
    check_recipe(recipe)
    return recipe | {"name": name}


def check_recipe(recipe: dict) -> None:
    """ValueError naming the field whose value makes no training."""
    for field, allowed in CHOICES.items():
        if recipe[field] not in allowed:
            raise ValueError(f"{field}={recipe[field]!r}: expected one of {', '.join(allowed)}.")
    for field in ("batch_size", "epochs"):
        if not (isinstance(recipe[field], int) and recipe[field] >= 1):
            raise ValueError(f"{field}={recipe[field]!r}: expected a whole number, 1 or more.")
    if recipe["validation"] != "select" and not 0 < recipe["validation"] < 1:
        raise ValueError(f"validation={recipe['validation']!r}: expected a share or 'select'.")
    if not 0 <= recipe["label_smoothing"] < 1:
        raise ValueError(f"label_smoothing={recipe['label_smoothing']}: expected 0 to below 1.")
    if recipe["label_smoothing"] and recipe["loss"] != "categorical_crossentropy":
        raise ValueError("label_smoothing: needs loss='categorical_crossentropy'.")
    for field, function in (("network", build_cnn), ("augmentation", augment)):
        known = list(inspect.signature(function).parameters)
        unknown = sorted(set(recipe[field]) - set(known))
        if unknown:
            raise ValueError(f"{field}: no argument {unknown[0]!r}; there are {', '.join(known)}.")
    build_cnn(**recipe["network"])  # says itself what makes no network
