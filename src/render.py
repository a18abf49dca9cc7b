"""Run the notebooks, into build/ or for publication, and make README's tables from JSON.

    python -m src.render run        all notebooks into build/notebooks
    python -m src.render publish    all notebooks in place, with models/, figures/ and README
    python -m src.render readme     README's tables alone
Names of notebooks after `run` or `publish` restrict it to these.
"""

import base64
import io
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from src.config import ROOT, environment, read_json, replacing, write_json
from src.data import DataUnavailableError, load_mnist
from src.evaluation import REJECTED_TEST_LABELS

NOTEBOOKS = ROOT / "notebooks"
TIMES = ROOT / "models" / "notebook_times.json"
NOISE = re.compile(  # TensorFlow's start-up lines, which no setting silences
    r"^([IWE]\d{4} \d\d:\d\d:\d+\.\d+ |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] "
    r"|WARNING: All log messages before absl::InitializeLog|To enable the following instructions: "
    r"|WARNING:absl:You are saving your model as an HDF5 file )"  # and Keras' word on old formats
)


def set_parameters(book: nbformat.NotebookNode, values: dict) -> None:
    """Give knobs other values, in the cell tagged `parameters`; each has a line of its own.

    Raises ValueError for a knob that the notebook does not have.
    """
    tags = [cell.metadata.get("tags", []) for cell in book.cells]
    at = next((i for i, names in enumerate(tags) if "parameters" in names), None)
    if at is None:
        raise ValueError("the notebook has no cell tagged `parameters`.")
    knobs = re.findall(r"^(\w+) = ", book.cells[at].source, re.MULTILINE)
    unknown = sorted(set(values) - set(knobs))
    if unknown:
        raise ValueError(f"no knob named {', '.join(unknown)}; there are {', '.join(knobs)}.")
    for name, value in values.items():
        line = re.compile(rf"^{name} = .*$", re.MULTILINE)
        book.cells[at].source = line.sub(
            lambda _, n=name, v=value: f"{n} = {v!r}", book.cells[at].source
        )


def execute(path: Path, target: Path, values: dict | None = None) -> float:
    """Run the notebook at `path`, with knobs in `values` changed, and write it to `target`.

    Prints each section as it begins; returns the seconds taken. Where a cell fails, what
    ran so far is written under build/notebooks, and nbclient's error is raised.
    """
    book = nbformat.read(path, as_version=4)
    if values:
        set_parameters(book, values)
    started = time.perf_counter()
    client = NotebookClient(
        book, timeout=None, kernel_name="python3", record_timing=False, store_widget_state=False,
        coalesce_streams=True, resources={"metadata": {"path": str(NOTEBOOKS)}},
        on_cell_start=lambda cell, cell_index: _announce(cell, time.perf_counter() - started),
    )  # fmt: skip
    try:
        client.execute(stderr=subprocess.DEVNULL)  # cells keep theirs; this is the kernel's own
    except BaseException:  # an interrupt as well: published notebooks stay as they were
        target = ROOT / "build" / "notebooks" / path.name
        raise
    finally:
        _tidy(book)
        with replacing(target) as partial:
            nbformat.write(book, partial)
    return time.perf_counter() - started


def _announce(cell: nbformat.NotebookNode, seconds: float) -> None:
    heading = re.match(r"## (.+)", cell.source)
    if cell.cell_type == "markdown" and heading:
        print(f"  {seconds:5.0f} s  {heading[1]}", flush=True)


def _tidy(book: nbformat.NotebookNode) -> None:
    """Drop TensorFlow's start-up lines, empty outputs, and metadata that changes from run to
    run; bring figures to 256 colours, which takes less than half the space."""
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not NOISE.match(line))
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = _small_png(output.data["image/png"])
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _says_something(output)]
    names = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata = {"kernelspec": names, "language_info": {"name": "python"}}


def _says_something(output: nbformat.NotebookNode) -> bool:
    data = output.get("data", {"text/plain": output.get("text", "error")})
    return bool("image/png" in data or data.get("text/plain", "").strip())


def _small_png(encoded: str) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    small = io.BytesIO()
    image.quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def _prepare(results: Path) -> None:
    """Settings that the notebooks' kernels inherit."""
    os.environ["MNIST_RESULTS_DIR"] = str(results)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads leave the cores to others
    if os.environ.get("MNIST_DIR"):
        os.environ["MNIST_DIR"] = str(Path(os.environ["MNIST_DIR"]).expanduser().resolve())


