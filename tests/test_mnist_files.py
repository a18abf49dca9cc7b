"""MNIST is found, downloaded and checked, Kaggle's CSV read. No test asks the internet."""

import gzip
import hashlib
import io
import lzma
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import requests

from src import data, mnist_files
from src.mnist_files import load_kaggle_csv, save_kaggle_submission

HTML = b"<!DOCTYPE html><title>Sign in</title>"
IDX = {key: name for key, (name, _) in mnist_files.ARRAYS.items()}
random = np.random.default_rng(0)
FAKE = {  # stands for MNIST where the real one would be too large to write again and again
    "x_train": random.integers(0, 256, (20, 28, 28), np.uint8),
    "y_train": np.arange(20, dtype=np.uint8) % 10,
    "x_test": random.integers(0, 256, (10, 28, 28), np.uint8),
    "y_test": np.arange(10, dtype=np.uint8)[::-1],
}
PIXEL_CHANGED = FAKE["x_test"].copy()
PIXEL_CHANGED[3, 14, 14] ^= 1


def idx_bytes(array):
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def npz_bytes(**changes):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **FAKE | changes)
    return buffer.getvalue()


def zipped(array):
    return gzip.compress(idx_bytes(array), mtime=0)


def sha256(raw):
    return hashlib.sha256(raw).hexdigest()


NPZ = npz_bytes()
GZ = {IDX[key] + ".gz": zipped(array) for key, array in FAKE.items()}
FILES = {"mnist.npz": NPZ, **GZ}


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_mnist_is_fake():
    loaded = data.load_mnist()
    assert loaded.name == "MNIST"
    for key, array in FAKE.items():
        assert getattr(loaded, key).dtype == np.uint8
        np.testing.assert_array_equal(getattr(loaded, key), array)


@contextmanager
def refused(*parts, error=data.DataError):
    """The error must come, and its text must hold every part."""
    with pytest.raises(error) as caught:
        yield
    assert [part for part in parts if str(part) not in str(caught.value)] == [], caught.value


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """No MNIST_DIR; Keras' folder, where downloads go, below tmp_path, absent at first."""
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "datasets"


@pytest.fixture
def fake(monkeypatch):
    """Make the loader take FAKE for MNIST."""
    hashes = {key: sha256(array.tobytes()) for key, array in FAKE.items()}
    served = {name[:-3]: sha256(raw) for name, raw in GZ.items()}
    monkeypatch.setattr(mnist_files, "ARRAYS", {key: (IDX[key], FAKE[key].shape) for key in FAKE})
    monkeypatch.setattr(mnist_files, "CONTENT_SHA256", hashes)
    monkeypatch.setattr(mnist_files, "KERAS_SHA256", sha256(NPZ))
    monkeypatch.setattr(mnist_files, "MIRROR_SHA256", served)


@pytest.fixture
def mnist_dir(fake, monkeypatch, tmp_path):
    """The folder that MNIST_DIR names; a test fills it."""
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "digits"))
    return tmp_path / "digits"


# --- Files


@pytest.mark.parametrize("end, pack", [("", bytes), (".gz", gzip.compress)])
@pytest.mark.parametrize("before_idx", ["-", "."])
def test_idx_files_under_all_their_names(mnist_dir, end, pack, before_idx):
    names = {key: name.replace("-idx", before_idx + "idx") + end for key, name in IDX.items()}
    write(mnist_dir, {name: pack(idx_bytes(FAKE[key])) for key, name in names.items()})
    assert_mnist_is_fake()


@pytest.mark.parametrize("working_folder, root", [("here", "none"), ("other", "here")])
def test_relative_mnist_dir(fake, monkeypatch, tmp_path, working_folder, root):
    write(tmp_path / "here" / "digits", GZ)
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("MNIST_DIR", "digits")
    monkeypatch.setattr(mnist_files, "ROOT", tmp_path / root)
    monkeypatch.chdir(tmp_path / working_folder)
    assert_mnist_is_fake()


