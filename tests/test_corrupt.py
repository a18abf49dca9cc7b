"""Each disturbance does what its name says, by as much as its strength says."""

import numpy as np
import pytest
from scipy import ndimage

from src import corrupt, preparation


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


# --- spoilt images ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", corrupt.SPOILT)
def test_spoilt_images_keep_their_form_and_range_and_repeat_with_the_seed(name, sample):
    images = sample.x_test[:20, ..., np.newaxis] / np.float32(255)
    before = images.copy()
    spoil = corrupt.SPOILT[name]
    spoilt = spoil(images, np.random.default_rng(1))
    assert spoilt.shape == images.shape and spoilt.dtype == np.float32
    assert spoilt.min() >= 0 and spoilt.max() <= 1
    assert (np.abs(spoilt - images).max(axis=(1, 2, 3)) > 0.1).all()
    assert np.array_equal(spoilt, spoil(images, np.random.default_rng(1)))
    assert np.array_equal(images, before)


@pytest.mark.parametrize(
    "name", ["noise", "pepper", "motion blur", "fog", "stripe", "zigzag", "dotted line"]
)
def test_each_image_is_spoilt_in_its_own_way(name):
    images = np.repeat(bar(slice(8, 20), slice(10, 18)), 8, axis=0)
    spoilt = corrupt.SPOILT[name](images, np.random.default_rng(0))
    assert len(np.unique(spoilt.reshape(8, -1), axis=0)) > 4


def test_pictures_of_no_digit():
    marks = corrupt.scribbles(12, seed=2)
    assert marks.shape == (12, 112, 112) and marks.dtype == np.uint8
    assert len(np.unique(marks.reshape(12, -1), axis=0)) == 12
    assert np.array_equal(marks, corrupt.scribbles(12, seed=2))
    assert 0.03 < (marks < 128).mean() < 0.3 and (marks[:, :8] == 255).all()


def test_letters_in_fonts_that_differ():
    letters = corrupt.letters()
    assert letters.shape == (208, 112, 112) and letters.dtype == np.uint8
    ink = letters < 128
    assert (ink.mean(axis=(1, 2)) > 0.01).all()
    assert not ink[:, [0, -1]].any() and not ink[:, :, [0, -1]].any()  # none is cut
    read = [preparation.prepare(letter).ravel() for letter in letters]
    for of_one_letter in np.reshape(read, (8, 26, 784)).swapaxes(0, 1):
        apart = np.abs(of_one_letter[:, np.newaxis] - of_one_letter).max(axis=2)
        assert apart[~np.eye(8, dtype=bool)].min() > 0.3, apart.round(2)


# --- synthetic photos ------------------------------------------------------------------------

STROKE = bar(slice(4, 24))[0]  # upright, so that its angle and width can be measured


def photos(n=20, image=STROKE, **strengths):
    return [corrupt.photograph(image, seed, **corrupt.PLAIN | strengths) for seed in range(n)]


def shade(photo):
    """Brightness in [0, 1] as the eye weighs colours."""
    return photo @ (0.299, 0.587, 0.114) / 255


def ink(photo):
    """Rows and columns of what is dark."""
    return np.nonzero(shade(photo) < 0.5)


def angle(photo):
    """Degrees that the stroke leans to the right."""
    rows, columns = ink(photo)
    return np.degrees(np.arctan(-np.polyfit(rows, columns, 1)[0]))


def test_same_seed_same_photo(sample):
    image = sample.x_test[0] / 255
    photo = corrupt.photograph(image, 3)
    assert photo.shape == (480, 480, 3) and photo.dtype == np.uint8
    assert np.array_equal(photo, corrupt.photograph(image[..., np.newaxis], 3))
    assert not np.array_equal(photo, corrupt.photograph(image, 4))
    assert corrupt.photograph(image, 3, frame=100).shape == (100, 100, 3)


@pytest.mark.parametrize(
    "strengths, said",
    [
        ({"jpeg": 200}, "jpeg=200: expected a number from 0 to 100"),
        ({"size": 0.5}, "size=0.5: expected two rising numbers, as a pair, from 0.05 to 1"),
        ({"size": (0.8, 0.2)}, r"size=\(0.8, 0.2\): expected two rising"),
        ({"noise": "30"}, "noise='30': expected a number from 0 to inf"),
        ({"noise": -5}, "noise=-5: expected"), ({"pen": (0.01, 2)}, "pen=.* to 0.5"),
        ({"blur": (1, 2)}, r"blur=\(1, 2\): expected a number"),
    ],
)  # fmt: skip
def test_a_strength_out_of_range_is_named(strengths, said):
    with pytest.raises(ValueError, match=said):
        corrupt.photograph(STROKE, 0, **strengths)


def test_unknown_strength():
    with pytest.raises(ValueError, match="no strength named 'fog'; there are size, pen, paper"):
        corrupt.photograph(STROKE, 0, fog=1)


def test_plain_photos_have_dark_ink_on_white_paper_at_half_the_frame():
    for photo in photos(5):
        rows, columns = ink(photo)
        assert np.median(photo) >= 254 and photo[rows, columns].min() <= 5
        assert 200 < np.ptp(rows) + 1 <= 241
        between = (shade(photo) > 0.1) & (shade(photo) < 0.9)
        assert between.mean() < 0.02
    places = np.array([[side.min() for side in ink(photo)] for photo in photos(20)])
    assert (np.ptp(places, axis=0) > 100).all()


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_size_is_a_share_of_the_frame(share):
    heights = [np.ptp(ink(photo)[0]) for photo in photos(5, size=(share, share))]
    assert all(0.85 * share * 480 < height <= share * 480 for height in heights)


