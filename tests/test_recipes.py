"""Recipes are data: complete, copied, checked."""

import dataclasses
import json

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


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("conv_batch_norm", 459_210),
        ("keras_io_convnet", 34_826),
        ("two_conv_plain", 421_642),
        ("sprint", 212_682),
        ("fast", 55_170),
    ],
)
def test_parameters_are_those_of_the_description(name, parameters):
    assert build_cnn(**get_recipe(name).network).count_params() == parameters


def test_reference_systems_train_as_they_describe():
    a, c = get_recipe("three_conv_augmented"), get_recipe("conv_batch_norm")
    assert (a.epochs, a.batch_size, a.validation) == (20, 64, 0.2)
    assert a.loss == "sparse_categorical_crossentropy" and a.augmentation
    assert (c.epochs, c.batch_size, c.validation) == (20, 64, 0.2)
    assert c.loss == "categorical_crossentropy" and c.reduce_lr and c.early_stopping
    d = get_recipe("two_conv_plain")
    assert (d.epochs, d.batch_size, d.validation) == (12, 128, 0.1)
    assert get_recipe("kaggle_conv").images == 42_000


def test_changes_replace_plain_fields_and_merge_into_dicts():
    recipe = get_recipe("fast", epochs=1, network={"dropout": 0.1}, augmentation=None)
    assert recipe.epochs == 1 and recipe.augmentation == {}
    assert recipe.network == {**recipes.RECIPES["fast"]["network"], "dropout": 0.1}
    recipe.network["filters"] = (1,)
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
        ("fast", {"label_smoothing": 1}, "label_smoothing=1"),
        ("fast", {"images": 5000}, "images: with validation='split', all are used; give a share"),
        ("fast", {"optimizer": "sgd"}, "optimizer='sgd': expected a dict of arguments."),
        ("fast", {"augmentation": True}, "augmentation=True: expected a dict of arguments."),
        ("two_conv_plain", {"loss": "sparse_categorical_crossentropy", "label_smoothing": 0.1},
         "label_smoothing: needs loss='categorical_crossentropy'"),
    ],
)  # fmt: skip
def test_what_makes_no_training_is_named(name, changes, message):
    with pytest.raises(ValueError) as error:
        get_recipe(name, **changes)
    assert message in str(error.value)


def test_a_recipe_of_ones_own_needs_a_network_alone():
    assert build(Recipe(network={"filters": (4,), "pool": True}).network).output_shape == (None, 10)


def test_multiply_adds_of_hand_counted_networks():
    # 28x28 places x 3x3x1x2 weights; then 14x14x2 values to 10
    network = build_cnn(filters=(2,), pool=True, batch_norm=False, dense_units=(), dropout=0)
    assert multiply_adds(network) == 28 * 28 * 9 * 2 + 14 * 14 * 2 * 10
    # valid padding leaves 24x24 places; global pooling leaves 4 values
    network = build_cnn(
        filters=(4,), kernel_size=5, padding="valid", pool=False, global_pool=True,
        dense_units=3, dropout=0,
    )  # fmt: skip
    assert multiply_adds(network) == 24 * 24 * 25 * 4 + 4 * 3 + 3 * 10
