"""Each disturbance does what its name says, by as much as its strength says."""

import numpy as np
import pytest

from src import corrupt


def bar(rows=slice(8, 20), columns=slice(13, 15)):
    image = np.zeros((1, 28, 28, 1), np.float32)
    image[0, rows, columns] = 1
    return image


def centre(image):
    ink = image[0, ..., 0]
    rows, columns = np.indices(ink.shape)
    return (rows * ink).sum() / ink.sum(), (columns * ink).sum() / ink.sum()


def width(image):
    ink = image[0, ..., 0].sum(axis=0)
    places = np.arange(28)
    mean = (places * ink).sum() / ink.sum()
    return np.sqrt(((places - mean) ** 2 * ink).sum() / ink.sum())


@pytest.mark.parametrize("name", corrupt.DISTURBANCES)
def test_form_and_range_are_kept_and_the_neutral_strength_changes_nothing(name, sample):
    images = sample.x_test[:20, ..., np.newaxis] / np.float32(255)
    before = images.copy()
    _, strengths, unit, neutral = corrupt.DISTURBANCES[name]
    assert neutral in strengths and unit and list(strengths) in (
        sorted(strengths), sorted(strengths, reverse=True)
    )  # fmt: skip
    for strength in strengths:
        changed = corrupt.disturb(images, name, strength)
        assert changed.shape == images.shape and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 1
        assert np.array_equal(changed, images) == (strength == neutral)
        assert np.array_equal(changed, corrupt.disturb(images, name, strength))
    assert np.array_equal(images, before)


def test_rotation_turns_counterclockwise():
    turned = corrupt.rotate(bar(slice(4, 14)), 90)  # from the upper half to the left half
    row, column = centre(turned)
    assert row == pytest.approx(13.5, abs=0.1) and column == pytest.approx(8.5, abs=0.1)


def test_shift_moves_to_the_right_by_its_pixels():
    assert centre(corrupt.shift(bar(), 2.5))[1] - centre(bar())[1] == pytest.approx(2.5)


@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_scale_multiplies_lengths(factor):
    wide = bar(slice(10, 18), slice(9, 19))
    assert width(corrupt.scale(wide, factor)) / width(wide) == pytest.approx(factor, rel=0.06)


def test_shear_moves_the_upper_rows_to_the_right():
    slanted = corrupt.shear(bar(), 0.5)
    upper, lower = slanted.copy(), slanted.copy()
    upper[:, 14:], lower[:, :14] = 0, 0
    assert centre(upper)[1] - centre(lower)[1] == pytest.approx(0.5 * 6, abs=0.3)


def test_noise_has_its_sd_where_nothing_is_clipped():
    grey = np.full((50, 28, 28, 1), 0.5, np.float32)
    assert corrupt.disturb(grey, "noise", 0.1).std() == pytest.approx(0.1, rel=0.02)


def test_blur_widens_by_its_variance():
    before, after = width(bar()), width(corrupt.blur(bar(), 2))
    assert after**2 - before**2 == pytest.approx(4, rel=0.02)


def test_fade_and_tint_leave_the_other_alone():
    faded, tinted = corrupt.fade(bar(), 0.3), corrupt.tint(bar(), 0.3)
    assert set(np.round(np.unique(faded), 6)) == {0, np.float32(0.3).round(6)}
    assert set(np.round(np.unique(tinted), 6)) == {np.float32(0.3).round(6), 1}


def test_occlusion_covers_a_square_of_its_side_within_the_digits_box():
    full = np.ones((200, 28, 28, 1), np.float32)
    covered = corrupt.disturb(full, "occlusion", 5) == 0
    assert (covered.sum(axis=(1, 2, 3)) == 25).all()
    rows = np.argwhere(covered)[:, 1]
    assert rows.min() == 4 and rows.max() == 23


@pytest.mark.parametrize(("pixels", "columns"), [(1, 4), (2, 6), (0.5, 3), (-1, 0)])
def test_thickness_grows_on_each_side(pixels, columns):
    row = corrupt.thicken(bar(), pixels)[0, 14, :, 0]
    assert row.sum() == pytest.approx(columns)


def test_unknown_name():
    with pytest.raises(ValueError, match="no disturbance named 'fog'; there are rotation"):
        corrupt.disturb(bar(), "fog", 1)
