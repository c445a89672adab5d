"""A model with its processor, and an index or none, go in; a page of gradio to try them comes out, and is served.

The page asks nothing of other machines: fonts are those of the reader's system, and gradio's analytics are off.
"""

import html
import os
from contextlib import contextmanager
from pathlib import Path

from ..data.images.decode import decode_image
from ..data.templates import DEFAULT_TEMPLATES
from ..evaluation.rank_labels import rank_labels
from ..evaluation.report.markdown import code, escaped
from ..hub.errors_clipscratch import ClipScratchError
from ..utils.names import on_one_line
from .index_files import PictureIndex
from .result_page import GRID, hits_html, note_of
from .search_index import search

HOSTS = ("127.0.0.1", "localhost", "[::1]")  # another name may be that of a stranger's page, led here by its DNS
SHOWN = 12  # pictures of a search
CSS = f"""
  .gradio-container {{ width: 100%; max-width: 1100px !important; margin: 0 auto !important; }}
  .gradio-container {{ --color-accent: var(--primary-700); }}
  .dark .gradio-container {{ --color-accent: var(--primary-400); }}
  #picture img {{ width: 100%; height: 100%; object-fit: contain; }}
  #found, #found * {{ padding: 0; }}
  .hits {{ --frame: var(--background-fill-secondary); --faint: var(--body-text-color-subdued); }}
  {GRID}
"""


def gradio_library():
    """The module; imported late, since everything but the page works without it."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when the module is imported
    try:
        import gradio
    except ImportError as error:
        raise ClipScratchError(
            "the page needs gradio, which is not installed: pip install 'clipscratch[demo]'"
        ) from error
    return gradio


def split_labels(text: str) -> list[str]:
    """
    >>> split_labels(" cat, a dog,, truck ")
    ['cat', 'a dog', 'truck']
    """
    return [label.strip() for label in text.split(",") if label.strip()]


def build_page(model, processor, index: PictureIndex | None = None, *, model_name: str):
    """
    Args:
        model: as `load_model` gives it, with its processor.
        index: made by this model; without it the page has no search.
        model_name: what the page calls the model.
    Returns: `gradio.Blocks`, not yet served.
    """
    gr = gradio_library()

    def classify(path, labels, template):
        if path is None:
            raise gr.Error("Give a picture first.", print_exception=False)
        with _told(gr):
            image = decode_image(path, name=Path(path).name)
            (ranked,) = rank_labels(model, processor, [image], split_labels(labels), templates=[template])
        return {entry["label"]: entry["score"] for entry in ranked}

    def find(text):
        with _told(gr):
            hits = search(index, model, processor, text=text, top=SHOWN)
        return f"<p>{note_of(hits)}</p>{hits_html(hits)}"

    with gr.Blocks(title="ClipScratch", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# ClipScratch\nTrying **{escaped(Path(model_name).name)}**.")
        with gr.Tab("Name a picture"), gr.Row():
            with gr.Column():
                picture = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Picture", height=300,
                    elem_id="picture",
                )  # fmt: skip
                # Else gradio opens what was uploaded, and has no words for what is no picture; `classify` has.
                picture.preprocess = lambda payload: payload and payload.path
                labels = gr.Textbox(
                    label="Labels", info="Two or more, with commas between them", placeholder="cat, dog"
                )
                template = gr.Textbox(label="Template", info="{} stands for the label", value=DEFAULT_TEMPLATES[0])
                name = gr.Button("Name it", variant="primary")
            with gr.Column():
                bars = gr.Label(label="Of these labels")
        given = {"fn": classify, "inputs": [picture, labels, template], "outputs": bars}
        gr.on([name.click, labels.submit, template.submit], **given)
        if index is not None:
            with gr.Tab("Search pictures"):
                with gr.Row(equal_height=True):
                    text = gr.Textbox(
                        show_label=False, container=False, placeholder="a dog in the snow", scale=5, autofocus=True
                    )
                    go = gr.Button("Search", variant="primary", scale=1, min_width=100)
                gr.Markdown(f"{len(index.pictures):,} pictures of {code(index.folder.name)}")
                found = gr.HTML(padding=False, elem_id="found")
            gr.on([go.click, text.submit], find, text, found)
    return page


def serve(page, port: int, *, wait: bool = True) -> str:
    """Serves the page to this machine only; returns its address, at once or, with `wait`, when it is stopped.

    Requests that name another host are answered with 400.

    Raises: ClipScratchError if the port is taken.
    """
    gr = gradio_library()
    from starlette.middleware import Middleware  # comes with gradio
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["system-ui", "sans-serif"]}
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="gray", **fonts).set(
        # gradio's own greys and blue are too faint to be read by everyone.
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        stat_background_fill="*primary_600",
        input_placeholder_color="*neutral_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
    )
    try:
        _, address, _ = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            theme=theme,
            css=CSS,
            footer_links=[],
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)]},
        )
    except OSError as error:
        raise ClipScratchError(f"port={port} cannot be had on this machine; choose another --port.") from error
    if wait:
        print(f"The page is at {address} (stop it with Ctrl-C).", flush=True)
        page.block_thread()
    return address


@contextmanager
def _told(gr):
    """What is the user's to mend is shown on the page, not in the terminal."""
    try:
        yield
    except ValueError as error:
        # The page takes the words for HTML, and they may name files.
        raise gr.Error(html.escape(on_one_line(str(error))), print_exception=False) from error