def _paths(names: list[str]) -> list[Path]:
    found = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    unknown = set(names) - {path.stem for path in found}
    if unknown:
        raise ValueError(
            f"no notebook named {', '.join(unknown)}; there are "
            f"{', '.join(path.stem for path in found)}."
        )
    return [path for path in found if not names or path.stem in names]


def run(names: list[str]) -> None:
    """Execute into build/notebooks; without MNIST, on the embedded sample, and say so."""
    _prepare(ROOT / "build")
    sample = False
    try:
        load_mnist()
    except DataUnavailableError as error:
        print(f"{error}\n\nGoing on with the embedded sample: all runs, no number is MNIST's.\n")
        sample = True
    paths = _paths(names)
    what = "the embedded sample" if sample else "MNIST"
    print(f"Running {len(paths)} notebooks on {what}, into build/notebooks; published files stay.")
    if TIMES.exists() and not sample:
        times = read_json(TIMES)
        total = sum(times["seconds"].get(path.stem, 0) for path in paths)
        print(f"When last published ({times['environment']['cores']} cores): {total / 60:.1f} min.")
    seconds = []
    for path in paths:
        values = {"SOURCE": "sample"} if sample else None
        seconds.append(_run_one(path, ROOT / "build/notebooks" / path.name, values))
    print(f"All {len(paths)} ran in {sum(seconds):.0f} s. Open build/notebooks, or notebooks/.")


def _run_one(path: Path, target: Path, values: dict | None = None) -> float:
    print(f"\n{path.stem}", flush=True)
    seconds = execute(path, target, values)
    print(f"  {seconds:5.0f} s  done", flush=True)
    return seconds


def publish(names: list[str]) -> None:
    """Execute in place on MNIST, and renew models/, figures/, the times and README's tables."""
    _prepare(ROOT)
    load_mnist()
    times = read_json(TIMES)["seconds"] if TIMES.exists() else {}
    for path in _paths(names):
        times[path.stem] = round(_run_one(path, path))
        write_json(TIMES, {"seconds": times, "environment": environment()})
    readme()


def results_table(folder: Path) -> str:
    """README's first table, from the JSON files in `folder`: stated and measured accuracy."""
    from src.results import read_timing, summarize  # here: Keras takes seconds

    rounds = read_timing(folder)
    times = {name: statistics.median(values) for name, values in rounds.items()}
    rows = summarize(folder / "benchmarks")
    published = read_json(folder / "evaluation.json")
    low, high = published["test"]["accuracy_interval"]
    lines = [
        "| recipe | it states | test accuracy ± sd (seeds), 95% interval | training | verdict |",
        "| --- | --- | --- | --- | --- |",
        *(_result_row(name, row, times) for name, row in rows.items()),
        f"\n- The network that `04_evaluation` opens, `{published['model']}`, is a run of its own: "
        f"{published['test']['accuracy']:.2%} of the test images right (Wilson's 95% interval for "
        f"the draw of images: {low:.2%} to {high:.2%}), loss {published['test']['loss']:.4f}.",
    ]
    if times:
        timed = read_json(folder / "timing.json")
        short = [name for name in timed["one_epoch"] if name in rows]
        apart = max(max(values) / min(values) for values in rounds.values())
        lines.append(
            "- Training: median of three rounds, the recipes in turn in each, and its multiple of "
            f"the keras.io convnet's, {_machine(timed)}. Rounds differ by up to a factor "
            f"of {apart:.1f}, so read the multiples as rough. A to E and keras.io score their "
            "validation images after each epoch, as described. An epoch of "
            f"{' and of '.join(short) or 'none'} was timed, preparation included, and multiplied "
            "by their number."
        )
    return "\n".join(lines)


def _result_row(name: str, row: dict, times: dict[str, float]) -> str:
    title = f"{row['system']}: {row['about']}" if row["system"] else f"`{name}`: {row['about']}"
    states = row["reported"] or "–"
    if row["reported_on"] == "validation":
        states += f" of validation (here {row['validation']['mean']:.2%})"
    verdict = (row["verdict"] or "–") + ", comparable network" * row["comparable"]
    if row["verdict"] == "not supported" and row["training_accuracy"]:
        verdict += f" (training accuracy here: {row['training_accuracy']:.2%})"
    shown = "–"
    if name in times:
        shown = f"{times[name]:.0f} s" if times[name] < 100 else f"{times[name] / 60:.1f} min"
        shown += f", {times[name] / times['keras_io_convnet']:.2g}×"
    return f"| {title} | {states} | {_accuracy(row['test'])} | {shown} | {verdict} |"


