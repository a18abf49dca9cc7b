"""Training recipes as plain data: which network, trained how. `get_recipe` hands out copies.

The five reference systems and the keras.io example follow their own descriptions; what a
description leaves open is our choice and is listed in the field `ours`.
"""

import copy
import inspect
import json

import keras

from src.augmentation import augment
from src.models import build, build_cnn, build_resnet

DEFAULTS = {
    "about": "",
    "system": None,  # its letter among the five reference systems
    "reported": None,  # accuracy that the system's own description states
    "reported_on": "test",  # or "validation"
    "comparable": False,  # its description gives no sizes: ours are comparable, not the same
    "ours": "",  # what its description leaves open
    "network": {},  # arguments of build_cnn, or of build_resnet, which has `blocks`
    "loss": "sparse_categorical_crossentropy",  # or "categorical_crossentropy", one-hot labels
    "label_smoothing": 0.0,
    "optimizer": {"learning_rate": 1e-3},  # arguments of keras.optimizers.Adam
    "schedule": "constant",  # or "one_cycle": learning_rate is then its peak
    "batch_size": 64,
    "epochs": 20,
    "images": None,  # how many of the training images are used at all, stratified; None: all
    "validation": 0.2,  # share kept for validation, or of the project's one split: "select",
    # or "held_back" (the selection images are then fitted, too)
    "augmentation": {},  # arguments of augmentation.vary: rotation, scale, shear, shift, ...
    "early_stopping": {},  # arguments of keras.callbacks.EarlyStopping
    "reduce_lr": {},  # arguments of keras.callbacks.ReduceLROnPlateau
    "weight_average": None,  # momentum of a running average of the weights, used at the end
}
CHOICES = {
    "loss": ("sparse_categorical_crossentropy", "categorical_crossentropy"),
    "schedule": ("constant", "one_cycle"),
}
SHOWN = ("about", "system", "reported", "reported_on", "comparable")  # in tables
DESCRIBES = ("name", *SHOWN, "ours")  # fields that no training depends on
ONE_CYCLE = {
    "loss": "categorical_crossentropy", "label_smoothing": 0.05, "schedule": "one_cycle",
    "validation": "select",
}  # fmt: skip
LATE = ("pool", "norm", "relu")  # the cheap order of a block: pooling first
FIVE = {  # what `strong` and `champion` share
    "kernel_size": (5, 3, 3, 3, 3), "padding": ("valid", "same", "same", "same", "same"),
    "order": LATE, "batch_norm_momentum": 0.9, "dense_units": (), "dropout": 0.3,
}  # fmt: skip
FIVE_CYCLE = ONE_CYCLE | {"optimizer": {"learning_rate": 5e-3, "beta_1": 0.8, "beta_2": 0.95}}

RECIPES = {
    "three_conv_augmented": {
        "system": "A",
        "about": "three convolutions, each pooled; augmentation",
        "reported": "99.24%",
        "comparable": True,
        "ours": "filters 32-64-128, dense 128, dropout 0.5; rotation 10°, scale 10%, shift 2.8 px",
        "network": {"filters": (32, 64, 128), "pool": True, "batch_norm": False},
        "augmentation": {"rotation": 10, "scale": 0.1, "shift": 2.8},
    },
    "conv_dropout_stopped_early": {
        "system": "B",
        "about": "two convolutions with dropout; early stopping",
        "reported": "98%",
        "comparable": True,
        "ours": "filters 32-64, dense 128, dropout 0.25 and 0.5; patience 3, 20% validation",
        "network": {"filters": (32, 64), "pool": True, "batch_norm": False, "block_dropout": 0.25},
        "early_stopping": {"patience": 3},
    },
    "conv_batch_norm": {
        "system": "C",
        "about": "three convolutions with batch norm; learning rate cut on a plateau",
        "reported": "99.2%",
        "ours": "dropout 0.5; rate × 0.3 after 1 epoch without progress, stop after 2",
        "loss": "categorical_crossentropy",
        "early_stopping": {"patience": 2},
        "reduce_lr": {"factor": 0.3, "patience": 1},
    },
    "two_conv_plain": {
        "system": "D",
        "about": "two convolutions, dense 128; nothing else",
        "reported": "99.7%",
        "ours": "padding same, learning rate 0.001",
        "network": {"filters": (32, 64), "pool": True, "batch_norm": False, "dropout": 0.0},
        "loss": "categorical_crossentropy",
        "batch_size": 128,
        "epochs": 12,
        "validation": 0.1,
    },
    "kaggle_conv": {
        "system": "E",
        "about": "convolutions with dropout; 42,000 of MNIST's images, as many as Kaggle's",
        "reported": "98.9%",
        "reported_on": "validation",
        "comparable": True,
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
        "about": "one epoch of a small network",
        "network": {
            "filters": (16, 32), "kernel_size": (5, 3), "pool": True, "batch_norm": False,
            "order": LATE, "dense_units": 256, "dropout": 0.0, "padding": "valid",
        },
        **ONE_CYCLE,
        "optimizer": {"learning_rate": 1e-2, "beta_1": 0.7, "beta_2": 0.9},
        "batch_size": 128,
        "epochs": 1,
    },
    "fast": {
        "about": "two epochs, batch norm, light augmentation",
        "network": {
            "filters": (24, 48, 64), "kernel_size": (5, 3, 3), "pool": (True, True, False),
            "padding": ("valid", "valid", "same"), "order": LATE, "batch_norm_momentum": 0.9,
            "dense_units": (), "dropout": 0.2,
        },
        **ONE_CYCLE,
        "optimizer": {"learning_rate": 1e-2, "beta_1": 0.8, "beta_2": 0.95},
        "augmentation": {"rotation": 7, "scale": 0.05, "shift": 1},
        "batch_size": 128,
        "epochs": 2,
    },
    "strong": {
        "about": "five convolutions, augmentation",
        "network": {
            **FIVE, "filters": (32, 48, 48, 96, 128),
            "pool": (True, False, True, False, True),
        },
        **FIVE_CYCLE,
        "augmentation": {"rotation": 12, "scale": 0.1, "shear": 0.15, "shift": 2},
        "batch_size": 128,
        "epochs": 12,
    },
    "champion": {
        "about": "wider, global max pooling, stronger augmentation",
        "network": {
            **FIVE, "filters": (32, 64, 64, 128, 128),
            "pool": (True, False, True, False, False), "global_pool": True,
        },
        **FIVE_CYCLE,
        "augmentation": {"rotation": 15, "scale": 0.15, "shear": 0.2, "shift": 2.5},
        "batch_size": 128,
        "epochs": 24,
    },
    "robust": {
        "about": "champion's network, for pictures that are not MNIST's",
        "network": {
            **FIVE, "filters": (32, 64, 64, 128, 128),
            "pool": (True, False, True, False, False), "global_pool": True,
        },
        **FIVE_CYCLE,
        "augmentation": {
            "rotation": 15, "scale": 0.15, "shear": 0.2, "shift": 2.5, "thickness": 0.4,
            "spoil": 0.15, "outliers": 0.02,
        },
        "batch_size": 128,
        "epochs": 30,
    },
}  # fmt: skip

