"""The page that demonstrates one image classifier: give a picture, see its five likeliest classes.

It needs gradio, transformers and torch but nothing else of this repository, because a Space gets
this file (and perhaps a folder `examples`) alone. The model is whatever `transformers.pipeline`
loads; code stored beside the weights is run, so name only models that you trust.

    python app.py                            # the model of `make quickstart`
    python app.py MODEL                      # any model folder, or a model id on the Hub
    CONVZOO_MODEL=MODEL python app.py        # the same by environment, as on a Space
    CONVZOO_EXAMPLES=FOLDER python app.py    # other example pictures

The page is also an API:

    from gradio_client import Client, handle_file

    client = Client("http://127.0.0.1:7860")
    classes, details = client.predict(handle_file("photo.jpg"), api_name="/predict")
    print(classes["confidences"])  # [{"label": "tabby", "confidence": 0.87}, ...], best first
"""

import argparse
import os
import re
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE / "runs/quickstart/model"
# What Pillow decodes by itself; it hands other formats to programs of the system.
IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_FILE_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000  # 150 MB once decoded; a file of a few kB can claim far more
MAX_EXAMPLES = 8
INVITATION = "Give a picture, or choose an example."
CSS = """
#page {max-width: 960px; margin: 0 auto}
#picture img, #examples img {image-orientation: none} /* as stored: what the model gets */
#picture img {width: 100%; height: 100%; object-fit: contain} /* enlarges small pictures */
#top5 .confidence-set {font-family: var(--font)}
#examples .gallery {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(max(72px, 11%), 1fr))}
#examples .gallery-item {aspect-ratio: 1}
#examples .gallery-item :is(span, div) {display: block; width: 100%; max-width: none; height: 100%}
"""


def load_classifier(model: str):
    """Load an image classification pipeline, its labels made distinct, and warm it up.

    Raises:
        OSError: if the model is no folder or Hub id, or lacks a file that the pipeline needs.
        ValueError: if its configuration is wrong.
    """
    from PIL import Image
    from transformers import pipeline

    classifier = pipeline("image-classification", model=model, trust_remote_code=True)
    config = classifier.model.config
    count = Counter(config.id2label.values())  # ImageNet has two classes "crane"
    config.id2label = {
        index: f"{label} ({index})" if count[label] > 1 else label
        for index, label in config.id2label.items()
    }
    classifier(Image.new("RGB", (64, 64)))  # the first call is slower than those to come
    return classifier


def read_card(model: str) -> tuple[str, str]:
    """Return the title and the text of the model's card; without one, the model and "".

    Front matter and pictures are left out: a visit to the page loads nothing from elsewhere.
    """
    from transformers.utils import cached_file

    try:
        text = Path(cached_file(model, "README.md")).read_text(encoding="utf-8")
    except OSError:
        return model, ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|<img\b[^>]*>", "", text)
    title, text = re.fullmatch(r"\s*(?:# ([^\n]+))?(.*)", text, flags=re.DOTALL).groups()
    return title or model, text


