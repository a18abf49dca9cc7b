"""Attacks reach the worst case where it is known, and looking inside finds the right place."""

import keras
import numpy as np
import pytest

from src import explain, models

IMAGES = np.random.default_rng(0).uniform(0.4, 0.6, (30, 28, 28, 1)).astype(np.float32)


def linear_model(weights, bias, activation="softmax"):
    inputs = keras.Input((28, 28, 1))
    dense = keras.layers.Dense(10, activation=activation)
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.set_weights([weights, bias])
    return model


@pytest.fixture
def linear():
    """Ten logits linear in the pixels; classes 0 and 1 compete, the others never win."""
    weights = np.zeros((784, 10), np.float32)
    weights[:, :2] = np.random.default_rng(1).normal(size=(784, 2)) / 28
    bias = np.r_[0.0, 0.0, np.full(8, -50.0)].astype(np.float32)
    return linear_model(weights, bias), weights, bias


@pytest.mark.parametrize("attack", [explain.fgsm, explain.pgd])
def test_an_attack_on_a_linear_model_reaches_its_worst_case(attack, linear):
    model, weights, bias = linear
    epsilon, rows = 0.05, np.arange(len(IMAGES))
    logits = IMAGES.reshape(len(IMAGES), -1) @ weights + bias
    labels = logits.argmax(axis=1)
    margins = np.abs(logits[:, 0] - logits[:, 1])
    # within +-epsilon per pixel the margin falls by epsilon times the weights' L1 distance
    worst = margins - epsilon * np.abs(weights[:, 0] - weights[:, 1]).sum()
    moved = attack(model, IMAGES, labels, epsilon)
    assert np.abs(moved - IMAGES).max() <= epsilon + 1e-6
    after = moved.reshape(len(IMAGES), -1) @ weights + bias
    found = after[rows, labels] - after[rows, 1 - labels]
    np.testing.assert_allclose(found, worst, atol=0.02 * margins.max() + 1e-3)
    corners = np.round(IMAGES)  # at the ends of the range
    moved = attack(model, corners, labels, 0.3)
    assert moved.min() >= 0 and moved.max() <= 1
    np.testing.assert_allclose(attack(model, corners, labels, 0.0), corners)


def test_attacks_work_where_the_softmax_is_saturated(linear):
    model, weights, bias = linear
    labels = model.predict(IMAGES, verbose=0).argmax(axis=1)
    before = explain.fgsm(model, IMAGES, labels, 0.01)
    model.layers[-1].set_weights([weights * 1e5, bias * 1e5])
    assert (model.predict(IMAGES, verbose=0).max(axis=1) > 1 - 1e-6).all()
    np.testing.assert_array_equal(explain.fgsm(model, IMAGES, labels, 0.01), before)


def test_accuracies_are_those_of_both_attacks(linear):
    model = linear[0]
    labels = model.predict(IMAGES, verbose=0).argmax(axis=1)
    found = explain.accuracies(model, IMAGES, labels, (0, 0.003, 0.3))
    assert list(found) == ["FGSM, one step", "PGD, 20 steps"]
    for values, attack in zip(found.values(), (explain.fgsm, explain.pgd), strict=True):
        moved = attack(model, IMAGES, labels, 0.003)
        right = model.predict(moved, verbose=0).argmax(axis=1) == labels
        assert values == [1.0, right.mean(), 0.0] and 0 < right.mean() < 1


def test_another_last_layer_or_no_feature_map_is_named():
    sigmoid = linear_model(np.zeros((784, 10)), np.zeros(10), "sigmoid")
    with pytest.raises(ValueError, match="is Dense, expected Dense with softmax"):
        explain.fgsm(sigmoid, IMAGES, [0] * 30, 0.1)
    with pytest.raises(ValueError, match="no feature maps"):
        explain.last_feature_map(sigmoid)


def test_features_and_activations_are_the_named_layers():
    cnn = models.build_cnn(filters=(4, 6), pool=True, dense_units=8)
    assert explain.activations(cnn, IMAGES[:3], "conv1").shape == (3, 28, 28, 4)
    assert explain.last_feature_map(cnn) == "pool2"
    decided = cnn.layers[-1](explain.penultimate(cnn, IMAGES))
    np.testing.assert_allclose(decided, cnn.predict(IMAGES, verbose=0), atol=1e-6)
    late = models.build_cnn(filters=(4, 6), pool=False, order=("pool", "norm", "relu"))
    assert explain.last_feature_map(late) == "relu2"


def test_grad_cam_points_at_what_decides():
    """A network whose digit 3 is the ink of one convolution: the heat lies on the ink, and a
    digit that nothing speaks for has none."""
    model = models.build_cnn(filters=(1,), batch_norm=False, pool=False, dense_units=(), dropout=0)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1
    dense = np.zeros((784, 10), np.float32)
    dense[:, 3] = -0.1  # ink in the lower half speaks against a 3 ...
    dense[: 14 * 28, 3] = 0.1  # ... and in the upper half for it
    dense[:, 4] = -0.1
    model.set_weights([kernel, np.zeros(1, np.float32), dense, np.zeros(10, np.float32)])
    images = np.zeros((2, 28, 28, 1), np.float32)
    images[:, 5:10, 18:24] = images[:, 20:25, 5:9] = 1
    heat = explain.grad_cam(model, images, np.array([3, 4]))
    assert heat.shape == (2, 28, 28) and heat.max() == 1
    np.testing.assert_allclose(heat[0, :14], images[0, :14, :, 0], atol=1e-6)
    assert heat[0, 14:].max() == heat[1].max() == 0


def test_occlusion_falls_where_covered_ink_decided():
    """A network whose digit 3 is one pixel's ink: only squares over it make a difference."""
    weights = np.zeros((784, 10), np.float32)
    weights[7 * 28 + 12, 3] = 5
    model = linear_model(weights, np.zeros(10))
    image = np.zeros((28, 28, 1), np.float32)
    image[7, 12] = image[20, 20] = 1
    fall = explain.occlusion(model, image, 3, size=4, step=4)
    expected = np.zeros((28, 28))
    expected[4:8, 12:16] = np.exp(5) / (np.exp(5) + 9) - 0.1
    np.testing.assert_allclose(fall, expected, atol=1e-6)
    # squares that overlap: of the four over the pixel, one reaches (4, 9)
    fall = explain.occlusion(model, image, 3, size=4, step=2)
    assert fall[7, 12] == pytest.approx(expected.max()) and fall[20, 20] == 0
    assert fall[4, 10] == pytest.approx(expected.max() / 4)


def test_a_sequential_model_is_looked_into_as_well():
    """Its layers' own outputs come from several passes; 02 builds such a model."""
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Conv2D(3, 3, name="conv")])
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(10, activation="softmax", use_bias=False))
    images = IMAGES[:4]
    heat = explain.grad_cam(model, images, np.arange(4, dtype=np.uint8))
    assert heat.shape == (4, 28, 28) and explain.last_feature_map(model) == "conv"
    decided = model.layers[-1](explain.penultimate(model, images))
    np.testing.assert_allclose(decided, model.predict(images, verbose=0), atol=1e-6)
    assert explain.activations(model, images, "conv").shape == (4, 26, 26, 3)
    assert np.abs(explain.fgsm(model, images, np.arange(4), 0.1) - images).max() > 0.05
