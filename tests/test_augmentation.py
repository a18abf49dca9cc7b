"""Random changes of training images: how far they go, how many they touch, what they leave."""

import numpy as np
import pytest

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


# how far each of ALL moves a pixel on average, as when the published networks were trained
MOVED = (0.282537, 0.209940, 0.216893, 0.285798, 0.109379, 0.014378, 0.202285)


@pytest.mark.parametrize("name, moved", zip(ALL, MOVED, strict=True))
def test_the_same_numbers_are_drawn_as_for_the_published_networks(name, moved):
    images = np.random.default_rng(0).random((6, 28, 28, 1), np.float32)
    changed = augment(images, (1, 2), **{name: ALL[name]}).numpy()
    assert np.abs(changed - images).mean() == pytest.approx(moved, abs=1e-5)


def test_nothing_changes_without_strengths(batch):
    labels = np.arange(1000)  # of any form
    changed, given = vary(batch[0], labels, (1, 2))
    assert np.array_equal(changed.numpy(), batch[0]) and given is labels


@pytest.mark.parametrize(
    "name, strength, least, most",
    [("shift", 2, 6, 10.2), ("rotation", 90, 8, 8.6), ("scale", 0.25, 5.5, 10.5),
     ("shear", 0.5, 7.9, 9.5)],
)  # fmt: skip
def test_augment_moves_turns_scales_and_shears_about_the_middle(name, strength, least, most):
    images = np.zeros((200, 28, 28, 1), np.float32)
    images[:, 5:7, 13:15] = 1  # a dot, 8 px above the middle
    moved = augment(images, (5, 6), **{name: strength}).numpy()[..., 0]
    weights = moved / moved.sum(axis=(1, 2), keepdims=True)
    y = (weights * np.arange(28)[:, None]).sum(axis=(1, 2)) - 13.5
    x = (weights * np.arange(28)).sum(axis=(1, 2)) - 13.5
    distance = np.hypot(x, y)
    assert least - 0.2 <= distance.min() and distance.max() <= most + 0.2
    assert np.ptp(distance) > 3.5 or np.ptp(x) > 7
    if name == "shift":
        assert 1.9 < np.abs([x, y + 8]).max() < 2.01


def test_erasing_clears_one_square_and_leaves_the_rest():
    erased = augment(np.ones((200, 28, 28, 1), np.float32), (1, 2), erase=8).numpy()[..., 0] == 0
    heights, widths = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    assert np.array_equal(erased.sum(axis=(1, 2)), heights * widths)  # a rectangle
    assert max(heights.max(), widths.max()) == 8 and 0 < np.median(heights) < 8


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
    with pytest.raises(ValueError, match=r"labels: shape \(5,\), expected \(n, 10\)"):
        vary(images[:5], np.arange(5), (1, 2), outliers=0.5)


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


def test_pipelines_change_batches_of_any_size(batch):
    images, labels = (part[:21] for part in batch)
    batches = list(data.make_dataset(images, labels, 10, augmentation=ALL | {"outliers": 0.1}))
    assert [changed.shape for changed, _ in batches] == [(n, 28, 28, 1) for n in (10, 10, 1)]
    for changed, given in batches:
        assert np.all((changed >= -1e-6) & (changed <= 1 + 1e-6))
        np.testing.assert_allclose(given.numpy().sum(axis=1), 1, rtol=1e-6)