def _accuracy(found: dict) -> str:
    """A spread over seeds in words."""
    if found["n"] == 1:
        return f"{found['mean']:.2%} (1)"
    interval = f"{100 * found['low']:.2f} to {100 * found['high']:.2f}"
    return f"**{100 * found['mean']:.2f}** ± {100 * found['sd']:.2f}% ({found['n']}), {interval}"


def _machine(content: dict) -> str:
    machine = content["environment"]
    return (
        f"{machine['cores']} cores ({machine['system']}), Python {machine['python']}, "
        f"TensorFlow {machine['tensorflow']}, Keras {machine['keras']}"
    )


LESSONS = {
    "01_eda": "what is in the data, and how far two methods get without a network",
    "02_training": "build, train, save, load; networks in seconds; what five recipes score",
    "03_tuning": "a search space, three tuners at equal cost, and whether the winner is any better",
    "04_evaluation": "the test set, once: intervals, whose mistakes, confidence, robustness",
    "05_deployment": "photos of handwriting: prepared step by step, read without TensorFlow",
    "06_ensembles": "four kinds of network, their average, what it still misses, a small student",
}


def notebooks_table(folder: Path) -> str:
    """README's list of notebooks with what each teaches and the time it took when published."""
    times = read_json(folder / TIMES.name)
    lines = [
        f"| notebook | what it teaches | time on {times['environment']['cores']} cores |",
        "| --- | --- | --- |",
    ]
    for name, lesson in LESSONS.items():
        if name not in times["seconds"]:  # not published yet
            continue
        minutes = times["seconds"][name] / 60
        shown = f"{minutes:.0f} min" if minutes >= 1.5 else f"{60 * minutes:.0f} s"
        lines.append(f"| [{name}](notebooks/{name}.ipynb) | {lesson} | {shown} |")
    return "\n".join(lines)


def photos_table(folder: Path) -> str:
    """README's table of made-up photos, and what the exported network costs."""
    found, exports = read_json(folder / "photos.json"), read_json(folder / "exports.json")
    together = found["photos"]["all together"]
    lines = [
        f"| {next(iter(together.values()))['n']:,} made-up photos of test digits | right "
        "| wrong, and over 0.9 sure |",
        "| --- | --- | --- |",
    ]
    for way, row in together.items():
        low, high = row["interval"]
        lines.append(
            f"| {way} | **{row['accuracy']:.1%}** ({low:.1%} to {high:.1%}) "
            f"| {row['wrong_and_sure'] * row['n']:,.0f} of {row['n']:,} |"
        )
    points = [
        f"- {_spoilt_accuracy(found)}",
        f"- {_clean_price(read_json(folder / 'evaluation.json'), exports, found)} "
        f"{_export_price(exports)}",
    ]
    return "\n".join([*lines, "", _apart(found["robust_against_champion"]), *points])


def _spoilt_accuracy(found: dict) -> str:
    ways = [row for kind, row in found["spoilt"].items() if kind != "none"]
    champion, robust = (
        statistics.mean(row[model] for row in ways) for model in ("champion.keras", "robust.onnx")
    )
    return (
        f"Test images spoilt in {len(ways)} ways at 28 × 28, {found['spoilt_images']:,} of each, "
        f"without preparation: `champion` {champion:.1%} right, `robust` {robust:.1%}. Training "
        "drew most of these kinds too, with other code and strengths, and its confidence was "
        "fitted on them: this says how well `robust` learned them, not how it does on others."
    )


def _apart(compared: dict) -> str:
    """Whether the photos tell the two networks apart, by McNemar's test."""
    said = "tell" if compared["p"] < 0.05 else "do not tell"
    return (
        f"`champion` reads the first two rows as well. The photos {said} the last two rows apart: "
        f"`robust` alone reads {compared['only_a']} of them right, `champion` alone "
        f"{compared['only_b']} (McNemar's p = {compared['p']:.2g})."
    )


