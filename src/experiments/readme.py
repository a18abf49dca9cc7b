"""README's tables and numbers, filled in between its markers from the stored results.

`<!-- results -->` ... `<!-- /results -->` holds a table of TABLES, and
`<!--=evaluation.json test/accuracy .2%-->` ... `<!--/-->` a number: file, place, format.
"""

import re
from pathlib import Path

import pandas as pd

from src.config import ROOT, read_json, replacing
from src.evaluation import REJECTED_TEST_LABELS
from src.experiments import plots, results
from src.plots import save_figure

TABLE = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
NUMBER = re.compile(r"(<!--=(\S+) (\S+) ([^\s-]+)-->).*?(<!--/-->)", re.DOTALL)


def readme_text(text: str, models: Path) -> str:
    """Fill README's markers from the results in `models`."""

    def table(match: re.Match) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"README.md: no table named {match[2]}.")
        return f"{match[1]}{markdown(TABLES[match[2]](models))}\n{match[3]}"

    def number(match: re.Match) -> str:
        value = read_json(models / match[2])
        for key in match[3].split("/"):
            value = value[int(key) if isinstance(value, list) else key]
        return f"{match[1]}{value:{match[4]}}{match[5]}"

    return NUMBER.sub(number, TABLE.sub(table, text))


def markdown(table: pd.DataFrame) -> str:
    """Write a table of text in Markdown."""
    rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def systems_table(models: Path) -> pd.DataFrame:
    """Compare what each recipe states with what it reached, and its time."""
    table = results.systems(models).reset_index(names="name")
    on_validation = table.validation.map(" of validation (here {:.2%})".format)
    overfit = table.training_accuracy.map(" (training accuracy here: {:.2%})".format)
    rows = {
        "recipe": table.system.fillna("`" + table.name + "`") + ": " + table.about,
        "it states": table.reported.fillna("–")
        + on_validation.where(table.reported_on == "validation", ""),
        "test accuracy ± sd (seeds), 95% interval": table.apply(spread, axis=1),
        "training": table.apply(duration, axis=1),
        "verdict": table.verdict.replace("", "–")
        + table.comparable.map({True: ", comparable network", False: ""})
        + overfit.where(table.verdict == "not supported", ""),
    }
    return pd.DataFrame(rows)


def spread(row: pd.Series) -> str:
    """Write a mean over seeds with its sd, number of seeds and interval."""
    if row.n == 1:
        return f"{row['mean']:.2%} (1)"
    interval = f"{100 * row.low:.2f} to {100 * row.high:.2f}"
    return f"**{100 * row['mean']:.2f}** ± {100 * row.sd:.2f}% ({row.n:.0f}), {interval}"


def duration(row: pd.Series) -> str:
    """Write a training time and its multiple of the keras.io example's."""
    if pd.isna(row.get("seconds")):
        return "–"
    shown = f"{row.seconds:.0f} s" if row.seconds < 100 else f"{row.seconds / 60:.1f} min"
    return f"{shown}, {row.ratio:.2g}×"


def ensembles_table(models: Path) -> pd.DataFrame:
    """Show one member, both tries of the ensemble, and its students on the test images."""
    sizes, tries = results.members(models).parameters, results.tries(models)
    first, rows = tries.iloc[0], []
    alone = f"{first['mean']:.2%}, from {first.least:.2%} to {first.most:.2%}"
    size = f"{min(sizes):,} to {max(sizes):,}"
    rows.append([f"one member, mean of {first.members}", size, alone])
    for title, row in tries.iterrows():
        rejected = len(REJECTED_TEST_LABELS.keys() & set(row.wrong))
        interval = f"(Wilson's 95% interval {row.low:.2%} to {row.high:.2%})"
        wrong = f"{len(row.wrong)} wrong, {rejected} of them with a label that people rejected"
        rows.append([title, f"{row.parameters:,}", f"**{row.together:.2%}** {interval}; {wrong}"])
    for (name, way), row in results.students(models).iterrows():
        if way != "difference":
            rows.append([f"`{name}`, {way}", f"{row.parameters:,.0f}", spread(row)])
    return pd.DataFrame(rows, columns=["network", "parameters", "test accuracy"])


def photos_table(models: Path) -> pd.DataFrame:
    """Show how synthetic photos are read in each way."""
    rows = []
    for way, row in results.photos(models)["photos"]["all together"].items():
        low, high = row["interval"]
        sure = f"{row['wrong_and_sure'] * row['n']:,.0f} of {row['n']:,}"
        rows.append([way, f"**{row['accuracy']:.1%}** ({low:.1%} to {high:.1%})", sure])
    columns = [f"{row['n']:,} synthetic photos", "right", "wrong, with confidence above 0.9"]
    return pd.DataFrame(rows, columns=columns)


TABLES = {"results": systems_table, "ensembles": ensembles_table, "photos": photos_table}


def write_readme() -> None:
    """Make README's tables, numbers and figure again."""
    path = ROOT / "README.md"
    text = readme_text(path.read_text(encoding="utf-8"), ROOT / "models")
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
    if rows := results.accuracy_time_rows():
        save_figure(plots.plot_accuracy_time(rows), ROOT / "figures" / "accuracy_time.png")
