"""The page to draw on: its parts by hand, and the whole in a real browser.

Without a browser those tests are skipped, or, where REQUIRE_BROWSER is set, fail.
"""

import base64
import hashlib
import io
import json
import os
import re
import shutil
import socket
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from src import app
from src.inference import PictureError, Prediction

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHECK_MODEL = app.check_model
DIGITS = {  # strokes in a box of width and height 1, from the upper left
    "0": [[(0.5, 0), (0.15, 0.1), (0, 0.5), (0.15, 0.9), (0.5, 1), (0.85, 0.9), (1, 0.5),
           (0.85, 0.1), (0.5, 0)]],
    "1": [[(0.5, 0), (0.45, 1)]],
    "2": [[(0.05, 0.25), (0.25, 0.02), (0.7, 0.02), (0.9, 0.25), (0.7, 0.55), (0, 1), (1, 1)]],
    "3": [[(0.1, 0.1), (0.5, 0), (0.85, 0.2), (0.7, 0.42), (0.4, 0.48), (0.75, 0.55), (0.95, 0.75),
           (0.6, 1), (0.05, 0.9)]],
    "4": [[(0.45, 0), (0, 0.6), (1, 0.6)], [(0.75, 0.3), (0.7, 1)]],
    "7": [[(0, 0), (1, 0), (0.4, 1)]],
}  # fmt: skip


# --- the model -------------------------------------------------------------------------------


@pytest.fixture
def exported(tmp_path):
    """A model's file and the JSON that records its checksum."""
    model, exports = tmp_path / "robust.onnx", tmp_path / "exports.json"
    model.write_bytes(b"network")
    checksum = hashlib.sha256(b"network").hexdigest()
    exports.write_text(json.dumps({"sha256": {"robust.onnx": checksum}}))
    return model, exports


def test_recorded_model_passes(exported):
    assert app.check_model(*exported) == exported[0]


def test_published_model_passes():
    assert app.check_model() == app.ROOT / "models" / "robust.onnx"


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (lambda model, exports: model.write_bytes(b"networK"), "is not the file that exports.json"),
        (lambda model, exports: model.unlink(), "robust.onnx is missing"),
        (lambda model, exports: exports.unlink(), "exports.json holds no checksum for robust.onnx"),
        (lambda model, exports: exports.write_text("{"), "holds no checksum"),
        (lambda model, exports: exports.write_text("[]"), "holds no checksum"),
        (lambda model, exports: exports.write_text('{"sha256": {}}'), "holds no checksum"),
    ],
)
def test_other_model_is_refused(exported, spoil, sentence):
    spoil(*exported)
    with pytest.raises(ValueError, match=sentence + r".*not opened.*git restore models"):
        app.check_model(*exported)


# --- pictures and answers --------------------------------------------------------------------


