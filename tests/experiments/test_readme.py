"""README's tables and numbers are those of the stored results."""

import re

import numpy as np
import pytest
from PIL import Image

from src.config import ROOT, write_json
from src.experiments import plots, readme, results
from src.plots import save_figure

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_published_readme_is_the_one_that_the_results_give():
    assert readme.readme_text(README, ROOT / "models") == README
    assert len(README.splitlines()) <= 150


def test_numbers_are_looked_up_and_formatted(tmp_path):
    write_json(tmp_path / "a.json", {"rows": [{"share": 0.1234}], "n": 12345})
    text = "<!--=a.json rows/0/share .1%-->9%<!--/--> of <!--=a.json n ,-->1<!--/--> images"
    assert readme.readme_text(text, tmp_path) == (
        "<!--=a.json rows/0/share .1%-->12.3%<!--/--> of <!--=a.json n ,-->12,345<!--/--> images"
    )


def test_a_table_without_a_maker_is_named():
    text = "<!-- weather -->\n<!-- /weather -->"
    with pytest.raises(ValueError, match="no table named weather"):
        readme.readme_text(text, ROOT / "models")


def rows(table):
    return [line for line in readme.markdown(table).splitlines()[2:]]


def test_the_systems_table_shows_mean_spread_time_and_verdict(monkeypatch):
    whole = results.systems(ROOT / "models")
    some = whole.loc[["two_conv_plain", "kaggle_conv", "sprint"]].copy()
    some["n"], some["seconds"], some["ratio"] = [3, 3, 1], [60.0, 600.0, np.nan], [0.55, 2.2, 1]
    some["mean"], some["sd"], some["low"], some["high"] = 0.991, 0.001, 0.9885, 0.9935
    some["training_accuracy"], some.loc["sprint", "seconds"] = 0.998, np.nan
    some["verdict"] = ["not supported", "below", ""]
    monkeypatch.setattr(results, "systems", lambda models: some)
    spread = "**99.10** ± 0.10% (3), 98.85 to 99.35"
    assert rows(readme.systems_table(None)) == [
        f"| D: two convolutions, dense 128; nothing else | 99.7% | {spread} | 60 s, 0.55× "
        "| not supported (training accuracy here: 99.80%) |",
        "| E: convolutions with dropout; 42,000 of MNIST's images, as many as Kaggle's | 98.9% of "
        f"validation (here 99.00%) | {spread} | 10.0 min, 2.2× | below, comparable network |",
        "| `sprint`: one epoch of a small network | – | 99.10% (1) | – | – |",
    ]


def test_the_photos_table_counts_confident_mistakes(monkeypatch):
    way = {"n": 2000, "accuracy": 0.98, "interval": [0.97, 0.99], "wrong_and_sure": 0.001}
    networks = {"champion.keras": 0.5, "robust.onnx": 0.9}
    photos = {"photos": {"all together": {"prepared + champion": way}}, "corrupted_images": 1234,
              "corrupted": {"none": dict.fromkeys(networks, 1.0), "a": networks}}  # fmt: skip
    monkeypatch.setattr(results, "photos", lambda models: photos)
    assert rows(readme.photos_table(None)) == [
        "| prepared + champion | **98.0%** (97.0% to 99.0%) | 2 of 2,000 |"
    ]


def test_the_published_figure_is_the_one_that_the_results_give(tmp_path):
    figure = plots.plot_accuracy_time(results.accuracy_time_rows())
    made = np.asarray(Image.open(save_figure(figure, tmp_path / "made.png")).convert("L"), float)
    published = Image.open(ROOT / "figures/accuracy_time.png").convert("L")
    assert published.size == made.shape[::-1]
    # of 255: less than one point moved
    assert np.abs(np.asarray(published, float) - made).mean() < 0.1


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#: ]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
