"""The page to draw on; without a browser tests are skipped, or fail if REQUIRE_BROWSER is set."""

import base64
import io
import itertools
import os
import re
import runpy
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from src.reading import app
from src.reading.inference import PictureError, Prediction
from src.reading.picture import read_picture

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
DIGITS = {  # strokes in a box of width and height 1, from the upper left
    "1": [[(0.5, 0), (0.45, 1)]],
    "2": [[(0.05, 0.25), (0.25, 0.02), (0.7, 0.02), (0.9, 0.25), (0.7, 0.55), (0, 1), (1, 1)]],
    "3": [[(0.1, 0.1), (0.5, 0), (0.85, 0.2), (0.4, 0.48), (0.95, 0.75), (0.6, 1), (0.05, 0.9)]],
    "7": [[(0, 0), (1, 0), (0.4, 1)]],
}


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def a_photo(number: str) -> Image.Image:
    """Dark strokes on grey paper, 600 x 400; ink starts at 54, 234 and 414 from the left."""
    photo = np.full((400, 600, 3), 180, np.uint8)
    for i, digit in enumerate(number):
        for stroke in DIGITS[digit]:
            points = np.array(stroke) * (110, 240) + (60 + 180 * i, 60)
            cv2.polylines(photo, [np.rint(points).astype(np.int32)], False, (60, 40, 30), 12)
    return Image.fromarray(photo)


def test_other_data_are_no_drawing():
    whole, small = (app.data_url(np.zeros((side, 960), np.uint8)) for side in (640, 30))
    assert app.decode_drawing(whole).size == app.CANVAS
    start = whole.split(",")[0]
    for data in (small, start + ",aGVsbG8=", start + ",????", ["a list"]):
        with pytest.raises(PictureError, match="did not arrive whole"):
            app.decode_drawing(data)


def test_the_page_gets_what_the_network_saw_and_where():
    blank = read_picture(np.zeros((500, 1000), np.uint8))
    one = Prediction(7, 0.91, np.full(10, 0.1), np.eye(28), (100, 50, 300, 250))
    (shown,) = app.describe([one], blank)["digits"]
    seen = Image.open(io.BytesIO(base64.b64decode(shown["seen"].partition("base64,")[2])))
    assert np.array_equal(np.asarray(seen), 255 * (1 - np.eye(28)))  # dark ink on white
    assert shown["box"] == pytest.approx((0.1, 0.7, 0.5, 0.1))  # from top, right, bottom, left


def test_messages_are_text_and_the_unforeseen_gets_one(monkeypatch, caplog):
    assert "<" not in app.message("<script>alert(1)</script>.png: no picture")["message"]
    monkeypatch.setattr(app, "read_digits", lambda *_: 1 / 0)
    shown = app.answer(None, np.asarray, np.zeros((50, 50), np.uint8))
    assert shown == app.message("This picture can't be read; the terminal says more.")
    assert "ZeroDivisionError" in caplog.text  # for the one who runs the server


def test_import_changes_no_settings_and_needs_no_plots(monkeypatch):
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    monkeypatch.setitem(sys.modules, "src.plots", None)  # an import of it fails
    before = dict(os.environ)
    runpy.run_path(app.__file__)
    assert dict(os.environ) == before


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The page, amid proxies that are no help here; it looks up no other computer's name."""
    asked, look_up = [], socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *a, **b: asked.append(a[0]) or look_up(*a, **b))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setenv("http_proxy", "http://127.0.0.1:9")
        patch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")  # httpx lacks a package for it
        for name in ("no_proxy", "NO_PROXY", "GRADIO_ANALYTICS_ENABLED"):
            patch.delenv(name, raising=False)
        page = app.build_page(app.open_model(app.MODEL_PATH, listed=True))
        before = dict(os.environ)
        app.serve(page)
        assert dict(os.environ) == before
        yield page
        page.close()
    assert asked and [host for host in asked if not re.match(r"127\.|::1|localhost", host)] == []


def test_closed_for_others(server):
    assert server.local_url == f"http://127.0.0.1:{server.server_port}/"
    for other in ("127.0.0.2", "::1"):
        with pytest.raises(OSError):
            socket.create_connection((other, server.server_port), timeout=5).close()
    files = [f"gradio_api/file={path}" for path in (app.MODEL_PATH, app.__file__, "/etc/hosts")]
    with httpx.Client(base_url=server.local_url, trust_env=False) as client:
        assert client.get("", headers={"Host": "evil.example"}).status_code == 400  # DNS rebinding
        for page in ("docs", "redoc", "openapi.json", "monitoring", "gradio_api/runs", *files):
            assert client.get(page).status_code in (403, 404)
        listed = client.get("gradio_api/info").json()
    assert listed == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert not (server.share or server.analytics_enabled or server.mcp_server or server.pwa)


