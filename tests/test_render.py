"""Running notebooks, tidying what they leave, and README's tables."""

import itertools
import json
import re
import shutil

import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image

from src import render
from src.config import ROOT
from src.data import DataError, DataUnavailableError
from src.plots import plot_accuracy_time, save_figure
from src.results import NEEDED, accuracy_time_rows

v4 = nbformat.v4


def book_of(*sources, knobs="EPOCHS = 5\nNAME = 'a'"):
    cells = [v4.new_code_cell(knobs, metadata={"tags": ["parameters"]})]
    return v4.new_notebook(cells=cells + [v4.new_code_cell(source) for source in sources])


def test_set_parameters_changes_the_lines_of_knobs_and_no_others():
    book = book_of("EPOCHS = 9", knobs="# how long\nEPOCHS = 5\nNAME = 'a'\nHALF = EPOCHS / 2")
    render.set_parameters(book, {"EPOCHS": 1, "NAME": r"\b"})
    assert book.cells[0].source == "# how long\nEPOCHS = 1\nNAME = '\\\\b'\nHALF = EPOCHS / 2"
    assert [cell.source for cell in book.cells[1:]] == ["EPOCHS = 9"]


def test_an_unknown_knob_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="no knob named EPOCH; there are EPOCHS, NAME"):
        render.set_parameters(book_of(), {"EPOCH": 1})


