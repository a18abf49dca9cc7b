"""Recipes are data: complete, copied, checked."""

import pytest

from src import recipes
from src.models import build_cnn, layer_table, multiply_adds
from src.recipes import get_recipe


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_whole_and_builds_a_network(name):
    recipe = get_recipe(name)
    assert set(recipe) == {*recipes.DEFAULTS, "name"}
    assert recipe["about"] and recipe["name"] == name
    assert build_cnn(**recipe["network"]).output_shape == (None, 10)


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
    assert build_cnn(**get_recipe(name)["network"]).count_params() == parameters


def test_reference_systems_train_as_they_describe():
    a, c = get_recipe("three_conv_augmented"), get_recipe("conv_batch_norm")
    assert (a["epochs"], a["batch_size"], a["validation"]) == (20, 64, 0.2)
    assert a["loss"] == "sparse_categorical_crossentropy" and a["augmentation"]
    assert (c["epochs"], c["batch_size"], c["validation"]) == (20, 64, 0.2)
    assert c["loss"] == "categorical_crossentropy" and c["reduce_lr"] and c["early_stopping"]
    d = get_recipe("two_conv_plain")
    assert (d["epochs"], d["batch_size"], d["validation"]) == (12, 128, 0.1)
    assert get_recipe("kaggle_conv")["images"] == 42_000


@pytest.mark.parametrize("step", recipes.LADDER)
def test_every_step_of_the_ladder_is_a_recipe_scored_on_selection_images(step):
    name, changes = recipes.LADDER[step]
    recipe = get_recipe(name, **changes)
    assert recipe["validation"] == "select" and recipe["epochs"] <= 3
    assert not recipe["early_stopping"] and not recipe["reduce_lr"]


def test_the_step_before_label_smoothing_has_the_network_of_fast():
    name, changes = recipes.LADDER["valid_5x5"]
    before, fast = get_recipe(name, **changes), get_recipe("fast")
    network = build_cnn(**before["network"] | {"filters": fast["network"]["filters"]})
    layers = [(layer["kind"], layer["output"]) for layer in layer_table(network)]
    assert layers == [
        (layer["kind"], layer["output"]) for layer in layer_table(build_cnn(**fast["network"]))
    ]
    assert before["optimizer"] == fast["optimizer"] and before["epochs"] == fast["epochs"]
    assert before["batch_size"] == fast["batch_size"]


def test_overrides_replace_plain_fields_and_merge_into_dicts():
    recipe = get_recipe("fast", epochs=1, network={"dropout": 0.1})
    assert recipe["epochs"] == 1
    assert recipe["network"] == {**recipes.RECIPES["fast"]["network"], "dropout": 0.1}
    recipe["network"]["filters"] = (1,)
    assert get_recipe("fast")["network"]["filters"] == (24, 48, 64)


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        ("quick", {}, "no recipe named 'quick'; there are three_conv_augmented, "),
        ("fast", {"epoch": 1}, "no field named 'epoch'; there are about, "),
        ("fast", {"epochs": 0}, "epochs=0: expected a whole number, 1 or more"),
        ("fast", {"batch_size": 2.5}, "batch_size=2.5"),
        ("fast", {"loss": "mse"}, "loss='mse': expected one of sparse_cat"),
        ("fast", {"schedule": "warm"}, "schedule='warm': expected one of constant, one_cycle"),
        ("fast", {"validation": 1.0}, "validation=1.0: expected a share, 'select' or 'held_back'"),
        ("fast", {"label_smoothing": 1}, "label_smoothing=1"),
        ("fast", {"images": 5000}, "images: with validation='select', all images are used"),
        ("two_conv_plain", {"loss": "sparse_categorical_crossentropy", "label_smoothing": 0.1},
         "label_smoothing: needs loss='categorical_crossentropy'"),
        ("fast", {"network": {"layers": 3}}, "network: no argument 'layers'; there are filters"),
        ("fast", {"network": {"dropout": 1.0}}, "dropout=1.0: expected 0 or more and less"),
        ("fast", {"network": {"pool": (True,) * 2}}, "pool has 2 values for 3 filters"),
        ("fast", {"network": {"padding": ("same", "valid")}}, "padding has 2 values for 3"),
        ("fast", {"network": {"padding": "some"}}, "padding=['some', 'some', 'some']: expected"),
        ("fast", {"network": {"order": ("pool", "relu")}}, "order=('pool', 'relu'): expected"),
        ("fast", {"network": {"filters": (8,) * 6, "kernel_size": 3, "pool": True,
                              "padding": "same"}}, "block 5 would leave no pixel"),
        ("fast", {"augmentation": {"turn": 3}}, "augmentation: no argument 'turn'"),
        ("fast", {"augmentation": {"seed": 3}}, "augmentation: no argument 'seed'; there are rot"),
        ("fast", {"optimizer": {"rate": 3}}, "optimizer: no argument 'rate'; there are learning"),
    ],
)  # fmt: skip
def test_what_makes_no_training_is_named(name, overrides, message):
    with pytest.raises(ValueError) as error:
        get_recipe(name, **overrides)
    assert message in str(error.value)


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