def test_port_that_is_none_or_taken_is_named(server):
    for port in (99_999, -5, 0):
        with pytest.raises(ValueError, match=f"--port {port}: expected a number from 1 to 65535"):
            app.serve(server, port)
    with pytest.raises(ValueError, match=f"Port {server.server_port} is not free.*--port"):
        app.serve(app.build_page(None), server.server_port)


def test_main_deletes_uploads_and_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    kept = []

    def block_thread(page):
        kept.append(tempfile.mkdtemp(dir=os.environ["GRADIO_TEMP_DIR"]))

    monkeypatch.setattr(app, "serve", lambda page, port: f"http://127.0.0.1:{port}/")
    monkeypatch.setattr("gradio.Blocks.block_thread", block_thread)
    app.main(["--port", "8111"])
    assert "http://127.0.0.1:8111/" in capsys.readouterr().out and not os.path.exists(kept[0])
    monkeypatch.setattr(app, "MODEL_PATH", tmp_path / "none.onnx")
    with pytest.raises(SystemExit, match="none.onnx is missing.*not opened"):
        app.main([])


@pytest.fixture(scope="module")
def browser():
    if not os.environ.get("REQUIRE_BROWSER"):
        pytest.importorskip("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = next(filter(None, map(shutil.which, (*BROWSERS, own))), None)
        if not found and not os.environ.get("REQUIRE_BROWSER"):
            pytest.skip("no Chromium: apt install chromium, or playwright install chromium")
        options = ["--no-sandbox", "--disable-gpu"]
        yield playwright.chromium.launch(executable_path=found, args=options)


@pytest.fixture(scope="module")
def open_page(browser, server):
    """Opens the page at a width; every request of every page has to stay on this computer."""
    requests, problems = [], []

    def open_page(width: int, height: int, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.set_default_timeout(15_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.local_url)
        page.locator("#pad canvas").click(trial=True)  # once it stands still
        return page

    yield open_page
    outside = [url for url in requests if not url.startswith((server.local_url, "data:", "blob:"))]
    assert requests and outside == [] and problems == []


def draw(page, digit: str, left: float) -> None:
    """A digit drawn with the mouse, from this share of the canvas' width on."""
    box = page.locator("#pad canvas").bounding_box()
    for stroke in DIGITS[digit]:
        for i, (x, y) in enumerate(stroke):
            x, y = box["width"] * (left + 0.14 * x), box["height"] * (0.3 + 0.4 * y)
            page.mouse.move(box["x"] + x, box["y"] + y, steps=4 if i else 1)
            if i == 0:
                page.mouse.down()
        page.mouse.up()


def expect(page, text: str) -> None:
    """Waits for a number or a message that this pattern matches whole."""
    answers = page.locator("#answer .number, #answer .message")
    answers.filter(has_text=re.compile(f"^{text}$")).wait_for()


def ink(page) -> int:
    """Dark pixels on the canvas."""
    return page.locator("#pad canvas").evaluate(
        """canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)
           .data.filter((value, i) => i % 4 == 0 && value < 128).length"""
    )


def expect_whole_canvas(page, width: int, height: int) -> dict:
    """The whole canvas is in the window and nothing lies on it; its place is returned."""
    box = page.locator("#pad canvas").bounding_box()
    assert box["width"] > 0.35 * width and box["height"] == pytest.approx(box["width"] / 1.5, abs=2)
    for x, y in itertools.product((0.03, 0.5, 0.97), repeat=2):
        place = [box["x"] + x * box["width"], box["y"] + y * box["height"]]
        top = page.evaluate("place => document.elementFromPoint(...place)?.tagName", place)
        assert top == "CANVAS"  # and not null, as outside the window
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing to the side
    return box


def test_each_stroke_is_read_on_a_desktop(open_page):
    page = open_page(1280, 800)
    expect_whole_canvas(page, 1280, 800)
    draw(page, "2", 0.78)
    expect(page, "2")
    assert re.fullmatch(r"(\d\d\.\d|over 99\.9)% sure", page.locator(".sure").inner_text())
    assert page.locator(".picture").count() == 0  # it is on the pad
    assert (page.locator(".bar").count(), page.locator(".best span").inner_text()) == (10, "2")
    assert page.locator(".seen img").evaluate("image => image.naturalWidth") == 28
    for digit, left, number in [("7", 0.54, "72"), ("1", 0.3, "172"), ("3", 0.06, "3172")]:
        before = ink(page)
        draw(page, digit, left)
        expect(page, number)
    assert page.locator(".card").count() == 4
    sure = page.locator(".sure").inner_text()
    assert re.fullmatch(r"4 digits; least sure of the [1237]: (\d\d\.\d%|over 99\.9%)", sure)
    spoken = page.locator(".bars").first.get_attribute("aria-label").split(", ")
    assert len(spoken) == 10 and re.fullmatch(r"3: (\d\d\.\d%|over 99\.9%)", spoken[3])
    assert page.locator(".box span").all_inner_texts() == list("3172")
    page.locator("#pad .undo").click()
    expect(page, "172")
    assert ink(page) == before > 0
    page.locator("#pad .clear").click()
    expect(page, "Nothing is drawn yet.")
    assert ink(page) == 0 and page.locator("#pad .undo").is_disabled()
    page.locator("#pad canvas").click(button="right")
    assert ink(page) == 0
    page.locator("#pad canvas").click()  # a dot, as a tap gives one
    assert 300 < ink(page) < 600  # a circle 24 pixels wide has 452


def test_first_touch_draws_on_a_phone(open_page):
    page = open_page(375, 667, has_touch=True, is_mobile=True)
    box = expect_whole_canvas(page, 375, 667)
    touch = page.context.new_cdp_session(page)
    for i, height in enumerate(np.linspace(0.9, 0.1, 9)):  # upwards, which scrolls elsewhere
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] * height}
        kind = "touchMove" if i else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page, "1")
    assert ink(page) > 5000 and page.evaluate("window.scrollY") == 0  # drawn, not scrolled
    page.locator("#examples button").last.click()  # far below: the page goes back to the answer
    expect(page, "2073")
    page.wait_for_function("document.querySelector('.number').getBoundingClientRect().top >= 0")