def test_a_notebook_without_knobs_is_refused():
    with pytest.raises(ValueError, match="no cell tagged `parameters`"):
        render.set_parameters(v4.new_notebook(cells=[v4.new_code_cell("a = 1")]), {"a": 2})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project folder with one notebook `01_one`, in place of this one."""
    monkeypatch.setattr(render, "ROOT", tmp_path)
    monkeypatch.setattr(render, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(render, "TIMES", tmp_path / "models/notebook_times.json")
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
    assert render.execute(source, target, {"EPOCHS": 41}) > 0
    done = nbformat.read(target, as_version=4)
    assert done.cells[-1].outputs[0].text == "42\n"
    assert done.metadata.kernelspec.name == "python3"
    assert source.read_bytes() == before
    assert "Say it" in capsys.readouterr().out


def test_a_failing_cell_is_reported_and_leaves_the_source_alone(folder, monkeypatch, capsys):
    path = folder / "notebooks/01_one.ipynb"
    nbformat.write(book_of("print('so far')", "1 / 0"), path)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        render.execute(path, path)
    assert path.read_bytes() == before
    left = nbformat.read(folder / "build/notebooks/01_one.ipynb", as_version=4)
    assert left.cells[1].outputs[0].text == "so far\n"


def test_an_interrupt_leaves_the_published_notebook_alone(folder, monkeypatch):
    def interrupted(self, **kwargs):
        raise KeyboardInterrupt

    path = folder / "notebooks/01_one.ipynb"
    before = path.read_bytes()
    monkeypatch.setattr(render.NotebookClient, "execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render.execute(path, path)
    assert path.read_bytes() == before


def test_tidy_drops_startup_lines_and_nothing_else():
    noise = (
        "I0000 00:00:1795216873.180054    4309 cpu_feature_guard.cc:227] This TensorFlow binary\n"
        "To enable the following instructions: AVX2 FMA, in other operations, rebuild\n"
        "2026-11-20 23:05:01.123456: I tensorflow/core/util/port.cc:153] oneDNN\n"
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    )
    book = book_of("a", "b")
    stream = v4.new_output
    book.cells[1].outputs = [stream("stream", name="stderr", text=noise)]
    book.cells[2].outputs = [stream("stream", name="stderr", text=noise + "UserWarning: look\n")]
    render._tidy(book)
    assert book.cells[1].outputs == []
    assert [output.text for output in book.cells[2].outputs] == ["UserWarning: look\n"]


def test_run_falls_back_to_the_sample_and_says_so(folder, monkeypatch, capsys):
    def unavailable():
        raise DataUnavailableError("MNIST can't be loaded. Three ways out: ...")

    calls = []
    monkeypatch.setattr(render, "load_mnist", unavailable)
    monkeypatch.setattr(render, "execute", lambda *args: calls.append(args) or 1.0)
    render.run([])
    target = folder / "build/notebooks/01_one.ipynb"
    assert calls == [(folder / "notebooks/01_one.ipynb", target, {"SOURCE": "sample"})]
    out = capsys.readouterr().out
    assert "Three ways out" in out and "embedded sample" in out


def test_publish_needs_mnist(folder, monkeypatch, capsys):
    def damaged():
        raise DataError("t10k-labels: truncated")

    monkeypatch.setattr(render, "load_mnist", damaged)
    monkeypatch.setattr("sys.argv", ["render", "publish"])
    assert render.main() == 1
    assert "t10k-labels: truncated" in capsys.readouterr().err


def test_unknown_notebooks_and_commands_are_named(folder, monkeypatch, capsys):
    with pytest.raises(ValueError, match="no notebook named 07_more; there are 01_one"):
        render._paths(["07_more"])
    monkeypatch.setattr("sys.argv", ["render", "dance"])
    assert render.main() == 2
    assert "python -m src.render run" in capsys.readouterr().out


def test_readme_tables_are_those_that_the_json_gives():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert render.readme_text(text, ROOT / "models") == text
    assert len(text.splitlines()) <= 150


@pytest.fixture
def results(tmp_path):
    """The published JSON files, for a test to change."""
    shutil.copytree(ROOT / "models", tmp_path / "m", ignore=shutil.ignore_patterns("*.keras"))
    return tmp_path / "m"


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_readme_follows_the_json(results):
    test = {"accuracy": 0.12345, "accuracy_interval": [0.1, 0.2], "loss": 1.0}
    change(results / "evaluation.json", test=test)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made = render.readme_text(text, results)
    assert (
        "12.35% of the test images right (Wilson's 95% interval for the draw of images: 10.00%"
        in made
    )
    assert "12.35%" not in text


def test_the_results_table_shows_mean_spread_time_and_verdict(results):
    shutil.rmtree(results / "benchmarks")
    (results / "benchmarks").mkdir()
    seconds = {"two_conv_plain": [50, 70, 60], "keras_io_convnet": [90, 110, 120], "sprint": [5.5]}
    change(results / "timing.json", seconds=seconds, one_epoch={})
    runs = {"two_conv_plain": [0.990, 0.991, 0.992], "sprint": [0.9912]}
    for name, accuracies in runs.items():
        for seed, accuracy in enumerate(accuracies):
            parts = {part: {"accuracy": accuracy} for part in ("validation", "test")}
            content = dict.fromkeys(NEEDED, 1) | parts | {"training_accuracy": 0.998}
            (results / f"benchmarks/{name}-{seed}.json").write_text(json.dumps(content))
    rows = render.results_table(results).splitlines()[2:4]
    assert rows == [
        "| D: two convolutions, dense 128; nothing else | 99.7% | **99.10** ± 0.10% (3), "
        "98.85 to 99.35 | 60 s, 0.55× | not supported (training accuracy here: 99.80%) |",
        "| `sprint`: one epoch of a small network | – | 99.12% (1) | 6 s, 0.05× | – |",
    ]


def test_the_photos_table_gives_counts_and_prices(results):
    found = json.loads((results / "photos.json").read_text())["photos"]
    ways = {"resized": (0.2, 0.0), "boxed": (0.3, 0.05), "prepared + champion": (0.98, 0.001),
            "prepared + robust": (0.985, 0.002)}  # fmt: skip
    found["all together"] = {
        way: {"n": 2000, "accuracy": right, "interval": [right - 0.01, right + 0.01],
              "wrong_and_sure": sure}
        for way, (right, sure) in ways.items()
    }  # fmt: skip
    spoilt = {"none": {"champion.keras": 0.999, "robust.onnx": 0.998}}
    spoilt |= dict.fromkeys("ab", {"champion.keras": 0.5, "robust.onnx": 0.9})
    change(results / "photos.json", photos=found, spoilt=spoilt, spoilt_images=1234,
           robust_against_champion={"only_a": 12, "only_b": 9, "p": 0.664})  # fmt: skip
    times = {"model.predict": 50, "model(x)": 10, "robust_int8.tflite": 0.1, "robust.onnx": 0.25}
    rows = [{"name": name, "n": 10_000, "bytes": 5e5, "accuracy": 0.99, "errors": 100,
             "milliseconds": t}
            for name, t in times.items()]  # fmt: skip
    change(results / "exports.json", rows=rows, made_from="robust.keras")
    change(results / "evaluation.json", model="champion.keras", test={"accuracy": 0.9975})
    made = render.photos_table(results)
    assert made.splitlines()[4:6] == [
        "| prepared + champion | **98.0%** (97.0% to 99.0%) | 2 of 2,000 |",
        "| prepared + robust | **98.5%** (97.5% to 99.5%) | 4 of 2,000 |",
    ]
    for said in (
        "do not tell the last two rows apart: `robust` alone reads 12 of them right, `champion` "
        "alone 9 (McNemar's p = 0.66).",
        "spoilt in 2 ways at 28 × 28, 1,234 of each, without preparation: `champion` 50.0% right, "
        "`robust` 90.0%.",
        "On all 10,000 test images, clean: `champion` 99.75%, `robust` 99.00%.",
        "One image takes the ONNX file 2.5 times as long, `model(x)` 100 times, `model.predict` "
        "500 times.",
    ):
        assert said in made
    change(results / "evaluation.json", model="your_own.keras")
    compared = {"only_a": 12, "only_b": 2, "p": 0.013}
    change(results / "photos.json", robust_against_champion=compared)
    made = render.photos_table(results)
    assert "On the same images, clean: `champion` 99.90%, `robust` 99.80%." in made
    assert "The photos tell the last two rows apart" in made


def test_the_ensembles_table_counts_members_misses_and_seeds(tmp_path):
    folder, kinds = tmp_path / "ensemble", {"distilled": 0.002, "plain": 0.0}
    folder.mkdir()

    def write(name, **content):
        (folder / f"{name}.json").write_text(json.dumps(content))

    write("declared", members=["a-0", "b-0"])
    write("a-0", parameters=1000)
    write("b-0", parameters=234)
    members = {"a-0": {"accuracy": 0.99}, "b-0": {"accuracy": 0.98}}
    ensemble = {"accuracy": 0.995, "accuracy_interval": [0.99, 0.998]}
    write("test", ensemble=ensemble, members=members, wrong=[1, 947, 9729])
    write("continued", ensemble=ensemble, wrong=[2, 3])
    for name, parameters in (("student", 999), ("small_student", 99)):
        for (kind, gain), seed in itertools.product(kinds.items(), range(5)):
            test = {"accuracy": 0.99 + gain + (0.001 if seed == 0 else 0)}
            write(f"{name}-{kind}-{seed}", settings={}, parameters=parameters, test=test)
    assert render.ensembles_table(tmp_path).splitlines()[2:] == [
        "| one member, mean of 2 | 234 to 1,000 | 98.50%, from 98.00% to 99.00% |",
        "| all 2, averaged | 1,234 | **99.50%** (Wilson's 95% interval 99.00% to 99.80%); 3 wrong, "
        "2 of them with a label that people rejected |",
        "| second try: the same, trained on | 1,234 | **99.50%** (Wilson's 95% interval 99.00% to "
        "99.80%); 2 wrong, 0 of them with a label that people rejected |",
        "| `student` | 999 | distilled **99.22** ± 0.04% (5), 99.16 to 99.28; "
        "plain **99.02** ± 0.04% (5), 98.96 to 99.08 |",
        "| `small_student` | 99 | distilled **99.22** ± 0.04% (5), 99.16 to 99.28; "
        "plain **99.02** ± 0.04% (5), 98.96 to 99.08 |",
    ]


def test_the_published_figure_is_the_one_that_the_json_gives(tmp_path):
    figure = plot_accuracy_time(accuracy_time_rows(ROOT / "models"))
    made = np.asarray(Image.open(save_figure(figure, tmp_path / "made.png")).convert("L"), float)
    published = Image.open(ROOT / "figures/accuracy_time.png").convert("L")
    assert published.size == made.shape[::-1]
    assert (
        np.abs(np.asarray(published, float) - made).mean() < 0.1
    )  # of 255: less than one point moved


def test_a_readme_without_markers_is_refused():
    with pytest.raises(ValueError, match="<!-- results -->"):
        render.readme_text("# Nothing", ROOT / "models")


def test_readme_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#: ]+)\)", text)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
