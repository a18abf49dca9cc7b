"""Notebooks executed: into build/ for a reader, or in place for publication."""

import base64
import io
import os
import re
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from src.config import ROOT, environment, read_json, replacing, write_json
from src.data import DataUnavailableError, load_mnist

NOTEBOOKS = ROOT / "notebooks"
TIMES = ROOT / "models" / "notebook_times.json"
QUOTE = "**In the published run**"
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?!\w)")


def run(names: list[str]) -> None:
    """Execute notebooks into build/notebooks; without MNIST, on the embedded sample, and say so."""
    paths, values, what = _paths(names), {}, "MNIST"
    try:
        load_mnist()
    except DataUnavailableError as error:
        print(f"{error}\n\nGoing on with the embedded sample: all runs, no number is MNIST's.\n")
        values, what = {"SOURCE": "sample"}, "the embedded sample"
    print(f"Running {len(paths)} notebooks on {what}, into build/notebooks; published files stay.")
    if TIMES.exists() and not values:
        times = read_json(TIMES)
        total = sum(times["seconds"].get(path.stem, 0) for path in paths)
        print(f"When last published ({times['environment']['cores']} cores): {total / 60:.1f} min.")
    seconds = [execute(path, ROOT / "build/notebooks" / path.name, values) for path in paths]
    print(f"All {len(paths)} ran in {sum(seconds):.0f} s. Open build/notebooks, or notebooks/.")


def publish(names: list[str]) -> None:
    """Execute notebooks in place on MNIST, and renew models/, figures/ and their times."""
    paths = _paths(names)
    load_mnist()
    times = read_json(TIMES)["seconds"] if TIMES.exists() else {}
    for path in paths:
        times[path.stem] = round(execute(path, path, results=ROOT))
        for quote in false_quotes(nbformat.read(path, as_version=4)):
            print(f"{path.name}: {quote} ...")
        shown = {name: f"{t / 60:.0f} min" if t >= 90 else f"{t} s" for name, t in times.items()}
        write_json(TIMES, {"seconds": times, "shown": shown, "environment": environment()})


def _paths(names: list[str]) -> list[Path]:
    found = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if unknown := set(names) - set(found):
        raise ValueError(f"no notebook named {', '.join(unknown)}; there are {', '.join(found)}.")
    return [path for name, path in found.items() if not names or name in names]


def _environment(results: Path | None, runs: str) -> dict[str, str]:
    """Collect what a notebook's kernel inherits; paths as seen from its folder, or whole."""
    results = results or Path(os.environ.get("MNIST_RESULTS_DIR") or ROOT / "build")
    found = {"TF_CPP_MIN_LOG_LEVEL": "2", "OMP_WAIT_POLICY": "PASSIVE"}  # idle threads rest
    found |= os.environ | {"MNIST_RESULTS_DIR": str(results.resolve()), "MNIST_RUNS_DIR": runs}
    if found.get("MNIST_DIR"):
        found["MNIST_DIR"] = str(Path(found["MNIST_DIR"]).expanduser().resolve())
    return found


def execute(path: Path, target: Path, values: dict | None = None, results=None) -> float:
    """Run a notebook with knobs in `values` changed, write it to `target`; return the seconds.

    Its results go to the folder `results`, its table of runs away: the reader's stays theirs.
    Each section is printed as it begins. Where a cell fails, what ran so far is written under
    build/notebooks, and a RuntimeError says what failed.
    """
    book = nbformat.read(path, as_version=4)
    set_parameters(book, values or {})
    print(f"\n{path.stem}", flush=True)
    started = time.perf_counter()

    def announce(cell, cell_index) -> None:
        heading = re.match(r"## (.+)", cell.source)
        if cell.cell_type == "markdown" and heading:
            print(f"  {time.perf_counter() - started:5.0f} s  {heading[1]}", flush=True)

    client = NotebookClient(
        book, timeout=None, kernel_name="python3", record_timing=False, store_widget_state=False,
        coalesce_streams=True, resources={"metadata": {"path": str(NOTEBOOKS)}},
        on_cell_start=announce,
    )  # fmt: skip
    runs = ROOT / "build" / "work" / f"runs-{uuid.uuid4().hex}"
    try:
        # stderr: cells keep theirs; this is the kernel's own
        kernel = _environment(results, os.path.relpath(runs, NOTEBOOKS))
        client.execute(stderr=subprocess.DEVNULL, env=kernel)
    except BaseException as error:  # an interrupt as well: published notebooks stay as they were
        target = ROOT / "build" / "notebooks" / path.name
        if isinstance(error, CellExecutionError):
            raise RuntimeError(str(error)) from error
        raise
    finally:
        shutil.rmtree(runs, ignore_errors=True)
        tidy(book)
        with replacing(target) as partial:
            nbformat.write(book, partial)
    print(f"  {time.perf_counter() - started:5.0f} s  done", flush=True)
    return time.perf_counter() - started


def false_quotes(book: nbformat.NotebookNode) -> list[str]:
    """List the numbers quoted after QUOTE that no output in their section or the last one prints.

    As they stand or as a percentage, rounded to the decimals that are quoted.
    """
    shown, before, found = [], [], []
    for cell in book.cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            shown += [float(number.replace(",", "")) for number in NUMBER.findall(text)]
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            shown, before = [], shown
        for paragraph in cell.source.split("\n\n") if cell.cell_type == "markdown" else ():
            for number in NUMBER.findall(paragraph.partition(QUOTE)[2]):
                near = 0.5 * 10.0 ** -len(number.partition(".")[2]) + 1e-9
                value = abs(float(number.replace(",", "")))
                known = [abs(n) * times for n in before + shown for times in (1, 100)]
                if not any(abs(n - value) <= near for n in known):
                    found.append(f"{number} is quoted, and printed nowhere near: {paragraph[:60]}")
    return found


def set_parameters(book: nbformat.NotebookNode, values: dict) -> None:
    """Give knobs other values, in the cell tagged `parameters`; ValueError for an unknown one."""
    (cell,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    for name, value in values.items():
        knob = re.compile(rf"^{name} = .*$", re.MULTILINE)
        if not knob.search(cell.source):
            known = ", ".join(re.findall(r"^(\w+) = ", cell.source, re.MULTILINE))
            raise ValueError(f"no knob named {name}; there are {known}.")
        line = f"{name} = {value!r}"
        cell.source = knob.sub(lambda _, line=line: line, cell.source)


def tidy(book: nbformat.NotebookNode) -> None:
    """Drop empty outputs, and metadata that changes between runs.

    Figures are brought to 256 colours, which takes less than half the space.
    """
    for cell in book.cells:
        for output in cell.get("outputs", []):
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
