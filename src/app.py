"""The page to draw on: ink in, digits out. It is served to this computer only.

    python -m src.app                the page, on the first free port from 7860
    python -m src.app --port 8000    the page, on this port

Only the published model is opened, and only if its checksum is the recorded one.
"""

import argparse
import base64
import html
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")

import gradio as gr  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.trustedhost import TrustedHostMiddleware  # noqa: E402

from src.config import ROOT, display_path  # noqa: E402
from src.inference import EXPORTS, MODEL, PictureError, Prediction, read_digits, sha256  # noqa: E402
from src.plots import BLUE, GREY, ORANGE, RED  # noqa: E402

HOST = "127.0.0.1"
MODEL_PATH, LISTING = ROOT / "models" / MODEL, ROOT / "models" / EXPORTS
CANVAS = (960, 640)  # pixels of the drawing, whatever the size it is shown at
LARGEST_DRAWING = 4_000_000  # characters; a full drawing has about 100,000
LARGEST_UPLOAD = "20mb"
SHOWN = 640  # pixels of the longer side of a picture that is shown back
MOST_CARDS = 24  # digits shown one by one
UPLOADS_LIVE = 3600  # seconds until an uploaded file is deleted
LOG = logging.getLogger(__name__)


# --- the model -------------------------------------------------------------------------------


