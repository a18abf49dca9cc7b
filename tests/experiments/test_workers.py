"""A chief and workers as processes: stubs here, Keras Tuner's own in test_tuning."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from src.config import ROOT
from src.experiments import workers
from src.experiments.workers import SearchError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(workers, "TRY_AGAIN", 0.01)
    monkeypatch.setattr(workers, "GRACE", 0.5)


def stub(code, folder):
    """A command whose processes know `name`, `flag(...)` (a file) and `wait_for(flag)`."""
    start = f"""
        import os, pathlib, signal, sys, time
        from src.experiments import workers
        name = os.environ["KERASTUNER_TUNER_ID"]
        def flag(name):
            return pathlib.Path({str(folder)!r}, name)
        def wait_for(name):
            until = time.monotonic() + 60  # so that a test that fails leaves nothing behind
            while not flag(name).exists() and time.monotonic() < until:
                time.sleep(0.01)
        def die():
            os.kill(os.getpid(), signal.SIGKILL)
    """
    return [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(code)]


def test_a_killed_worker_is_started_again_under_its_id(tmp_path, capfd):
    code = """
        if name == "chief":
            wait_for("worker0 1"), wait_for("worker1 2")
        else:
            lives = [n for n in "123" if flag(f"{name} {n}").exists()]
            flag(f"{name} {len(lives) + 1}").touch()
            if name == "worker1" and not lives:
                die()
    """
    workers.run_workers(stub(code, tmp_path), 2)
    printed = capfd.readouterr().out
    assert "worker1 died (code -9) and is started again" in printed
    assert printed.count("worker0: process") == 1 and printed.count("worker1: process") == 2


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("die() if name == 'worker1' else wait_for('never')", "worker1 ended with code -9"),
        ("die() if name == 'chief' else wait_for('never')", "chief ended with code -9.*goes on"),
        ("sys.exit(1) if name == 'worker0' else wait_for('never')", "worker0 ended with code 1"),
    ],
)
def test_what_can_not_be_mended_ends_the_whole(code, message, tmp_path, capfd):
    with pytest.raises(SearchError, match=message):
        workers.run_workers(stub(code, tmp_path), 2)
    assert capfd.readouterr().out.count("started again") == ("worker1" in message) * 3


def test_a_worker_that_comes_too_late_or_hangs_is_ended(tmp_path, capfd):
    code = """
        if name == "chief":
            wait_for("here")
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            flag("here").touch(), wait_for("never")
    """
    workers.run_workers(stub(code, tmp_path), 1)
    pid = int(capfd.readouterr().out.split("worker0: process ")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_chief_and_workers_end_with_their_launcher(tmp_path):
    code = "workers.end_with_launcher(); print('it runs', flush=True)"
    code += "; wait_for('never'); print('too late')"
    command = stub(code, tmp_path)
    code = f"from src.experiments import workers; workers.run_workers({command!r}, 2)"
    launcher = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    lines = sorted(launcher.stdout.readline().split()[0] for _ in range(6))
    assert lines == [b"chief:", b"it", b"it", b"it", b"worker0:", b"worker1:"]
    launcher.kill()
    assert launcher.stdout.read() == b""  # returns once the last of them has ended
    assert launcher.wait() == -signal.SIGKILL


def test_roles_take_all_three_variables_or_none(monkeypatch):
    assert workers.role() == ""
    for variable, value in zip(workers.VARIABLES, ("127.0.0.1", "8000", "worker1"), strict=True):
        monkeypatch.setenv(variable, value)
    assert workers.role() == "worker"
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    assert workers.role() == "chief"
    monkeypatch.delenv("KERASTUNER_ORACLE_PORT")
    with pytest.raises(SearchError, match="expected all of KERASTUNER_ORACLE_IP"):
        workers.role()
