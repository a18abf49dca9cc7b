"""Where results are written and found, how paths are shown, and JSON files."""

import os
import platform

import numpy as np
import pytest

from src import config


@pytest.fixture
def root(monkeypatch, tmp_path):
    """A project folder of its own, without MNIST_RESULTS_DIR."""
    monkeypatch.setattr(config, "ROOT", tmp_path / "project")
    monkeypatch.delenv("MNIST_RESULTS_DIR")
    return tmp_path / "project"


@pytest.mark.parametrize(("source", "place"), [("mnist", "figures"), ("sample", "sample/figures")])
def test_results_go_under_build_or_the_named_folder(root, monkeypatch, source, place):
    assert config.results_dir("figures", source) == root / "build" / place
    monkeypatch.setenv("MNIST_RESULTS_DIR", "")
    assert config.results_dir("figures", source) == root / "build" / place
    monkeypatch.setenv("MNIST_RESULTS_DIR", str(root / "elsewhere"))
    folder = config.results_dir("figures", source)
    assert folder == root / "elsewhere" / place and folder.is_dir()


def test_your_own_result_comes_before_the_published_one_which_is_mnists(root):
    places = f"a.keras is not in {root}/build/models or {root}/models"
    ways = "02_training.ipynb, SOURCE = 'mnist'; `git restore models` brings back a published one"
    with pytest.raises(FileNotFoundError, match=f"{places}.*{ways}"):
        config.find_result("a.keras")
    with pytest.raises(FileNotFoundError, match="Exports come from `make export`; `git restore"):
        config.find_result("a.onnx")
    assert not (root / "build").exists()  # looking makes no folder
    published = root / "models" / "a.keras"
    published.parent.mkdir(parents=True)
    published.write_text("published")
    assert config.find_result("a.keras") == published
    with pytest.raises(FileNotFoundError, match=r"SOURCE = 'sample'\.$"):
        config.find_result("a.keras", source="sample")
    assert config.find_result("a.keras", source="sample", published=True) == published
    for source in ("mnist", "sample"):
        yours = config.results_dir("models", source) / "a.keras"
        yours.write_text("yours")
        assert config.find_result("a.keras", source=source, published=True) == yours


def test_what_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path):
    path = config.write_json(tmp_path / "new" / "a.json", {"digits": "ä"})
    with pytest.raises(ValueError):
        config.write_json(path, {"digits": object()})
    with pytest.raises(KeyboardInterrupt), config.replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == [path] and config.read_json(path) == {"digits": "ä"}


def test_two_writers_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    with config.replacing(path) as first, config.replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_shown_paths_start_at_the_project_or_are_bare_names(root, monkeypatch):
    assert config.display_path(root / "build" / "models" / "a.keras") == "build/models/a.keras"
    assert config.display_path(root.parent / "someone" / "a.keras") == "a.keras"
    root.mkdir()
    monkeypatch.chdir(root)
    assert config.display_path("models/a.keras") == "models/a.keras"


def test_numpys_numbers_are_written_as_json(tmp_path):
    numbers = {"one": np.int64(3), "some": np.array([1, 2]), "share": np.float32(0.5)}
    found = config.read_json(config.write_json(tmp_path / "a.json", numbers))
    assert found == {"one": 3, "some": [1, 2], "share": 0.5}


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "damaged"), (b'{"epochs": {"loss": [0.5', "damaged"), (b"3", "damaged"),
        (b"\xff", "damaged"), (b'{"epochs": 1}', "incomplete, without settings"),
        (b"[1, 2]", "incomplete, without epochs, settings"),
    ],
)  # fmt: skip
def test_a_file_that_lacks_something_is_named(content, said, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^a.json: {said}.*; delete it\.$"):
        config.read_json(tmp_path / "a.json", ("epochs", "settings"), "; delete it")


def test_environment_names_cores_and_versions():
    found = config.environment()
    assert (found["cores"], found["python"]) == (os.cpu_count(), platform.python_version())
    assert found["numpy"] == np.__version__
    assert {"tensorflow", "keras", "scikit-learn"} <= set(found)
