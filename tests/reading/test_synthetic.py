"""Synthetic pictures: each strength of a photo does what its name says, by as much as it says."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from src.reading.synthetic import PLAIN, held_back, letters, pen_digit, photograph, scribbles

STROKE = np.zeros((28, 28), np.float32)
STROKE[4:24, 13:15] = 1  # upright, so that its angle and width can be measured


def photos(n=20, **strengths):
    return [photograph(STROKE, seed, 240, **PLAIN | strengths) for seed in range(n)]


def shade(photo):
    """Brightness in [0, 1] as the eye weighs colours."""
    return photo @ (0.299, 0.587, 0.114) / 255


def dark(photo):
    return shade(photo) < 0.5


def lost_light(photo):
    away = cv2.dilate(np.uint8(dark(photo)), np.ones((7, 7))) == 0  # from the ink
    return 1 - shade(photo)[away].min() / shade(photo)[away].max()


MEASURES = {
    "height": lambda photo: np.ptp(np.nonzero(dark(photo))[0]) / len(photo),
    "pen": lambda photo: np.median(dark(photo).sum(axis=1)[dark(photo).any(axis=1)]) / len(photo),
    "angle": lambda photo: np.degrees(np.arctan(-np.polyfit(*np.nonzero(dark(photo)), 1)[0])),
    "lost light": lost_light,
    "edge": lambda photo: np.abs(np.diff(shade(photo), axis=1)).max(),
    "grain": lambda photo: photo[:30, :30, 1].std(),
    "paper": lambda photo: 255 - np.median(photo, axis=(0, 1)).max(),
    "ink": lambda photo: np.median(photo[dark(photo)], axis=0).max(),
    "tint": lambda photo: np.ptp(np.median(photo[dark(photo)], axis=0)),
}


def test_plain_photos_have_dark_ink_on_white_paper_at_half_the_frame():
    for photo in photos(5):
        found = {name: measure(photo) for name, measure in MEASURES.items()}
        assert 0.45 < found["height"] < 0.5 and abs(found["angle"]) < 0.5
        assert found["lost light"] < 0.02 and found["edge"] > 0.9 and found["grain"] < 1
        assert max(found["paper"], found["ink"], found["tint"]) < 5
    places = [[side.min() for side in np.nonzero(dark(photo))] for photo in photos()]
    assert (np.ptp(places, axis=0) > 50).all()


@pytest.mark.parametrize(
    "strengths, measure, least, most",  # least and most: ranges of both over twenty photos
    [
        ({"size": (0.2, 0.2)}, "height", (0.17, 0.2), (0.17, 0.2)),  # shares of the frame
        ({"size": (0.7, 0.7)}, "height", (0.6, 0.7), (0.6, 0.7)),
        ({"pen": (0.02, 0.02)}, "pen", (0.007, 0.013), (0.007, 0.014)),  # of half the frame
        ({"rotation": 40}, "angle", (-40.5, -24), (24, 40.5)),
        ({"gradient": 0.4}, "lost light", (0, 0.12), (0.24, 0.405)),
        ({"shadow": 0.4}, "lost light", (0, 0.1), (0.3, 0.405)),
        ({"shadow": 0.4, "ink": 0, "size": (0.05, 0.05)}, "grain", (0, 1), (5, 15)),  # a soft edge
        ({"lines": True}, "lost light", (0, 0.01), (0.2, 0.5)),
        ({"blur": 3}, "edge", (0, 0.2), (0.9, 1)),
        ({"noise": 20, "paper": 120}, "grain", (0, 4), (12, 20)),
        ({"jpeg": 10}, "lost light", (0, 0.02), (0.1, 0.2)),  # ripples near ink
        ({"paper": 60}, "paper", (0, 20), (40, 75)),
        ({"ink": 110}, "ink", (40, 70), (90, 112)),
        ({"ink": 110}, "tint", (0, 30), (50, 110)),
    ],
)
def test_a_strength_does_what_it_says_by_as_much_as_it_says(strengths, measure, least, most):
    values = [MEASURES[measure](photo) for photo in photos(**strengths)]
    assert least[0] <= min(values) <= least[1] and most[0] <= max(values) <= most[1]


def test_lines_lie_on_half_of_the_photos():
    assert 12 <= sum(lost_light(photo) > 0.1 for photo in photos(40, lines=True)) <= 28


def test_same_seed_same_photo_as_in_the_published_results():
    pictures = [photograph(STROKE, seed) for seed in range(3)]
    assert pictures[0].shape == (480, 480, 3) and pictures[0].dtype == np.uint8
    assert np.mean(pictures, axis=(1, 2, 3)) == pytest.approx([143.326, 175.187, 173.503], abs=0.05)
    assert np.array_equal(photograph(STROKE[..., np.newaxis], 0), pictures[0])


def test_photos_of_images_held_back_leave_out_those_that_calibration_has_seen():
    images = np.random.default_rng(0).random((1003, 28, 28, 1), np.float32)
    for count, first in ((1003, 1000), (1000, 0)):  # so few had no part in calibration
        parts = {"held_back": (images[:count], np.arange(count))}
        found, shown, labels = held_back(SimpleNamespace(part=parts.get), 2, 7, frame=60, noise=0)
        assert labels.tolist() == [first, first + 1]
        assert np.array_equal(shown, images[first : first + 2])
        for i, photo in enumerate(found):
            assert np.array_equal(photo, photograph(shown[i], 7 + i, frame=60, noise=0))


@pytest.mark.parametrize(
    "strengths, said",
    [
        ({"jpeg": 200}, "jpeg=200: expected a number from 0 to 100"),
        ({"size": 0.5}, "size=0.5: expected two rising numbers, as a pair, from 0.05 to 1"),
        ({"size": (0.8, 0.2)}, r"size=\(0.8, 0.2\): expected two rising"),
        ({"noise": "30"}, "noise='30': expected a number from 0 to inf"),
        ({"pen": (0.01, 2)}, "pen=.* to 0.5"),
        ({"blur": [1]}, r"blur=\[1\]: expected a number"),
        ({"blur": (1, 2)}, r"blur=\(1, 2\): expected a number"),
        ({"fog": 1}, "no strength named 'fog'; there are size, pen, paper"),
    ],
)
def test_a_strength_that_is_unknown_or_out_of_range_is_named(strengths, said):
    with pytest.raises(ValueError, match=said):
        photograph(STROKE, 0, **strengths)


@pytest.mark.parametrize("height, pen", [(100, 3), (300, 10), (300, 30), (600, 40)])
def test_pen_digits_have_height_and_pen_as_asked(height, pen, sample):
    upright = pen_digit(STROKE, height, pen, np.random.default_rng(0))
    assert 0.85 * height < upright.shape[0] <= height + 2 and upright.min() == 0
    assert upright.sum(axis=1)[len(upright) // 3] == pytest.approx(pen, abs=1)
    assert upright.shape[1] == pytest.approx(pen, abs=4)  # no margin
    digit = pen_digit(sample.x_test[0] / 255, height, pen, np.random.default_rng(0))
    assert 0.75 * height < digit.shape[0] <= height + 2 and 0.99 < digit.max() <= 1


def test_a_speck_makes_a_dot_and_a_blank_image_no_digit():
    image = np.zeros((28, 28), np.float32)
    with pytest.raises(ValueError, match="no ink over 0.3"):
        pen_digit(image, 100, 20, np.random.default_rng(0))
    image[10:12, 10] = 0.7  # its middle line is one pixel
    assert pen_digit(image, 100, 20, np.random.default_rng(0)).max() == 1


@pytest.mark.parametrize("pictures, mean", [(scribbles(20), 223.628), (letters(), 235.724)])
def test_scribbles_and_letters_are_whole_and_as_in_the_published_results(pictures, mean):
    assert pictures.shape[1:] == (112, 112) and pictures.dtype == np.uint8
    assert pictures.mean() == pytest.approx(mean, abs=0.05)
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(pictures)
    inked = (pictures < 128).mean(axis=(1, 2))
    assert 0.01 < inked.min() and inked.max() < 0.3
    assert (pictures[:, [0, -1]] == 255).all() and (pictures[:, :, [0, -1]] == 255).all()