LABELS, LABELS_GZ, PIXELS_GZ = IDX["y_test"], IDX["y_test"] + ".gz", IDX["x_test"] + ".gz"
RAW = idx_bytes(FAKE["y_test"])
DAMAGED = [  # file, its content, what is said
    (LABELS, b"\x00\x00\x0d" + RAW[3:], "wrong magic number 00 00 0d 01"),
    (LABELS, RAW[:-1], "holds 17 bytes, but its header (10,) promises 18"),
    (LABELS, RAW[:4] + b"\xff" * 4, "promises 4,294,967,303"),
    (LABELS, RAW[:6], "truncated or damaged"),
    (LABELS, b"", "wrong magic number (empty)"),
    (LABELS_GZ, GZ[LABELS_GZ][:-5], "not a whole gzip file"),
    (LABELS_GZ, GZ[LABELS_GZ][:12] + b"\xff" * 30, "not a whole gzip file"),
    (LABELS_GZ, gzip.compress(RAW[:-1]), "holds 17 bytes"),
    (LABELS_GZ, HTML, "looks like a web page"),
    (LABELS_GZ, zipped(FAKE["y_test"][::-1]), "content of y_test is not MNIST's"),
    (LABELS_GZ, zipped(FAKE["y_test"] + 1), "y_test: label 10 at index 0"),
    (PIXELS_GZ, zipped(PIXEL_CHANGED), "KMNIST and EMNIST share the names"),
    (PIXELS_GZ, zipped(FAKE["x_test"][1:]), "x_test is uint8 (9, 28, 28), expected uint8 (10, 28"),
    ("mnist.npz", npz_bytes(x_test=PIXEL_CHANGED), "content of x_test is not MNIST's"),
    ("mnist.npz", NPZ[:-100], "is damaged"),
    ("mnist.npz", NPZ[:200] + b"?" * 9 + NPZ[209:], "is damaged"),
    ("mnist.npz", NPZ.replace(b"x_train", b"z_train"), "is damaged"),
    ("mnist.npz", NPZ.replace(b"\x08\x00", b"\x63\x00"), "is damaged"),  # compression unknown
    ("mnist.npz", npz_bytes(y_test=np.array([{}])), "is damaged"),  # a pickle
    ("mnist.npz", HTML, "is damaged"),
]


@pytest.mark.parametrize("name, raw, reason", DAMAGED, ids=range(len(DAMAGED)))
def test_what_is_wrong_in_mnist_dir_is_named(mnist_dir, cache, name, raw, reason):
    write(mnist_dir, GZ | {name: raw})
    write(cache, GZ)  # a good copy elsewhere is no reason to pass over MNIST_DIR
    with refused(mnist_dir / name, reason):
        data.load_mnist()


@pytest.mark.parametrize("given", ["'{}' ", '"{}/MNIST"', "{}/MNIST/raw/" + IDX["y_test"] + ".gz"])
def test_mnist_dir_in_quotes_above_or_below_the_folder(mnist_dir, monkeypatch, given):
    write(mnist_dir / "MNIST" / "raw", GZ)
    monkeypatch.setenv("MNIST_DIR", given.format(mnist_dir))
    assert_mnist_is_fake()


def test_missing_files_are_named(mnist_dir):
    write(mnist_dir, {LABELS_GZ: GZ[LABELS_GZ], PIXELS_GZ: GZ[PIXELS_GZ]})
    with refused(f"{mnist_dir} lacks {IDX['x_train']}, {IDX['y_train']} (with or without .gz)"):
        data.load_mnist()


def test_an_empty_place_that_was_named_is_said_before_another_is_read(mnist_dir, cache, capsys):
    write(cache, {"mnist.npz": NPZ})
    assert_mnist_is_fake()
    said = capsys.readouterr().out
    assert said.startswith(f"MNIST_DIR: {mnist_dir} holds neither mnist.npz nor IDX files")
    assert said.endswith("; looking elsewhere.\n") and said.count("\n") == 1
    write(mnist_dir, {"mnist.npz": NPZ})
    write(cache, {"mnist.npz": HTML})  # not read, as MNIST_DIR comes first
    assert_mnist_is_fake()
    assert capsys.readouterr().out == ""