# Members of the ensemble, all trained in the same way but for the network, each for as many epochs
# as take about 600 seconds on 2 cores.
LONG = {
    **FIVE_CYCLE, "batch_size": 128,
    "augmentation": {"rotation": 15, "scale": 0.15, "shear": 0.2, "shift": 2.5},
}  # fmt: skip
MEMBERS = {
    "five_conv": LONG | {
        "about": "`strong`'s network, five convolutions",
        "network": RECIPES["strong"]["network"],
        "epochs": 36,
    },
    "vgg": LONG | {
        "about": "VGG-like: pairs of 3×3 convolutions, a dense layer",
        "network": {
            "filters": (24, 24, 48, 48, 96, 96), "pool": (False, True) * 3,
            "order": LATE, "batch_norm_momentum": 0.9, "dense_units": 128, "dropout": 0.3,
        },
        "epochs": 24,
    },
    "resnet": LONG | {
        "about": "ResNet-like: three residual blocks",
        "network": {"blocks": (32, 64, 128)},
        "epochs": 30,
    },
    "large_kernels": LONG | {
        "about": "three 5×5 convolutions without padding",
        "network": {
            "filters": (32, 80, 160), "kernel_size": 5, "padding": "valid",
            "pool": (True, False, False), "order": LATE, "batch_norm_momentum": 0.9,
            "dense_units": (), "dropout": 0.3,
        },
        "epochs": 36,
    },
}  # fmt: skip
# Small networks of `strong`'s kind, which learn from the ensemble; fit sees augmented images.
STUDENTS = {
    "student": LONG | {
        "about": "five narrower convolutions",
        "network": {
            **RECIPES["strong"]["network"], "filters": (24, 32, 32, 56, 72), "dropout": 0.1,
        },
        "epochs": 24,
    },
    "small_student": LONG | {
        "about": "five convolutions, narrower still",
        "network": {
            **RECIPES["strong"]["network"], "filters": (12, 16, 16, 28, 32), "dropout": 0.0,
        },
        "epochs": 24,
    },
}  # fmt: skip


