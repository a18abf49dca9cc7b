"""The reader's runs stay in their table, whatever happens to one of its files."""

import threading

import pytest

from src import models, plots, runs

KNOBS = {
    "filters": (2,), "pool": True, "batch_norm": False, "dense_units": (), "dropout": 0.0,
    "learning_rate": 0.01, "batch_size": 64, "epochs": 1, "augmentation": {}, "images": 200,
}  # fmt: skip


@pytest.fixture
def network():
    return models.build_cnn((2,), pool=True, batch_norm=False, dense_units=())


def test_runs_are_trained_named_by_what_differs_and_kept(sample, results, capsys):
    runs.train(sample, KNOBS, repeat=2)
    runs.train(sample, KNOBS | {"dropout": 0.5, "filters": (2, 3)})
    table = runs.read(sample)
    assert list(table.run) == ["base", "base", "filters=[2, 3], dropout=0.5"]
    assert list(table.seed) == [0, 1, 0] and table.validation.between(0, 1).all()
    assert table.validation[0] != table.validation[1] and (table.seconds > 0).all()
    assert len(list((results / "runs/sample digits").iterdir())) == 3
    assert "seed 1: validation" in capsys.readouterr().out
    assert len(plots.plot_runs(table).axes[0].get_yticks()) == 2
    runs.delete(sample)
    assert runs.read(sample).empty


def test_a_network_trained_by_hand_joins_the_table(sample, network):
    runs.keep(sample, KNOBS, network, 1.0)
    runs.keep(sample, "by hand", network, 2.0)
    assert list(runs.read(sample).run) == ["base", "by hand"]


def test_a_damaged_file_is_named_and_the_other_runs_stay(sample, network, results, capsys):
    for name in ("a", "b", "c"):
        runs.keep(sample, name, network, 1.0)
    first, second, _ = sorted((results / "runs/sample digits").iterdir())
    first.write_text('{"knobs": ')
    second.write_text("{}")
    assert list(runs.read(sample).run) == ["c"]
    said = capsys.readouterr().out
    assert said.count("Left out: ") == 2 and first.name in said and "Delete it" in said


def test_two_at_once_lose_nothing(sample, network):
    writers = [threading.Thread(target=runs.keep, args=(sample, f"{i}", network, 1.0))
               for i in range(4)]  # fmt: skip
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(runs.read(sample).run) == ["0", "1", "2", "3"]


def test_a_folder_of_its_own_for_published_runs(sample, network, monkeypatch, tmp_path):
    monkeypatch.setenv("MNIST_RUNS_DIR", str(tmp_path / "elsewhere"))
    runs.keep(sample, "here", network, 1.0)
    monkeypatch.delenv("MNIST_RUNS_DIR")
    assert runs.read(sample).empty


def test_a_knob_that_nothing_takes_is_named(sample):
    with pytest.raises(ValueError, match="network: no argument 'filter'; there are filters"):
        runs.train(sample, KNOBS | {"filter": 3})
    with pytest.raises(ValueError, match=r"filters=32: expected .*such as \(32,\)"):
        runs.train(sample, KNOBS | {"filters": 32})
