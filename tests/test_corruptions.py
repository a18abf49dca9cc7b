"""Corruptions of training images keep their form, repeat with the seed, touch their share."""

import numpy as np
import pytest

from src.corruptions import CHANGES, corrupt

# how far each of CHANGES moves a pixel on average, as when robust was trained
MOVED = (0.201502, 0.204523, 0.234118, 0.151632, 0.504573, 0.030585, 0.018844, 0.216597, 0.147195)


@pytest.fixture(scope="module")
def images(sample):
    return sample.x_train[:1000, ..., np.newaxis] / np.float32(255)


def differ(changed, images) -> np.ndarray:
    """Which images differ, where the result is images, too."""
    assert changed.shape == images.shape and changed.dtype == np.float32
    assert np.all((changed >= -1e-6) & (changed <= 1 + 1e-6))  # false for NaN, too
    return np.abs(changed - images).max(axis=(1, 2, 3)) > 1e-4


def test_the_same_numbers_are_drawn_as_for_the_published_network():
    images = np.random.default_rng(0).random((6, 28, 28, 1), np.float32)
    moved = [np.abs(change(images, (1, 2)).numpy() - images).mean() for change in CHANGES]
    np.testing.assert_allclose(moved, MOVED, atol=1e-5)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_keeps_images_repeats_with_its_seed_and_draws_for_each(images, change):
    some = images[:200]
    changed = change(some, (3, 4)).numpy()
    assert differ(changed, some).mean() > 0.9
    assert np.array_equal(changed, change(some, (3, 4)).numpy())
    assert not np.array_equal(changed, change(some, (3, 5)).numpy())
    for other in (images[:0], images[:1], np.zeros_like(images[:9]), np.ones_like(images[:9])):
        differ(change(other, (5, 6)).numpy(), other)
    alike = change(np.repeat(images[:1], 10, axis=0), (1, 2)).numpy().reshape(10, -1)
    different = len(np.unique(alike, axis=0))
    assert different == 1 if change.__name__ == "coarsen" else different > 3  # one grid for all


@pytest.mark.parametrize("share, tolerance", [(0, 0), (0.15, 0.04), (1.0, 0.01)])
def test_a_share_is_corrupted(images, share, tolerance):
    changed = corrupt(images, (1, 2), share).numpy()
    assert differ(changed, images).mean() == pytest.approx(share, abs=tolerance)
    assert np.array_equal(changed, corrupt(images, (1, 2), share).numpy())
    assert share == 0 or not np.array_equal(changed, corrupt(images, (1, 3), share).numpy())


def test_batches_of_few_or_no_images(images):
    for some in (images[:0], images[:1], images[:3]):
        counts = {differ(corrupt(some, (seed, 1), 0.3).numpy(), some).sum() for seed in range(8)}
        assert counts >= ({0, 1} if len(some) else {0})  # none chosen at times
