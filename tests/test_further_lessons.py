"""05 to 08 executed small on the embedded sample, with a network of the reader's own."""

import pytest

from src import models

SMALL = {
    "05_evaluation": {"MOST": 8},
    "06_robustness": {"EVERY": 6, "ATTACKED": 8, "MAPPED": 200},
    "07_photos": {"PHOTOS": 12},
    "08_how_far": {"BLOCKS": 2, "IMAGES": 500},
}


@pytest.fixture(scope="module")
def executed(run_notebooks, tmp_path_factory):
    """05 to 08: (their results' folder, {name: notebook})."""
    folder = tmp_path_factory.mktemp("results")
    own = models.build_cnn((4, 4, 4), dense_units=8)
    for name in ("mnist_cnn_final", "best_model"):
        models.save_model(own, folder / f"sample/models/{name}.keras")
    return folder / "sample", run_notebooks(SMALL, "sample", folder)


def outputs(book):
    return [output for cell in book.cells for output in cell.get("outputs", [])]


def test_they_leave_no_error_text_and_write_figures(executed):
    for name, book in executed[1].items():
        assert [o.text for o in outputs(book) if o.get("name") == "stderr"] == [], name
    assert {path.name for path in (executed[0] / "figures").iterdir()} == {
        "confusion_matrix.png", "sample_predictions.png", "misclassified_samples.png",
        "robustness.png", "preparation.png", "photos.png", "number.png", "exports.png",
        "accuracy_time.png", "ensemble_sizes.png", "ensemble_mistakes.png",
    }  # fmt: skip


def test_evaluation_says_which_model_it_opened(executed):
    text = "".join(o.get("text", "") for o in outputs(executed[1]["05_evaluation"]))
    assert "mnist_cnn_final.keras" in text and "of 360 images are wrong" in text
