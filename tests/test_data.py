"""Digits are scaled, split and fed to training as they should be."""

import dataclasses
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from src import data
from src.config import ROOT, check_images


def refused(reason, error=data.DataError):
    return pytest.raises(error, match=re.escape(reason))


def digits_of(labels):
    images = np.zeros((len(labels), 28, 28), np.uint8)
    return data.DigitData(images, labels.astype(np.uint8), images, labels, "blank")


# --- The sample and the real MNIST


def test_the_sample_is_scikit_learns_digits_enlarged(sample):
    assert sample.name == "sample digits"
    assert sample.x_train.shape == (1437, 28, 28) and sample.x_test.shape == (360, 28, 28)
    again, source = data.load_mnist(source="sample"), load_digits()
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert getattr(sample, name).dtype == np.uint8
        np.testing.assert_array_equal(getattr(sample, name), getattr(again, name))
    images, (_, rows) = sample.x_test, data.stratified_split(source.target, 0.2)
    small = images[:, 6:24:5, 6:24:5]  # these pixels lie in the middle of 2x2 places
    expected = source.images[rows].reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)) / 16 * 255
    np.testing.assert_allclose(small, expected, atol=0.51)  # rounded to whole numbers
    np.testing.assert_array_equal(sample.y_test, source.target[rows])
    assert images.max() == 255 and images[:, 4:24, 4:24].any(axis=(1, 2)).all()
    assert images.sum() == images[:, 4:24, 4:24].sum()  # nothing in the margins


def test_real_mnist_and_the_split_that_published_networks_were_trained_on(mnist):
    assert mnist.x_train.shape == (60_000, 28, 28) and mnist.x_test.shape == (10_000, 28, 28)
    assert round(mnist.x_train.mean() / 255, 5) == 0.13066 and mnist.name == "MNIST"
    firsts = {name: rows[:3].tolist() for name, rows in mnist.rows.items()}
    assert firsts == {"train": [0, 2, 4], "validation": [8, 12, 21], "held_back": [1, 3, 10]}
    assert len(mnist.rows["train"]) == 50_000


def test_digits_cannot_be_changed_and_other_sources_are_refused(sample):
    with pytest.raises(dataclasses.FrozenInstanceError):
        sample.name = "MNIST"
    with refused("source='fashion': expected 'mnist', 'fashion_mnist', 'sample', or", ValueError):
        data.load_mnist(source="fashion")


# --- Labels and scaling


def test_labels_and_images_are_scaled():
    rows = data.one_hot(np.array([9, 0, 3], np.uint8))
    assert rows.dtype == np.float32 and rows.shape == (3, 10)
    assert rows.sum() == 3 and rows[0, 9] == rows[1, 0] == rows[2, 3] == 1
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 3, 4:6] = 51, 255
    scaled = data.scale_images(images)
    assert scaled.dtype == np.float32 and scaled.shape == (2, 28, 28, 1)
    assert scaled[1, 3, 4, 0] == np.float32(0.2) and scaled[1, 3, 5, 0] == 1
    assert np.count_nonzero(scaled) == 2 and images.max() == 255
    for dtype in (np.float16, np.float64):
        checked = check_images(scaled.astype(dtype))
        assert checked.dtype == np.float32
        np.testing.assert_allclose(checked, scaled, atol=1e-4)


# --- Splits


def assert_stratified(labels, rows, share):
    found = np.bincount(labels[rows], minlength=10)
    assert np.abs(found - share * np.bincount(labels)).max() <= 1


def test_stratified_split(sample):
    labels = sample.y_train
    first, second = data.stratified_split(labels, 0.25, seed=3)
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert_stratified(labels, first, 0.75)
    assert_stratified(labels, second, 0.25)
    np.testing.assert_array_equal(data.stratified_split(labels, 0.25, seed=3)[1], second)
    assert set(data.stratified_split(labels, 0.25, seed=4)[1]) != set(second)
    for fraction in (0, 1, float("nan")):
        with refused(f"fraction={fraction}: expected more than 0 and less than 1.", ValueError):
            data.stratified_split(labels, fraction)


@pytest.mark.parametrize("size, part", [(60_000, 5_000), (1437, 119), (1200, 100)])
def test_the_one_split(size, part):
    labels = np.random.default_rng(2).choice(10, size, p=np.linspace(0.08, 0.12, 10))
    rows = digits_of(labels).rows
    sizes = {name: len(some) for name, some in rows.items()}
    assert sizes == {"train": size - 2 * part, "validation": part, "held_back": part}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(size))
    for some in rows.values():
        assert_stratified(labels, some, len(some) / size)


