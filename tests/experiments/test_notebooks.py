"""Notebooks are run with other knobs, tidied, and never lost."""

import os

import nbformat
import pytest

from src.data import DataError, DataUnavailableError
from src.experiments import __main__ as commands
from src.experiments import notebooks

v4 = nbformat.v4


def book_of(*sources, knobs="EPOCHS = 5\nNAME = 'a'"):
    cells = [v4.new_code_cell(knobs, metadata={"tags": ["parameters"]})]
    return v4.new_notebook(cells=cells + [v4.new_code_cell(source) for source in sources])


def test_set_parameters_changes_the_lines_of_knobs_and_no_others():
    book = book_of("EPOCHS = 9", knobs="# how long\nEPOCHS = 5\nNAME = 'a'\nHALF = EPOCHS / 2")
    notebooks.set_parameters(book, {"NAME": r"\b", "EPOCHS": 1})
    assert book.cells[0].source == "# how long\nEPOCHS = 1\nNAME = '\\\\b'\nHALF = EPOCHS / 2"
    assert [cell.source for cell in book.cells[1:]] == ["EPOCHS = 9"]


def test_an_unknown_knob_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no knob named EPOCH; there are EPOCHS, NAME"):
        notebooks.set_parameters(book_of(), {"EPOCH": 1})


def test_a_quote_must_be_printed_in_its_section_or_the_one_before():
    book = book_of("a", "b")
    printed = v4.new_output("stream", text="accuracy 0.9663, 12 of 5,000\n")
    book.cells[1].outputs = [printed]
    says = "## Next\n\n**In the published run** it was 96.6%, with 12 of 5,000 wrong."
    book.cells.append(v4.new_markdown_cell(says))
    assert notebooks.false_quotes(book) == []
    book.cells.append(v4.new_markdown_cell(says.replace("96.6", "96.7").replace("## Next", "")))
    assert "96.7 is quoted" in notebooks.false_quotes(book)[0]
    book.cells.append(v4.new_markdown_cell("## Two sections on"))
    book.cells.append(v4.new_markdown_cell(says))
    assert len(notebooks.false_quotes(book)) == 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder with one notebook `01_one`, in place of this one."""
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(notebooks, "TIMES", tmp_path / "models/notebook_times.json")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "models").mkdir()
    cells = [v4.new_markdown_cell("## Say it")] + book_of("print(EPOCHS + 1)").cells
    book = v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "other", "display_name": "?"}}
    )
    nbformat.write(book, tmp_path / "notebooks/01_one.ipynb")
    return tmp_path


def test_execute_runs_with_changed_knobs_and_reports_sections(folder, capsys):
    source, target = folder / "notebooks/01_one.ipynb", folder / "build/notebooks/01_one.ipynb"
    before = source.read_bytes()
    assert notebooks.execute(source, target, {"EPOCHS": 41}) > 0
    done = nbformat.read(target, as_version=4)
    assert done.cells[-1].outputs[0].text == "42\n"
    assert done.metadata.kernelspec.name == "python3"
    assert source.read_bytes() == before
    assert "Say it" in capsys.readouterr().out


def test_the_table_of_runs_and_the_results_are_not_the_readers(folder):
    path, results = folder / "notebooks/01_one.ipynb", folder / "elsewhere"
    code = "import os\nruns = os.environ['MNIST_RUNS_DIR']\nos.makedirs(runs)\n"
    nbformat.write(book_of(code + "print(runs, os.environ['MNIST_RESULTS_DIR'])"), path)
    notebooks.execute(path, path, results=results)
    runs, found = nbformat.read(path, as_version=4).cells[1].outputs[0].text.split()
    assert runs.startswith("../build/work/runs-") and found == str(results)
    assert not list((folder / "build/work").iterdir()) and "MNIST_RUNS_DIR" not in os.environ


def test_a_failing_cell_is_reported_and_leaves_the_source_alone(folder, monkeypatch, capsys):
    path = folder / "notebooks/01_one.ipynb"
    nbformat.write(book_of("print('so far')", "1 / 0"), path)
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        notebooks.execute(path, path)
    assert path.read_bytes() == before
    left = nbformat.read(folder / "build/notebooks/01_one.ipynb", as_version=4)
    assert left.cells[1].outputs[0].text == "so far\n"


def test_an_interrupt_leaves_the_published_notebook_alone(folder, monkeypatch):
    def interrupted(self, **kwargs):
        raise KeyboardInterrupt

    path = folder / "notebooks/01_one.ipynb"
    before = path.read_bytes()
    monkeypatch.setattr(notebooks.NotebookClient, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        notebooks.execute(path, path)
    assert path.read_bytes() == before


def test_tidy_drops_empty_outputs_and_nothing_else():
    book = book_of("a", "b")
    stream = v4.new_output
    book.cells[1].outputs = [stream("stream", name="stdout", text="\n")]
    book.cells[2].outputs = [stream("stream", name="stderr", text="UserWarning: look\n")]
    notebooks.tidy(book)
    assert book.cells[1].outputs == []
    assert [output.text for output in book.cells[2].outputs] == ["UserWarning: look\n"]


def test_run_falls_back_to_the_sample_and_says_so(folder, monkeypatch, capsys):
    def unavailable():
        raise DataUnavailableError("MNIST can't be loaded. Three ways out: ...")

    calls = []
    monkeypatch.setattr(notebooks, "load_mnist", unavailable)
    monkeypatch.setattr(notebooks, "execute", lambda *args: calls.append(args) or 1.0)
    notebooks.run([])
    target = folder / "build/notebooks/01_one.ipynb"
    assert calls == [(folder / "notebooks/01_one.ipynb", target, {"SOURCE": "sample"})]
    out = capsys.readouterr().out
    assert "Three ways out" in out and "embedded sample" in out


def test_publish_needs_mnist(folder, monkeypatch, capsys):
    def damaged():
        raise DataError("t10k-labels: truncated")

    monkeypatch.setattr(notebooks, "load_mnist", damaged)
    assert commands.main(["publish"]) == 1
    assert "t10k-labels: truncated" in capsys.readouterr().err


def test_unknown_notebooks_and_commands_are_named(folder, capsys):
    assert commands.main(["run", "07_more"]) == 1
    assert "no notebook named 07_more; there are 01_one" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        commands.main(["dance"])
    assert error.value.code == 2 and "invalid choice: 'dance'" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["", "elsewhere"])
def test_results_of_a_run_go_to_the_folder_that_the_reader_named(folder, monkeypatch, named):
    monkeypatch.setenv("MNIST_RESULTS_DIR", str(folder / named) if named else "")
    monkeypatch.setattr(notebooks, "load_mnist", lambda: None)
    path = folder / "notebooks/01_one.ipynb"
    nbformat.write(book_of("import os; print(os.environ['MNIST_RESULTS_DIR'])"), path)
    notebooks.run([])
    book = nbformat.read(folder / "build/notebooks/01_one.ipynb", as_version=4)
    assert book.cells[1].outputs[0].text.strip() == str(folder / (named or "build"))
