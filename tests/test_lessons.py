"""01 to 04 executed small on a folder of Kaggle's; 01 and 02 on files shaped as Fashion-MNIST's."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

SMALL = {
    "01_eda": {"TSNE_IMAGES": 100, "BASELINE_IMAGES": 150, "STYLES": 3},
    "02_training": {"EPOCHS": 2, "FILTERS": (4, 4, 4), "DENSE_UNITS": 16},
    "03_improving": {"FEW": 60, "EPOCHS": 2},
    "04_tuning": {"TRIALS": 2, "EPOCHS": 1, "IMAGES": 100},
}


def write_idx(path, array):
    """Write an array as MNIST's files hold it, compressed."""
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture(scope="module")
def kaggle(sample, tmp_path_factory):
    """A folder with train.csv and test.csv."""
    folder = tmp_path_factory.mktemp("data") / "kaggle"
    folder.mkdir()
    pixels = pd.DataFrame(sample.x_train[:240].reshape(-1, 784)).add_prefix("pixel")
    pixels.iloc[:20].to_csv(folder / "test.csv", index=False)
    pixels.insert(0, "label", sample.y_train[:240])
    pixels.to_csv(folder / "train.csv", index=False)
    return folder


@pytest.fixture(scope="module", params=["kaggle", "fashion_mnist"])
def executed(request, sample, kaggle, run_notebooks, tmp_path_factory):
    """01 to 04: (their results' folder, {name: notebook}, names that 01 prints)."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "kaggle":
        return folder / "kaggle", run_notebooks(SMALL, str(kaggle), folder), ("Kaggle's digits",)
    place = folder / "keras/datasets/fashion-mnist"
    place.mkdir(parents=True)
    for part, n, images, labels in (
        ("train", 240, sample.x_train, sample.y_train),
        ("t10k", 60, sample.x_test, sample.y_test),
    ):
        write_idx(place / f"{part}-images-idx3-ubyte.gz", images[:n])
        write_idx(place / f"{part}-labels-idx1-ubyte.gz", labels[:n])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(folder / "keras"))
        books = run_notebooks(SMALL, "fashion_mnist", folder)
    return folder / "fashion_mnist", books, ("Trousers", "Sandal")


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def printed(book):
    """All text that a notebook's cells print."""
    outputs = [output for cell in code_cells(book) for output in cell.outputs]
    return "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)


def test_they_run_without_error_text_and_write_what_02_and_04_keep(executed):
    folder, books, _ = executed
    for name, book in books.items():
        outputs = [output for cell in code_cells(book) for output in cell.outputs]
        assert [o.text for o in outputs if o.get("name") == "stderr"] == [], name
    kept = {"baselines.json", "best_model.keras", "mnist_cnn_final.keras"}
    kept |= {"mnist_cnn_weights.weights.h5", "training_history.json"}
    kept |= {"best_hyperparameters.json", "tuned.keras"}
    assert {path.name for path in (folder / "models").iterdir()} == kept
    history = json.loads((folder / "models/training_history.json").read_text())
    assert len(history["epochs"]["val_loss"]) == 2 and history["settings"]["filters"] == [4, 4, 4]


def test_the_parts_keep_their_shares_and_data_and_classes_their_names(executed):
    train = 200 if executed[0].name == "kaggle" else 240  # of Kaggle's, a sixth is for testing
    part = train // 12
    said = f"{train - 2 * part} images to train on, {part} for validation"
    assert said in printed(executed[1]["02_training"])
    assert all(name in printed(executed[1]["01_eda"]) for name in executed[2])


def test_02_shows_one_tidy_table_and_a_convolution_and_a_file_that_answer_as_keras_does(executed):
    cells = code_cells(executed[1]["02_training"])
    fit = next(c for c in cells if "model.fit(" in c.source)
    (table,) = fit.outputs
    lines = table.data["text/plain"].splitlines()
    assert lines[0].split()[:4] == ["epoch", "seconds", "accuracy", "loss"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert lines[3].startswith("2 of 2 epochs in ")
    check = next(c for c in cells if "probabilities - model.predict" in c.source)
    assert float(check.outputs[0].text.split("\n")[0].split(":")[1]) < 1e-6
    convolution = next(c for c in cells if "by_keras[0, ..., 0] - feature_map" in c.source)
    assert float(convolution.outputs[0].text.split(":")[1]) < 1e-5
