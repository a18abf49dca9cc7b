"""The page to draw on, served to this computer only: python -m src.reading.app [--port 8000].

Only the published model is opened, and only if its checksum is the recorded one. Beside this
file lie the page's script, style and templates, and the pictures to try, which were made here.
"""

import argparse
import base64
import html
import io
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from src.config import BLUE, DAMAGE, GREY, ORANGE, RED, ROOT
from src.reading.inference import MODEL, PictureError, Prediction, open_model, read_digits
from src.reading.picture import Picture, read_picture

HOST = "127.0.0.1"
MODEL_PATH, HERE = ROOT / "models" / MODEL, Path(__file__).parent
EXAMPLES = ("pen-on-shaded-paper", "chalk-on-a-board", "a-small-thin-4", "several-digits")
CANVAS = (960, 640)  # pixels of the drawing, whatever the size it is shown at
UPLOADS_LIVE = (600, 3600)  # seconds between looks for old uploads; their age when deleted


def answer(model: Callable, open_given: Callable, given) -> dict:
    """Read the picture that `open_given` makes of what the page gave, or say why it can't."""
    try:
        image = open_given(given)
        picture = read_picture(image)
        found = read_digits(picture, model)
        on_pad = isinstance(image, Image.Image) and len(found) == 1
        return describe(found, picture, shown=not on_pad)
    except ValueError as error:
        return message(str(error))
    except Exception:  # whatever a strange file brings about, the page lives on
        logging.getLogger(__name__).exception("a picture could not be read")
        return message("This picture can't be read; the terminal says more.")


def decode_drawing(data: str) -> Image.Image:
    """Decode the canvas' PNG, sent as a data URL; PictureError for an empty or another one."""
    if not data:
        raise PictureError("Nothing is drawn yet.")
    try:
        content = base64.b64decode(data.partition(",")[2], validate=True)
        picture = Image.open(io.BytesIO(content), formats=["PNG"])
        if picture.size == CANVAS:
            return picture
    except (*DAMAGE, Image.DecompressionBombError):
        pass
    raise PictureError("The drawing did not arrive whole: reload the page and draw it again.")


def message(text: str) -> dict:
    """Give a sentence in place of an answer."""
    return {"message": html.escape(text)}


def describe(found: list[Prediction], picture: Picture, shown: bool = True) -> dict:
    """Give the picture, if it is to be shown, and of each digit what was seen, answered, where."""
    width, height = picture.size
    digits = []
    for one in found:
        left, top, right, bottom = one.box
        box = (top / height, 1 - right / width, 1 - bottom / height, left / width)  # as CSS' inset
        seen = data_url(np.rint(255 * (1 - one.pixels)).astype(np.uint8))  # dark ink on white
        shares = one.probabilities.tolist()
        digits.append(dict(digit=one.digit, sure=one.confidence, shares=shares, seen=seen, box=box))
    return {"picture": data_url(picture.colour) if shown else "", "digits": digits}


def data_url(pixels: np.ndarray) -> str:
    """Write a picture, uint8 grey or RGB, as the address of an <img>; that needs no file."""
    kind, buffer = "JPEG" if pixels.ndim == 3 else "PNG", io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


INTRO = "The network reads after each stroke. What you draw or drop stays on this computer."
COLOURS = f":root {{ --blue: {BLUE}; --orange: {ORANGE}; --red: {RED}; --grey: {GREY}; }}"
# Gradio asks its own server alone, which no proxy reaches, and with a SOCKS proxy its very import
# may fail: the variable keeps all proxies out, those that the system sets as well
without_proxies = patch.dict(os.environ, no_proxy="*")
SHOW_ANSWER = "() => document.querySelector('#answer p').scrollIntoView({block: 'nearest'})"


@without_proxies
def build_page(model: Callable):
    """Build the page, a gradio.Blocks, which reads with this function from open_model."""
    import gradio as gr

    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    parts = [HERE / name for name in ("pad.html", "page.js", "answer.html")]
    pad_html, script, answer_html = [path.read_text(encoding="utf-8") for path in parts]
    canvas = {"columns": CANVAS[0], "rows": CANVAS[1]}
    start = message("The answer appears here.")
    tries, samples = [HERE / "examples" / f"{name}.jpg" for name in EXAMPLES], []
    for path in tries:
        picture = data_url(read_picture(path).colour)
        samples.append([f'<img src="{picture}" alt="">{path.stem.replace("-", " ")}'])
    page = gr.Blocks(title="Draw a digit", analytics_enabled=False, delete_cache=UPLOADS_LIVE)
    with page:
        gr.Markdown(f"# Draw a digit\n{INTRO}")
        with gr.Column(elem_id="layout"):
            pad = gr.HTML("", html_template=pad_html, js_on_load=script, elem_id="pad", **canvas)
            shown = gr.HTML(start, html_template=answer_html, elem_id="answer")
            file = gr.File(label="Or drop a photo of digits", height=160, elem_id="file")
            names = {"label": "Or try one of these", "elem_id": "examples"}
            tried = gr.Dataset(components=["html"], samples=samples, type="index", **names)
        read_file = partial(answer, model, Path)
        pad.input(
            partial(answer, model, decode_drawing), pad, shown, trigger_mode="always_last", **quiet
        )
        given = file.upload(lambda path: (read_file(path), None), file, [shown, file], **quiet)
        chosen = tried.click(lambda i: read_file(tries[i]), tried, shown, **quiet)
        for event in (given, chosen):
            event.then(None, js=SHOW_ANSWER)
    return page


@without_proxies
def serve(page, port: int | None = None) -> str:
    """Start the page in the background on this computer, and return its address."""
    import gradio as gr

    if port is not None and not 1 <= port <= 65_535:
        raise ValueError(f"--port {port}: expected a number from 1 to 65535.")
    theme = gr.themes.Base(font=("system-ui", "sans-serif"), font_mono=("monospace",))
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    try:
        return page.queue(max_size=20, api_open=False).launch(
            server_name=HOST, server_port=port, share=False, prevent_thread_lock=True, quiet=True,
            max_file_size="20mb", footer_links=[], run_history=False, ssr_mode=False,
            enable_monitoring=False, mcp_server=False, pwa=False, theme=theme, css=COLOURS,
            css_paths=HERE / "page.css", app_kwargs={"openapi_url": None, "middleware": [hosts]},
        )[1]  # fmt: skip
    except OSError as error:
        wanted = f"Port {port} is not" if port else "No port from 7860 to 7959 is"
        raise ValueError(f"{wanted} free on this computer: name another with --port.") from error


def main(arguments: list[str] | None = None) -> None:
    """Open the model, serve the page until Ctrl+C; uploads are deleted in the end."""
    parser = argparse.ArgumentParser(prog="python -m src.reading.app", description=INTRO)
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    port = parser.parse_args(arguments).port
    try:
        model = open_model(MODEL_PATH, listed=True)
        with tempfile.TemporaryDirectory(prefix="mnist-page-", ignore_cleanup_errors=True) as kept:
            os.environ["GRADIO_TEMP_DIR"] = kept
            page = build_page(model)
            print(f"The page is at {serve(page, port)} (Ctrl+C ends it).", flush=True)
            page.block_thread()
    except (ValueError, ImportError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
