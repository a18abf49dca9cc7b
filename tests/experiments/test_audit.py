"""The audit reads each image with a network that was not trained on it."""

import numpy as np
import pytest

from src import data
from src.experiments import audit


def test_wrong_labels_come_first(monkeypatch):
    """Networks that know the true digit, kept in an image's first pixel, of images that they
    were not trained on."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 100, (400, 28, 28), dtype=np.uint8)
    truth = np.arange(400) % 10
    images[:, 0, 0] = 20 * truth
    labels = truth.astype(np.uint8)
    labels[[17, 230]] = [3, 4]

    class Knows:
        def __init__(self, trained):
            self.trained = {image.tobytes() for image in data.scale_images(trained)}

        def predict(self, scaled, **_):
            assert not self.trained & {image.tobytes() for image in scaled}
            digits = np.round(scaled[:, 0, 0, 0] * 255 / 20).astype(int)
            return 0.9 * np.eye(10)[digits] + 0.01

    class Trained:
        def __init__(self, part):
            assert len(part.x_train) == len(part.y_train) == 320
            self.model = Knows(part.x_train)

    monkeypatch.setattr(audit.training, "train", lambda recipe, part, seed: Trained(part))
    digits = data.DigitData(images, labels, images[:1], labels[:1], "random")
    found = audit.find_suspects(digits)
    assert [s["row"] for s in found["suspects"][:2]] == [17, 230]
    first = found["suspects"][0]
    assert (first["label"], first["predicted"]) == (3, 7)
    assert first["probability"] == pytest.approx(0.91) and first["quality"] == pytest.approx(0.01)
    assert found["accuracy"] == 398 / 400 and found["above_threshold"] == 2
    assert len(found["suspects"]) == 100 and found["images"] == 400
