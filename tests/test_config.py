"""Where results are written and found, how paths are shown, and JSON files."""

import json
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


def test_your_own_result_comes_before_the_published_one(root):
    with pytest.raises(FileNotFoundError) as error:
        config.find_result("a.json", "figures")
    for part in ("a.json", root / "build/figures", root / "figures", "02_training.ipynb"):
        assert str(part) in str(error.value)
    published = root / "figures" / "a.json"
    published.parent.mkdir(parents=True)
    published.write_text("published")
    assert config.find_result("a.json", "figures") == published
    yours = config.results_dir("figures") / "a.json"
    yours.write_text("yours")
    assert config.find_result("a.json", "figures") == yours


def test_what_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with config.replacing(path) as partial:
        partial.write_text("old")
    assert path.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), config.replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert [file.name for file in path.parent.iterdir()] == ["a.txt"] and path.read_text() == "old"


def test_looking_for_a_result_makes_no_folder(root):
    with pytest.raises(FileNotFoundError):
        config.find_result("a.json")
    assert not (root / "build").exists()


def test_the_sample_is_never_scored_with_mnists_published_model(root):
    (root / "models").mkdir(parents=True)
    (root / "models" / "m.keras").write_text("published")
    assert config.find_result("m.keras") == root / "models" / "m.keras"
    with pytest.raises(FileNotFoundError, match="SOURCE = 'sample'"):
        config.find_result("m.keras", source="sample")
    published = root / "models" / "m.keras"
    assert config.find_result("m.keras", source="sample", published=True) == published
    yours = config.results_dir("models", "sample") / "m.keras"
    yours.write_text("yours")
    assert config.find_result("m.keras", source="sample", published=True) == yours


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


def test_a_failed_write_leaves_the_earlier_json(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("disk full")

    path = config.write_json(tmp_path / "a.json", {"digits": "ä"})
    with pytest.raises(TypeError):
        config.write_json(path, {"digits": object()})
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        config.write_json(path, {"digits": "b"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"digits": "ä"}


def test_advice_where_a_result_is_missing():
    for name, source, said in (
        ("a.keras", "mnist", "02_training.*SOURCE = 'mnist'; `git restore models`"),
        ("a.onnx", "mnist", "make export.*git restore"),
        ("a.keras", "sample", r"SOURCE = 'sample'\.$"),
    ):
        with pytest.raises(FileNotFoundError, match=said):
            config.find_result(name, source=source)


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
    with pytest.raises(FileNotFoundError, match="b.json"):
        config.read_json(tmp_path / "b.json")


def test_environment_names_cores_and_versions():
    found = config.environment()
    assert (found["cores"], found["python"]) == (os.cpu_count(), platform.python_version())
    assert found["numpy"] == np.__version__
    assert {"tensorflow", "keras", "scikit-learn"} <= set(found)
