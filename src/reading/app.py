"""The page to draw on: ink in, digits out. It is served to this computer only.

    python -m src.reading.app                the page, on the first free port from 7860
    python -m src.reading.app --port 8000    the page, on this port

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from src.config import BLUE, GREY, ORANGE, RED, ROOT
from src.reading.inference import MODEL, PictureError, Prediction, open_model, read_digits
from src.reading.picture import Picture, read_picture

HOST = "127.0.0.1"
MODEL_PATH, HERE = ROOT / "models" / MODEL, Path(__file__).parent
EXAMPLES = ("pen-on-shaded-paper", "chalk-on-a-board", "a-small-thin-4", "several-digits")
CANVAS = (960, 640)  # pixels of the drawing, whatever the size it is shown at
LARGEST_DRAWING = 4_000_000  # characters; a full drawing has about 100,000
MOST_CARDS = 24  # digits shown one by one
UPLOADS_LIVE = (600, 3600)  # seconds between looks for old uploads; their age when deleted


# --- from a picture to what answer.html shows ------------------------------------------------


def answer(model: Callable, open_given: Callable, given) -> dict:
    """Read the picture that `open_given` makes of what the page gave, or say why it can't."""
    try:
        image = open_given(given)
        picture = read_picture(image)
        found = read_digits(picture, model)
        drawn = isinstance(image, Image.Image)
        return describe(found, None if drawn and len(found) == 1 else picture)
    except ValueError as error:
        return message(str(error))
    except Exception:  # whatever a strange file brings about, the page lives on
        logging.getLogger(__name__).exception("a picture could not be read")
        return message("This picture can't be read; the terminal says more.")


def decode_drawing(data: str) -> Image.Image:
    """Decode the canvas' PNG, sent as a data URL; PictureError for an empty or another one."""
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


def message(text: str) -> dict:
    """Give a sentence in place of an answer."""
    return {"message": html.escape(text)}


def describe(found: list[Prediction], picture: Picture | None) -> dict:
    """Give the number, how sure that is, the picture where there is one, a card per digit."""
    least = min(found, key=lambda one: one.confidence)
    sure = f"{percent(least.confidence)} sure"
    if len(found) > 1:
        sure = f"{len(found)} digits; least sure of the {least.digit}: {percent(least.confidence)}"
    return {
        "number": "".join(str(one.digit) for one in found),
        "sure": sure,
        "picture": data_url(picture.colour) if picture else "",
        "boxes": [describe_box(one, picture.size) for one in found] if picture else [],
        "cards": [describe_card(one) for one in found[:MOST_CARDS]],
        "more": max(len(found) - MOST_CARDS, 0),
    }


def percent(share: float) -> str:
    """Write a share as people read it; never 100% for what is less."""
    return "over 99.9%" if share > 0.9995 else f"{100 * share:.1f}%"


def data_url(pixels: np.ndarray) -> str:
    """Write a picture, uint8 grey or RGB, as the address of an <img>; that needs no file."""
    kind, buffer = "JPEG" if pixels.ndim == 3 else "PNG", io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def describe_box(one: Prediction, size: tuple[int, int]) -> dict:
    """Place a digit's box in a picture of this width and height."""
    left, top, right, bottom = np.divide(one.box, size * 2)
    place = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    style = "; ".join(f"{side}: {share:.2%}" for side, share in place.items())
    return {"digit": one.digit, "style": style}


def describe_card(one: Prediction) -> dict:
    """Give what the network saw, dark ink on white, and its ten probabilities as bars."""
    shades = np.rint(255 * (1 - np.clip(one.pixels, 0, 1))).astype(np.uint8)
    spoken = ", ".join(f"{digit}: {percent(p)}" for digit, p in enumerate(one.probabilities))
    bars = []
    for digit, share in enumerate(one.probabilities):
        label = f"{min(100 * share, 99):.0f}" if share >= 0.005 else ""
        best = digit == one.digit
        bars.append({"digit": digit, "best": best, "share": f"{share:.1%}", "label": label})
    return {"seen": data_url(shades), "spoken": spoken, "bars": bars}


# --- the page --------------------------------------------------------------------------------

INTRO = "The network reads after each stroke. What you draw or drop stays on this computer."
COLOURS = f":root {{ --blue: {BLUE}; --orange: {ORANGE}; --red: {RED}; --grey: {GREY}; }}"
SHOW_ANSWER = "() => document.querySelector('#answer p').scrollIntoView({block: 'nearest'})"


@contextmanager
def no_proxies() -> Iterator[None]:
    """Hide the proxies' variables from Gradio, which asks its own server alone."""
    # no proxy reaches that server, and with a SOCKS proxy Gradio's very import may fail
    names = [name for name in os.environ if name.lower().endswith("_proxy")]
    hidden = {name: os.environ.pop(name) for name in names}
    os.environ["no_proxy"] = HOST  # one that is left keeps the system's own settings out
    try:
        yield
    finally:
        del os.environ["no_proxy"]
        os.environ.update(hidden)


@no_proxies()
def build_page(model: Callable):
    """Build the page, a gradio.Blocks, which reads with this function from open_model."""
    import gradio as gr

    quiet = {"api_visibility": "private", "show_progress": "hidden"}
    parts = [HERE / name for name in ("pad.html", "page.js", "answer.html")]
    pad_html, script, answer_html = [path.read_text(encoding="utf-8") for path in parts]
    canvas = {"columns": CANVAS[0], "rows": CANVAS[1]}
    start = message("The answer appears here.")
    tries = [HERE / "examples" / f"{name}.jpg" for name in EXAMPLES]
    page = gr.Blocks(title="Draw a digit", analytics_enabled=False, delete_cache=UPLOADS_LIVE)
    with page:
        gr.Markdown(f"# Draw a digit\n{INTRO}")
        with gr.Column(elem_id="layout"):
            pad = gr.HTML("", html_template=pad_html, js_on_load=script, elem_id="pad", **canvas)
            shown = gr.HTML(start, html_template=answer_html, elem_id="answer")
            file = gr.File(label="Or drop a photo of digits", height=160, elem_id="file")
            tried = gr.Dataset(
                components=["html"],
                samples=[[show_example(path)] for path in tries],
                type="index",
                label="Or try one of these",
                elem_id="examples",
            )
        read_drawing = partial(answer, model, decode_drawing)
        read_file = partial(answer, model, Path)
        pad.input(read_drawing, pad, shown, trigger_mode="always_last", **quiet)
        given = file.upload(lambda path: (read_file(path), None), file, [shown, file], **quiet)
        chosen = tried.click(lambda i: read_file(tries[i]), tried, shown, **quiet)
        for event in (given, chosen):
            event.then(None, js=SHOW_ANSWER)
    return page


def show_example(path: Path) -> str:
    """Show a picture to try, above the words that its name is made of."""
    picture = data_url(read_picture(path).colour)
    return f'<img src="{picture}" alt="">{path.stem.replace("-", " ")}'


@no_proxies()
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
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