def saved(picture, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(size=app.CANVAS, more: bytes = b"") -> str:
    """A white picture as the canvas sends it, and perhaps more after its end."""
    content = saved(Image.new("RGB", size, "white"), "PNG") + more
    return "data:image/png;base64," + base64.b64encode(content).decode()


def test_drawing_is_decoded():
    assert app.decode_drawing(png()).size == app.CANVAS
    with pytest.raises(PictureError, match="Nothing is drawn yet"):
        app.decode_drawing("")


@pytest.mark.parametrize(
    "data",
    [
        "data:image/png;base64,????",
        "data:image/png;base64,aGVsbG8=",
        png((30, 30)),
        png(more=bytes(app.LARGEST_DRAWING)),
        ["a list"],
    ],
    ids=["no base64", "no picture", "another size", "too long", "no text"],
)
def test_other_data_are_no_drawing(data):
    with pytest.raises(PictureError, match="did not arrive whole"):
        app.decode_drawing(data)


def test_picture_is_shown_upright(tmp_path):
    picture = Image.new("RGB", (2000, 1000), "white")
    picture.paste((255, 0, 0), (0, 0, 1000, 1000))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by 90 degrees
    picture.save(tmp_path / "photo.jpg", exif=exif)
    shown, size = app.upright(tmp_path / "photo.jpg")
    assert size == (1000, 2000) and shown.size == (320, 640)
    assert np.abs(np.array(shown.getpixel((160, 100))) - (255, 0, 0)).max() < 10
    assert min(shown.getpixel((160, 540))) > 245


@pytest.mark.parametrize(
    "picture, corner",
    [
        (Image.new("RGBA", (20, 10), (0, 0, 0, 0)), (255, 255, 255)),  # transparent is paper
        (Image.fromarray(np.repeat(np.uint16([[30_000, 60_000]]), 10, 0)), (127, 127, 127)),
        (Image.new("CMYK", (20, 10), (0, 0, 0, 255)), (0, 0, 0)),
        (np.full((10, 20), 7, np.uint8), (7, 7, 7)),
    ],
    ids=["transparent", "16 bits", "CMYK", "array"],
)
def test_every_kind_is_shown(picture, corner):
    shown, size = app.upright(picture)
    assert shown.mode == "RGB" and shown.size == size
    assert shown.getpixel((0, 0)) == corner


def a_prediction(digit=7, confidence=0.91, box=(100, 50, 300, 250)) -> Prediction:
    probabilities = np.full(10, (1 - confidence) / 9)
    probabilities[digit] = confidence
    pixels = np.zeros((28, 28), np.float32)
    pixels[3, 5] = 1
    return Prediction(digit, confidence, probabilities, pixels, box)


def test_card_shows_what_the_network_saw():
    card = app.show_card(a_prediction())
    image = re.search(r'src="data:image/png;base64,([^"]+)"', card).group(1)
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))
    assert seen.shape == (28, 28) and seen[3, 5] == 0  # dark ink ...
    assert np.delete(seen, 3 * 28 + 5).min() == 255  # ... on white
    shares = re.findall(r'class="bar( best)?">.*?height: ([\d.]+)%"></i><span>(\d)', card)
    assert [int(digit) for *_, digit in shares] == list(range(10))
    assert [digit for best, _, digit in shares if best] == ["7"]
    assert float(shares[7][1]) == pytest.approx(0.91 * 70, abs=0.1)
    assert "7: 91.0%" in card


def test_boxes_lie_where_the_ink_is():
    shown = app.show_picture(np.zeros((500, 1000), np.uint8), [a_prediction()])
    assert "left: 10.00%; top: 10.00%; width: 20.00%; height: 40.00%" in shown


def test_number_and_doubt():
    blank = np.zeros((500, 1000), np.uint8)
    shown = app.show_answer(blank, [a_prediction(4, 0.99), a_prediction(2, 0.8)])
    assert '<p class="number">42</p>' in shown and "2 digits; least sure of the 2: 80.0%" in shown
    assert shown.count('class="card"') == 2 and shown.count('class="box"') == 2
    many = app.show_answer(blank, [a_prediction()] * (app.MOST_CARDS + 6))
    assert many.count('class="card"') == app.MOST_CARDS and "and 6 more" in many
    assert app.percent(0.9996) == "over 99.9%" and app.percent(0.9994) == "99.9%"


def test_messages_are_text_not_html():
    assert "<script>" not in app.show_message("<script>alert(1)</script>.png: no picture")


def test_unforeseen_error_becomes_a_sentence(monkeypatch, caplog):
    monkeypatch.setattr(app, "read_digits", lambda *_: 1 / 0)
    shown = app.answer(lambda: np.zeros((50, 50), np.uint8), "robust.onnx")
    assert shown == app.show_message("This picture can't be read; the terminal says more.")
    assert "ZeroDivisionError" in caplog.text  # for the one who runs the server


@pytest.mark.parametrize("name, number", zip(app.examples(), ["5", "3", "4", "2073"], strict=True))
def test_examples_are_read(name, number):
    shown = app.answer(lambda: app.examples()[name], app.check_model())
    assert f'<p class="number">{number}</p>' in shown


# --- the server ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def server(uploads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        for name in ("no_proxy", "NO_PROXY"):
            patch.setenv(name, "")
        patch.setenv("http_proxy", "http://127.0.0.1:9")  # a company's, which is not asked
        page = app.build_page(app.check_model())
        app.serve(page)
        yield page
        page.close()