def test_keras_folder_is_in_the_home_folder(fake, monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(mnist_files.Path, "home", lambda: tmp_path)
    write(tmp_path / ".keras" / "datasets", {"mnist.npz": NPZ})
    assert_mnist_is_fake()


# --- Download


@pytest.fixture
def web(fake, monkeypatch):
    """What was asked, and answers by URL: bytes, or an error after half of the file itself."""
    web = SimpleNamespace(answers={}, asked=[])

    def download(url, path, _):
        web.asked.append(url)
        raw = FILES[url.split("/")[-1]]
        answer = web.answers.get(url, raw)
        if isinstance(answer, Exception):
            Path(path).write_bytes(raw[: len(raw) // 2])
            raise answer
        Path(path).write_bytes(answer)

    downloaders = {mnist_files.TIMEOUT: download}
    monkeypatch.setattr(mnist_files.pooch, "HTTPDownloader", lambda timeout: downloaders[timeout])
    monkeypatch.setattr(mnist_files, "KERAS_URL", "https://keras/")
    monkeypatch.setattr(mnist_files, "MIRROR_URL", "https://mirror/")
    return web


KERAS = "https://keras/mnist.npz"
MIRROR = ["https://mirror/" + name for name in GZ]


@pytest.mark.parametrize("old", [{}, {"mnist.npz": HTML}], ids=["none", "page"])
def test_a_missing_or_damaged_file_is_downloaded_once(web, cache, old):
    write(cache, old)
    assert_mnist_is_fake()
    assert contents(cache) == {"mnist.npz": NPZ}
    assert_mnist_is_fake()
    assert web.asked == [KERAS]


ANSWERS = [HTML, NPZ[:-9], requests.HTTPError(), requests.ReadTimeout(), OSError(28, "disk full")]


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_after_a_bad_answer_comes_the_mirror_then_three_ways_out(web, cache, answer):
    before = {"mnist.npz": HTML}
    write(cache, before)
    web.answers = {KERAS: answer, MIRROR[0]: answer}
    ways_out = "network", "MNIST_DIR", "source='sample'"
    with refused(*ways_out, KERAS, MIRROR[0], error=data.DataUnavailableError):
        data.load_mnist()
    assert contents(cache) == before and web.asked == [KERAS, MIRROR[0]]
    del web.answers[MIRROR[0]]
    assert_mnist_is_fake()
    assert contents(cache) == GZ  # the damaged mnist.npz would hide them
    assert_mnist_is_fake()
    assert web.asked[2:] == [KERAS, *MIRROR]


def test_an_interrupted_mirror_is_taken_up_again(web, cache):
    web.answers = {KERAS: HTML, MIRROR[-1]: requests.ConnectionError()}
    with refused(MIRROR[-1], error=data.DataUnavailableError):
        data.load_mnist()
    assert set(contents(cache)) == set(list(GZ)[:-1])
    web.asked.clear()
    del web.answers[MIRROR[-1]]
    assert_mnist_is_fake()
    assert web.asked == [KERAS, MIRROR[-1]]


def test_without_a_network_every_place_is_named(mnist_dir, cache):
    places = f"{mnist_dir} holds neither", f"{cache} holds neither", "127.0.0.1:9/mnist.npz"
    with refused(*places, error=data.DataUnavailableError):  # a port where nobody answers
        data.load_mnist()
    assert contents(cache) == {}


def test_a_cache_that_cannot_be_written_to(web, cache):
    cache.parent.mkdir()
    cache.write_text("keep me")
    with refused(f"no place for it in {cache}", error=data.DataUnavailableError):
        data.load_mnist()
    assert cache.read_text() == "keep me" and web.asked == []


# --- Kaggle's files


@pytest.fixture
def table():
    """Three labelled images: pixel i of image n holds (i + n) % 256."""
    values = (np.arange(784) + np.arange(3)[:, None]) % 256
    table = pd.DataFrame(values, columns=[f"pixel{i}" for i in range(784)], dtype=object)
    table.insert(0, "label", np.array([7, 0, 9], object))
    return table


def test_kaggle_csv(table, tmp_path):
    table[table.columns[::-1]].to_csv(tmp_path / "train.csv", index=False)  # in any order
    table.drop(columns="label").to_csv(tmp_path / "test.csv", index=False)
    images, labels = load_kaggle_csv(str(tmp_path / "train.csv"))
    squares = {f"pixel{i}": f"{i // 28 + 1}x{i % 28 + 1}" for i in range(784)}  # "MNIST in CSV"
    table.rename(columns=squares).to_csv(tmp_path / "squares.csv", index=False)
    np.testing.assert_array_equal(load_kaggle_csv(tmp_path / "squares.csv")[0], images)
    unlabelled, none = load_kaggle_csv(tmp_path / "test.csv")
    assert labels.tolist() == [7, 0, 9] and none is None
    assert images.dtype == np.uint8 and images.shape == (3, 28, 28)
    assert images[0, 0, 27] == 27 and images[0, 1, 0] == 28  # row by row
    assert images[2].ravel().tolist() == [(i + 2) % 256 for i in range(784)]
    np.testing.assert_array_equal(unlabelled, images)


BAD_CELLS = [("pixel5", cell, 255) for cell in ("seven", 256, -1, 3.5, np.nan, "inf")]
BAD_CELLS += [("label", 10, 9)]


@pytest.mark.parametrize("column, cell, largest", BAD_CELLS)
def test_a_bad_cell_of_kaggles_csv_is_named(table, tmp_path, column, cell, largest):
    table.loc[1, column] = cell
    table.to_csv(tmp_path / "bad.csv", index=False)
    found = f"bad.csv: row 2, column {column} holds '{cell}'"
    with refused(f"{found}, expected a whole number from 0 to {largest}."):
        load_kaggle_csv(tmp_path / "bad.csv")


BAD_CSV = [  # what makes the text of the table, and the reason
    (lambda text: text.replace("pixel5,", "pixel05,"), "783 of 784 pixel columns"),
    (lambda text: text.splitlines()[0], "0 rows with 784 of 784"),
    (lambda text: "", "not a CSV table"),
    (lambda text: text + "1," * 800, "line 5"),
    (lambda text: text.replace("\n", ",0\n").replace(",0", "", 1), "more cells"),
]


@pytest.mark.parametrize("change, reason", BAD_CSV)
def test_kaggle_csv_names_what_is_wrong(table, tmp_path, change, reason):
    (tmp_path / "bad.csv").write_text(change(table.to_csv(index=False)))
    with refused(f"{tmp_path / 'bad.csv'}: ", reason):
        load_kaggle_csv(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    "end, pack", [("gz", gzip.compress), ("xz", lzma.compress), ("zip", bytes)]
)
def test_packed_tables_that_are_cut_or_none_are_named(table, tmp_path, end, pack):
    raw = pack(table.to_csv(index=False).encode())
    for content in (raw[: len(raw) // 2], raw[:200] + b"?" * 9 + raw[209:]):
        (tmp_path / f"a.csv.{end}").write_bytes(content)
        with refused(f"a.csv.{end}: not a CSV table (", "get it again."):
            load_kaggle_csv(tmp_path / f"a.csv.{end}")


def test_kaggle_submission(tmp_path):
    save_kaggle_submission(tmp_path / "out.csv", np.array([3, 0, 9]))
    assert (tmp_path / "out.csv").read_text() == "ImageId,Label\n1,3\n2,0\n3,9\n"
    with refused("predictions: label 10 at index 1"):
        save_kaggle_submission(tmp_path / "bad.csv", np.array([3, 10]))
    assert not (tmp_path / "bad.csv").exists()
