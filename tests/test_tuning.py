"""Searches find, survive a kill, spread over workers, and say what went wrong."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import keras_tuner as kt
import numpy as np
import pytest

from src import models, recipes, tuning
from src.config import ROOT

SMALL = {"images": 96, "epochs": 1, "trials": 2}


def tiny_space(hp):
    """A network of a few hundred parameters."""
    filters = hp.Choice("filters_1", [2, 3, 4, 5], default=2)
    network = {"filters": (filters,), "kernel_size": 3, "padding": "same", "pool": True}
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log", default=1e-2)
    return {"network": network, "optimizer": {"learning_rate": rate}}


def small_search(digits, folder, kind="random", space=tiny_space, **changes):
    settings = SMALL | changes
    tuner = tuning.make_tuner(kind, folder, space=space, **settings)
    x, y, validation = tuning.search_data(digits, settings["images"])
    tuner.search(x, y, validation_data=validation)
    return tuning.Path(tuner.project_dir)


class Command:
    """`python -m src.tuning ...` on the sample, read line by line, killed if it takes too long."""

    def __init__(self, results, *options, seconds=240, **environment):
        env = os.environ | {"MNIST_RESULTS_DIR": str(results)} | environment
        options = ("--source=sample", "--images=96", "--epochs=1", *options)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "src.tuning", *options], env=env, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.timer = threading.Timer(seconds, self.kill)
        self.timer.start()
        self.lines = []

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)

    def until(self, pattern):
        """The match in the first line that has one."""
        for line in self.process.stdout:
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"{pattern!r} did not come: {''.join(self.lines)}")

    def end(self):
        """Exit status and all that was printed."""
        self.lines += self.process.stdout.readlines()
        code = self.process.wait()
        self.timer.cancel()
        self.process.stdout.close()
        return code, "".join(self.lines)


# The space


def test_the_defaults_are_fast_itself():
    found, fast = tuning.recipe_from({}), recipes.get_recipe("fast")
    one, other = (models.build_cnn(**recipe.pop("network")) for recipe in (found, fast))
    assert found == fast and one.get_config() == other.get_config()


def corners():
    hp = kt.HyperParameters()
    tuning.space(hp)
    ends = {p.name: sorted(p.values)[:: len(list(p.values)) - 1] for p in hp.space}
    lowest, highest = ({name: end[i] for name, end in ends.items()} for i in (0, -1))
    lowest |= {"batch_norm": False, "augment": False}
    return [lowest, highest | {"batch_norm": True, "augment": True}]


@pytest.mark.parametrize("corner", corners())
def test_the_space_builds_at_its_corners(corner):
    recipe = tuning.recipe_from(corner)
    model = models.build_cnn(**recipe["network"])
    blocks = sum(layer.name.startswith("conv") for layer in model.layers)
    assert blocks == corner["blocks"] == len(recipe["network"]["filters"])
    assert any(layer.name.startswith("bn") for layer in model.layers) == corner["batch_norm"]
    assert bool(recipe["augmentation"]) == corner["augment"]
    assert recipe["optimizer"]["learning_rate"] == corner["learning_rate"]


def test_the_space_builds_at_fifty_random_points(tmp_path):
    tuner = tuning.make_tuner("random", tmp_path, trials=50)
    seen = set()
    for _ in range(50):
        values = tuner.oracle._random_values()
        network = tuning.recipe_from(values)["network"]
        assert models.build_cnn(**network).output_shape == (None, 10)
        assert ("filters_3" in values) == (values["blocks"] == 3)
        assert ("batch_norm_momentum" in values) == values["batch_norm"]
        assert ("augment_strength" in values) == values["augment"]
        seen |= set(values.items())
    assert {("blocks", 2), ("blocks", 3), ("augment", True), ("augment", False)} <= seen


def test_the_digest_changes_with_what_results_depend_on(monkeypatch):
    def steeper(hp):  # asks the same, makes something else of one answer
        found = tuning.space(hp)
        if not found["augmentation"]:
            found["network"]["dropout"] = 0.0
        return found

    first = tuning.digest(tuning.space, 100, 2)
    assert first != tuning.digest(steeper, 100, 2)
    assert first == tuning.digest(tuning.space, 100, 2)
    others = [tuning.digest(tiny_space, 100, 2), tuning.digest(tuning.space, 101, 2)]
    monkeypatch.setitem(recipes.RECIPES["fast"], "label_smoothing", 0.1)
    assert len({first, *others, tuning.digest(tuning.space, 100, 2)}) == 4


def test_a_search_never_sees_the_images_held_back(sample):
    x, y, (x_val, y_val) = tuning.search_data(sample, 500)
    assert (len(x), len(x_val)) == (500, 119) and y.shape == (500, 10)
    fit, select, _ = tuning.data.split_fit_select_held(sample.y_train)
    scaled = tuning.data.scale_images(sample.x_train)
    np.testing.assert_array_equal(x_val, scaled[select])
    known = {image.tobytes() for image in scaled[fit]}
    assert {image.tobytes() for image in x} <= known
    assert len(tuning.search_data(sample, 10**6)[0]) == len(fit)
    assert y.sum(axis=0).min() >= 45  # stratified


# Searches


@pytest.mark.parametrize("kind", tuning.KINDS)
def test_a_search_finds_trials_and_does_not_repeat_them(kind, sample, tmp_path, capsys):
    project = small_search(sample, tmp_path, kind, epochs=2)
    rows = tuning.read_trials(project, 2)
    assert [row["status"] for row in rows] == ["COMPLETED"] * 2
    assert all(0 < row["loss"] < 5 and 0 <= row["accuracy"] <= 1 for row in rows)
    assert all(row["epochs"] == 2 and row["from_epoch"] == 0 for row in rows)
    assert set(rows[0]["values"]) == {"filters_1", "learning_rate"}
    times = {path: path.stat().st_mtime_ns for path in project.glob("trial_*/trial.json")}
    assert small_search(sample, tmp_path, kind, epochs=2) == project
    assert times == {p: p.stat().st_mtime_ns for p in project.glob("trial_*/trial.json")}
    assert capsys.readouterr().out.count("COMPLETED") == 2


def test_more_trials_add_to_a_search(sample, tmp_path):
    project = small_search(sample, tmp_path)
    before = [row["values"] for row in tuning.read_trials(project)]
    small_search(sample, tmp_path, trials=3)
    after = [row["values"] for row in tuning.read_trials(project)]
    assert after[:2] == before and len(after) == 3 and after[2] not in before


def test_hyperband_spends_as_many_epochs_as_the_others():
    oracle = kt.oracles.HyperbandOracle(max_epochs=tuning.EPOCHS)
    spent = 0
    for bracket in range(oracle._get_num_brackets()):
        for step in range(bracket + 1):
            before = oracle._get_epochs(bracket, step - 1) if step else 0
            epochs = oracle._get_epochs(bracket, step) - before
            spent += oracle._get_size(bracket, step) * epochs
    assert spent == tuning.EPOCHS * tuning.TRIALS


def test_hyperband_goes_on_with_the_weights_of_the_trial_before(sample, tmp_path):
    project = small_search(sample, tmp_path, "hyperband", epochs=3)
    rows = tuning.read_trials(project)
    assert {(row["from_epoch"], row["epochs"]) for row in rows} == {(0, 1), (1, 3), (0, 3)}


def test_all_trials_failing_is_an_error_with_the_first_message(sample, tmp_path, capsys):
    with pytest.raises(tuning.SearchError, match=r"(?s)None of 3 .*filters=\[-\d\]: expected 1"):
        small_search(sample, tmp_path, space=only_broken, trials=4)
    assert "FAILED: ValueError: filters=" in capsys.readouterr().out


def only_broken(hp):
    """Fine where Keras Tuner asks for the space, broken in each trial."""
    filters = hp.Choice("filters_1", [-1, -2, -3, -4], default=-1)
    rate = hp.Float("learning_rate", 1e-3, 1e-1, default=0.05)
    fine = rate == 0.05
    return {"network": {"filters": (2,) if fine else (filters,), **ONE_BLOCK}}


ONE_BLOCK = {"kernel_size": 3, "padding": "same", "pool": True}


def test_one_failing_trial_does_not_end_a_search(sample, tmp_path, monkeypatch, capsys):
    build, calls = tuning.RecipeModel.build, []

    def sometimes(self, hp):
        calls.append(hp)
        if len(calls) == 2:  # the first call asks for the space, the second is trial 0
            raise ValueError("no memory left")
        return build(self, hp)

    monkeypatch.setattr(tuning.RecipeModel, "build", sometimes)
    rows = tuning.read_trials(small_search(sample, tmp_path))
    assert [row["status"] for row in rows] == ["FAILED", "COMPLETED"]
    assert "trial 0 FAILED: ValueError: no memory left" in capsys.readouterr().out
    assert "no memory left" in rows[0]["message"] and rows[0]["loss"] is None


def test_a_score_that_is_no_number_is_a_failure(sample, tmp_path, monkeypatch):
    def nan(self, hp, model, *args, **kwargs):
        model.save_weights(tmp_path / "any.weights.h5")
        return {"val_cross_entropy": float("nan")}

    monkeypatch.setattr(tuning.RecipeModel, "fit", nan)
    with pytest.raises(tuning.SearchError, match="None of 2 .*\n.*score is not a number"):
        small_search(sample, tmp_path)
    (project,) = tmp_path.glob("random-*")
    assert [row["loss"] for row in tuning.read_trials(project)] == [None, None]


# Bad input


def test_unknown_kind(tmp_path):
    with pytest.raises(ValueError, match="no tuner named 'grid'; there are random, bayesian"):
        tuning.make_tuner("grid", tmp_path)


@pytest.mark.parametrize("name, n", [("trials", 0), ("epochs", 0), ("images", -1), ("trials", 2.5)])
def test_numbers_that_make_no_search(name, n, tmp_path):
    with pytest.raises(ValueError, match=f"{name}={n}: expected a whole number, 1 or more"):
        tuning.make_tuner("random", tmp_path, **{name: n})


def test_too_few_images_to_search_with(sample):
    with pytest.raises(ValueError, match="images=5: expected 10 or more"):
        tuning.search_data(sample, 5)


def test_a_space_that_makes_no_network_says_so_at_once(tmp_path):
    def space(hp):
        return {"network": {"filters": (hp.Choice("filters_1", [0, 8], default=0),), **ONE_BLOCK}}

    with pytest.raises(ValueError, match=r"filters=\[0\]: expected 1 or more"):
        tuning.make_tuner("random", tmp_path, space=space)


def test_no_tensorboard(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(tuning.SearchError, match="tensorboard.*pip install -r requirements.txt"):
        tuning.make_tuner("random", tmp_path)


def test_a_folder_that_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(tuning.SearchError, match=r"can't be written to .*MNIST_RESULTS_DIR"):
        tuning.make_tuner("random", tmp_path / "file" / "tuning")


def test_a_damaged_trial_counts_as_failed_and_the_others_stay(sample, tmp_path, capsys):
    project = small_search(sample, tmp_path)
    whole = (project / "trial_1" / "trial.json").read_bytes()
    (project / "trial_0" / "trial.json").write_text('{"trial_id": "0", "hyper')
    with pytest.raises(tuning.SearchError, match="trial_0/trial.json: damaged"):
        tuning.read_trials(project)
    small_search(sample, tmp_path, trials=3)
    assert "trial_0/trial.json: damaged" in capsys.readouterr().out
    statuses = [row["status"] for row in tuning.read_trials(project)]
    assert statuses == ["FAILED", "COMPLETED", "COMPLETED"]
    assert (project / "trial_1" / "trial.json").read_bytes() == whole
    assert (project / "trial_0" / "damaged-trial.json").exists()


def test_a_trial_whose_file_is_gone_or_incomplete_counts_as_failed(sample, tmp_path):
    project = small_search(sample, tmp_path, trials=3)
    (project / "trial_0" / "trial.json").unlink()
    (project / "trial_1" / "trial.json").write_text("{}")
    small_search(sample, tmp_path, trials=4)
    statuses = [row["status"] for row in tuning.read_trials(project)]
    assert statuses == ["FAILED", "FAILED", "COMPLETED", "COMPLETED"]


def test_searches_of_unequal_cost_are_not_compared(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no search: run make tune"):
        tuning.read_searches(tmp_path)
    for kind, epochs in (("random", 1), ("bayesian", 2)):
        found = {"project": kind, "settings": {"epochs": epochs}, "trials": []}
        (tmp_path / f"{kind}.json").write_text(json.dumps(found))
    with pytest.raises(tuning.SearchError, match="unequal settings"):
        tuning.read_searches(tmp_path)


def test_a_damaged_state_is_named(sample, tmp_path):
    project = small_search(sample, tmp_path)
    (project / "oracle.json").write_text("{")
    with pytest.raises(tuning.SearchError, match=r"oracle.json: damaged .*begin anew"):
        small_search(sample, tmp_path)


def test_a_kill_between_two_files_loses_nothing_and_repeats_nothing(sample, tmp_path):
    project = small_search(sample, tmp_path)
    state = json.loads((project / "oracle.json").read_text())
    # as if killed after trial 1's file was written and before the state was
    state |= {"ongoing_trials": {"tuner0": "1"}, "end_order": ["0"]}
    (project / "oracle.json").write_text(json.dumps(state))
    # and as if trial 2 had begun, which the state does not know
    begun = json.loads((project / "trial_1" / "trial.json").read_text())
    begun |= {"trial_id": "2", "status": "RUNNING", "score": None}
    (project / "trial_2").mkdir()
    (project / "trial_2" / "trial.json").write_text(json.dumps(begun))
    times = {n: (project / f"trial_{n}" / "trial.json").stat().st_mtime_ns for n in "01"}
    small_search(sample, tmp_path, trials=3)
    assert times == {n: (project / f"trial_{n}" / "trial.json").stat().st_mtime_ns for n in "01"}
    rows = tuning.read_trials(project)
    assert [row["status"] for row in rows] == ["COMPLETED"] * 3
    assert rows[2]["values"] != rows[1]["values"]


def test_states_are_written_whole_or_not_at_all(sample, tmp_path, monkeypatch):
    project = small_search(sample, tmp_path)
    before = (project / "oracle.json").read_bytes()
    tuner = tuning.make_tuner("random", tmp_path, space=tiny_space, **SMALL)
    monkeypatch.setattr(tuner.oracle, "get_state", lambda: {"a": object()})
    with pytest.raises(TypeError):
        tuner.oracle.save()
    assert json.loads((project / "oracle.json").read_bytes()) == json.loads(before)


def test_a_chief_that_never_appears(monkeypatch, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    set_role(monkeypatch, port=port)
    message = f"No chief of p at 127.0.0.1:{port} within 0 s"
    with pytest.raises(tuning.SearchError, match=message):
        tuning.wait_for_chief(tmp_path / "p", 0.05)


def set_role(monkeypatch, ip="127.0.0.1", port=8000, name="worker1"):
    monkeypatch.setattr(tuning, "TRY_AGAIN", 0.01)
    for variable, value in zip(tuning.VARIABLES, (ip, str(port), name), strict=True):
        monkeypatch.setenv(variable, value)


def test_the_chief_of_another_search_is_not_taken_for_ones_own(monkeypatch, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        set_role(monkeypatch, port=other.getsockname()[1])
        with pytest.raises(tuning.SearchError, match="same folder for all"):
            tuning.wait_for_chief(tmp_path, 0.05)
        (tmp_path / "chief.json").write_text("{}")
        tuning.wait_for_chief(tmp_path, 5)


def test_roles_take_all_three_variables_or_none(monkeypatch):
    assert tuning.role() == ""
    set_role(monkeypatch)
    assert tuning.role() == "worker"
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    assert tuning.role() == "chief"
    monkeypatch.delenv("KERASTUNER_ORACLE_PORT")
    with pytest.raises(tuning.SearchError, match="expected all of KERASTUNER_ORACLE_IP"):
        tuning.role()


def test_a_lost_chief_is_an_error_of_the_search_not_of_a_trial(sample, tmp_path, monkeypatch):
    class Lost(tuning.grpc.RpcError):
        pass

    def lost(*args, **kwargs):
        raise Lost

    monkeypatch.setattr(kt.engine.oracle.Oracle, "update_trial", lost)
    with pytest.raises(tuning.SearchError, match="chief does not answer. Stop all workers"):
        small_search(sample, tmp_path)
    (project,) = tmp_path.glob("random-*")
    (trial,) = tuning.read_trials(project)
    assert trial["status"] == "RUNNING" and not list(project.glob("trial_*/failed.txt"))


def test_two_processes_do_not_search_in_one_project(tmp_path):
    with tuning.alone(tmp_path):
        with pytest.raises(tuning.SearchError, match="another process is searching there"):
            with tuning.alone(tmp_path):
                pass
    with tuning.alone(tmp_path):
        pass


def test_a_port_in_use():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(tuning.SearchError, match=f"{port} can't be listened on"):
            tuning.check_port("127.0.0.1", port)


# Processes


def test_a_search_killed_in_mid_trial_goes_on(tmp_path):
    first = Command(tmp_path, "random", "--trials=3")
    first.until(r"^trial 0 COMPLETED")
    first.until(r"^trial 1: ")
    first.kill()
    first.end()
    (project,) = (tmp_path / "sample" / "tuning").glob("random-*")
    kept = (project / "trial_0" / "trial.json").stat().st_mtime_ns
    begun = json.loads((project / "trial_1" / "trial.json").read_text())
    assert begun["status"] == "RUNNING"

    code, printed = Command(tmp_path, "random", "--trials=3").end()
    assert code == 0, printed
    assert "trial 0" not in printed and "trial 1 COMPLETED" in printed
    assert (project / "trial_0" / "trial.json").stat().st_mtime_ns == kept
    rows = json.loads((project.parent / "random.json").read_text())["trials"]
    assert [row["status"] for row in rows] == ["COMPLETED"] * 3
    assert rows[1]["values"] == begun["hyperparameters"]["values"]


def test_a_chief_and_two_workers_finish_though_one_is_killed(tmp_path):
    command = Command(tmp_path, "random", "--trials=4", "--workers=2")
    pid = int(command.until(r"^worker1: process (\d+)")[1])
    trial = command.until(r"^worker1: trial (\d+): ")[1]
    os.kill(pid, signal.SIGKILL)
    code, printed = command.end()
    assert code == 0, printed
    assert "worker1 died (code -9) and is started again" in printed
    assert f"worker1: trial {trial} COMPLETED" in printed
    rows = json.loads((tmp_path / "sample" / "tuning" / "random.json").read_text())["trials"]
    assert [row["status"] for row in rows] == ["COMPLETED"] * 4
    by_worker = re.findall(r"^(worker\d): trial \d+ COMPLETED", printed, re.MULTILINE)
    assert sorted(set(by_worker)) == ["worker0", "worker1"] and len(by_worker) == 4


def test_chief_and_workers_end_with_their_launcher(tmp_path):
    command = Command(tmp_path, "random", "--trials=50", "--workers=2")
    command.until(r"^worker0: trial \d+: ")
    command.process.kill()
    code, _ = command.end()  # returns when the last of them has closed its output
    assert code == -signal.SIGKILL
    (project,) = (tmp_path / "sample" / "tuning").glob("random-*")
    assert len(list(project.glob("trial_*"))) < 50


def test_an_error_of_the_workers_ends_the_whole_with_its_message(tmp_path):
    options = ("random", "--trials=4", "--workers=2", "--source=nowhere")
    code, printed = Command(tmp_path, *options).end()
    assert code == 1
    assert "'nowhere'" in printed and "ended with code 1" in printed
    assert "Traceback" not in printed
