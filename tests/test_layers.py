"""The shape of the package: sizes, who may import whom, and what reading a picture needs."""

import ast
import shutil
import subprocess
import sys

import pytest

from src.config import ROOT

SRC = ROOT / "src"
LATE = {("src.reading.inference", "src.models")}  # inside a function, for Keras files alone
LIMITS = {"core": 2329, "src": 5679, "tests": 6198}  # lines; to be lowered as rooms shrink
FREE = {"src.reading.export"}  # may import all of the core


def modules():
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted(SRC.rglob("*.py"))
    }


def part(module):
    """core, reading or experiments."""
    return module.split(".")[1] if module.count(".") > 1 else "core"


def imports(path, late=True):
    """The modules of src that a file imports, those inside functions with `late`."""
    tree = ast.parse(path.read_text("utf-8"))
    found = set()
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("src"):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules() else node.module)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("src.")}
    return found


def allowed(module, imported):
    here, there = part(module), part(imported)
    if (module, imported) in LATE:
        return imported not in imports(modules()[module], late=False)
    if here == "core":
        return there == "core"
    if here == "reading" and module not in FREE:
        return there == "reading" or imported == "src.config"
    return here == "experiments" or there != "experiments"


@pytest.mark.parametrize("module", modules())
def test_imports_go_downwards(module):
    assert [one for one in imports(modules()[module]) if not allowed(module, one)] == []


def test_no_imports_go_in_circles():
    left = {name: imports(path) for name, path in modules().items()}
    while left:
        free = [name for name, needed in left.items() if not needed & set(left)]
        assert free, f"a circle among {sorted(left)}"
        left = {name: needed for name, needed in left.items() if name not in free}


def test_recipes_and_workers_need_neither_keras_nor_tensorflow():
    code = "import sys, src.recipes, src.experiments.workers; import src.experiments.__main__"
    code += "; print(*sys.modules)"  # nbformat, if not needed, takes each worker seconds
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    heavy = {"keras", "tensorflow", "keras_tuner", "nbformat"}
    assert "src.recipes" in loaded and not heavy & set(loaded)


def test_a_picture_is_read_with_four_packages(tmp_path):
    """README promises that numpy, Pillow, OpenCV and ONNX Runtime are enough."""
    code = (
        "import sys, numpy as np\nbefore = set(sys.modules)\n"
        "from src.reading.inference import predict_digit\n"
        "page = np.full((60, 60), 250, np.uint8)\npage[15:45, 28:33] = 20\n"
        "print(predict_digit(page).digit)\n"
        "print(*{name.split('.')[0] for name in set(sys.modules)})"
    )
    digit, loaded = subprocess.check_output(
        [sys.executable, "-c", code], cwd=ROOT, text=True
    ).splitlines()
    others = {"tensorflow", "keras", "pandas", "scipy", "sklearn", "skimage", "matplotlib",
              "seaborn", "gradio", "pooch", "IPython"}  # fmt: skip
    assert digit == "1" and not others & set(loaded.split())


def lines(folder, pattern="**/*.py"):
    return sum(len(path.read_text("utf-8").splitlines()) for path in folder.glob(pattern))


def test_sizes_stay_within_their_limits():
    sizes = {
        "core": lines(SRC, "*.py"),
        "reading": lines(SRC / "reading"),
        "experiments": lines(SRC / "experiments"),
        "src": lines(SRC),
        "tests": lines(ROOT / "tests"),
    }
    print(sizes)
    assert sizes["core"] <= LIMITS["core"] and sizes["src"] <= LIMITS["src"]
    assert sizes["tests"] <= LIMITS["tests"]


def test_cleaning_up_keeps_long_runs_that_are_unfinished(tmp_path):
    for name in ("build/work/tuning", "build/models", ".venv"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", tmp_path)
    said = subprocess.check_output(["make", "-C", tmp_path, "clean"], text=True)
    assert "build/work stays" in said and (tmp_path / "build/work/tuning").is_dir()
    assert not (tmp_path / "build/models").exists() and not (tmp_path / ".venv").exists()
