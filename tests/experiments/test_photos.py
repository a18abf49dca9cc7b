"""Pictures of all kinds are read in all ways, with scenes that calibration has not seen."""

import numpy as np
import pytest
from PIL import Image

from src.experiments import photos
from src.reading import synthetic


def test_scenes_are_new_and_each_count_is_of_its_network(monkeypatch, tmp_path, sample):
    seeds, whole = [], synthetic.photograph

    def photograph(image, seed, **strengths):
        seeds.append(seed)
        return whole(image, seed, 64, **strengths)

    def says(path):
        digit = 2 if path.suffix == ".onnx" else 3
        row = np.where(np.arange(10) == digit, 0.91, 0.01)
        return lambda images: np.tile(row, (len(images), 1))

    letters, scribbles = synthetic.letters()[:4], synthetic.scribbles(6)
    for name, value in {
        "photograph": photograph, "KINDS": {"plain": synthetic.PLAIN},
        "letters": lambda: letters, "scribbles": lambda n: scribbles,
    }.items():  # fmt: skip
        monkeypatch.setattr(synthetic, name, value)
    monkeypatch.setattr(photos, "open_model", says)
    monkeypatch.setattr(photos, "PHOTOS", 12)
    monkeypatch.setattr(photos, "BY_KIND", 5)
    found = photos.measure(sample, tmp_path / "photos.json")
    assert sorted(set(seeds)) == list(range(1_000_000, 1_000_012)) and len(seeds) == 17
    assert {kind: row["boxed"]["n"] for kind, row in found["photos"].items()} == {
        "all together": 12, "plain": 5,
    }  # fmt: skip
    rows = np.random.default_rng(0).permutation(360)[:12]
    twos, threes = (float((sample.y_test[rows] == digit).mean()) for digit in (2, 3))
    ways, compared = found["photos"]["all together"], found["robust_against_champion"]
    for count, network in (("only_a", "robust"), ("only_b", "champion")):  # none is right twice
        assert compared[count] == round(12 * ways[f"prepared + {network}"]["accuracy"])
    assert compared["only_a"] != compared["only_b"]
    assert ways["resized"]["accuracy"] == pytest.approx(threes)
    assert found["corrupted_images"] == 12
    assert found["corrupted"]["fog"]["robust.onnx"] == pytest.approx(twos)
    numbers = {k: [row["n"] for row in ways.values()] for k, ways in found["no_digit"].items()}
    assert numbers == {"letters": [4, 4], "scribbles": [6, 6]}
    assert found["no_digit"]["scribbles"]["prepared + robust"]["wrong_and_sure"] == 1


def test_your_picture_is_opened_or_a_photo_stands_in(tmp_path):
    Image.new("RGB", (1000, 500), (10, 20, 30)).save(tmp_path / "mine.png")
    mine = photos.own_picture(str(tmp_path / "mine.png"), None)
    assert mine.shape == (240, 480, 3) and (mine == (10, 20, 30)).all()
    image = np.zeros((28, 28), np.float32)
    image[4:24, 13:15] = 1
    standing_in = photos.own_picture("", image)
    assert standing_in.shape == (480, 480, 3)
    assert photos.reading.prepare(standing_in)[10:18].sum(axis=1) == pytest.approx(2.6, abs=0.6)
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        photos.own_picture("nowhere.png", image)


def test_a_refused_photo_counts_as_wrong():
    blank, page = np.full((100, 100), 250, np.uint8), np.full((100, 100), 250, np.uint8)
    page[20:80, 47:53] = 10

    def reads_zero(pixels):
        return np.tile(np.eye(10)[0], (len(pixels), 1))

    found = photos.read_photos([blank, page], np.array([0, 0]), photos.reading.prepare, reads_zero)
    assert found["right"].tolist() == [False, True]
    assert found["row"]["refused"] == 0.5 and found["row"]["wrong_and_sure"] == 0


def test_calibration_divides_the_last_layer_and_keeps_the_answers(sample):
    import keras

    from src.models import build_cnn

    keras.utils.set_random_seed(0)
    model = build_cnn(filters=(4,), dense_units=(), batch_norm=False, pool=True)
    images, labels = sample.part("held_back")
    before = model.predict(images, verbose=0)
    weights = model.layers[-1].get_weights()
    found = photos.calibrate(model, images[:24], labels[:24])
    scaled = [one / found["temperature"] for one in weights]
    for new, expected in zip(model.layers[-1].get_weights(), scaled, strict=True):
        assert np.allclose(new, expected)
    after = model.predict(images, verbose=0)
    assert np.array_equal(after.argmax(axis=1), before.argmax(axis=1))
    assert found["calibrated_on"]["n"] == 24 and 0.05 <= found["temperature"] <= 20.1
