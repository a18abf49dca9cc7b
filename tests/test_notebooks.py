"""The committed notebooks as files, and all of them executed small on the embedded sample."""

import json
import re

import nbformat
import pytest

from src.config import ROOT
from src.experiments import notebooks, results, tuning

BOOKS = sorted(notebooks.NOTEBOOKS.glob("[0-9]*.ipynb"))
SMALL = {
    "01_eda": {"TSNE_IMAGES": 200, "BASELINE_IMAGES": 500, "STYLES": 3},
    "02_training": {"EPOCHS": 2, "FILTERS": (8, 8, 8), "DENSE_UNITS": 32},
    "03_improving": {"FEW": 100, "EPOCHS": 2},
    "04_tuning": {"TRIALS": 2, "EPOCHS": 1, "IMAGES": 200},
    "05_evaluation": {"GALLERY": 8},
    "06_robustness": {"EVERY": 6, "ATTACKED": 8, "MAPPED": 200},
    "07_photos": {"PHOTOS": 12, "SHOWN": 4},
    "08_how_far": {"TRAIN": 3, "EPOCHS": 1, "GALLERY": 8},
}
each_book = pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)


def read(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    return book


def code_cells(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def outputs(book):
    return [output for cell in code_cells(book) for output in cell.outputs]


def said(output):
    """All text of one output."""
    data = output.get("data", {})
    return output.get("text", "") + "".join(v for k, v in data.items() if k.startswith("text/"))


def test_every_notebook_has_its_small_settings_and_a_row_in_the_readme():
    assert [path.stem for path in BOOKS] == list(SMALL)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"| [{name}](notebooks/{name}.ipynb) |" in readme for name in SMALL)


@each_book
def test_was_executed_top_to_bottom_without_error(path):
    book = read(path)
    counts = [cell.execution_count for cell in code_cells(book)]
    assert counts == list(range(1, len(counts) + 1))
    assert [o for o in outputs(book) if o.output_type == "error"] == []
    assert [o.text for o in outputs(book) if o.get("name") == "stderr"] == []


@each_book
def test_reads_well_on_github(path):
    book = read(path)
    assert path.stat().st_size < 900_000
    assert "widgets" not in book.metadata
    assert book.metadata.kernelspec.name == "python3"
    for output in outputs(book):
        assert not re.search(r"[\x08\x1b\r]", said(output))
        assert not any("widget" in kind or "javascript" in kind for kind in output.get("data", {}))
        assert not re.search(r"/(home|root|Users|tmp|work)/", said(output))


@each_book
def test_has_one_title_one_parameters_cell_and_prose_after_each_figure(path):
    book = read(path)
    prose = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    titles = [line for text in prose for line in text.splitlines() if line.startswith("# ")]
    assert len(titles) == 1 and book.cells[0].source.startswith("# ")
    (knobs,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    assert all(re.match(r"#|[A-Z_0-9]+ = \S", line) for line in knobs.source.splitlines())
    for i, cell in enumerate(book.cells):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            assert book.cells[i + 1].cell_type == "markdown", f"cell {i + 1}: a figure unread"


@each_book
def test_opens_with_its_aims_and_ends_with_things_to_try(path):
    book = read(path)
    for words in ("**What you'll do.**", "**What you'll learn.**", "**What you need.**"):
        assert words in book.cells[0].source
    prose = "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "markdown")
    assert "## Takeaways" in prose
    assert prose.split("## On your own")[1].split("## ")[0].count("\n- ") == 3


@each_book
def test_numbers_quoted_from_the_published_run_are_printed(path):
    assert notebooks.false_quotes(read(path)) == []


def published_files():
    files = [path for path in (ROOT / "models").glob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All notebooks, executed in order in a folder of their own: (folder, {name: notebook})."""
    folder = tmp_path_factory.mktemp("results")
    published = published_files()
    books = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MNIST_RESULTS_DIR", str(folder))
        for path in BOOKS:
            target = folder / path.name
            notebooks.execute(path, target, {"SOURCE": "sample", **SMALL[path.stem]})
            books[path.stem] = read(target)
    assert published == published_files()
    return folder / "sample", books


def test_small_runs_leave_no_error_text(executed):
    for name, book in executed[1].items():
        assert [o.text for o in outputs(book) if o.get("name") == "stderr"] == [], name


def test_small_runs_write_models_figures_and_numbers(executed):
    folder, _ = executed
    assert {path.name for path in (folder / "models").iterdir()} == {
        "baselines.json", "best_model.keras", "mnist_cnn_final.keras",
        "mnist_cnn_weights.weights.h5", "training_history.json", "evaluation.json",
        "robustness.json",
        "best_hyperparameters.json", "tuned.keras",
    }  # fmt: skip
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "model_architecture.png", "training_history.png", "confusion_matrix.png",
        "sample_predictions.png", "misclassified_samples.png", "tuning_progress.png",
        "tuning_parallel.png", "calibration.png", "robustness.png", "preparation.png",
        "photos.png", "exports.png", "architectures.png", "ensemble_sizes.png",
        "ensemble_mistakes.png",
    }  # fmt: skip
    history = json.loads((folder / "models/training_history.json").read_text())
    assert len(history["epochs"]["val_loss"]) == 2
    assert history["settings"]["filters"] == [8, 8, 8]
    test = json.loads((folder / "models/evaluation.json").read_text())
    assert (test["data"], test["test"]["n"]) == ("sample digits", 360)


def test_training_shows_one_tidy_table(executed):
    fit = next(c for c in code_cells(executed[1]["02_training"]) if "model.fit(" in c.source)
    assert len(fit.outputs) == 1
    lines = said(fit.outputs[0]).splitlines()
    assert lines[0].split()[:4] == ["epoch", "seconds", "accuracy", "loss"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert lines[3].startswith("2 of 2 epochs in ")


def test_a_loaded_model_answers_as_the_one_in_memory(executed):
    cells = code_cells(executed[1]["02_training"])
    check = next(c for c in cells if "largest difference" in c.source)
    assert float(said(check.outputs[0]).split(":")[1]) < 1e-6


def test_evaluation_says_which_model_it_opened(executed):
    text = "".join(said(output) for output in outputs(executed[1]["05_evaluation"]))
    assert "mnist_cnn_final.keras" in text and "of 360 images are wrong" in text


def test_tuning_shows_the_committed_comparison():
    shown = "".join(said(output) for output in outputs(read(ROOT / "notebooks/04_tuning.ipynb")))
    found = results.compare_tuned()
    assert f"verdict: {found['verdict']}" in shown
    assert f"{100 * found['difference']['mean']:+.3f} points" in shown
    kept = json.loads((ROOT / "models/best_hyperparameters.json").read_text())
    assert kept["values"] == tuning.best_trial()["values"]


def test_evaluation_shows_the_committed_numbers():
    shown = "".join(said(o) for o in outputs(read(ROOT / "notebooks/05_evaluation.ipynb")))
    found = json.loads((ROOT / "models/evaluation.json").read_text())
    assert f"models/{found['model']}" in shown
    assert f"{found['test']['errors']} of 10,000 images are wrong" in shown
    assert f"temperature {found['temperature']:.2f}" in shown
    right, total = found["relabelled"]["without the fifteen"]
    assert f"({total - right} of {total:,} wrong)" in shown
