"""A search by several processes: Keras Tuner's chief, which keeps it, and its workers.

Keras Tuner's environment variables tell a process what it is. Nothing here needs Keras.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable

IP, PORT, ID = VARIABLES = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")
LAUNCHER = "MNIST_TUNING_LAUNCHER"  # the process that started this one as a chief or a worker
RESTARTS = 3  # of each worker that dies
TRY_AGAIN = 0.5  # seconds between looks
GRACE = 10  # seconds to end in, when told to


class SearchError(RuntimeError):
    """A search that can't go on, or found nothing."""


def role() -> str:
    """Tell what the environment makes of this process: "chief", "worker" or ""."""
    found = [name for name in VARIABLES if name in os.environ]
    if found and len(found) < len(VARIABLES):
        raise SearchError(f"{', '.join(found)} set, expected all of {', '.join(VARIABLES)}.")
    if not found:
        return ""
    return "chief" if "chief" in os.environ[ID] else "worker"


def run_workers(command: list[str], workers: int) -> None:
    """Run `command` as a chief and so many workers on this machine, until the chief has ended.

    A worker that dies is started again under its own id: Keras Tuner hands it its unfinished
    trial, and its chief waits for every worker that it knows. The chief listens on loopback:
    whoever reaches its port can run the search, for it asks no one who they are.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:  # a free port
        port = str(probe.getsockname()[1])
    values = {IP: "127.0.0.1", PORT: port, LAUNCHER: str(os.getpid())}
    share = str(max(1, (os.cpu_count() or 1) // workers))
    limits = {"TF_NUM_INTRAOP_THREADS": share, "TF_FORCE_GPU_ALLOW_GROWTH": "true"}

    def start(name: str) -> subprocess.Popen:
        process = subprocess.Popen(command, env=limits | os.environ | values | {ID: name})
        print(f"{name}: process {process.pid}", flush=True)
        return process

    running = {name: start(name) for name in ("chief", *(f"worker{i}" for i in range(workers)))}
    try:
        _watch(running, start)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:  # stuck in native code
                process.kill()
                process.wait()


def _watch(running: dict[str, subprocess.Popen], start: Callable) -> None:
    """Start dead workers again until the chief has ended, which it does once all have left."""
    deaths = dict.fromkeys(running, 0)
    while running["chief"].poll() != 0:
        time.sleep(TRY_AGAIN)
        for name, process in running.items():
            code = process.poll()
            if not code:  # it runs, or has ended well
                continue
            deaths[name] += 1
            if code == 1 or name == "chief" or deaths[name] > RESTARTS:
                raise SearchError(
                    f"{name} ended with code {code}: see what it says above. After that, the "
                    "same command goes on where the search was."
                )
            print(f"{name} died (code {code}) and is started again", flush=True)
            running[name] = start(name)


def end_with_launcher() -> None:
    """End this process, if run_workers started it, when its launcher has gone."""

    def watch() -> None:
        while os.getppid() == int(os.environ[LAUNCHER]):
            time.sleep(1)
        os._exit(1)

    if LAUNCHER in os.environ:
        threading.Thread(target=watch, daemon=True).start()
