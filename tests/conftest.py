"""What all tests share: a quiet TensorFlow, results in temporary folders, no network."""

import os
from functools import partial

os.environ["MPLBACKEND"] = "Agg"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

from pathlib import Path  # noqa: E402

import nbformat  # noqa: E402
import pytest  # noqa: E402
from jupyter_client import KernelManager  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

from src import config, data, mnist_files  # noqa: E402
from src.experiments import notebooks  # noqa: E402

if os.environ.get("MNIST_DIR"):  # absolute, so that tests may change the working folder
    here = Path(os.environ["MNIST_DIR"])
    os.environ["MNIST_DIR"] = str((here if here.is_dir() else config.ROOT / here).resolve())

CLOSED_PORT = "http://127.0.0.1:9/"
LONGEST = ("test_lessons.py", "test_further_lessons.py", "test_tuning.py", "test_app.py")


def pytest_collection_modifyitems(items):
    """Begin with the longest files, so that two workers (see Makefile) end together."""
    items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))


@pytest.fixture(autouse=True)
def results(monkeypatch, tmp_path):
    """Whatever a test makes goes here, never into build/ or models/."""
    folder = tmp_path / "results"
    monkeypatch.setenv("MNIST_RESULTS_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads meet a closed port of this machine, unless a test names its own server."""
    monkeypatch.setattr(mnist_files, "KERAS_URL", CLOSED_PORT)
    monkeypatch.setattr(mnist_files, "MIRROR_URL", CLOSED_PORT)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def mnist():
    """The real MNIST where this machine has it; it is never downloaded for a test."""

    def no_download(*_):
        raise OSError("tests don't download")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist_files, "_download", no_download)
        try:
            return data.load_mnist()
        except data.DataUnavailableError as error:
            if os.environ.get("MNIST_DIR"):  # a folder that was named and can't be read
                raise
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def sample():
    return data.load_mnist(source="sample")


class InOneKernel(NotebookClient):
    """Runs a notebook in the kernel of the one before, emptied: to start TensorFlow takes long."""

    def execute(self, env, **settings):
        code = f"%reset -f\n__import__('os').environ.update({env})"
        self.nb.cells.insert(0, nbformat.v4.new_code_cell(code))
        try:
            return super().execute(env=env, **settings)
        finally:
            self.nb.cells.pop(0)


@pytest.fixture(scope="session")
def run_notebooks():
    """A function that executes notebooks small, into a folder: their contents by name.

    Published files stay as they are.
    """

    def published():
        return {p: p.stat().st_mtime_ns for p in (config.ROOT / "models").glob("*") if p.is_file()}

    def run(values: dict[str, dict], source: str, folder: Path) -> dict[str, nbformat.NotebookNode]:
        before, books, kernel = published(), {}, KernelManager()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(notebooks, "NotebookClient", partial(InOneKernel, km=kernel))
            try:
                for name, knobs in values.items():
                    path, target = notebooks.NOTEBOOKS / f"{name}.ipynb", folder / f"{name}.ipynb"
                    notebooks.execute(path, target, {"SOURCE": source, **knobs}, folder)
                    books[name] = nbformat.read(target, as_version=4)
            finally:
                kernel.shutdown_kernel(now=True)
        assert published() == before
        return books

    return run
