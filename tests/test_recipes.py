"""Recipes are data: complete, copied, checked."""

import dataclasses
import json

import numpy as np
import pytest

from src import recipes
from src.models import build, build_cnn, multiply_adds
from src.recipes import Recipe, get_recipe


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_builds_a_network_and_its_settings_are_json(name):
    recipe = get_recipe(name)
    assert recipe.about and recipe.name == name
    assert build(recipe.network).output_shape == (None, 10)
    settings = recipe.settings()
    assert json.loads(json.dumps(settings)) == settings
    assert not {"name", "about", "ours", "reported"} & set(settings)


def test_reference_systems_are_as_they_describe():
    names = ("conv_batch_norm", "keras_io_convnet", "two_conv_plain", "sprint", "fast")
    networks = [build_cnn(**get_recipe(name).network) for name in names]
    counts = [network.count_params() for network in networks]
    assert counts == [459_210, 34_826, 421_642, 212_682, 55_170]
    a, c = get_recipe("three_conv_augmented"), get_recipe("conv_batch_norm")
    for recipe in (a, c):
        assert (recipe.epochs, recipe.batch_size, recipe.validation) == (20, 64, 0.2)
    assert a.loss == "sparse_categorical_crossentropy" and a.augmentation
    assert c.loss == "categorical_crossentropy" and c.reduce_lr and c.early_stopping
    d = get_recipe("two_conv_plain")
    assert (d.epochs, d.batch_size, d.validation) == (12, 128, 0.1)
    assert get_recipe("kaggle_conv").images == 42_000


def test_changes_replace_plain_fields_and_merge_into_dicts():
    recipe = get_recipe("fast", epochs=1, network={"dropout": 0.1}, augmentation=None)
    assert recipe.epochs == 1 and recipe.augmentation == {}
    assert recipe.network == {**recipes.RECIPES["fast"]["network"], "dropout": 0.1}
    sizes = {"epochs": np.int64(3), "images": np.int32(100)}
    assert get_recipe("fast", **sizes).settings() | sizes == get_recipe("fast", **sizes).settings()
    recipe.network["filters"].append(1)
    assert get_recipe("fast").network["filters"] == [24, 48, 64]
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 2


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("quick", {}, "no recipe named 'quick'; there are three_conv_augmented, "),
        ("fast", {"epoch": 1}, "no field named 'epoch'; there are name, about, "),
        ("fast", {"epochs": 0}, "epochs=0: expected a whole number, 1 or more"),
        ("fast", {"batch_size": 2.5}, "batch_size=2.5"),
        ("fast", {"loss": "mse"}, "loss='mse': expected one of sparse_cat"),
        ("fast", {"schedule": "warm"}, "schedule='warm': expected one of constant, one_cycle"),
        ("fast", {"validation": 1.0}, "validation=1.0: expected a share, 'split' or 'held_back'"),
        ("fast", {"label_smoothing": 1}, "label_smoothing=1: expected 0 to below 1."),
        ("fast", {"label_smoothing": "0.1"}, "label_smoothing='0.1': expected 0 to below 1."),
        ("fast", {"weight_average": 2}, "weight_average=2: expected 0 to below 1, or None."),
        ("fast", {"images": -5}, "images=-5: expected a whole number, 1 or more, or None for all."),
        ("fast", {"epochs": True}, "epochs=True: expected a whole number"),
        ("fast", {"optimizer": "sgd"}, "optimizer='sgd': expected a dict of Adam's arguments"),
        ("fast", {"optimizer": {"learning_rate": "a"}}, "expected a dict of Adam's arguments"),
        ("fast", {"augmentation": True}, "augmentation=True: expected a dict of arguments."),
        ("fast", {"network": None}, "network=None: expected a dict of arguments."),
        ("two_conv_plain", {"loss": "sparse_categorical_crossentropy", "label_smoothing": 0.1},
         "label_smoothing: needs loss='categorical_crossentropy'"),
    ],
)  # fmt: skip
def test_what_makes_no_training_is_named(name, changes, message):
    with pytest.raises(ValueError) as error:
        get_recipe(name, **changes)
    assert message in str(error.value)


def test_multiply_adds_of_a_hand_counted_network():
    # 28x28 places x 3x3x1x2 weights; then 14x14x2 values to 10
    recipe = Recipe(network={"filters": (2,), "pool": True, "dense_units": (), "dropout": 0})
    assert multiply_adds(build(recipe.network)) == 28 * 28 * 9 * 2 + 14 * 14 * 2 * 10
