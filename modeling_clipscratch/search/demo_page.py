"""Build and serve a gradio page to try a model: classify an image, and search an index.

The page requests nothing from other machines: it uses the reader's system fonts, and gradio's analytics are off.
"""

import html
import os
from contextlib import contextmanager
from pathlib import Path

from ..data.images.decode import decode_image
from ..data.templates import DEFAULT_TEMPLATES
from ..evaluation.encode import note_of_unknown
from ..evaluation.rank_labels import rank_labels
from ..evaluation.report.markdown import code, escaped
from ..utils.errors import ClipScratchError
from ..utils.names import on_one_line
from .image_index import ImageIndex
from .result_page import HITS_CSS, hits_html, note_of
from .search_index import search_index

HOSTS = ("127.0.0.1", "localhost", "[::1]")  # any other may be a foreign page's, led here by its DNS
TOP = 12  # images of a search
_CSS = Path(__file__).with_name("demo_page.css").read_text(encoding="utf-8") + HITS_CSS


def gradio_library():
    """Import gradio; raise `ClipScratchError` if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when the module is imported
    try:
        import gradio
    except ImportError as error:
        raise ClipScratchError(
            "the demo needs gradio, which is not installed: pip install 'clipscratch[demo]'"
        ) from error
    return gradio


def own_prompts(config) -> tuple[list[str], str]:
    """Return the class names that a model learned, if any, and its first prompt template."""
    values = config.to_dict()  # a model of another library has neither
    return list(values.get("class_names") or []), (values.get("templates") or DEFAULT_TEMPLATES)[0]


def join_labels(labels: list[str]) -> str:
    """Write labels as `split_labels` reads them."""
    return ("\n" if any("," in label for label in labels) else ", ").join(labels)


def split_labels(text: str) -> list[str]:
    """Split labels at commas, or at line breaks if there are any.

    >>> split_labels(" cat, a dog,, truck "), split_labels("salt, pepper\\nsugar")
    (['cat', 'a dog', 'truck'], ['salt, pepper', 'sugar'])
    """
    labels = text.strip().split("\n" if "\n" in text.strip() else ",")
    return [label.strip() for label in labels if label.strip()]


def build_page(model, processor, index: ImageIndex | None = None, *, model_name: str):
    """Build the page, which starts with the model's own classes and template; without an index it has no search."""
    gr = gradio_library()

    def classify(path, labels, template):
        if path is None:
            raise gr.Error("Choose an image first.", print_exception=False)
        with _showing_errors(gr):
            labels = split_labels(labels)
            image = decode_image(path, name=Path(path).name)
            (ranked,) = rank_labels(model, processor, [image], labels, templates=[template])
        note = note_of_unknown(processor.tokenizer, [template.replace("{}", " "), *labels])
        return {entry["label"]: entry["score"] for entry in ranked}, html.escape(note)

    def find(text):
        with _showing_errors(gr):
            hits = search_index(index, model, processor, text=text, top=TOP)
        note = note_of_unknown(processor.tokenizer, [text])
        return f"<p>{note_of(hits)} {html.escape(note)}</p>{hits_html(hits)}"

    own_labels, own_template = own_prompts(model.config)
    with gr.Blocks(title="ClipScratch", analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# ClipScratch\nModel: **{escaped(Path(model_name).name)}**")
        with gr.Tab("Classify an image"), gr.Row():
            with gr.Column():
                image = gr.Image(
                    type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Image", height=300,
                    elem_id="image",
                )  # fmt: skip
                # By default gradio opens the upload and has no message for a file that is not an image.
                image.preprocess = lambda payload: payload and payload.path
                labels = gr.Textbox(
                    label="Labels",
                    info="At least two, separated by commas or one per line",
                    placeholder="cat, dog",
                    value=join_labels(own_labels),
                    max_lines=6,
                )
                template = gr.Textbox(label="Template", info="{} stands for the label", value=own_template)
                button = gr.Button("Classify", variant="primary")
            with gr.Column():
                bars = gr.Label(label="Probability among these labels")
                note = gr.HTML(padding=False)
        gr.on([button.click, labels.submit, template.submit], classify, [image, labels, template], [bars, note])
        if index is not None:
            with gr.Tab("Search images"):
                with gr.Row(equal_height=True):
                    text = gr.Textbox(
                        show_label=False, container=False, placeholder="a dog in the snow", scale=5, autofocus=True
                    )
                    search = gr.Button("Search", variant="primary", scale=1, min_width=100)
                gr.Markdown(f"{len(index.images):,} images in {code(index.folder.name)}")
                results = gr.HTML(padding=False, elem_id="hits")
            gr.on([search.click, text.submit], find, text, results)
    return page


def serve(page, port: int, *, wait: bool = True) -> str:
    """Serve the page to this machine only, and return its address; with `wait` not before it is stopped.

    Requests that name another host are answered with 400.
    """
    gr = gradio_library()
    from starlette.middleware import Middleware  # comes with gradio
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["system-ui", "sans-serif"]}
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="gray", **fonts).set(
        # gradio's own greys and blue have too little contrast.
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
            css=_CSS,
            footer_links=[],
            share=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)]},
        )
    except OSError as error:
        raise ClipScratchError(f"port={port} is in use or reserved on this machine; choose another --port.") from error
    if wait:
        print(f"The page is at {address} (stop it with Ctrl-C).", flush=True)
        page.block_thread()
    return address


@contextmanager
def _showing_errors(gr):
    """Show an error that the user can correct on the page, not in the terminal."""
    try:
        yield
    except ClipScratchError as error:
        # The page takes the message for HTML, and it may name files.
        raise gr.Error(html.escape(on_one_line(str(error))), print_exception=False) from error