def test_parts_are_scaled_rows_of_the_split(sample):
    expected = {name: (sample.x_train[r], sample.y_train[r]) for name, r in sample.rows.items()}
    expected["test"] = sample.x_test, sample.y_test
    for name, (images, labels) in expected.items():
        np.testing.assert_array_equal(sample.part(name)[0], data.scale_images(images))
        np.testing.assert_array_equal(sample.part(name)[1], labels)
        assert sample.part(name)[1].dtype == np.int64
    with refused("no part named 'fit'; there are train, validation, held_back, test.", ValueError):
        sample.part("fit")
    with refused("11 labels: expected 12 or more", ValueError):
        digits_of(np.zeros(11, int)).part("train")


# --- Batches

NUMBER = np.arange(25)
IMAGES = np.broadcast_to(NUMBER[:, None, None, None] / 100, (25, 28, 28, 1))
LABELS = NUMBER % 10


def epoch(dataset):
    """The numbers of the images in one pass, and the labels that came with them."""
    batches = [(x.numpy(), y.numpy()) for x, y in dataset]
    images = np.concatenate([x for x, _ in batches])
    numbers = np.rint(images[:, 0, 0, 0] * 100).astype(int)
    return numbers.tolist(), np.concatenate([y for _, y in batches])


def test_batches_in_order():
    dataset = data.make_dataset(IMAGES, LABELS, 10)
    assert [x.shape for x, _ in dataset] == [(n, 28, 28, 1) for n in (10, 10, 5)]
    assert dataset.element_spec[0].dtype == "float32"
    numbers, labels = epoch(dataset)
    assert numbers == NUMBER.tolist() and labels.tolist() == LABELS.tolist()


def test_shuffled_batches_of_one_hot_labels():
    dataset = data.make_dataset(IMAGES, data.one_hot(LABELS), 10, shuffle=True)
    first, second = epoch(dataset), epoch(dataset)
    assert first[0] != second[0] and first[0] != NUMBER.tolist()
    for numbers, labels in (first, second):
        assert sorted(numbers) == NUMBER.tolist()
        np.testing.assert_array_equal(labels, data.one_hot(LABELS)[numbers])


@pytest.mark.parametrize("changes", [{"shuffle": True}, {"augmentation": {"shift": 2.0}}])
def test_batches_hang_on_their_seed_alone(changes):
    def two_epochs(seed, drawn_before):
        keras.utils.set_random_seed(drawn_before)
        batches = data.make_dataset(IMAGES, LABELS, 10, seed=seed, **changes)
        return [np.concatenate([x for x, _ in batches.as_numpy_iterator()]) for _ in range(2)]

    one, two = two_epochs(seed=7, drawn_before=1)
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(two_epochs(seed=7, drawn_before=2), [one, two])
    assert not np.allclose(two_epochs(seed=8, drawn_before=1)[0], one)


UNIT = np.zeros((2, 28, 28, 1), np.float32)
REFUSED = [
    (data.make_dataset, (IMAGES, LABELS[1:], 10), "25 images and 24 labels"),
    (data.make_dataset, (IMAGES[:0], LABELS[:0], 10), "0 images and 0 labels"),
    (data.make_dataset, (IMAGES, LABELS, 0), "batch_size=0: expected a whole number, 1 or more."),
    (data.make_dataset, (IMAGES, LABELS, 32.0), "batch_size=32.0: expected a whole number"),
    (data.make_dataset, (IMAGES, LABELS, 10, True, 0, True), "augmentation=True: expected a dict"),
    (data.make_dataset, (IMAGES, LABELS, 10, True, 0, {"rot": 1}), "augmentation: no argument"),
    (data.make_dataset, (IMAGES[..., 0], LABELS, 10), "images: shape"),
    (data.make_dataset, (IMAGES, LABELS + 1, 10), "labels: label 10 at index 9"),
    (data.make_dataset, (IMAGES, LABELS[:, None], 10), "labels: shape (25, 1)"),
    (data.one_hot, ([-1, 0],), "labels: label -1 at index 0"),
    (data.one_hot, ([1.0, 2.0],), "labels: float64 (2,)"),
    (data.one_hot, ([[1, 2]],), "labels: int64 (1, 2)"),
    *((check_images, (UNIT + x,), "images: values from") for x in (np.nan, 1.5, -0.001, 255)),
    (check_images, (UNIT.astype(np.uint8),), "images: uint8, expected floats"),
    (check_images, (UNIT[..., 0],), "images: shape (2, 28, 28), expected (n, 28, 28, 1)"),
    (check_images, (UNIT.repeat(3, axis=3),), "images: shape (2, 28, 28, 3), expected"),
    (data.scale_images, (UNIT[..., 0],), "images: float32 (2, 28, 28), expected uint8 (n, 28, 28)"),
    (data.scale_images, (UNIT.astype(np.uint8),), "images: uint8 (2, 28, 28, 1), expected"),
]


