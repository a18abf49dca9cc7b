"""Random changes of training images: how far they go, how many they touch, what they leave."""

import numpy as np
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from src import data
from src.augmentation import augment, vary

ALL = {"rotation": 15, "scale": 0.15, "shear": 0.2, "shift": 2.5}
ALL |= {"thickness": 0.4, "erase": 8, "corrupt": 1.0}


@pytest.fixture(scope="module")
def batch(sample):
    images = sample.x_train[:1000, ..., np.newaxis] / np.float32(255)
    return images, np.eye(10, dtype=np.float32)[sample.y_train[:1000]]


def differ(changed, images) -> np.ndarray:
    """Which images differ."""
    return np.abs(changed - images).max(axis=(1, 2, 3)) > 1e-4


def test_the_same_numbers_are_drawn_as_for_the_published_networks():
    images = np.random.default_rng(0).random((6, 28, 28, 1), np.float32)
    pixels = augment(images, (1, 2), **ALL).numpy()[:, 14, 13, 0]
    published = (0.672619, 0.225441, 0.581858, 0.767507, 0.570209, 0.398228)
    np.testing.assert_allclose(pixels, published, atol=1e-5)


def test_nothing_changes_without_strengths(batch):
    for labels in (batch[1], np.arange(1000)):  # of any form
        changed, given = vary(batch[0], labels, (1, 2))
        assert np.array_equal(changed.numpy(), batch[0]) and given is labels


@pytest.mark.parametrize(
    "strengths, least, most",
    [
        ({"shift": 2.0}, 6, 10.2),
        ({"rotation": 90.0}, 8, 8.6),
        ({"scale": 0.25}, 5.5, 10.5),
        ({"shear": 0.5}, 7.9, 9.5),
    ],
)
def test_augment_moves_turns_scales_and_shears_about_the_middle(strengths, least, most):
    images = np.zeros((200, 28, 28, 1), np.float32)
    images[:, 5:7, 13:15] = 1  # a dot, 8 px above the middle
    moved = augment(images, (5, 6), **strengths).numpy()[..., 0]
    weights = moved / moved.sum(axis=(1, 2), keepdims=True)
    y = (weights * np.arange(28)[:, None]).sum(axis=(1, 2)) - 13.5
    x = (weights * np.arange(28)).sum(axis=(1, 2)) - 13.5
    distance = np.hypot(x, y)
    assert least - 0.2 <= distance.min() and distance.max() <= most + 0.2
    assert np.ptp(distance) > 3.5 or np.ptp(x) > 7
    if "shift" in strengths:
        assert 1.9 < np.abs([x, y + 8]).max() < 2.01


def test_thickness_lies_between_erosion_and_dilation():
    image = np.random.default_rng(3).random((28, 28)).astype(np.float32)
    images = np.repeat(image[np.newaxis, ..., np.newaxis], 50, axis=0)
    changed = augment(images, (1, 2), thickness=1.0).numpy()[..., 0]
    least, most = (f(image, size=3, mode="nearest") for f in (minimum_filter, maximum_filter))
    assert np.all(changed >= least - 1e-6) and np.all(changed <= most + 1e-6)
    ink = changed.mean(axis=(1, 2))
    assert ink.min() < image.mean() - 0.2 and ink.max() > image.mean() + 0.2


def test_erasing_clears_one_square_and_leaves_the_rest():
    erased = augment(np.ones((200, 28, 28, 1), np.float32), (1, 2), erase=8).numpy()[..., 0] == 0
    heights, widths = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    assert np.array_equal(erased.sum(axis=(1, 2)), heights * widths)  # a rectangle
    assert max(heights.max(), widths.max()) == 8 and 0 < np.median(heights) < 8
    inner = erased[:, 6:22, 6:22].any(axis=(1, 2))
    assert 0.2 < inner.mean() < 0.9  # places all over the image


def test_outliers_have_even_labels_and_the_rest_is_left_alone(batch):
    images, labels = batch
    changed, given = (part.numpy() for part in vary(images, labels, (1, 2), outliers=0.3))
    assert given.shape == labels.shape and changed.dtype == given.dtype == np.float32
    outlier = (given == np.float32(0.1)).all(axis=1)
    assert outlier.mean() == pytest.approx(0.3, abs=0.04)
    assert np.array_equal(given[~outlier], labels[~outlier])
    assert np.array_equal(differ(changed, images), outlier)
    other = np.roll(images, 1, axis=0)[:, ::-1]
    joined = np.concatenate([images[:, :, :14], other[:, :, 14:]], axis=2)
    over = np.maximum(images, other)
    kinds = [~differ(changed[outlier], kind[outlier]) for kind in (joined, over)]
    assert np.logical_or(*kinds).all() and all(0.3 < kind.mean() < 0.7 for kind in kinds)


def test_outliers_are_turned_as_all_others_are():
    bars = np.zeros((2000, 28, 28, 1), np.float32)
    bars[:, 4:24, 13:15] = 1
    turned, given = vary(bars, np.eye(10)[np.zeros(2000, int)], (5, 6), outliers=0.3, rotation=15.0)
    rows, columns = np.mgrid[:28, :28] - 13.5
    ink = turned.numpy()[..., 0]
    slants = (ink * rows * columns).sum(axis=(1, 2)) / (ink * rows**2).sum(axis=(1, 2))
    chosen = given.numpy()[:, 1] > 0
    assert abs(np.corrcoef(chosen, slants)[0, 1]) < 0.1
    assert slants[chosen].min() < -0.2 and slants[chosen].max() > 0.2


def test_outliers_need_one_hot_labels(batch):
    with pytest.raises(ValueError, match=r"labels: shape \(5,\), expected \(n, 10\)"):
        vary(batch[0][:5], np.arange(5), (1, 2), outliers=0.5)


def test_pipelines_change_batches_of_any_size(batch):
    images, labels = (part[:21] for part in batch)
    batches = list(data.make_dataset(images, labels, 10, augmentation=ALL | {"outliers": 0.1}))
    assert [changed.shape for changed, _ in batches] == [(n, 28, 28, 1) for n in (10, 10, 1)]
    for changed, given in batches:
        assert np.all((changed >= -1e-6) & (changed <= 1 + 1e-6))
        np.testing.assert_allclose(given.numpy().sum(axis=1), 1, rtol=1e-6)