def recorded_sha256(listing: str | Path, name: str) -> str | None:
    """The checksum that the file `listing`, exports.json, holds for the model `name`, or None."""
    try:
        return json.loads(Path(listing).read_text(encoding="utf-8"))["sha256"][name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_model(path: str | Path = MODEL_PATH, listing: str | Path = LISTING) -> Path:
    """`path`, where its SHA-256 is the one that `listing` records for it.

    Raises ValueError, saying what to do, where either file is missing or they don't match.
    """
    path = Path(path)
    expected = recorded_sha256(listing, path.name)
    if not path.is_file():
        problem = f"{display_path(path)} is missing"
    elif expected is None:
        problem = f"{display_path(listing)} holds no checksum for {path.name}"
    elif sha256(path) != expected:
        problem = f"{display_path(path)} is not the file that {display_path(listing)} describes"
    else:
        return path
    raise ValueError(
        f"{problem}, so it is not opened. Take both files from the project again "
        "(git restore models), or make them with python -m src.export."
    )


# --- pictures --------------------------------------------------------------------------------


def decode_drawing(data: str) -> Image.Image:
    """The canvas' PNG, sent as a data URL. Raises PictureError for an empty or another one."""
    if not data:
        raise PictureError("Nothing is drawn yet.")
    broken = PictureError("The drawing did not arrive whole: reload the page and draw it again.")
    if not isinstance(data, str) or len(data) > LARGEST_DRAWING:
        raise broken
    try:
        content = base64.b64decode(data.partition(",")[2], validate=True)
        picture = Image.open(io.BytesIO(content), formats=["PNG"])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise broken from error
    if picture.size != CANVAS:
        raise broken
    return picture


def upright(image) -> tuple[Image.Image, tuple[int, int]]:
    """A path, PIL image or uint8 array as it is shown: RGB, upright, at most SHOWN pixels wide
    and high; and its width and height before that. For pictures that read_digits has read:
    nothing is checked here, and Pillow's own errors are raised for others."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        with Image.open(image) as picture:
            return upright(picture)
    picture = image
    turned = picture.getexif().get(0x0112, 1) >= 5  # EXIF orientation: on its side
    size = picture.size[::-1] if turned else picture.size
    picture.draft("RGB", (SHOWN, SHOWN))  # a JPEG is decoded at about that size
    picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":  # 16 bits and more
        values = np.asarray(picture, np.float32)
        picture = Image.fromarray((255 * values / max(values.max(), 1e-9)).astype(np.uint8))
    picture.thumbnail((SHOWN, SHOWN))
    paper = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(paper, picture.convert("RGBA")).convert("RGB"), size


def data_url(picture: Image.Image) -> str:
    """A picture as the address of an <img>, so that no file is needed."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


STROKES = {  # in a box of width and height 1, from the upper left
    "0": [[(0.5, 0), (0.05, 0.1), (0, 0.9), (0.5, 1), (0.95, 0.9), (1, 0.1), (0.5, 0)]],
    "2": [[(0.1, 0.3), (0.2, 0), (0.8, 0), (0.9, 0.4), (0.05, 1), (0.1, 1), (1, 0.97)]],
    "3": [[(0.1, 0.1), (0.5, -0.05), (1, 0.15), (0.8, 0.42), (0.4, 0.47), (0.8, 0.48),
           (1.05, 0.8), (0.6, 1.05), (0.05, 0.9)]],
    "4": [[(0.5, 0), (0.02, 0.62), (0.05, 0.66), (1, 0.62)], [(0.75, 0.3), (0.68, 1)]],
    "5": [[(0.25, 0.02), (0.17, 0.45), (0.55, 0.33), (1, 0.5), (0.95, 0.95), (0.5, 1.05),
           (0.05, 0.9)], [(0.25, 0.02), (0.95, 0)]],
    "7": [[(0, 0.05), (0.9, 0), (0.98, 0.02), (0.55, 0.5), (0.4, 1)]],
}  # fmt: skip


def smooth(points: np.ndarray, rounds: int = 4) -> np.ndarray:
    """A line (n, 2) with its corners cut, its ends kept.

    Chaikin, "An algorithm for high-speed curve generation" (1974).
    """
    for _ in range(rounds):
        near, far = 0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]
        cut = np.stack([near, far], axis=1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points


def write_number(number: str, height: int, pen: int) -> np.ndarray:
    """Ink of digits among STROKES, side by side: float32 (480, 640), 1 for ink and 0 for paper."""
    ink = np.zeros((480, 640), np.float32)
    width, pitch = 0.6 * height, 0.95 * height
    left = 320 - (pitch * (len(number) - 1) + width) / 2
    for i, digit in enumerate(number):
        corner = (left + i * pitch, 240 - height / 2 + 0.05 * height * (-1) ** i)
        for stroke in STROKES[digit]:
            line = smooth(np.array(stroke) * (width, height) + corner)
            cv2.polylines(ink, [np.rint(line * 8).astype(np.int32)], False, 1, pen, cv2.LINE_AA, 3)
    return cv2.GaussianBlur(ink, (0, 0), 0.8)


@lru_cache(maxsize=1)
def examples() -> dict[str, np.ndarray]:
    """Pictures to try, uint8 (480, 640, 3), made up here: none is from MNIST."""
    rng = np.random.default_rng(0)
    shade = np.linspace(0.95, 0.45, 640)[np.newaxis, :, np.newaxis]
    shade = shade * np.linspace(1, 0.85, 480)[:, np.newaxis, np.newaxis]
    grain = rng.normal(0, 0.012, (480, 640, 1))

    def colour(ink, paper, pen) -> np.ndarray:
        picture = np.asarray(paper) * (1 - ink[..., np.newaxis]) + np.asarray(pen) * ink[..., None]
        return np.clip(255 * (picture + grain), 0, 255).astype(np.uint8)

    cream, blue = shade * (1, 0.97, 0.9), shade * (0.15, 0.2, 0.55)
    return {
        "pen on shaded paper": colour(write_number("5", 260, 9), cream, blue),
        "chalk on a board": colour(
            write_number("3", 300, 22), (0.13, 0.22, 0.19), (0.9, 0.9, 0.85)
        ),
        "a small, thin 4": colour(write_number("4", 90, 3), (0.93, 0.93, 0.95), (0.3, 0.3, 0.3)),
        "several digits": colour(write_number("2073", 140, 10), cream, (0.1, 0.1, 0.1)),
    }


# --- the answer ------------------------------------------------------------------------------


def percent(share: float) -> str:
    """A share as people read it; never 100% for what is less."""
    return "over 99.9%" if share > 0.9995 else f"{100 * share:.1f}%"


def show_message(text: str) -> str:
    """A sentence in place of an answer."""
    return f'<p class="message">{html.escape(text)}</p>'


def show_card(found: Prediction) -> str:
    """One digit: what the network saw, dark ink on white, and its ten probabilities as bars."""
    shades = np.rint(255 * (1 - np.clip(found.pixels, 0, 1))).astype(np.uint8)
    bars = "".join(
        f'<div class="bar{" best" * (digit == found.digit)}">'
        f"<small>{f'{min(100 * share, 99):.0f}' if share >= 0.005 else ''}</small>"
        f'<i style="height: {70 * share:.1f}%"></i><span>{digit}</span></div>'
        for digit, share in enumerate(found.probabilities)
    )
    spoken = ", ".join(f"{digit}: {percent(p)}" for digit, p in enumerate(found.probabilities))
    return (
        '<div class="card"><figure class="seen">'
        f'<img src="{data_url(Image.fromarray(shades))}" alt="28 by 28 pixels">'
        "<figcaption>what the network sees</figcaption></figure>"
        f'<figure><div class="bars" role="img" aria-label="{spoken}">{bars}</div>'
        "<figcaption>probability of each digit (%)</figcaption></figure></div>"
    )


def show_picture(image, found: list[Prediction]) -> str:
    """The picture with a box around each digit."""
    picture, (width, height) = upright(image)
    boxes = ""
    for one in found:
        left, top, right, bottom = one.box
        boxes += (
            f'<div class="box" style="left: {100 * left / width:.2f}%; '
            f"top: {100 * top / height:.2f}%; width: {100 * (right - left) / width:.2f}%; "
            f'height: {100 * (bottom - top) / height:.2f}%"><span>{one.digit}</span></div>'
        )
    return f'<div class="picture"><img src="{data_url(picture)}" alt="the picture">{boxes}</div>'


def show_answer(image, found: list[Prediction]) -> str:
    """The number that was read, how sure that is, the picture, which a drawing of one digit can
    do without, and a card per digit."""
    number = "".join(str(one.digit) for one in found)
    least = min(found, key=lambda one: one.confidence)
    sure = f"{percent(least.confidence)} sure"
    if len(found) > 1:
        sure = f"{len(found)} digits; least sure of the {least.digit}: {percent(least.confidence)}"
    alone = len(found) == 1 and isinstance(image, Image.Image)
    more = len(found) - MOST_CARDS
    return (
        f'<p class="number">{number}</p><p class="sure">{sure}</p>'
        + ("" if alone else show_picture(image, found))
        + "".join(map(show_card, found[:MOST_CARDS]))
        + (f"<p>and {more} more</p>" if more > 0 else "")
    )


def answer(get_picture: Callable, model: str | Path) -> str:
    """HTML that answers the picture from `get_picture()`, or says why it can't be read."""
    try:
        image = get_picture()
        return show_answer(image, read_digits(image, model))
    except ValueError as error:
        return show_message(str(error))
    except Exception:  # whatever a strange file brings about, the page lives on
        LOG.exception("a picture could not be read")
        return show_message("This picture can't be read; the terminal says more.")


# --- the page --------------------------------------------------------------------------------

PAD = f"""
<div class="paper"><canvas width="{CANVAS[0]}" height="{CANVAS[1]}" aria-label="draw here"></canvas>
<span>Draw a digit here, or several side by side.</span></div>
<button class="undo" disabled>Undo</button> <button class="clear" disabled>Clear</button>
"""
# Strokes are kept as points, so that one can be taken back; every change is sent as a PNG.
PAD_SCRIPT = """
const canvas = element.querySelector('canvas'), pen = canvas.getContext('2d');
let strokes = [], stroke = null;
function paint() {
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, canvas.width, canvas.height);
  Object.assign(pen, {strokeStyle: '#111', lineWidth: 24, lineCap: 'round', lineJoin: 'round'});
  for (const points of strokes) {
    pen.beginPath();
    pen.moveTo(points[0][0] + 0.1, points[0][1]);  // a line without length, a tap, has no dot
    for (const point of points) pen.lineTo(...point);
    pen.stroke();
  }
  element.querySelector('span').hidden = strokes.length > 0;
  for (const button of element.querySelectorAll('button')) button.disabled = !strokes.length;
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width,
          (event.clientY - box.top) * canvas.height / box.height];
}
function send() {
  props.value = strokes.length ? canvas.toDataURL('image/png') : '';
  trigger('input');
}
canvas.addEventListener('pointerdown', (event) => {
  if (!event.isPrimary || event.button) return;
  canvas.setPointerCapture(event.pointerId);
  strokes.push(stroke = [place(event)]);
  paint();
});
canvas.addEventListener('pointermove', (event) => {
  if (!stroke || !event.isPrimary) return;
  stroke.push(place(event));
  paint();
});
for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, (event) => {
  if (!stroke || !event.isPrimary) return;
  stroke = null;
  send();
});
element.querySelector('.undo').onclick = () => { strokes.pop(); paint(); send(); };
element.querySelector('.clear').onclick = () => { strokes = []; paint(); send(); };
paint();
"""
EXAMPLES_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  props.value = button.dataset.name;
  trigger('input');
});
"""
SHOW_ANSWER = "() => document.querySelector('#answer p').scrollIntoView({block: 'nearest'})"
INTRO = """
<h1>Draw a digit</h1>
<p>The network reads after each stroke. What you draw or drop stays on this computer.</p>
"""
STYLE = f"""
.gradio-container > .main {{ max-width: 1080px !important; margin: auto; padding: 16px; }}
.gradio-container .html-container {{ padding: 0; }}
.gradio-container .html-container p {{ margin: 0; }}
#layout {{ display: grid; gap: 16px; grid-template-columns: minmax(0, 1fr);
  grid-template-areas: "pad" "answer" "file" "examples"; }}
