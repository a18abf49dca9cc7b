"""Each disturbance does what its name says, by as much as its strength says."""

from types import SimpleNamespace

import numpy as np
import pytest

from src.disturb import CORRUPTIONS, DISTURBANCES, curves, disturb, trained_ranges

ALIKE = np.zeros((8, 28, 28, 1), np.float32)
ALIKE[:, 8:20, 10:18] = 1
# how far the last strength of each, and each corruption, moves a random pixel on average
MOVED = (0.3243, 0.36765, 0.28614, 0.32846, 0.45999, 0.27824, 0.24569, 0.45081, 0.24564, 0.09263)
CORRUPTED = (0.19272, 0.06574, 0.23521, 0.22354, 0.40072, 0.24955)
CORRUPTED += (0.20232, 0.50457, 0.14334, 0.02865, 0.02161, 0.49527)


@pytest.fixture
def images(sample):
    images = sample.x_test[:20, ..., np.newaxis] / np.float32(255)
    before = images.copy()
    yield images
    assert np.array_equal(images, before)


def are_images(changed, like):
    alike = changed.shape == like.shape and changed.dtype == np.float32
    return alike and changed.min() >= 0 and changed.max() <= 1


def bar(rows=slice(8, 20)):
    image = np.zeros((1, 28, 28, 1), np.float32)
    image[0, rows, 13:15] = 1
    return image


def test_the_same_numbers_are_drawn_as_for_the_published_results():
    x = np.random.default_rng(0).random((6, 28, 28, 1), np.float32)
    disturbed = [disturb(x, name, row[1][-1]) for name, row in DISTURBANCES.items()]
    corrupted = [change(x, np.random.default_rng(1)) for change in CORRUPTIONS.values()]
    moved = np.abs(np.array(disturbed + corrupted) - x).mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(moved, MOVED + CORRUPTED, atol=1e-4)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_disturbed_images_stay_images_and_the_neutral_strength_changes_nothing(name, images):
    _, strengths, unit, neutral = DISTURBANCES[name]
    rising = sorted(strengths)
    assert neutral in strengths and unit and list(strengths) in (rising, rising[::-1])
    for strength in strengths:
        changed = disturb(images, name, strength)
        assert are_images(changed, images)
        assert np.array_equal(changed, images) == (strength == neutral)
        assert np.array_equal(changed, disturb(images, name, strength))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corrupted_images_stay_images_and_repeat_with_the_seed(name, images):
    first, again, other = (CORRUPTIONS[name](images, np.random.default_rng(s)) for s in (1, 1, 2))
    assert are_images(first, images)
    assert (np.abs(first - images).max(axis=(1, 2, 3)) > 0.1).all()
    assert np.array_equal(first, again)
    if not np.array_equal(first, other):  # it draws: for each image
        drawn = CORRUPTIONS[name](ALIKE, np.random.default_rng(0))
        assert len(np.unique(drawn.reshape(8, -1), axis=0)) > 4


@pytest.mark.parametrize(
    "name, strength, row, column",
    [
        ("rotation", 90, 0, -9),  # counterclockwise
        ("shift", 2.5, -9, 2.5),
        ("scale", 0.5, -4.5, 0),
        ("scale", 1.3, -11.7, 0),
        ("shear", 0.5, -9, 4.5),
    ],
)
def test_moves_go_as_far_as_their_strength_says(name, strength, row, column):
    dot = disturb(bar(slice(4, 6)), name, strength)[0, ..., 0]  # at (-9, 0) from the middle
    centre = [(dot * places).sum() / dot.sum() for places in np.indices(dot.shape) - 13.5]
    assert centre == pytest.approx([row, column], abs=0.1)


def test_noise_blur_contrast_and_brightness_are_as_strong_as_said():
    grey = np.full((50, 28, 28, 1), 0.5, np.float32)
    assert disturb(grey, "noise", 0.1).std() == pytest.approx(0.1, rel=0.02)
    columns = disturb(bar(), "blur", 2).sum(axis=(0, 1, 3)) / bar().sum()
    assert columns @ (np.arange(28) - 13.5) ** 2 == pytest.approx(0.25 + 2**2, rel=0.02)
    assert np.unique(disturb(bar(), "contrast", 0.3)) == pytest.approx([0, 0.3])
    assert np.unique(disturb(bar(), "brightness", 0.3)) == pytest.approx([0.3, 1])


def test_occlusion_covers_a_square_of_its_side_within_the_digits_box():
    covered = disturb(np.ones((200, 28, 28, 1), np.float32), "occlusion", 5) == 0
    assert (covered.sum(axis=(1, 2, 3)) == 25).all()
    rows = np.argwhere(covered)[:, 1]
    assert rows.min() == 4 and rows.max() == 23


@pytest.mark.parametrize(("pixels", "columns"), [(1, 4), (2, 6), (0.5, 3), (-1, 0)])
def test_thickness_grows_on_each_side(pixels, columns):
    assert disturb(bar(), "thickness", pixels)[0, 14].sum() == pytest.approx(columns)


def test_unknown_name():
    with pytest.raises(ValueError, match="no disturbance named 'fog'; there are rotation"):
        disturb(bar(), "fog", 1)


def test_trained_ranges_lie_around_what_changes_nothing_and_leave_out_other_settings():
    found = trained_ranges({"rotation": 15, "scale": 0.25, "corrupt": 0.1})
    assert found == {"rotation": (-15, 15), "scale": (0.75, 1.25)}


def test_curves_score_networks_at_each_strength(images):
    def by_ink(images, **_):  # more ink, a higher digit
        return np.eye(10)[np.digitize(images.mean(axis=(1, 2, 3)), np.linspace(0.05, 0.3, 9))]

    labels = by_ink(images).argmax(axis=1)
    found = curves({"ink": SimpleNamespace(predict=by_ink)}, images, labels)
    assert list(found) == list(DISTURBANCES)
    for name, (_, strengths, _, neutral) in DISTURBANCES.items():
        answers = [by_ink(disturb(images, name, strength)).argmax(axis=1) for strength in strengths]
        expected = dict(zip(strengths, np.mean(answers == labels, axis=1), strict=True))
        assert dict(zip(*found[name]["ink"], strict=True)) == expected and expected[neutral] == 1