@pytest.mark.parametrize("function, arguments, reason", REFUSED)
def test_what_is_not_as_expected_is_refused(function, arguments, reason):
    with refused(reason, ValueError):
        function(*arguments)


def test_import_does_not_load_tensorflow():
    code = "import sys, src.data; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# Data of one's own


@pytest.fixture
def kaggle(tmp_path):
    """A folder as Kaggle's: 240 labelled images, 30 without a label."""
    rng = np.random.default_rng(0)
    for name, n in (("train", 240), ("test", 30)):
        table = pd.DataFrame(
            rng.integers(0, 256, (n, 784)), columns=[f"pixel{i}" for i in range(784)]
        )
        if name == "train":
            table.insert(0, "label", np.arange(n) % 10)
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path


def test_a_kaggle_folder_gives_a_sixth_to_test_and_keeps_what_is_to_be_predicted(kaggle):
    digits = data.load_mnist(str(kaggle))
    assert digits.x_train.shape == (200, 28, 28) and digits.x_test.shape == (40, 28, 28)
    assert np.bincount(digits.y_test).tolist() == [4] * 10
    assert {name: len(rows) for name, rows in digits.rows.items()} == {
        "train": 168, "validation": 16, "held_back": 16,
    }  # fmt: skip
    assert digits.unlabelled.shape == (30, 28, 28) and digits.name == "Kaggle's digits"
    (kaggle / "test.csv").unlink()
    assert data.load_mnist(kaggle).unlabelled is None


def zip_it(folder, *names):
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
            (folder / name).unlink()


def cut(folder, size):
    (folder / "train.csv").write_bytes((folder / "train.csv").read_bytes()[:size])


KAGGLE_FAULTS = {
    "missing": (lambda f: (f / "train.csv").unlink(), "holds no train.csv: get it from kaggle.com"),
    "cut short": (lambda f: cut(f, 400_000), "the file is cut short, get it again"),
    "zip by name": (lambda f: (f / "train.csv").write_bytes(b"PK\3\4" + bytes(99)), "train.csv: "),
    "swapped": (lambda f: (f / "test.csv").replace(f / "train.csv"), "without a column `label`"),
}


@pytest.mark.parametrize("fault", KAGGLE_FAULTS)
def test_what_is_wrong_with_a_kaggle_folder_is_said(kaggle, fault):
    spoil, message = KAGGLE_FAULTS[fault]
    spoil(kaggle)
    with pytest.raises(data.mnist_files.DataError, match=message) as error:
        data.load_mnist(kaggle)
    assert len(str(error.value)) - len(str(kaggle)) < 300


@pytest.mark.parametrize("names", [["train.csv"], ["test.csv", "train.csv"]])
@pytest.mark.parametrize("source", ["{}", "'{}' ", "{}/all.zip"])
def test_kaggles_zip_is_read_as_it_is(names, source, kaggle):
    zip_it(kaggle, *names)
    digits = data.load_mnist(source.format(kaggle))
    asked = len(names) > 1 or "zip" not in source
    assert len(digits.y_train) == 200 and (digits.unlabelled is not None) == asked


def fashion(monkeypatch, answer):
    import keras

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", answer)


def test_fashion_mnist_comes_by_keras_loader_with_its_names(monkeypatch, sample):
    arrays = (sample.x_train, sample.y_train), (sample.x_test, sample.y_test)
    fashion(monkeypatch, lambda: arrays)
    found = data.load_mnist("fashion_mnist")
    assert found.name == "Fashion-MNIST" and found.class_names[9] == "Ankle boot"
    assert len(found.class_names) == 10 and found.x_train is sample.x_train


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [(EOFError("ended early"), "DataError", "delete ~/.keras/datasets/fashion-mnist"),
     (Exception("URL fetch failure"), "DataUnavailableError", "can't be downloaded")],
)  # fmt: skip
def test_fashion_mnist_that_is_damaged_or_out_of_reach(monkeypatch, raised, kind, message):
    def fails():
        raise raised

    fashion(monkeypatch, fails)
    with pytest.raises(getattr(data.mnist_files, kind), match=message):
        data.load_mnist("fashion_mnist")


def test_a_submission_answers_each_image_of_test_csv(kaggle, sample, tmp_path, capsys):
    class Model:  # it reads a 7 in every image
        predict = staticmethod(lambda images, **_: np.tile(np.eye(10)[7], (len(images), 1)))

    data.write_submission(data.load_mnist(str(kaggle)), Model, tmp_path / "out.csv")
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert (
        lines[:2] == ["ImageId,Label", "1,7"]
        and f"{len(lines) - 1} answers" in capsys.readouterr().out
    )
    data.write_submission(sample, Model, tmp_path / "none.csv")
    assert "nothing to send" in capsys.readouterr().out and not (tmp_path / "none.csv").exists()