def _clean_price(evaluation: dict, exports: dict, found: dict) -> str:
    """What robust's training costs on clean images: on all test images where both are known."""
    if (evaluation["model"], exports["made_from"]) == ("champion.keras", "robust.keras"):
        champion, robust = evaluation["test"]["accuracy"], exports["rows"][0]["accuracy"]
        where = f"all {exports['rows'][0]['n']:,} test images, clean"
    else:
        champion, robust = found["spoilt"]["none"].values()
        where = "the same images, clean"
    return f"On {where}: `champion` {champion:.2%}, `robust` {robust:.2%}."


def _export_price(exports: dict) -> str:
    rows = {row["name"]: row for row in exports["rows"]}
    small, keras, onnx = (rows[n] for n in ("robust_int8.tflite", "model.predict", "robust.onnx"))
    times = (
        rows[way]["milliseconds"] / small["milliseconds"]
        for way in ("robust.onnx", "model(x)", "model.predict")
    )
    floats, call, predict = (f"{ratio:.{0 if ratio >= 10 else 1}f}" for ratio in times)
    return (
        f"`robust` with 8-bit integers: {small['bytes'] / 1000:.0f} kB instead of "
        f"{onnx['bytes'] / 1000:,.0f} as ONNX, {small['errors']} errors on the test images, with "
        f"floats {keras['errors']}. One image takes the ONNX file {floats} times as long, "
        f"`model(x)` {call} times, `model.predict` {predict} times."
    )


def ensembles_table(folder: Path) -> str:
    """README's table of the ensemble, its members and its students on the test images."""
    from src.ensembles import student_rows

    lines = ["| network | parameters | test accuracy |", "| --- | --- | --- |"]
    lines += _ensemble_rows(folder / "ensemble")
    for row in student_rows(folder / "ensemble"):
        cells = [f"{kind} {_accuracy(row[kind])}" for kind in ("distilled", "plain")]
        lines.append(f"| `{row['name']}` | {row['parameters']:,} | {'; '.join(cells)} |")
    return "\n".join(lines)


def _ensemble_rows(folder: Path) -> list[str]:
    first, second, declared = (
        read_json(folder / f"{name}.json") for name in ("test", "continued", "declared")
    )
    sizes = [read_json(folder / f"{name}.json")["parameters"] for name in declared["members"]]
    alone = [row["accuracy"] for row in first["members"].values()]
    lines = [
        f"| one member, mean of {len(alone)} | {min(sizes):,} to {max(sizes):,} "
        f"| {statistics.mean(alone):.2%}, from {min(alone):.2%} to {max(alone):.2%} |"
    ]
    titles = (f"all {len(alone)}, averaged", "second try: the same, trained on")
    for title, found in zip(titles, (first, second), strict=True):
        low, high = found["ensemble"]["accuracy_interval"]
        rejected = sum(row in REJECTED_TEST_LABELS for row in found["wrong"])
        lines.append(
            f"| {title} | {sum(sizes):,} | **{found['ensemble']['accuracy']:.2%}** (Wilson's 95% "
            f"interval {low:.2%} to {high:.2%}); {len(found['wrong'])} wrong, {rejected} of them "
            "with a label that people rejected |"
        )
    return lines


TABLES = {
    "results": results_table,
    "ensembles": ensembles_table,
    "photos": photos_table,
    "notebooks": notebooks_table,
}


def readme_text(text: str, folder: Path) -> str:
    """`text` with the tables between its markers made anew from the JSON in `folder`."""
    for name, table in TABLES.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not block.search(text):
            raise ValueError(f"README.md has no <!-- {name} --> ... <!-- /{name} --> block.")
        made = table(folder)
        text = block.sub(lambda match, made=made: match[1] + made + "\n" + match[2], text)
    return text


def readme() -> None:
    """Rewrite the tables in README.md, and its figure."""
    from src.plots import plot_accuracy_time, save_figure
    from src.results import accuracy_time_rows

    path = ROOT / "README.md"
    text = readme_text(path.read_text(encoding="utf-8"), ROOT / "models")
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
    if rows := accuracy_time_rows(ROOT / "models"):
        save_figure(plot_accuracy_time(rows), ROOT / "figures" / "accuracy_time.png")


def main() -> int:
    commands = {"run": run, "publish": publish, "readme": lambda names: readme()}
    command, *names = sys.argv[1:] or [""]
    if command not in commands:
        print(__doc__)
        return 2
    try:
        commands[command](names)
    except (OSError, ValueError, RuntimeError, CellExecutionError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