# The ladder: (recipe, changes) of each step, which keeps the changes of the step before it, from
# system C's network for two epochs to `fast`. One-cycle goes with a peak ten times higher.
START = {"validation": "select", "epochs": 2, "early_stopping": None, "reduce_lr": None}
LARGER = START | {"batch_size": 128}
CYCLE = LARGER | {"schedule": "one_cycle", "optimizer": {"learning_rate": 1e-2}}
BETAS = CYCLE | {"optimizer": {"learning_rate": 1e-2, "beta_1": 0.8, "beta_2": 0.95}}
SETTLED = BETAS | {"network": {"batch_norm_momentum": 0.9}}
POOLED = BETAS | {"network": {"batch_norm_momentum": 0.9, "order": LATE}}
CONVOLUTIONAL = BETAS | {"network": {**POOLED["network"], "dense_units": (), "dropout": 0.2}}
VALID = {"kernel_size": (5, 3, 3), "padding": ("valid", "valid", "same")}
SMALLER = BETAS | {"network": {**CONVOLUTIONAL["network"], **VALID}}
LADDER = {  # STEP_WORDS, below, says them in words
    "start": ("conv_batch_norm", START),
    "batch_128": ("conv_batch_norm", LARGER),
    "one_cycle": ("conv_batch_norm", CYCLE),
    "shorter_memory": ("conv_batch_norm", BETAS),
    "batch_norm_momentum": ("conv_batch_norm", SETTLED),
    "pool_first": ("conv_batch_norm", POOLED),
    "no_dense_layer": ("conv_batch_norm", CONVOLUTIONAL),
    "valid_5x5": ("conv_batch_norm", SMALLER),
    "narrower_layers": ("fast", {"label_smoothing": 0.0, "augmentation": None}),
    "label_smoothing": ("fast", {"augmentation": None}),
    "fast": ("fast", {}),  # adds light augmentation
}
# Changes to `fast` that were tried, each on its own, and left out.
LEFT_OUT = {
    "weight_average": {"weight_average": 0.98},
    "smoothing_0.1": {"label_smoothing": 0.1},
    "batch_256": {"batch_size": 256},
    "three_epochs": {"epochs": 3},
    "no_dropout": {"network": {"dropout": 0.0}},
    "relu_first": {"network": {"order": ("relu", "pool", "norm")}},
    "strong_augmentation": {"augmentation": {"rotation": 12, "scale": 0.1, "shift": 2}},
    "erasing": {"augmentation": {"erase": 8}},
    "thickness": {"augmentation": {"thickness": 0.5}},
}
LADDER |= {f"fast_{name}": ("fast", changes) for name, changes in LEFT_OUT.items()}
LADDER["sprint"] = ("sprint", {})
STEP_WORDS = {
    "start": "system C's network for two epochs", "batch_128": "+ batches of 128, not 64",
    "one_cycle": "+ one-cycle, peak 0.01", "shorter_memory": "+ Adam forgets sooner",
    "batch_norm_momentum": "+ batch norm forgets sooner",
    "pool_first": "+ pooling before batch norm and ReLU",
    "no_dense_layer": "+ no dense layer, dropout 0.2",
    "valid_5x5": "+ first kernel 5x5, two layers unpadded", "narrower_layers": "+ fewer filters",
    "label_smoothing": "+ label smoothing 0.05", "fast": "+ light augmentation: fast",
    "fast_weight_average": "fast, weights averaged", "fast_batch_256": "fast, batches of 256",
    "fast_smoothing_0.1": "fast, label smoothing 0.1", "fast_three_epochs": "fast, three epochs",
    "fast_no_dropout": "fast, no dropout", "fast_relu_first": "fast, ReLU before pooling",
    "fast_strong_augmentation": "fast, more augmentation",
    "fast_erasing": "fast, squares erased", "fast_thickness": "fast, thicker, thinner strokes",
    "sprint": "sprint: another network, one epoch",
}  # fmt: skip


def get_recipe(name: str, **overrides) -> dict:
    """A copy of the recipe with every field, `overrides` in place of its own.

    An override of a field that is itself a dict (network, optimizer, augmentation, ...)
    changes the keys it names and keeps the others.
    Raises ValueError for an unknown recipe or field, or a value that a field does not take.
    """
    known = RECIPES | MEMBERS | STUDENTS
    if name not in known:
        raise ValueError(f"no recipe named {name!r}; there are {', '.join(known)}.")
    recipe = copy.deepcopy({**DEFAULTS, **known[name]})
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
    share = recipe["validation"]
    if share not in ("select", "held_back") and not (isinstance(share, float) and 0 < share < 1):
        raise ValueError(f"validation={share!r}: expected a share, 'select' or 'held_back'.")
    if recipe["images"] and not isinstance(share, float):
        raise ValueError(f"images: with validation={share!r}, all images are used; give a share.")
    if not 0 <= recipe["label_smoothing"] < 1:
        raise ValueError(f"label_smoothing={recipe['label_smoothing']}: expected 0 to below 1.")
    if recipe["label_smoothing"] and recipe["loss"] != "categorical_crossentropy":
        raise ValueError("label_smoothing: needs loss='categorical_crossentropy'.")
    network = build_resnet if "blocks" in recipe["network"] else build_cnn
    takes = {"network": network, "augmentation": augment, "optimizer": keras.optimizers.Adam}
    for field, function in takes.items():
        known = [n for n in inspect.signature(function).parameters if n not in ("images", "seed")]
        known += ["outliers"] * (field == "augmentation")
        unknown = sorted(set(recipe[field] or ()) - set(known))
        if unknown:
            raise ValueError(f"{field}: no argument {unknown[0]!r}; there are {', '.join(known)}.")
    build(recipe["network"])  # says itself what makes no network


def settings(recipe: dict) -> dict:
    """What of a recipe a training depends on, as JSON holds it."""
    return json.loads(json.dumps({k: v for k, v in recipe.items() if k not in DESCRIBES}))