def get(url: str, **headers) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_this_computer_only(server):
    assert server.local_url == f"http://127.0.0.1:{server.server_port}/"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=5):
        pass
    for other in ("127.0.0.2", "::1"):
        with pytest.raises(OSError):
            socket.create_connection((other, server.server_port), timeout=5).close()


def test_closed_for_others(server):
    assert get(server.local_url, Host="evil.example")[0] == 400  # DNS rebinding
    for page in ("docs", "redoc", "openapi.json", "monitoring", "gradio_api/runs"):
        assert get(server.local_url + page)[0] in (403, 404)
    status, listed = get(server.local_url + "gradio_api/info")
    assert json.loads(listed) == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert not (server.share or server.analytics_enabled or server.mcp_server or server.pwa)
    assert app.gr.analytics.analytics_enabled() is False and server.max_file_size == 20_971_520


def test_files_of_this_computer_are_not_served(server):
    for path in (app.MODEL_PATH, Path(app.__file__), "/etc/hosts"):
        assert get(f"{server.local_url}gradio_api/file={path}")[0] in (403, 404)


def test_taken_port_is_named(server):
    with pytest.raises(ValueError, match=f"Port {server.server_port} is not free.*--port"):
        app.serve(app.build_page("robust.onnx"), server.server_port)


def test_main_deletes_uploads_and_says_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    seen = []

    def serve(page, port):
        seen.append(Path(os.environ["GRADIO_TEMP_DIR"]))
        assert seen[0].is_dir() and port == 8111
        return "http://127.0.0.1:8111/"

    monkeypatch.setattr(app, "check_model", lambda: "robust.onnx")
    monkeypatch.setattr(app, "serve", serve)
    monkeypatch.setattr(app.gr.Blocks, "block_thread", lambda page: (seen[0] / "a.png").touch())
    app.main(["--port", "8111"])
    assert "http://127.0.0.1:8111/" in capsys.readouterr().out and not seen[0].exists()
    missing = Path("none.onnx")
    monkeypatch.setattr(app, "check_model", lambda: CHECK_MODEL(missing, missing))
    with pytest.raises(SystemExit, match="none.onnx is missing"):
        app.main([])


# --- in a browser ----------------------------------------------------------------------------