@media (min-width: 720px) {{
  #layout {{ grid-template-columns: repeat(2, minmax(0, 1fr)); column-gap: 40px;
    grid-template-areas: "pad answer" "file answer" "examples answer";
    grid-template-rows: auto auto 1fr; }}
  #layout .examples {{ grid-template-columns: repeat(4, 1fr); }}
}}
#pad {{ grid-area: pad; }} #answer {{ grid-area: answer; }}
#file {{ grid-area: file; }} #examples {{ grid-area: examples; }}
#pad button, #examples button {{ padding: 8px 16px; border: 1px solid {GREY}; border-radius: 8px;
  color: var(--body-text-color); background: var(--background-fill-primary); cursor: pointer;
  font-size: 0.9rem; font-weight: 400; }}
#pad button:hover:enabled, #examples button:hover {{ border-color: {BLUE}; }}
#pad button:disabled {{ opacity: 0.5; cursor: default; }}
.paper {{ position: relative; margin-bottom: 8px; border: 2px solid {BLUE}; border-radius: 8px;
  overflow: hidden; }}
.paper canvas {{ display: block; width: 100%; aspect-ratio: {CANVAS[0]} / {CANVAS[1]};
  cursor: crosshair; touch-action: none; }}
.paper span {{ position: absolute; inset: 45% 0 0; text-align: center; color: {GREY};
  pointer-events: none; }}