def find_examples(model: str) -> list[str]:
    """Return some pictures of CONVZOO_EXAMPLES, else the model's, the app's or the photos'.

    Raises:
        FileNotFoundError: if CONVZOO_EXAMPLES is no folder.
    """
    if given := os.environ.get("CONVZOO_EXAMPLES"):
        if not Path(given).is_dir():
            raise FileNotFoundError(f"CONVZOO_EXAMPLES must be a folder of pictures; got {given!r}")
        folders = [Path(given)]
    else:
        folders = [Path(model, "examples"), HERE / "examples", HERE / "data/photos"]
    for folder in filter(Path.is_dir, folders):
        suffixes = {".jpg", ".jpeg", ".png"}
        pictures = sorted(str(file) for file in folder.iterdir() if file.suffix.lower() in suffixes)
        return pictures[:: -(-len(pictures) // MAX_EXAMPLES) or 1]  # spread over the whole folder
    return []


def read_image(path: str):
    """Read a picture as RGB, its pixels in the order in which they are stored, as in training.

    Raises:
        ValueError: if the file is too large, no picture or damaged; the text is for the visitor.
    """
    from PIL import Image

    if os.path.getsize(path) > MAX_FILE_BYTES:
        raise ValueError(f"The file is larger than {MAX_FILE_BYTES >> 20} MB: give a smaller one.")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:  # reads no pixels yet
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if image.mode.startswith("I;16"):
                image = image.point(lambda grey: grey / 256)  # convert() cuts off, does not scale
            image = image.convert("RGB")
    except Image.DecompressionBombError:
        limit = MAX_PIXELS // 10**6
        raise ValueError(f"The picture has more than {limit} megapixels: shrink it.") from None
    except Exception as error:  # what decoders raise for damaged data is not specified
        raise ValueError(
            "The file is damaged, or no picture: give a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF."
        ) from error
    image.info.clear()  # the pipeline would turn the picture as its EXIF or XMP data say
    return image


def build_demo(classifier, title: str, card: str, examples: list[str]):
    """Build the page of one classifier.

    Args:
        classifier: an image classification pipeline.
        title: what to call the model.
        card: more about the model, Markdown; may be empty.
        examples: paths of pictures to offer; may be empty.

    Returns:
        The page, a `gradio.Blocks`, not yet served.
    """
    import gradio as gr

    def predict(picture: dict | None):
        """Return the five likeliest classes of a picture, and how long finding them took."""
        if picture is None:
            return {}, INVITATION
        try:
            image = read_image(picture["path"])
            start = time.perf_counter()
            classes = classifier(image, top_k=5)
            milliseconds = 1000 * (time.perf_counter() - start)
        except ValueError as error:  # the processor has limits of its own
            raise gr.Error(str(error), print_exception=False) from error
        details = f"{milliseconds:.0f} ms for this {image.width} x {image.height} picture"
        return {each["label"]: each["score"] for each in classes}, details

    num_parameters = sum(p.numel() for p in classifier.model.parameters())
    facts = f"{num_parameters:,} parameters, {classifier.model.config.num_labels} classes"
    with gr.Blocks(title=f"{title}: image classifier") as demo, gr.Column(elem_id="page"):
        gr.Markdown(f"# {title}\n{facts}")
        with gr.Row():
            picture = gr.Image(label="Picture", elem_id="picture", height=320)
            with gr.Column():
                top5 = gr.Label(label="Likeliest classes", elem_id="top5")
                details = gr.Markdown(INVITATION, elem_id="details")
        if examples:
            gr.Examples(examples, picture, elem_id="examples", api_visibility="private")
        if card:
            with gr.Accordion("Model card", open=False):
                gr.Markdown(card)
        prediction = picture.change(
            predict,
            picture,
            [top5, details],
            api_name="predict",
            show_progress_on=top5,
            preprocess=False,  # the file itself: gr.Image would turn it, and explain no error
        )
        prediction.failure(lambda: None, None, picture, api_visibility="private")  # clears the page
    return demo


def main(argv: list[str] | None = None) -> None:
    """Serve the page until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("CONVZOO_MODEL") or (QUICKSTART.is_dir() and str(QUICKSTART))
    parser.add_argument("model", nargs="?", default=default, help="model folder or Hub id")
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    args = parser.parse_args(argv)
    if not args.model:
        parser.error(
            "a model is needed: run `make quickstart`, or give a model folder or Hub id here or in "
            "the environment variable CONVZOO_MODEL"
        )
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read by `import gradio`
    try:
        examples = find_examples(args.model)
        classifier = load_classifier(args.model)
    except (OSError, ValueError) as error:
        parser.exit(1, f"app.py: cannot show the model {args.model!r}: {error}\n")
    demo = build_demo(classifier, *read_card(args.model), examples)
    demo.queue(max_size=32, default_concurrency_limit=1).launch(  # one prediction uses all cores
        server_name=args.host,
        server_port=args.port,
        max_file_size=MAX_FILE_BYTES,
        footer_links=["api", "settings"],
        run_history=False,
        css=CSS,
    )


if __name__ == "__main__":
    main()