def no_browser(reason: str):
    (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(reason)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        no_browser("playwright is not installed")
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        found = [path for path in map(shutil.which, (*BROWSERS, own)) if path]
        if not found:
            no_browser("no Chromium: apt install chromium, or playwright install chromium")
        options = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=found[0], args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def open_page(browser, server):
    """Opens the page at a width; every request of every page has to stay on this computer."""
    requests, problems = [], []

    def open_page(width: int, height: int, **options):
        page = browser.new_page(viewport={"width": width, "height": height}, **options)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(server.local_url)
        page.locator("#pad canvas").wait_for()
        page.set_default_timeout(15_000)
        return page

    yield open_page
    outside = [url for url in requests if not url.startswith((server.local_url, "data:", "blob:"))]
    assert requests and outside == [] and problems == []


@pytest.fixture(scope="module")
def desk_page(open_page):
    return open_page(1280, 800)


@pytest.fixture
def desk(desk_page):
    """The page on a desktop, cleared."""
    if desk_page.locator("#pad .clear").is_disabled():
        draw(desk_page, [[(0, 0), (0.2, 0.2)]])
        expect_any_number(desk_page)  # else its answer might come after that to the empty canvas
    desk_page.locator("#pad .clear").click()
    expect_message(desk_page, "Nothing is drawn yet")
    return desk_page


def draw(page, strokes, left=0.4, top=0.2, width=0.25, height=0.6) -> None:
    """Strokes drawn with the mouse in a part of the canvas."""
    box = page.locator("#pad canvas").bounding_box()
    for stroke in strokes:
        for i, (x, y) in enumerate(stroke):
            x = box["x"] + box["width"] * (left + width * x)
            page.mouse.move(x, box["y"] + box["height"] * (top + height * y), steps=4 if i else 1)
            if i == 0:
                page.mouse.down()
        page.mouse.up()


def expect_number(page, number: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#answer .number")).to_have_text(number, timeout=15_000)


def expect_message(page, sentence: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#answer .message")).to_contain_text(re.compile(sentence), timeout=15_000)
    expect(page.locator("#answer .number")).to_have_count(0, timeout=15_000)


def expect_any_number(page) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#answer .number")).to_have_text(re.compile(r"\d"), timeout=15_000)


def ink(page) -> int:
    """Dark pixels on the canvas."""
    return page.evaluate(
        """() => {
          const canvas = document.querySelector('#pad canvas');
          const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          return all.filter((value, i) => i % 4 == 0 && value < 128).length;
        }"""
    )


@pytest.mark.parametrize("digit", DIGITS)
def test_drawn_digit_is_read(desk, digit):
    draw(desk, DIGITS[digit])
    expect_number(desk, digit)
    assert re.search(r"\d\d\.\d% sure|over 99.9% sure", desk.locator("#answer .sure").inner_text())
    assert desk.locator("#answer .bar").count() == 10
    assert desk.locator("#answer .best span").inner_text() == digit
    assert desk.locator("#answer .seen img").evaluate("image => image.naturalWidth") == 28


def test_drawn_digits_are_read_in_order(desk):
    for i, digit in reversed(list(enumerate("3172"))):  # drawn from the right to the left
        draw(desk, DIGITS[digit], left=0.06 + 0.24 * i, top=0.3, width=0.14, height=0.4)
    expect_number(desk, "3172")
    assert desk.locator("#answer .card").count() == 4
    assert desk.locator("#answer .box span").all_inner_texts() == list("3172")


def test_undo_takes_back_one_stroke(desk):
    draw(desk, DIGITS["7"], left=0.1)
    expect_number(desk, "7")
    one = ink(desk)
    draw(desk, DIGITS["1"], left=0.6)
    expect_number(desk, "71")
    desk.locator("#pad .undo").click()
    expect_number(desk, "7")
    assert ink(desk) == one > 0
    desk.locator("#pad .clear").click()
    expect_message(desk, "Nothing is drawn yet")
    assert ink(desk) == 0 and desk.locator("#pad .undo").is_disabled()


def test_right_button_draws_nothing(desk):
    desk.locator("#pad canvas").click(button="right")
    assert ink(desk) == 0
    desk.locator("#pad canvas").click()  # a dot, as a tap gives one
    assert 300 < ink(desk) < 600  # a circle 24 pixels wide has 452


@pytest.mark.parametrize("width, height", [(1280, 800), (375, 667)])
def test_whole_canvas_at_the_start(open_page, width, height):
    page = open_page(width, height)
    box = page.locator("#pad canvas").bounding_box()
    assert box["width"] > 0.35 * width and box["height"] == pytest.approx(box["width"] / 1.5, abs=2)
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert box["y"] >= 0 and box["y"] + box["height"] <= height
    for x in (0.03, 0.5, 0.97):
        for y in (0.03, 0.5, 0.97):
            place = [box["x"] + x * box["width"], box["y"] + y * box["height"]]
            assert page.evaluate("place => document.elementFromPoint(...place).tagName", place) == (
                "CANVAS"
            )
    assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing to the side
    page.close()


def test_first_touch_draws_on_a_phone(open_page):
    page = open_page(375, 667, has_touch=True, is_mobile=True)
    assert ink(page) == 0
    box = page.locator("#pad canvas").bounding_box()
    points = [(0.35, 0.2), (0.5, 0.2), (0.65, 0.2), (0.6, 0.4), (0.55, 0.6), (0.5, 0.85)]
    points = [(box["x"] + box["width"] * x, box["y"] + box["height"] * y) for x, y in points]
    touch = page.context.new_cdp_session(page)
    for i, (x, y) in enumerate(points):
        kind = "touchMove" if i else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect_number(page, "7")
    assert ink(page) > 5000 and page.evaluate("window.scrollY") == 0  # drawn, not scrolled
    page.locator("#examples button").last.click()  # far below: the page goes back to the answer
    expect_number(page, "2073")
    page.wait_for_function(
        "document.querySelector('#answer .number').getBoundingClientRect().top >= 0"
    )
    page.close()


def a_photo(number: str, top: int = 60) -> np.ndarray:
    """Dark strokes on grey paper, uint8 (400, 600, 3)."""
    photo = np.full((400, 600, 3), 180, np.uint8)
    for i, digit in enumerate(number):
        for stroke in DIGITS[digit]:
            points = np.array(stroke) * (110, 240) + (60 + 180 * i, top)
            cv2.polylines(photo, [np.rint(points).astype(np.int32)], False, (60, 40, 30), 12)
    return photo


def give(page, path) -> None:
    page.locator("#file input[type=file]").set_input_files(str(path))


def test_uploads_are_read(desk, uploads, tmp_path):
    Image.fromarray(a_photo("42")).save(tmp_path / "photo.jpg")
    give(desk, tmp_path / "photo.jpg")
    expect_number(desk, "42")
    left, right = (box.bounding_box() for box in desk.locator("#answer .box").all())
    picture = desk.locator("#answer .picture img").bounding_box()
    scale = picture["width"] / 600
    assert left["x"] - picture["x"] == pytest.approx(54 * scale, abs=8)
    assert left["height"] == pytest.approx(252 * scale, abs=16)
    assert right["x"] - picture["x"] == pytest.approx(234 * scale, abs=8)
    assert list(uploads.rglob("photo.jpg"))  # in the folder that main deletes
    Image.fromarray(a_photo("7")).save(tmp_path / "photo.png")
    give(desk, tmp_path / "photo.png")  # at once: nothing to clear before
    expect_number(desk, "7")


def test_dropped_photo_is_read(desk):
    drop = """async (address) => {
      const data = new DataTransfer();
      const blob = await (await fetch(address)).blob();
      data.items.add(new File([blob], 'dropped.png', {type: 'image/png'}));
      return data;
    }"""
    data = desk.evaluate_handle(drop, app.data_url(Image.fromarray(a_photo("37"))))
    desk.locator("#file button").first.dispatch_event("drop", {"dataTransfer": data})
    expect_number(desk, "37")


def test_example_is_read(desk):
    desk.locator("#examples button").last.click()
    expect_number(desk, "2073")


def a_bomb(side: int = 30_000) -> bytes:
    """A PNG of 90 kB that decodes to 900 million pixels."""

    def part(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    content = zlib.compress(bytes((side // 8 + 1) * side))
    return (
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", content) + part(b"IEND", b"")
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8))
BLACK = Image.new("RGB", (300, 300))
BAD = {
    "notes.png": (lambda: b"no picture, a text\n", "notes.png: not a picture"),
    "empty.png": (lambda: b"", "empty.png: not a picture"),
    "<b>.txt": (lambda: b"a text", "not a picture"),
    "black.png": (lambda: saved(BLACK, "PNG"), "nothing|blank|no digit"),
    "noise.png": (lambda: saved(NOISE, "PNG"), "nothing|noise|specks|no digit"),
    "cut.jpg": (lambda: saved(NOISE, "JPEG")[:30_000], "cut.jpg: damaged or incomplete"),
    "bomb.png": (a_bomb, "pixels"),
    "moving.gif": (lambda: saved(BLACK, "GIF", save_all=True, append_images=[NOISE]), "frames"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_gets_a_sentence(desk, tmp_path, name):
    content, sentence = BAD[name]
    (tmp_path / name).write_bytes(content())
    give(desk, tmp_path / name)
    expect_message(desk, sentence)
    text = desk.locator("body").inner_text()
    assert "Traceback" not in text and str(tmp_path.parent.parent) not in text
    draw(desk, DIGITS["7"])  # and the server reads on
    expect_number(desk, "7")


def test_cmyk_gets_an_answer_or_a_sentence(desk, tmp_path):
    Image.fromarray(a_photo("7")).convert("CMYK").save(tmp_path / "cmyk.jpg")
    give(desk, tmp_path / "cmyk.jpg")
    desk.locator("#answer p", has_text=re.compile("^7$|CMYK")).wait_for()


def test_too_large_a_file_gets_a_sentence(desk, tmp_path):
    (tmp_path / "large.png").write_bytes(bytes(21_000_000))
    give(desk, tmp_path / "large.png")
    desk.get_by_text("exceed the maximum allowed size of 20").wait_for()