.paper span[hidden] {{ display: none; }}
#answer .message {{ border-left: 4px solid {ORANGE}; padding: 8px 12px; overflow-wrap: anywhere; }}
#answer .number {{ font-size: 4rem; line-height: 1; font-weight: 700; overflow-wrap: anywhere; }}
#answer .sure {{ margin: 4px 0 16px; }}
#answer img, #examples img {{ display: block; margin: 0; }}
#answer figure {{ margin: 0; }}
#answer figcaption {{ font-size: 0.8rem; line-height: 1.3; text-align: center; }}
.picture {{ position: relative; width: fit-content; margin-bottom: 16px; }}
.picture img {{ max-width: 100%; max-height: 280px; border: 1px solid {GREY}; }}
.box {{ position: absolute; border: 2px solid {RED}; }}
.box span {{ position: absolute; left: -2px; bottom: 100%; padding: 0 5px; font-weight: 700;
  line-height: 1.3; color: white; background: {RED}; }}
.card {{ display: grid; grid-template-columns: 112px 1fr; gap: 16px; margin-bottom: 16px; }}
.seen img {{ width: 112px; height: 112px; image-rendering: pixelated; border: 1px solid {GREY}; }}
.bars {{ display: grid; grid-template-columns: repeat(10, minmax(0, 1fr)); gap: 3px;
  height: 112px; }}
