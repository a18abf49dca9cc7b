"""One store for every long run: a JSON per piece, kept as long as it is whole and up to date.

A piece is up to date when it was made with today's settings, its files are those that it
names, and what it was made from has not changed and is up to date itself. Anything else is
named and made again. A killed run loses the piece at hand.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from src.config import read_json, write_json
from src.data import DigitData
from src.reading.inference import sha256


class Job(NamedTuple):
    """One piece of a long run: where its result lies, what that depends on, how it is made."""

    path: Path  # of its JSON
    settings: dict  # all that the result depends on, besides the data
    run: Callable[[DigitData, Path], dict]  # writes the `files` and returns the result
    needs: tuple["Job", ...] = ()  # the results that it is made from
    files: tuple[str, ...] = ()  # what it writes besides, as seen from the JSON's folder
    command: str = "make benchmark"  # that makes it


class OutOfDate(ValueError):
    """A result that is damaged, or was made from what has changed since."""


def problem(job: Job) -> str | None:
    """Say why a stored result is not to be used; None where it is whole and up to date."""
    if not job.path.exists():
        return "missing"
    try:
        found = read_json(job.path, ("settings", "inputs", "sha256"))
    except ValueError as error:
        return str(error).removeprefix(f"{job.path.name}: ").rstrip(".")
    if changed := differences(found["settings"], json.loads(json.dumps(job.settings))):
        return f"made with other settings ({', '.join(changed)})"
    for name in job.files:
        file = job.path.parent / name
        if not file.exists() or sha256(file) != found["sha256"].get(name):
            return f"{file.name} beside it is missing, damaged or of another run"
    for need in job.needs:
        if reason := problem(need):
            return f"made from {need.path.name}, which is out of date ({reason})"
        if digest(need) != found["inputs"].get(need.path.name):
            return f"made from another {need.path.name}"
    return None


def differences(old: dict, new: dict) -> list[str]:
    """Name the settings that differ."""
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def digest(job: Job) -> str:
    """Compute a short digest of a stored result, and so of the files that it names."""
    return digest_of(read_json(job.path))


def digest_of(content) -> str:
    """Compute a short digest of what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def read(job: Job) -> dict:
    """Read a stored result. FileNotFoundError without it, OutOfDate where it is not to be used."""
    reason = problem(job)
    if reason == "missing":
        raise FileNotFoundError(f"{job.path}: no such file; `{job.command}` makes it.")
    if reason:
        raise OutOfDate(f"{job.path.name}: {reason}; `{job.command}` makes it again.")
    return read_json(job.path)


def read_all(jobs: Iterable[Job]) -> list[tuple[Job, dict]]:
    """Read the results that are there and up to date; name those that are out of date."""
    found = []
    for job in jobs:
        try:
            found.append((job, read(job)))
        except FileNotFoundError:
            pass
        except OutOfDate as error:
            print(f"Left out: {error}")
    return found


def get(job: Job, digits: DigitData, wait: bool = False) -> dict:
    """Read a stored result, or make it, and before it what it is made from.

    Where another process makes it, `wait` for that; else OSError.
    """
    for need in job.needs:
        get(need, digits)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(job.path.with_name(f".{job.path.name}.lock"), timeout=-1 if wait else 0):
            return _keep_or_make(job, digits)
    except Timeout as error:
        raise OSError(
            f"{job.path.name} is being made by another process: wait for it, or end it."
        ) from error


def _keep_or_make(job: Job, digits: DigitData) -> dict:
    reason = problem(job)
    if reason is None:
        return read_json(job.path)
    if reason != "missing":
        print(f"{job.path.name}: {reason}. It is made again.", flush=True)
    inputs = {need.path.name: digest(need) for need in job.needs}
    found = {**job.run(digits, job.path), "settings": job.settings, "inputs": inputs}
    found["sha256"] = {name: sha256(job.path.parent / name) for name in job.files}
    write_json(job.path, found)
    parts = [p for p in ("validation", "held_back", "test") if "accuracy" in found.get(p, {})]
    scores = [f"{part} {found[part]['accuracy']:.2%}" for part in parts]
    print(f"{job.path.name}: {', '.join(scores) or 'done'}", flush=True)
    return found


def run_all(jobs: Sequence[Job], digits: DigitData) -> list[dict]:
    """Make what is missing or out of date, one piece after another; return all results."""
    return [get(job, digits) for job in jobs]


def in_rounds(
    place: Path, settings: dict, measure: Callable[[DigitData, int], dict], rounds: int, digits
) -> dict[str, list]:
    """Measure in rounds, each a piece in `place` until all are there: name -> a value per round.

    The pieces go in the end: times of another day would not be side by side with these.
    """
    jobs = [
        Job(place / f"round-{turn}.json", settings,
            lambda digits, path, turn=turn: {"values": measure(digits, turn)})
        for turn in range(rounds)
    ]  # fmt: skip
    found = [one["values"] for one in run_all(jobs, digits)]
    for job in jobs:
        job.path.unlink()
    return {name: [one[name] for one in found] for name in found[0]}