def test_photos_and_examples_are_read(open_page, tmp_path):
    page = open_page(1280, 800)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees, which is done here the other way
    a_photo("72").transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.jpg", exif=exif)
    page.locator("#file input").set_input_files(tmp_path / "photo.jpg")
    expect(page, "72")
    picture = page.locator(".picture img").bounding_box()
    boxes, scale = page.locator(".box").all(), 600 / picture["width"]
    lefts = [scale * (box.bounding_box()["x"] - picture["x"]) for box in boxes]
    assert lefts == pytest.approx([54, 234], abs=8)  # where a_photo has its ink
    assert list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("photo.jpg"))  # which main deletes
    drop = """async (address) => { const data = new DataTransfer();
      data.items.add(new File([await (await fetch(address)).blob()], 'dropped.jpg'));
      return data; }"""
    data = page.evaluate_handle(drop, app.data_url(np.asarray(a_photo("37"))))
    page.locator("#file button").first.dispatch_event("drop", {"dataTransfer": data})
    expect(page, "37")  # at once: nothing to clear before
    row = np.full((100, 1240), 255, np.uint8)
    row[20:80, 20:1240:40] = row[20:80, 21:1240:40] = row[20:80, 22:1240:40] = 0
    Image.fromarray(row).save(tmp_path / "many.png")
    page.locator("#file input").set_input_files(tmp_path / "many.png")
    page.get_by_text("and 7 more").wait_for()  # beside the 24 that are shown one by one
    examples = page.locator("#examples button")
    assert examples.all_inner_texts() == [name.replace("-", " ") for name in app.EXAMPLES]
    for i, number in enumerate(["5", "3", "4", "2073"]):
        examples.nth(i).click()
        expect(page, number)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8))
BAD = {
    "<b>.txt": (b"a text", "not a picture"),
    "noise.png": (saved(NOISE, "PNG"), "noise|specks|no digit"),
    "cut.jpg": (saved(NOISE, "JPEG")[:30_000], "cut.jpg: damaged or incomplete"),
    "big.png": (saved(Image.new("1", (8000, 8000)), "PNG"), "8000x8000 pixels: at most"),
}


def test_bad_files_get_a_sentence(open_page, tmp_path):
    page = open_page(1280, 800)
    for name, (content, sentence) in BAD.items():
        (tmp_path / name).write_bytes(content)
        page.locator("#file input").set_input_files(tmp_path / name)
        expect(page, f".*({sentence}).*")
        text = page.locator("body").inner_text()
        assert "Traceback" not in text and str(tmp_path.parent.parent) not in text, name
    (tmp_path / "large.png").write_bytes(bytes(21_000_000))
    page.locator("#file input").set_input_files(tmp_path / "large.png")
    page.get_by_text("exceed the maximum allowed size of 20").wait_for()
    draw(page, "7", 0.4)  # and the server reads on
    expect(page, "7")
