"""TensorFlow's start-up messages stay away, and come out where the start fails."""

import os
import subprocess
import sys

from src.config import ROOT


def start(code):
    environ = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True
    )


def test_nothing_is_written_but_what_it_runs_on():
    done = start(
        "import sys; from src import quiet; quiet.start(); print('after', file=sys.stderr)"
    )
    assert done.returncode == 0 and done.stderr == "after\n"  # what comes later is seen
    assert done.stdout.startswith("TensorFlow 2.") and len(done.stdout.splitlines()) == 1


def test_what_was_written_is_shown_where_the_start_fails(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import os\nos.write(2, b'E0000 cuInit')\n1 / 0\n")
    path = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
    done = start(path + "from src import quiet; quiet.start()")
    assert done.returncode == 1 and "E0000 cuInit" in done.stderr
    assert "ZeroDivisionError" in done.stderr