@pytest.mark.parametrize("share", [0.02, 0.06])
def test_pen_is_a_share_of_the_digits_height(share):
    for photo in photos(3, pen=(share, share)):
        widths = (shade(photo) < 0.5).sum(axis=1)
        assert np.median(widths[widths > 0]) == pytest.approx(share * 240, abs=1.5)


def test_a_blank_image_gives_no_photo():
    with pytest.raises(ValueError, match="no ink over 0.3"):
        corrupt.pen_digit(np.full((28, 28), 0.2), 100, 4, np.random.default_rng(0))


def test_paper_and_ink_have_colours_of_their_own():
    scenes = photos(paper=60, ink=110)
    papers = np.array([np.median(photo, axis=(0, 1)) for photo in scenes])
    inks = np.array([np.median(photo[ink(photo)], axis=0) for photo in scenes])
    assert papers.min() >= 255 - 60 - 15 - 2 and np.ptp(papers.mean(axis=1)) > 35
    assert 60 < inks.max() <= 112 and (np.ptp(inks, axis=1) > 20).any()


def paper(photo):
    """Brightness away from the ink, NaN near it."""
    near = ndimage.binary_dilation(shade(photo) < 0.5, iterations=3)
    return np.where(near, np.nan, shade(photo))


@pytest.mark.parametrize("strength", [0.2, 0.4])
def test_gradient_takes_up_to_its_share_of_light_from_one_side(strength):
    lost, corners = [], set()
    for photo in photos(gradient=strength):
        light = paper(photo)
        rows, columns = np.nonzero(~np.isnan(light))
        places = np.stack([rows, columns, np.ones(len(rows))], 1)
        slope = np.linalg.lstsq(places, light[rows, columns], rcond=None)[0]
        assert np.abs(places @ slope - light[rows, columns]).max() < 0.01  # a plane
        corners.add((slope[0] > 0, slope[1] > 0))
        lost.append(1 - np.nanmin(light) / np.nanmax(light))
    assert 0.6 * strength < max(lost) <= strength + 0.005 and min(lost) < 0.3 * strength
    assert len(corners) == 4


def test_a_shadow_takes_up_to_its_share_of_light_behind_a_soft_edge():
    lost, steps, between = [], [], []
    for photo in photos(shadow=0.4):
        light = paper(photo)
        most, least = np.nanmax(light), np.nanmin(light)
        lost.append(1 - least / most)
        steps.append(max(np.nanmax(np.abs(np.diff(light, axis=axis))) for axis in (0, 1)))
        between.append(((light > least + 0.05) & (light < most - 0.05)).mean())
    assert 0.3 < max(lost) <= 0.405 and min(lost) < 0.1
    assert max(steps) < 0.05 and np.median(between) < 0.3


def test_lines_lie_on_half_of_the_photos():
    ruled = [
        (shade(photo)[:, :40].min(axis=0) < 0.97).mean() > 0.9 for photo in photos(40, lines=True)
    ]
    assert 12 <= sum(ruled) <= 28
    assert not any((shade(photo)[:, 470:].min() < 0.97) for photo in photos(3))


@pytest.mark.parametrize("degrees", [10, 40])
def test_rotation_is_drawn_up_to_its_degrees_both_ways(degrees):
    angles = [angle(photo) for photo in photos(rotation=degrees)]
    assert 0.6 * degrees < max(angles) <= degrees + 1
    assert -degrees - 1 <= min(angles) < -0.6 * degrees
    assert max(abs(angle(photo)) for photo in photos(3)) < 0.5


def test_blur_softens_edges():
    sharp, soft = (
        [np.abs(np.diff(shade(photo), axis=1)).max() for photo in photos(blur=sd)] for sd in (0, 3)
    )
    assert min(sharp) > 0.6 and min(soft) < 0.2 and np.median(soft) < 0.45


def test_noise_has_up_to_its_sd():
    corners = [shade(photo)[:30, :30] for photo in photos(30, noise=20, paper=120)]
    grey = [corner.std() * 255 for corner in corners if 0.3 < corner.mean() < 0.8]
    luma = np.sqrt(0.299**2 + 0.587**2 + 0.114**2)  # of three colours' independent noise
    assert len(grey) > 5 and 0.6 * 20 * luma < max(grey) < 1.1 * 20 * luma and min(grey) < 6
    assert max(shade(photo)[:30, :30].std() for photo in photos(3)) < 0.01


def test_jpeg_ripples_the_paper_near_ink():
    poor, fine = (
        [1 - np.nanmin(paper(photo)) for photo in photos(10, jpeg=quality)] for quality in (10, 100)
    )
    assert max(fine) < 0.02 and max(poor) > 0.1 and min(poor) < 0.5 * max(poor)


@pytest.mark.parametrize("height, pen", [(100, 3), (300, 10), (300, 30), (600, 40)])
def test_pen_digits_have_height_and_pen_as_asked(height, pen, sample):
    upright = corrupt.pen_digit(STROKE[..., 0], height, pen, np.random.default_rng(0))
    assert 0.85 * height < upright.shape[0] <= height + 2 and upright.min() == 0
    assert upright.sum(axis=1)[len(upright) // 3 :][0] == pytest.approx(pen, abs=1)
    assert upright.shape[1] == pytest.approx(pen, abs=4)  # no margin
    digit = corrupt.pen_digit(sample.x_test[0] / 255, height, pen, np.random.default_rng(0))
    assert 0.75 * height < digit.shape[0] <= height + 2 and 0.99 < digit.max() <= 1
