"""Paths, fixed facts, JSON files. Nothing is read or written on import."""

import json
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10
PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn")


def results_dir(kind: str, source: str = "mnist") -> Path:
    """The folder for what a run makes, created if need be.

    `kind` is "models" or "figures". Results go under `build/`, those of the embedded
    sample (`source="sample"`) under `build/sample/`, so that the two never mix. The
    environment variable MNIST_RESULTS_DIR names another folder in place of `build/`.
    """
    folder = _results_path(kind, source)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _results_path(kind: str, source: str) -> Path:
    base = Path(os.environ.get("MNIST_RESULTS_DIR") or ROOT / "build")
    return (base / "sample" if source == "sample" else base) / kind


def find_result(name: str, kind: str = "models", source: str = "mnist") -> Path:
    """Your own file `name` where there is one, else the published one, which is MNIST's.

    Raises FileNotFoundError, naming the places and the notebook to run, where there is none.
    """
    places = [_results_path(kind, source)] + [ROOT / kind] * (source != "sample")
    for folder in places:
        if (folder / name).exists():
            return folder / name
    advice = f"A network of your own comes from notebooks/02_training.ipynb, SOURCE = {source!r}"
    if Path(name).suffix in (".onnx", ".tflite"):
        advice = "Exports come from `make export`"
    if source != "sample":
        advice += "; `git restore models` brings back a published one"
    raise FileNotFoundError(f"{name} is not in {' or '.join(map(str, places))}. {advice}.")


def display_path(path: Path) -> str:
    """`path` as seen from the project's root, so that printed paths name no one's home."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def environment() -> dict:
    """What results depend on: cores, system and library versions."""
    return {
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A place beside `path` to write to, which takes its place when the block ends and goes
    where the block fails; folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")  # the ending tells libraries the format
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: str | Path, needed: Iterable[str] = (), advice: str = "") -> dict:
    """What a JSON file holds. Raises FileNotFoundError, or ValueError, which ends with `advice`,
    naming a file that is damaged or lacks a key of those `needed`."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in needed if key not in content]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: damaged ({error}){advice}.") from error
    if missing:
        raise ValueError(f"{path.name}: incomplete, without {', '.join(missing)}{advice}.")
    return content


def write_json(path: str | Path, content: dict) -> Path:
    """Write `content` as JSON, whole or not at all."""
    path = Path(path)
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
