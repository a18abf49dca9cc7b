"""The committed notebooks as files: executed, tidy, and true to the stored results."""

import json
import re

import nbformat
import pytest

from src.config import ROOT
from src.experiments import notebooks, results, tuning

BOOKS = sorted(notebooks.NOTEBOOKS.glob("[0-9]*.ipynb"))
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


def test_every_notebook_has_a_row_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [path.stem for path in BOOKS]
    assert len(names) == 8 and all(f"| [{n}](notebooks/{n}.ipynb) |" in readme for n in names)


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
        assert not re.search(r"(?<!build)/(home|root|Users|tmp|work)/", said(output))


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


def test_the_sums_over_channels_by_hand_are_those_of_keras():
    cells = code_cells(read(ROOT / "notebooks/02_training.ipynb"))  # small runs meet empty paper
    shown = next(c for c in cells if "by hand {by_hand:.4f}" in c.source).outputs[0].text
    pairs = re.findall(r"by hand (\S+), by Keras (\S+)", shown)
    assert len(pairs) == 4 and all(a == b for a, b in pairs)
    assert any(float(a) > 0 for a, _ in pairs)


def test_tuning_shows_the_committed_comparison():
    book = read(ROOT / "notebooks/04_tuning.ipynb")
    shown = "".join(said(output) for output in outputs(book))
    assert results.compare_tuned()["gains"].round(1).to_string() in shown
    kept = json.loads((ROOT / "models/best_hyperparameters.json").read_text())
    assert kept["values"] == tuning.best_trial()["values"]
    names = {"tuning": tuning}
    exec(next(c.source for c in code_cells(book) if "def space" in c.source), names)
    assert tuning.space_digest(names["space"]) == tuning.space_digest()
