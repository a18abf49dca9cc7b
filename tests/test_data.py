"""Loading, checking, splitting and feeding digits. Every server is on this machine."""

import gzip
import hashlib
import io
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from src import data
from src.config import ROOT

HTML = b"<!DOCTYPE html><title>Sign in</title>"
IDX = {key: name for key, (name, _) in data.ARRAYS.items()}
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


def npz_bytes(arrays, save=np.savez_compressed):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


NPZ = npz_bytes(FAKE)
GZ = {IDX[key] + ".gz": gzip.compress(idx_bytes(array)) for key, array in FAKE.items()}
FILES = {"mnist.npz": NPZ, **GZ}


def store(folder, kind="idx.gz", **changes):
    """Write FAKE, with the arrays named in `changes` in place of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "npz":
        (folder / "mnist.npz").write_bytes(npz_bytes(FAKE | changes))
        return folder
    for key, array in (FAKE | changes).items():
        name = IDX[key].replace("-idx", ".idx") if "dotted" in kind else IDX[key]
        raw, end = idx_bytes(array), ".gz" if kind.endswith(".gz") else ""
        (folder / (name + end)).write_bytes(gzip.compress(raw) if end else raw)
    return folder


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
    """No MNIST_DIR; Keras' folder and the cache (given back) below tmp_path, absent at first."""
    monkeypatch.delenv("MNIST_DIR", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(data.pooch, "os_cache", lambda project: tmp_path / "caches" / project)
    return tmp_path / "caches" / "mnist-tutorial"


@pytest.fixture
def fake(monkeypatch):
    """Make the loader take FAKE for MNIST."""
    hashes = {key: hashlib.sha256(array.tobytes()).hexdigest() for key, array in FAKE.items()}
    served = {name: hashlib.sha256(raw).hexdigest() for name, raw in FILES.items()}
    monkeypatch.setattr(data, "ARRAYS", {key: (IDX[key], FAKE[key].shape) for key in FAKE})
    monkeypatch.setattr(data, "CONTENT_SHA256", hashes)
    monkeypatch.setattr(data, "DOWNLOADS", served)


@pytest.fixture
def mnist_dir(fake, monkeypatch, tmp_path):
    """The folder that MNIST_DIR names; a test fills it."""
    monkeypatch.setenv("MNIST_DIR", str(tmp_path / "digits"))
    return tmp_path / "digits"


# --- Files


@pytest.mark.parametrize("shape", [(7,), (3, 28, 28), (2, 4, 5), (0,)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_read_idx_gives_back_what_was_written(tmp_path, shape, pack):
    array = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)
    (tmp_path / "file").write_bytes(pack(idx_bytes(array)))
    found = data.read_idx(str(tmp_path / "file"))
    assert found.dtype == np.uint8 and found.shape == shape
    np.testing.assert_array_equal(found, array)


SIX = idx_bytes(np.arange(6, dtype=np.uint8))
BAD_IDX = [
    ("a", b"\x00\x00\x0d" + SIX[3:], "wrong magic number 00 00 0d 01"),
    ("a", b"\x00\x00\x08\x02" + SIX[4:], "wrong magic number 00 00 08 02"),
    ("a", SIX[:-1], "holds 13 bytes, but its header (6,) promises 14"),
    ("a", SIX + b"\x00", "holds 15 bytes, but its header (6,) promises 14"),
    ("a", SIX[:4] + b"\xff" * 4, "promises 4,294,967,303"),
    ("a", SIX[:4], "truncated or damaged"),
    pytest.param("a", SIX[:6], "truncated or damaged"),
    ("a", b"", "wrong magic number (empty)"),
    ("a", HTML, "looks like a web page"),
    ("a.gz", gzip.compress(SIX, mtime=0)[:-5], "not a whole gzip file"),
    ("a.gz", gzip.compress(SIX, mtime=0)[:12] + b"\xff" * 30, "not a whole gzip file"),
    ("a.gz", gzip.compress(SIX[:-1], mtime=0), "holds 13 bytes"),
    ("a.gz", HTML, "looks like a web page"),
    ("a.gz", b"", "(empty)"),
]


@pytest.mark.parametrize("name, raw, reason", BAD_IDX)
def test_read_idx_names_a_bad_file(tmp_path, name, raw, reason):
    (tmp_path / name).write_bytes(raw)
    with refused(tmp_path / name, reason):
        data.read_idx(tmp_path / name)


@pytest.mark.parametrize("kind", ["idx.gz", "idx", "dotted", "dotted.gz", "npz"])
def test_folder_formats(mnist_dir, kind):
    store(mnist_dir, kind)
    assert_mnist_is_fake()


@pytest.mark.parametrize("working_folder, root", [("here", "none"), ("other", "here")])
def test_relative_mnist_dir(fake, monkeypatch, tmp_path, working_folder, root):
    store(tmp_path / "here" / "digits")
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("MNIST_DIR", "digits")
    monkeypatch.setattr(data, "ROOT", tmp_path / root)
    monkeypatch.chdir(tmp_path / working_folder)
    assert_mnist_is_fake()


BAD_ARRAYS = [
    ("x_test", PIXEL_CHANGED, "content of x_test is not MNIST's"),
    ("y_train", FAKE["y_train"][::-1], "content of y_train is not MNIST's"),
    ("y_train", FAKE["y_train"] + 1, "y_train: label 10 at index 9"),
    ("x_train", FAKE["x_train"][1:], "x_train is uint8 (19, 28, 28), expected uint8 (20, 28"),
]


@pytest.mark.parametrize("kind", ["idx.gz", "npz"])
@pytest.mark.parametrize("key, array, reason", BAD_ARRAYS)
def test_changed_content_is_named(mnist_dir, cache, kind, key, array, reason):
    store(mnist_dir, kind, **{key: array})
    store(cache)  # a good copy elsewhere is no reason to pass over MNIST_DIR
    with refused(mnist_dir / ("mnist.npz" if kind == "npz" else IDX[key] + ".gz"), reason):
        data.load_mnist()


@pytest.mark.parametrize("key", IDX)
def test_one_of_four_missing(mnist_dir, key):
    (store(mnist_dir) / (IDX[key] + ".gz")).unlink()
    with refused(f"{mnist_dir} lacks {IDX[key]} ("):
        data.load_mnist()


BAD_NPZ = [
    pytest.param(NPZ[:-100], id="end cut off"),
    pytest.param(NPZ[:200] + b"?" * 9 + NPZ[209:], id="bytes changed"),
    pytest.param(NPZ.replace(b"x_train", b"z_train"), id="array missing"),
    pytest.param(NPZ.replace(b"\x08\x00", b"\x63\x00"), id="method unknown"),
    pytest.param(npz_bytes({"arr": PIXEL_CHANGED}, np.save), id="npy, not npz"),
    pytest.param(npz_bytes(FAKE | {"y_test": np.array([{}])}), id="pickled object"),
    pytest.param(HTML, id="web page"),
    pytest.param(b"", id="empty"),
]


@pytest.mark.parametrize("raw", BAD_NPZ)
def test_damaged_npz(mnist_dir, raw):
    mnist_dir.mkdir()
    (mnist_dir / "mnist.npz").write_bytes(raw)
    with refused(f"{mnist_dir / 'mnist.npz'} is damaged"):
        data.load_mnist()


def test_order_of_places(mnist_dir, monkeypatch, tmp_path, cache):
    folders = [store(f) for f in (mnist_dir, tmp_path / "keras" / "datasets", cache)]
    read, read_folder = [], data._read_folder
    monkeypatch.setattr(data, "_read_folder", lambda f: read.append(f) or read_folder(f))
    for n, folder in enumerate(folders):
        read.clear()
        assert_mnist_is_fake()
        assert read == folders[: n + 1]
        for path in folder.iterdir():
            path.unlink()


def test_an_empty_place_that_was_named_is_said_before_another_is_read(mnist_dir, cache, capsys):
    store(cache)
    assert_mnist_is_fake()
    said = capsys.readouterr().out
    assert said.startswith("MNIST_DIR: ") and said.endswith("; looking elsewhere.\n")
    assert said.count("elsewhere") == 1  # nobody named Keras' folder


def test_keras_folder_is_in_the_home_folder(fake, monkeypatch, tmp_path):
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setattr(data.Path, "home", lambda: tmp_path)
    store(tmp_path / ".keras" / "datasets")
    assert_mnist_is_fake()


@pytest.mark.parametrize("name", ["mnist.npz", IDX["x_test"] + ".gz"])
def test_damaged_file_of_keras_is_skipped_and_kept(fake, tmp_path, cache, name):
    keras = store(tmp_path / "keras" / "datasets")
    (keras / name).write_bytes(HTML)
    before = contents(keras)
    store(cache)
    assert_mnist_is_fake()
    assert contents(keras) == before


def test_unknown_source():
    with refused("source='fashion'", error=ValueError):
        data.load_mnist(source="fashion")


# --- Download


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        _, host, name = self.path.split("/")
        answer = self.server.answers.get(self.path) or self.server.answers[host]
        if answer == "404":
            return self.send_error(404)
        if answer == "silent":
            return self.server.test_over.wait()
        body = HTML if answer == "html" else FILES[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if answer in ("good", "html") else body[: len(body) // 2])
        if answer == "stalled":
            self.server.test_over.wait()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(fake, monkeypatch):
    """Keras' place and the mirror; `answers` says what each gives, by host or by whole path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.test_over = [], threading.Event()
    server.answers = {"keras": "good", "mirror": "good"}
    for name, host in (("KERAS_URL", "keras"), ("MIRROR_URL", "mirror")):
        monkeypatch.setattr(data, name, f"http://127.0.0.1:{server.server_port}/{host}/")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.test_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["truncated", "html", "404", "silent", "stalled"])
def bad_answer(request, monkeypatch):
    if request.param in ("silent", "stalled"):
        monkeypatch.setattr(data, "TIMEOUT", (5, 0.4))
    return request.param


def put_npz(cache, raw):
    cache.mkdir(parents=True)
    (cache / "mnist.npz").write_bytes(raw)


def test_download_once(server, cache):
    assert_mnist_is_fake()
    assert contents(cache) == {"mnist.npz": NPZ}
    assert_mnist_is_fake()
    assert server.requests == ["/keras/mnist.npz"]


def test_bad_answer_falls_to_the_mirror(server, cache, bad_answer):
    server.answers["keras"] = bad_answer
    assert_mnist_is_fake()
    assert contents(cache) == GZ
    assert_mnist_is_fake()
    assert server.requests == ["/keras/mnist.npz"] + [f"/mirror/{name}" for name in GZ]


@pytest.mark.parametrize("before", [{}, {"mnist.npz": HTML}], ids=["no cache", "damaged cache"])
def test_both_fail(server, cache, bad_answer, before):
    server.answers.update(keras=bad_answer, mirror=bad_answer)
    if before:
        put_npz(cache, HTML)
    ways_out = ("network", "MNIST_DIR", "source='sample'")
    with refused(*ways_out, data.KERAS_URL, data.MIRROR_URL, error=data.DataUnavailableError):
        data.load_mnist()
    assert contents(cache) == before and len(server.requests) == 2


def test_no_server_at_all(mnist_dir, cache):
    with refused(f"{mnist_dir} holds neither", error=data.DataUnavailableError):
        data.load_mnist()
    assert contents(cache) == {}


def test_interrupted_mirror_is_taken_up_again(server, cache):
    *whole, last = GZ
    server.answers.update({"keras": "404", f"/mirror/{last}": "truncated"})
    with refused(last, error=data.DataUnavailableError):
        data.load_mnist()
    assert contents(cache) == {name: GZ[name] for name in whole}
    server.requests.clear()
    del server.answers[f"/mirror/{last}"]
    assert_mnist_is_fake()
    assert server.requests == ["/keras/mnist.npz", f"/mirror/{last}"]


@pytest.mark.parametrize("old", [HTML, NPZ[:-9], npz_bytes(FAKE | {"x_test": PIXEL_CHANGED})])
def test_damaged_cache_is_replaced(server, cache, old):
    put_npz(cache, old)
    assert_mnist_is_fake()
    assert contents(cache) == {"mnist.npz": NPZ}


def test_damaged_npz_in_the_cache_does_not_hide_the_mirror(server, cache):
    put_npz(cache, HTML)
    server.answers["keras"] = "404"
    assert_mnist_is_fake()
    server.requests.clear()
    assert_mnist_is_fake()
    assert server.requests == []


def test_cache_below_a_file(server, cache, tmp_path):
    (tmp_path / "caches").write_text("keep me")
    with refused(f"{cache} can't be made", error=data.DataUnavailableError):
        data.load_mnist()
    assert (tmp_path / "caches").read_text() == "keep me" and server.requests == []


def test_cache_not_writable(server, cache, monkeypatch):
    monkeypatch.setattr(data.os, "access", lambda path, mode: path != cache)
    with refused(f"{cache} can't be written to", error=data.DataUnavailableError):
        data.load_mnist()
    assert server.requests == []


def test_timeout(server, monkeypatch):
    used, downloader = [], data.pooch.HTTPDownloader
    monkeypatch.setattr(
        data.pooch,
        "HTTPDownloader",
        lambda timeout: used.append(timeout) or downloader(timeout=timeout),
    )
    data.load_mnist()
    assert used == [data.TIMEOUT]
    assert sum(data.TIMEOUT) <= 15 and min(data.TIMEOUT) > 0


# --- The sample and the real MNIST


def test_the_sample_is_scikit_learns_digits_enlarged(sample):
    from sklearn.datasets import load_digits

    again = data.load_mnist(source="sample")
    assert again.name == sample.name == "sample digits"
    images, source = np.concatenate([again.x_train, again.x_test]), load_digits()
    small = images[:, 6:24:5, 6:24:5].astype(float)  # these pixels lie in the middle of 2x2 places
    expected = source.images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)) / 16 * 255
    near = [np.abs(expected - one).mean(axis=(1, 2)).argmin() for one in small[::40]]
    labels = np.concatenate([again.y_train, again.y_test])[::40]
    assert (source.target[near] == labels).all()
    for i, one in zip(near, small[::40], strict=True):
        np.testing.assert_allclose(one, expected[i], atol=0.51)  # rounded to whole numbers
    assert images.max() == 255


def test_sample(sample):
    assert sample.x_train.shape == (1437, 28, 28) and sample.x_test.shape == (360, 28, 28)
    assert sample.y_train.shape == (1437,) and sample.y_test.shape == (360,)
    assert {array.dtype for array in sample[:4]} == {np.dtype(np.uint8)}
    assert set(sample.y_train) == set(sample.y_test) == set(range(10))
    assert "MNIST" not in sample.name
    images = np.concatenate([sample.x_train, sample.x_test])
    assert images.max() == 255 and images[:, 4:24, 4:24].any(axis=(1, 2)).all()
    images[:, 4:24, 4:24] = 0
    assert not images.any()  # the margins
    for first, again in zip(sample, data.load_mnist(source="sample"), strict=True):
        np.testing.assert_array_equal(first, again)


def test_real_mnist(mnist):
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.x_train.shape == (60_000, 28, 28) and mnist.x_test.shape == (10_000, 28, 28)
    assert np.bincount(mnist.y_train).tolist() == counts and mnist.y_test.shape == (10_000,)
    assert round(mnist.x_train.mean() / 255, 5) == 0.13066
    assert round(mnist.x_train.std() / 255, 5) == 0.30811
    assert mnist.name == "MNIST"


# --- Kaggle's files


@pytest.fixture
def table():
    """Three labelled images: pixel i of image n holds (i + n) % 256."""
    values = (np.arange(784) + np.arange(3)[:, None]) % 256
    table = pd.DataFrame(values, columns=[f"pixel{i}" for i in range(784)], dtype=object)
    table.insert(0, "label", np.array([7, 0, 9], object))
    return table


@pytest.mark.parametrize("order", ["as written", "shuffled", "unlabelled"])
def test_kaggle_csv(table, tmp_path, order):
    columns = table.columns[1:] if order == "unlabelled" else table.columns
    if order == "shuffled":
        columns = np.random.default_rng(1).permutation(columns)
    table[columns].to_csv(tmp_path / "digits.csv", index=False)
    images, labels = data.load_kaggle_csv(str(tmp_path / "digits.csv"))
    assert images.dtype == np.uint8 and images.shape == (3, 28, 28)
    assert images[0, 0, 27] == 27 and images[0, 1, 0] == 28  # row by row
    assert images[2].ravel().tolist() == [(i + 2) % 256 for i in range(784)]
    assert (labels is None) if order == "unlabelled" else (labels.tolist() == [7, 0, 9])


BAD_CELLS = [("pixel5", cell) for cell in ("seven", 256, -1, 3.5, None, "inf")]
BAD_CELLS += [("pixel783", 256), ("label", "x"), ("label", 10), ("label", None)]


@pytest.mark.parametrize("column, cell", BAD_CELLS)
def test_kaggle_csv_bad_cell(table, tmp_path, column, cell):
    table.loc[1, column] = cell
    table.to_csv(tmp_path / "bad.csv", index=False)
    shown, largest = "nan" if cell is None else cell, 9 if column == "label" else 255
    with refused(tmp_path / "bad.csv", f": row 2, column {column} ", shown, f"to {largest}."):
        data.load_kaggle_csv(tmp_path / "bad.csv")


def test_kaggle_csv_shows_the_cell_as_written(table, tmp_path):
    table.assign(pixel0=256).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(data.DataError, match="holds '?256'?, expected"):
        data.load_kaggle_csv(tmp_path / "bad.csv")


def with_longer_rows(table):
    header, *rows = table.to_csv(index=False).splitlines()
    return "\n".join([header] + [row + ",0" for row in rows])


BAD_TABLES = [
    ("783 of 784 pixel columns", lambda t: t.drop(columns="pixel5").to_csv(index=False)),
    ("not expected: ['id']", lambda t: t.assign(id=1).to_csv(index=False)),
    ("0 rows with 784 of 784", lambda t: t.head(0).to_csv(index=False)),
    ("not a CSV table", lambda t: ""),
    ("not a CSV table ('utf-8'", lambda t: "\udcff\udcfe"),
    ("line 5", lambda t: t.to_csv(index=False) + "1," * 800),
    pytest.param("more cells", with_longer_rows),
]


@pytest.mark.parametrize("reason, text", BAD_TABLES)
def test_kaggle_csv_bad_table(table, tmp_path, reason, text):
    (tmp_path / "bad.csv").write_bytes(text(table).encode("utf-8", "surrogateescape"))
    with refused(tmp_path / "bad.csv", reason):
        data.load_kaggle_csv(tmp_path / "bad.csv")


def test_kaggle_submission(tmp_path):
    data.save_kaggle_submission(tmp_path / "out.csv", np.array([3, 0, 9]))
    assert (tmp_path / "out.csv").read_text() == "ImageId,Label\n1,3\n2,0\n3,9\n"


# --- Labels and scaling


def test_labels_and_one_hot():
    labels = np.array([9, 0, 3], np.uint8)
    np.testing.assert_array_equal(data.check_labels(labels), labels)
    rows = data.one_hot(labels)
    assert rows.dtype == np.float32 and rows.shape == (3, 10)
    assert rows.sum() == 3 and rows[0, 9] == rows[1, 0] == rows[2, 3] == 1


BAD_LABELS = [([1, 10], "label 10 at index 1"), ([-1, 0], "label -1 at index 0")]
BAD_LABELS += [([1.0, 2.0], "float64 (2,)"), ([[1, 2]], "int64 (1, 2)")]


@pytest.mark.parametrize("labels, reason", BAD_LABELS)
def test_labels_refused(tmp_path, labels, reason):
    with refused("digits: " + reason):
        data.check_labels(np.array(labels), "digits")
    with refused("labels: " + reason):
        data.one_hot(np.array(labels))
    with refused("predictions: " + reason):
        data.save_kaggle_submission(tmp_path / "out.csv", np.array(labels))
    assert not (tmp_path / "out.csv").exists()


def test_scale_images():
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 3, 4:6] = 51, 255
    scaled = data.scale_images(images)
    assert scaled.dtype == np.float32 and scaled.shape == (2, 28, 28, 1)
    assert scaled[1, 3, 4, 0] == np.float32(0.2) and scaled[1, 3, 5, 0] == 1
    assert np.count_nonzero(scaled) == 2 and images.max() == 255


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_check_scaled(dtype):
    images = np.linspace(0, 1, 784).astype(dtype).reshape(1, 28, 28, 1)
    checked = data.check_scaled(images)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked, images.astype(np.float32))


UNIT = np.zeros((2, 28, 28, 1), np.float32)
BAD_IMAGES = [(data.check_scaled, UNIT + x, "values from") for x in (np.nan, 1.5, -0.001, 255)]
BAD_IMAGES += [
    (data.check_scaled, UNIT.astype(np.uint8), "uint8, expected floats"),
    (data.check_scaled, UNIT[..., 0], "shape (2, 28, 28), expected (n, 28, 28, 1)"),
    (data.check_scaled, UNIT[0], "shape (28, 28, 1), expected (n, 28, 28, 1)"),
    (data.check_scaled, UNIT.repeat(3, axis=3), "shape (2, 28, 28, 3), expected"),
    (data.scale_images, UNIT[..., 0], "float32 (2, 28, 28), expected uint8 (n, 28, 28)"),
    (data.scale_images, np.zeros((2, 28, 28), np.int64), "int64 (2, 28, 28), expected"),
    (data.scale_images, UNIT.astype(np.uint8), "uint8 (2, 28, 28, 1), expected"),
    (data.scale_images, np.zeros((28, 28), np.uint8), "uint8 (28, 28), expected"),
]


@pytest.mark.parametrize("function, images, reason", BAD_IMAGES)
def test_images_refused(function, images, reason):
    with refused("images: " + reason):
        function(images)


# --- Splits


def assert_stratified(labels, rows, share):
    found = np.bincount(labels[rows], minlength=10)
    assert np.abs(found - share * np.bincount(labels)).max() <= 1


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_stratified_split(sample, fraction):
    labels = sample.y_train
    first, second = data.stratified_split(labels, fraction, seed=3)
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert_stratified(labels, first, 1 - fraction)
    assert_stratified(labels, second, fraction)
    np.testing.assert_array_equal(data.stratified_split(labels, fraction, seed=3)[1], second)
    assert set(data.stratified_split(labels, fraction, seed=4)[1]) != set(second)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_stratified_split_refuses(fraction):
    with refused(f"fraction={fraction}", error=ValueError):
        data.stratified_split(np.arange(100) % 10, fraction)


def test_three_parts_need_labels():
    with pytest.raises(ValueError, match="11 labels: expected 12 or more"):
        data.split_fit_select_held(np.zeros(11, int))


@pytest.mark.parametrize("size, part", [(60_000, 5_000), (1437, 119), (1200, 100)])
def test_split_fit_select_held(size, part):
    labels = np.random.default_rng(2).choice(10, size, p=np.linspace(0.08, 0.12, 10))
    parts = data.split_fit_select_held(labels)
    assert [len(rows) for rows in parts] == [size - 2 * part, part, part]
    assert sorted(np.concatenate(parts)) == list(range(size))
    for rows, again in zip(parts, data.split_fit_select_held(labels), strict=True):
        assert_stratified(labels, rows, len(rows) / size)
        np.testing.assert_array_equal(rows, again)


# --- Batches

NUMBER = np.arange(25)
IMAGES = np.broadcast_to(NUMBER[:, None, None, None] / 100, (25, 28, 28, 1))
LABELS = NUMBER % 10


def epoch(dataset):
    """The numbers of the images in one pass, and the labels that came with them."""
    batches = [(x.numpy(), y.numpy()) for x, y in dataset]
    images = np.concatenate([x for x, _ in batches])
    numbers = np.rint(images[:, 0, 0, 0] * 100).astype(int)
    return numbers.tolist(), np.concatenate([y for _, y in batches])


def test_batches_in_order():
    dataset = data.make_dataset(IMAGES, LABELS, 10)
    assert [x.shape for x, _ in dataset] == [(n, 28, 28, 1) for n in (10, 10, 5)]
    assert dataset.element_spec[0].dtype == "float32"
    numbers, labels = epoch(dataset)
    assert numbers == NUMBER.tolist() and labels.tolist() == LABELS.tolist()


def test_shuffled_batches():
    dataset = data.make_dataset(IMAGES, LABELS, 10, shuffle=True, seed=5)
    first, second = epoch(dataset), epoch(dataset)
    assert first[0] != second[0] and first[0] != NUMBER.tolist()
    for numbers, labels in (first, second):
        assert sorted(numbers) == NUMBER.tolist()
        assert labels.tolist() == LABELS[numbers].tolist()
    for seed, same in ((5, True), (6, False)):
        again = epoch(data.make_dataset(IMAGES, LABELS, 10, shuffle=True, seed=seed))
        assert (again[0] == first[0]) == same


def test_one_hot_batches():
    numbers, labels = epoch(data.make_dataset(IMAGES, data.one_hot(LABELS), 10, shuffle=True))
    np.testing.assert_array_equal(labels, data.one_hot(LABELS)[numbers])


BAD_BATCHES = [
    (IMAGES, LABELS[1:], 10, "25 images and 24 labels"),
    (IMAGES[:0], LABELS[:0], 10, "0 images and 0 labels"),
    (IMAGES, LABELS, 0, "batch_size=0"),
    (IMAGES * 100, LABELS, 10, "images: values from 0.0 to 24.0"),
    (IMAGES[..., 0], LABELS, 10, "images: shape"),
    pytest.param(IMAGES, LABELS + 1, 10, "labels: label 10 at index 9"),
    pytest.param(IMAGES, LABELS / 1, 10, "labels: float64"),
    pytest.param(IMAGES, LABELS[:, None], 10, "(25, 1)"),
]


def test_a_batch_of_one():
    sizes = [len(images) for images, _ in data.make_dataset(IMAGES, LABELS, 1)]
    assert sizes == [1] * len(IMAGES)


@pytest.mark.parametrize("images, labels, batch_size, reason", BAD_BATCHES)
def test_batches_refused(images, labels, batch_size, reason):
    with refused(reason, error=ValueError):
        data.make_dataset(images, labels, batch_size)


def test_import_does_not_load_tensorflow():
    code = "import sys, src.data; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_augmented_batches_differ_by_epoch_and_repeat_with_the_seed():
    x = np.random.default_rng(1).random((10, 28, 28, 1), dtype=np.float32)
    y = np.arange(10)

    def first_epochs(seed):
        batches = data.make_dataset(x, y, 5, seed=seed, augmentation={"shift": 2.0})
        return [np.concatenate([b[0].numpy() for b in batches]) for _ in range(2)]

    one, two = first_epochs(7)
    assert not np.allclose(one, two)
    assert all(np.array_equal(a, b) for a, b in zip(first_epochs(7), [one, two], strict=True))
    assert not np.allclose(first_epochs(8)[0], one)
