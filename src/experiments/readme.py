"""Numbers of README and notebooks/README, filled in between its markers from the stored results.

`<!--=photos.json photos/plain .1%-->98.5%<!--/-->` is a number: where from, place, format. Where
from is a JSON of models/, or one of TABLES, whose places are row/column.
"""

import re
from pathlib import Path

from src.config import ROOT, read_json, replacing
from src.experiments import results

NUMBER = re.compile(r"(<!--=(\S+) (.+?) ([^\s-]+)-->).*?(<!--/-->)", re.DOTALL)
PAGES = (ROOT / "README.md", ROOT / "notebooks" / "README.md")
TABLES = {"systems": results.systems, "ladder": results.ladder}


def readme_text(text: str, models: Path) -> str:
    """Fill a page's markers from the results in `models`."""
    tables = {}

    def number(match: re.Match) -> str:
        source, place = match[2], match[3].split("/")
        if source in TABLES:
            if source not in tables:
                tables[source] = TABLES[source](models)
            value = tables[source].loc[place[0], place[1]]
        else:
            value = read_json(models / source)
            for key in place:
                value = value[int(key) if isinstance(value, list) else key]
        value = int(value) if match[4] == "d" else value
        return f"{match[1]}{value:{match[4]}}{match[5]}"

    return NUMBER.sub(number, text)


def write_readme() -> None:
    """Make the numbers of PAGES again."""
    for path in PAGES:
        text = readme_text(path.read_text(encoding="utf-8"), ROOT / "models")
        with replacing(path) as partial:
            partial.write_text(text, "utf-8")
