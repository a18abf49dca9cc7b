"""README's tables and numbers are those of the stored results."""

import re

import numpy as np
import pandas as pd
from PIL import Image

from src.config import ROOT, write_json
from src.experiments import plots, readme, results
from src.plots import save_figure

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_published_pages_are_those_that_the_results_give():
    for page in readme.PAGES:
        text = page.read_text(encoding="utf-8")
        assert readme.readme_text(text, ROOT / "models") == text
    lines, words = README.splitlines(), re.sub(r"<!--.*?-->", "", README).split()
    assert len(lines) <= 130 and len(words) <= 1600


def test_numbers_are_looked_up_and_formatted(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"rows": [{"a share": 0.1234}], "n": 12345})
    table = pd.DataFrame({"mean": [0.9952], "n": [10.0]}, index=["fast"])
    monkeypatch.setitem(readme.TABLES, "systems", lambda models: table)
    text = "<!--=a.json rows/0/a share .1%-->{}<!--/--> <!--=a.json n ,-->{}<!--/--> "
    text += "<!--=systems fast/mean .2%-->{}<!--/--> <!--=systems fast/n d-->{}<!--/-->"
    filled = readme.readme_text(text.format(*"1234"), tmp_path)
    assert filled == text.format("12.3%", "12,345", "99.52%", "10")


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
