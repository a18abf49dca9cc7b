"""Random changes of training images: how far they go, how many they touch, what they leave."""

import numpy as np
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from src import data
from src.augmentation import SPOILERS, augment, vary


def test_augment_without_strengths_changes_nothing():
    images = np.random.default_rng(0).random((5, 28, 28, 1), dtype=np.float32)
    assert np.array_equal(augment(images, (1, 2)).numpy(), images)


def test_augment_moves_by_no_more_than_its_shift():
    images = np.zeros((400, 28, 28, 1), np.float32)
    images[:, 14, 14] = 1
    moved = augment(images, (3, 4), shift=2.0).numpy()
    rows, columns = np.nonzero(moved.max(axis=0)[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 16, 12, 16)
    assert np.allclose(moved.sum(axis=(1, 2, 3)), 1, atol=1e-4)  # bilinear: nothing lost
    assert np.ptp(moved, axis=0).max() > 0.9  # each image by another shift


@pytest.mark.parametrize(
    "strengths, least, most",
    [({"rotation": 90.0}, 8, 8.6), ({"scale": 0.25}, 5.5, 10.5), ({"shear": 0.5}, 7.9, 9.5)],
)
def test_augment_turns_scales_and_shears_about_the_middle(strengths, least, most):
    images = np.zeros((200, 28, 28, 1), np.float32)
    images[:, 5:7, 13:15] = 1  # a dot, 8 px above the middle
    moved = augment(images, (5, 6), **strengths).numpy()[..., 0]
    weights = moved / moved.sum(axis=(1, 2), keepdims=True)
    y = (weights * np.arange(28)[:, None]).sum(axis=(1, 2)) - 13.5
    x = (weights * np.arange(28)).sum(axis=(1, 2)) - 13.5
    distance = np.hypot(x, y)
    assert least - 0.2 <= distance.min() and distance.max() <= most + 0.2
    assert np.ptp(distance) > 3.5 or np.ptp(x) > 7


def test_thickness_lies_between_erosion_and_dilation():
    rng = np.random.default_rng(3)
    image = rng.random((28, 28)).astype(np.float32)
    images = np.repeat(image[np.newaxis, ..., np.newaxis], 50, axis=0)
    changed = augment(images, (1, 2), thickness=1.0).numpy()[..., 0]
    least, most = (f(image, size=3, mode="nearest") for f in (minimum_filter, maximum_filter))
    assert np.all(changed >= least - 1e-6) and np.all(changed <= most + 1e-6)
    ink = changed.mean(axis=(1, 2))
    assert ink.min() < image.mean() - 0.2 and ink.max() > image.mean() + 0.2
    halved = augment(images, (1, 2), thickness=0.5).numpy()[..., 0]
    assert np.allclose(halved - image, (changed - image) / 2, atol=1e-6)  # the same draws


def test_erasing_clears_one_square_and_leaves_the_rest():
    images = np.ones((200, 28, 28, 1), np.float32)
    erased = augment(images, (1, 2), erase=8).numpy()[..., 0] == 0
    heights, widths = erased.any(axis=2).sum(axis=1), erased.any(axis=1).sum(axis=1)
    assert np.array_equal(erased.sum(axis=(1, 2)), heights * widths)  # a rectangle
    assert max(heights.max(), widths.max()) == 8 and 0 < np.median(heights) < 8
    inner = erased[:, 6:22, 6:22].any(axis=(1, 2))
    assert 0.2 < inner.mean() < 0.9  # places all over the image


def test_augment_with_a_tiny_elastic_field_is_the_transform_alone():
    images = np.random.default_rng(0).random((40, 28, 28, 1), np.float32)
    strengths = {"rotation": 15, "scale": 0.15, "shear": 0.2, "shift": 5}
    plain = augment(images, (1, 2), **strengths).numpy()
    bent = augment(images, (1, 2), elastic=1e-6, **strengths).numpy()
    np.testing.assert_allclose(bent, plain, atol=1e-4)


def test_augment_bends_smoothly_and_each_image_in_its_own_way():
    images = np.zeros((200, 28, 28, 1), np.float32)
    images[:, :, 13:15] = 1  # an upright bar
    bent = augment(images, (3, 4), elastic=1.0).numpy()[..., 0]
    middles = (bent * np.arange(28)).sum(2)[:, 2:-2] / bent.sum(2)[:, 2:-2]
    moves = middles - 13.5
    assert 0.5 < moves.std() < 1.0  # cubic weights average the draws: below their sd of 1
    assert np.abs(np.diff(moves, axis=1)).max() < 1.2  # from row to row
    assert moves.std(axis=0).min() > 0.3 and moves.std(axis=1).mean() > 0.3


# --- spoiling --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(sample):
    return data.scale_images(sample.x_train[:1000])


def touched(changed, images) -> np.ndarray:
    """Which images differ."""
    return np.abs(np.asarray(changed) - images).max(axis=(1, 2, 3)) > 1e-4


def assert_images(changed, like):
    assert changed.shape == like.shape and changed.dtype == np.float32
    assert changed.min() >= -1e-6 and changed.max() <= 1 + 1e-6  # false for NaN, too


def test_nothing_is_spoilt_without_a_share(images):
    assert not touched(augment(images, (1, 2), spoil=0.0), images).any()


@pytest.mark.parametrize("share, tolerance", [(0.15, 0.04), (0.5, 0.05), (1.0, 0.01)])
def test_a_share_is_spoilt(images, share, tolerance):
    changed = augment(images, (1, 2), spoil=share).numpy()
    assert_images(changed, images)
    assert touched(changed, images).mean() == pytest.approx(share, abs=tolerance)
    assert np.array_equal(changed, augment(images, (1, 2), spoil=share).numpy())
    assert not np.array_equal(changed, augment(images, (1, 3), spoil=share).numpy())


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_each_way_to_spoil(images, spoil):
    changed = spoil(images[:200], (3, 4)).numpy()
    assert_images(changed, images[:200])
    assert touched(changed, images[:200]).mean() > 0.9
    assert np.array_equal(changed, spoil(images[:200], (3, 4)).numpy())
    assert not np.array_equal(changed, spoil(images[:200], (3, 5)).numpy())
    assert_images(spoil(images[:1], (3, 4)).numpy(), images[:1])
    assert_images(spoil(np.zeros_like(images[:9]), (5, 6)).numpy(), images[:9])
    assert_images(spoil(np.ones_like(images[:9]), (5, 6)).numpy(), images[:9])


@pytest.mark.parametrize(
    "spoil",
    [spoil for spoil in SPOILERS if spoil.__name__ != "_coarsen"],  # one grid for a batch
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_each_image_is_spoilt_in_its_own_way(images, spoil):
    alike = np.repeat(images[:1], 10, axis=0)
    assert len(np.unique(spoil(alike, (1, 2)).numpy().reshape(10, -1), axis=0)) > 3


# --- outliers --------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_outliers_have_even_labels_and_the_rest_is_left_alone(images, sample, share):
    labels = data.one_hot(sample.y_train[:1000])
    changed, given = (part.numpy() for part in vary(images, labels, (1, 2), outliers=share))
    assert_images(changed, images)
    assert given.shape == labels.shape and given.dtype == np.float32
    strange = (given == np.float32(0.1)).all(axis=1)
    assert strange.mean() == pytest.approx(share, abs=0.04)
    assert np.array_equal(given[~strange], labels[~strange])
    assert np.array_equal(touched(changed, images), strange)
    other = np.roll(images, 1, axis=0)[:, ::-1]
    joined = np.concatenate([images[:, :, :14], other[:, :, 14:]], axis=2)
    over = np.maximum(images, other)
    kinds = [~touched(changed[strange], kind[strange]) for kind in (joined, over)]
    assert np.logical_or(*kinds).all() and all(0.3 < kind.mean() < 0.7 for kind in kinds)


def test_outliers_are_turned_as_all_others_are():
    bars = np.zeros((2000, 28, 28, 1), np.float32)
    bars[:, 4:24, 13:15] = 1
    labels = data.one_hot(np.zeros(len(bars), int))
    turned, given = (p.numpy() for p in vary(bars, labels, (5, 6), outliers=0.3, rotation=15.0))
    rows, columns = np.mgrid[:28, :28] - 13.5
    ink = turned[..., 0]
    slants = (ink * rows * columns).sum(axis=(1, 2)) / (ink * rows**2).sum(axis=(1, 2))
    chosen = given[:, 1] > 0
    assert abs(np.corrcoef(chosen, slants)[0, 1]) < 0.1
    assert slants[chosen].min() < -0.2 and slants[chosen].max() > 0.2


def test_without_outliers_labels_pass_whatever_their_form(images):
    for labels in (np.arange(5), data.one_hot(np.arange(5))):
        changed, given = vary(images[:5], labels, (1, 2))
        assert given is labels and not touched(changed, images[:5]).any()


def test_outliers_need_one_hot_labels(images):
    with pytest.raises(ValueError, match=r"labels: shape \(5,\), expected \(n, 10\)"):
        vary(images[:5], np.arange(5), (1, 2), outliers=0.5)


@pytest.mark.parametrize("size", range(5))
def test_batches_of_few_or_no_images(images, size):
    labels = data.one_hot(np.arange(size) % 10)
    counts = set()
    for seed in range(8):
        part = images[:size]
        changed, given = vary(part, labels, (seed, 1), outliers=0.3, spoil=0.3)
        assert changed.shape == part.shape and given.shape == labels.shape
        assert np.all((changed >= -1e-6) & (changed <= 1 + 1e-6))
        counts.add(int(touched(changed, part).sum()))
    assert counts >= ({0, 1} if size else {0})  # none chosen at times


def test_pipelines_spoil_and_mix_batches_of_any_size(images, sample):
    changes = {"spoil": 0.3, "outliers": 0.1, "shift": 1.0, "elastic": 0.5}
    labels = data.one_hot(sample.y_train[:21])
    batches = data.make_dataset(images[:21], labels, 10, augmentation=changes)
    sizes = []
    for changed, given in batches:
        sizes.append(len(changed))
        assert_images(changed.numpy(), images[: len(changed)])
        np.testing.assert_allclose(given.numpy().sum(axis=1), 1, rtol=1e-6)
    assert sizes == [10, 10, 1]
