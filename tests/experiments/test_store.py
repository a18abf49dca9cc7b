"""What is stored is kept while it is whole and up to date; the rest is named and made again."""

import json
import subprocess
import sys

import pytest
from filelock import FileLock

from src.config import ROOT
from src.experiments import store
from src.experiments.store import Job


@pytest.fixture
def made():
    return []


@pytest.fixture
def chain(tmp_path, made):
    """Three jobs, each made from the one before; the first writes a file besides."""

    def job(name, settings, needs=(), files=()):
        def run(digits, path):
            made.append(name)
            for file in files:
                (path.parent / file).write_text(f"{settings}")
            return {"from": digits, "validation": {"accuracy": 0.5}}

        return Job(tmp_path / "new" / f"{name}.json", settings, run, needs, files, "make it")

    def build(first=1, last=1):
        one = job("one", {"rate": first, "sizes": (1, 2)}, files=("one.keras",))
        two = job("two", {"rate": 0}, (one,))
        return [one, two, job("three", {"rate": last}, (two,))]

    return build


def test_what_is_missing_is_made_once_with_what_it_needs(chain, made, capsys):
    *_, last = chain()
    assert store.get(last, "digits")["from"] == "digits"
    assert made == ["one", "two", "three"]
    assert store.run_all(chain(), "digits")[2] == store.read(last)
    assert made == ["one", "two", "three"]
    assert capsys.readouterr().out.splitlines()[0] == "one.json: validation 50.00%"


DAMAGES = {
    "truncated": (lambda f: (f / "one.json").write_text('{"from": '), "damaged"),
    "incomplete": (lambda f: (f / "one.json").write_text("{}"), "incomplete, without settings"),
    "not a dict": (lambda f: (f / "one.json").write_text("[]"), "incomplete, without settings"),
    "file gone": (lambda f: (f / "one.keras").unlink(), "one.keras beside it is missing"),
    "file changed": (lambda f: (f / "one.keras").write_text("?"), "one.keras beside it is"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named_and_made_again(chain, made, capsys, damage):
    spoil, reason = DAMAGES[damage]
    store.run_all(chain(), "digits")
    first = chain()[0]
    whole = first.path.read_text()
    spoil(first.path.parent)
    assert reason in store.problem(first)
    with pytest.raises(store.OutOfDate, match=r"one\.json: .*; `make it` makes it again\."):
        store.read(first)
    made.clear(), capsys.readouterr()
    store.get(first, "digits")
    assert made == ["one"] and reason in capsys.readouterr().out
    assert first.path.read_text() == whole


def test_a_changed_setting_makes_all_that_depends_on_it_out_of_date(chain, made, capsys):
    store.run_all(chain(), "digits")
    changed = chain(first=2)
    assert store.problem(changed[0]) == "made with other settings (rate)"
    assert store.problem(changed[2]) == (
        "made from two.json, which is out of date (made from one.json, which is out of date "
        "(made with other settings (rate)))"
    )
    assert store.read_all(changed) == []
    assert capsys.readouterr().out.count("Left out: ") == 3
    made.clear()
    store.run_all(changed, "digits")
    assert made == ["one", "two", "three"]
    made.clear()
    store.run_all(chain(first=2, last=5), "digits")
    assert made == ["three"]


def test_a_result_that_was_made_again_differently_is_noticed(chain, made):
    jobs = chain()
    store.run_all(jobs, "digits")
    jobs[0].path.unlink()
    store.get(jobs[0], "others")
    assert store.problem(jobs[0]) is None
    assert store.problem(jobs[1]) == "made from another one.json"
    made.clear()
    store.run_all(jobs, "others")
    assert made == ["two", "three"]


def test_missing_results_are_named_with_the_command_that_makes_them(chain):
    first, *_ = chain()
    with pytest.raises(FileNotFoundError, match=r"one.json: no such file; `make it` makes it\."):
        store.read(first)
    assert store.read_all(chain()) == []


def test_a_run_that_fails_keeps_what_was_there_and_what_was_finished(chain, made):
    jobs = chain()

    def killed(digits, path):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run_all([jobs[0], jobs[1]._replace(run=killed), jobs[2]], "digits")
    assert store.problem(jobs[0]) is None and store.problem(jobs[1]) == "missing"
    store.run_all(jobs, "digits")
    assert made == ["one", "two", "three"]


def test_two_processes_cannot_make_the_same_piece(chain, made):
    first, *_ = chain()
    first.path.parent.mkdir(parents=True)
    with FileLock(first.path.with_name(".one.json.lock")):
        with pytest.raises(OSError, match="one.json is being made by another process: wait"):
            store.get(first, "digits")
    assert made == []
    store.get(first, "digits")
    assert made == ["one"]


def test_a_killed_process_leaves_no_lock_and_no_half_result(tmp_path):
    code = f"""
import os, pathlib
from src.experiments.store import Job, get
job = Job(pathlib.Path({str(tmp_path)!r}) / "one.json", {{}}, lambda digits, path: os._exit(9))
get(job, None)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 9
    job = Job(tmp_path / "one.json", {}, lambda digits, path: {"n": 1})
    assert store.get(job, None)["n"] == 1
    assert json.loads(job.path.read_text())["settings"] == {}