.bar {{ display: flex; flex-direction: column; justify-content: flex-end; text-align: center;
  line-height: 1.2; }}
.bar i {{ background: {GREY}; flex-shrink: 0; }}
.best i {{ background: {BLUE}; }}
.best span, .best small {{ font-weight: 700; }}
.examples {{ display: grid; grid-template-columns: 1fr 1fr; gap: 12px; margin-top: 8px; }}
#examples button {{ display: flex; flex-direction: column; margin: 0; padding: 8px; }}
#examples img {{ width: 100%; margin-bottom: 4px; border-radius: 4px; }}
"""


def show_examples() -> str:
    """The pictures to try, as buttons."""
    buttons = "".join(
        f'<button data-name="{name}"><img src="{data_url(upright(picture)[0])}" alt="">'
        f"<span>{name}</span></button>"
        for name, picture in examples().items()
    )
    return f'<p>Or try one of these.</p><div class="examples">{buttons}</div>'


def build_page(model: str | Path) -> gr.Blocks:
    """The page, which reads with the model at this path."""
    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Blocks(title="Draw a digit", delete_cache=(600, UPLOADS_LIVE)) as page:
        gr.HTML(INTRO)
        with gr.Column(elem_id="layout"):
            pad = gr.HTML("", html_template=PAD, js_on_load=PAD_SCRIPT, elem_id="pad")
            shown = gr.HTML(show_message("The answer appears here."), elem_id="answer")
            file = gr.File(label="Or drop a photo of digits", height=160, elem_id="file")
            tried = gr.HTML(
                "", html_template=show_examples(), js_on_load=EXAMPLES_SCRIPT, elem_id="examples"
            )
        pad.input(lambda data: answer(lambda: decode_drawing(data), model), pad, shown,
                  trigger_mode="always_last", **quiet)  # fmt: skip
        tried.input(lambda name: answer(lambda: examples()[name], model), tried, shown,
                    **quiet).then(None, js=SHOW_ANSWER)  # fmt: skip
        file.upload(lambda path: (answer(lambda: path, model), None), file, [shown, file],
                    **quiet).then(None, js=SHOW_ANSWER)  # fmt: skip
    return page


def serve(page: gr.Blocks, port: int | None = None) -> str:
    """Start the page in the background on this computer, and return its address.

    Without `port`, the first free one from 7860. Raises ValueError where none is free.
    """
    for name in ("no_proxy", "NO_PROXY"):  # Gradio asks its own server, which no proxy can reach
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), HOST]))
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    page.queue(max_size=20, api_open=False)
    try:
        return page.launch(
            server_name=HOST, server_port=port, share=False, prevent_thread_lock=True, quiet=True,
            max_file_size=LARGEST_UPLOAD, footer_links=[], run_history=False, ssr_mode=False,
            enable_monitoring=False, mcp_server=False, pwa=False, css=STYLE,
            theme=gr.themes.Base(font=("system-ui", "sans-serif"), font_mono=("monospace",)),
            app_kwargs={"openapi_url": None, "middleware": [hosts]},
        )[1]  # fmt: skip
    except OSError as error:
        wanted = f"Port {port} is not" if port else "No port from 7860 to 7959 is"
        raise ValueError(f"{wanted} free on this computer: name another with --port.") from error


def main(arguments: list[str] | None = None) -> None:
    """Check the model, serve the page until Ctrl+C; uploads are deleted in the end."""
    parser = argparse.ArgumentParser(prog="python -m src.app", description="The page to draw on.")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    port = parser.parse_args(arguments).port
    try:
        model = check_model()
        with tempfile.TemporaryDirectory(prefix="mnist-page-", ignore_cleanup_errors=True) as kept:
            os.environ["GRADIO_TEMP_DIR"] = kept
            page = build_page(model)
            print(f"The page is at {serve(page, port)} (Ctrl+C ends it).", flush=True)
            page.block_thread()
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
