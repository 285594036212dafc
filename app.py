"""The page that shows image classifiers at work: give a picture, see what they make of it.

For each model it shows the five likeliest classes, how long they took, and for a class that is
clicked which parts of the picture speak for it. Models with learnt PReLU slopes or with a residual
stream that can be rotated (QLNet) show these, too.

It needs gradio, transformers and torch but nothing else of this repository, because a Space gets
this file without the rest; models.txt beside it names the models then. Code stored beside the
weights is run, so name only models that you trust; ID@COMMIT is the model as it was then.

    python app.py                            # those of models.txt, of `make quickstart`, or ours
    python app.py MODEL [MODEL ...]          # model folders, or model ids on the Hub, side by side
    CONVZOO_MODEL=MODEL,MODEL python app.py  # the same by environment, for a copy of a Space
    CONVZOO_EXAMPLES=FOLDER python app.py    # other example pictures

The page is also an API. With several models it returns these four of each, in their order:

    from gradio_client import Client, handle_file

    client = Client("http://127.0.0.1:7860")
    classes, details, heat_map, text = client.predict(
        handle_file("photo.jpg"), api_name="/predict"
    )
    print(classes["confidences"])  # [{"label": "tabby", "confidence": 0.87}, ...], best first
"""

import argparse
import copy
import hashlib
import html
import importlib
import json
import math
import os
import re
import signal
import stat
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:  # else imported where they are used: --help answers at once
    import gradio as gr
    from PIL.Image import Image as Picture
    from torch import Tensor

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE / "runs/quickstart/model"
SHIPPED = HERE / "data/models/fashion-mnist-cnn"  # with a checkout, whose modeling/ has its code
# What is downloaded of a model on the Hub.
MODEL_FILES = ("*.json", "*.py", "*.safetensors", "README.md", "examples/*")
# As in convzoo/images: Pillow would hand EPS to Ghostscript, whatever the file is called.
IMAGE_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF"),
    *("DIB", "ICO", "JPEG2000", "PCX", "QOI", "SGI", "TGA"),
)
# Of HEIF files; AVIF is HEIF, too, but has brands of its own besides.
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
MAX_FILE_BYTES = 20 * 2**20
MAX_PATH = 4096  # characters; longer ones are no paths, and take long to look at
MAX_PIXELS = 50_000_000  # 150 MB once decoded; a file of a few kB can claim far more
MAX_EXAMPLES = 8
RUNS = 3  # whose median time is shown
MAX_NAMES = 5  # classes that a title names; of more it gives the number
MAX_LISTED = 20  # classes that are named below the title
DELETE_UPLOADS = (600, 3600)  # every ten minutes those that are older than an hour
# What gradio remembers: nothing of it is used here, and a visit by the API is a session of 50 kB.
MAX_SESSIONS = 20
MAX_EVENTS = 100
CARD_IMAGE = re.compile(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])?")
CARD_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)[^)]*\)")
# Tags and comments, but not <https://...> and <name@host>, which are links.
CARD_HTML = re.compile(
    r"<(?![a-z][a-z0-9+.-]*:[^\s<>]*>|[\w.+-]+@[\w.-]+>)[a-z/!?][^>]*>", re.IGNORECASE
)
INVITATION = "Give a picture, or choose an example."
NOT_GIVEN = "Only a picture that was uploaded here is read: give the file, no path and no address."
# Of matplotlib's colour map inferno: brighter is more, also for the colour-blind.
INFERNO = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
# Of events: those of one group wait for each other, because each uses all cores.
OF_MODELS: dict[str, Any] = {
    "preprocess": False,
    "concurrency_id": "models",
    "concurrency_limit": 1,
}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
CSS = """
#page {max-width: 1280px; margin: 0 auto}
#page :is(h1, h2) {overflow-wrap: anywhere} /* a path can be long */
/* Enlarges small ones. */
:is(#picture, #seen, .cam) img {width: 100%; height: 100%; object-fit: contain}
.top5 .confidence-set {font-family: var(--font)}
#examples .gallery {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(max(72px, 11%), 1fr))}
#examples .gallery-item {aspect-ratio: 1}
#examples .gallery-item :is(span, div) {display: block; width: 100%; max-width: none; height: 100%}
/* Contrast, by the measure of WCAG 2. */
:is(.min_value, .max_value, .show-api, .settings, .confidence-set dt, .confidence-set dd) {
  color: var(--body-text-color) !important}
.confidence-set:is(:hover, :focus-visible) dt {text-decoration: underline}
/* gradio would round it to 0 % or 1 %. */
.confidence-set:has(meter:is([aria-valuenow="0"], [style^="width: 0."])) dd {
  visibility: hidden; white-space: nowrap}
.confidence-set:has(meter:is([aria-valuenow="0"], [style^="width: 0."])) dd::after {
  content: "< 1 %"; visibility: visible}
.slopes svg {width: 100%; max-width: 640px; font-size: 9px; fill: currentColor}
.slopes svg line {stroke: currentColor}
"""
# For screen readers: gr.Examples gives its buttons no name.
NAME_EXAMPLES = """() => document.querySelectorAll("#examples button").forEach(
    (button, index) => button.setAttribute("aria-label", `Example ${index + 1}`))"""


@dataclass(frozen=True)
class Temperature:
    """What logits are divided by (Guo et al., arXiv:1706.04599), and on which images it was fitted.

    Attributes:
        value: above 0; more than 1 makes a model less confident.
        fitted_on: the images, for a reader.
    """

    value: float
    fitted_on: str


@dataclass
class Classifier:
    """A model, and what the page tells about it.

    Attributes:
        title: what to call the model.
        card: more about it, Markdown; may be empty.
        model: a classifier of transformers, in evaluation mode.
        processor: its image processor.
        labels: names of the classes, all different.
        temperature: for calibrated confidences; None if the model has not been calibrated.
    """

    title: str
    card: str
    model: Any
    processor: Any
    labels: list[str]
    temperature: Temperature | None

    def pixel_values(self, image: "Picture") -> "Tensor":
        """Preprocess one picture, to (1, C, H, W) on the model's device."""
        pixel_values: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"]
        return pixel_values.to(self.model.device)

    def logits(self, image: "Picture") -> "Tensor":
        """Run the model on one picture; return its logits, (num_labels,) on the CPU."""
        import torch

        with torch.inference_mode():
            logits: Tensor = self.model(self.pixel_values(image)).logits
        return logits[0].float().cpu()

    def likeliest(self, logits: "Tensor") -> dict[str, float]:
        """Return the five likeliest classes and their confidences, best first."""
        logits = logits / (self.temperature.value if self.temperature else 1)
        scores = logits.sigmoid() if self.is_multi_label() else logits.softmax(-1)
        best = scores.topk(min(5, len(logits)))
        indices = best.indices.tolist()
        return dict(zip((self.labels[i] for i in indices), best.values.tolist(), strict=True))

    def is_multi_label(self) -> bool:
        """Return True if classes do not exclude each other."""
        problem: str | None = self.model.config.problem_type
        return problem == "multi_label_classification"

    def headline(self, title: str = "") -> str:
        """Say what the model, or models of a title, know: few classes by name, many by number."""
        title, s = (title, "") if title else (self.title, "s")
        *others, last = self.labels
        known = f"{len(self.labels):,} classes"
        if len(self.labels) <= MAX_NAMES:
            known = f"{', '.join(others)} and {last}" if others else last
        if self.is_multi_label() or not others:
            return f"{title} recognise{s} {known}"
        return f"{title} tell{s} {known} apart"

    def facts(self) -> str:
        """Return classes, size and calibration of the model, as Markdown."""
        parameters = sum(weights.numel() for weights in self.model.parameters())
        known = ""
        if MAX_NAMES < len(self.labels) <= MAX_LISTED:  # else the title names them, or nothing can
            known = f"Classes: {', '.join(map(plain, self.labels))}. "
        confidence = "uncalibrated"
        if self.temperature:
            value, images = self.temperature.value, self.temperature.fitted_on
            confidence = f"calibrated (temperature {value:.2f}, fitted on {images})"
        return f"{known}{parameters:,} parameters, confidence {confidence}"


def fetch(model: str) -> Path:
    """Return the folder of a model: the one that is named, or a copy of that on the Hub.

    Args:
        model: a folder, or an id on the Hub, perhaps with @ and a commit, tag or branch.

    Raises:
        OSError: if there is no such folder or Hub id.
        ValueError: if it cannot be a Hub id.
    """
    from huggingface_hub import snapshot_download

    if Path(model).is_dir():
        return Path(model)
    repo_id, _, revision = model.partition("@")
    if repo_id.count("/") > 1 or repo_id.startswith((".", "/", "~")):
        raise FileNotFoundError(f"there is no folder {Path(model).absolute()}")
    return Path(
        snapshot_download(repo_id, revision=revision or None, allow_patterns=list(MODEL_FILES))
    )


def load_classifier(name: str) -> Classifier:
    """Load the model that `fetch` finds and warm it up.

    Raises:
        OSError: if there is no such folder or Hub id, or it lacks a file that is needed.
        ValueError: if its configuration is wrong.
    """
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = fetch(name)
    register_families(folder)
    untyped: Any = AutoImageProcessor  # Transformers does not annotate its from_pretrained
    processor = untyped.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageClassification.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    names = [one_line(model.config.id2label[index]) for index in range(model.config.num_labels)]
    labels = [name or f"class {index}" for index, name in enumerate(names)]
    count = Counter(labels)  # ImageNet has two classes "crane"
    labels = [f"{n} ({i})" if count[n] > 1 else n for i, n in enumerate(labels)]
    title, card = read_card(folder, "" if Path(name).is_dir() else name)
    classifier = Classifier(
        title=one_line(title) or one_line(name_of(name)),
        card=card,
        model=model,
        processor=processor,
        labels=labels,
        temperature=read_temperature(folder),
    )
    classifier.logits(Image.new("RGB", (64, 64)))  # the first call is slower than those to come
    return classifier


def name_of(model: str) -> str:
    """Call a model by its folder (of runs/NAME/model by NAME), or by its id without a commit."""
    path = Path(model)
    if not path.is_dir():
        return re.sub(r"@[0-9a-f]{40}$", "", model)
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def register_families(folder: Path) -> None:
    """Let Transformers know the families of a checkout, for a model without code beside it."""
    config = folder / "config.json"
    has_code = not config.is_file() or '"auto_map"' in config.read_text(encoding="utf-8")
    if not has_code and (HERE / "modeling").is_dir():
        importlib.import_module("modeling")


def one_line(text: str) -> str:
    """Return a name on one line, without characters that steer a terminal or a page."""
    joiners = "\u200c\u200d"  # of Persian and Indian scripts, and of emoji
    return " ".join("".join(c if c.isprintable() or c in joiners else " " for c in text).split())


def plain(text: str) -> str:
    """Escape a name, so that Markdown shows it as it is and makes no link of it."""
    return re.sub(r"([\\`*_\[\]<>&$~:@#|]|(?<=www)\.)", r"\\\1", one_line(text), flags=re.I)


def read_card(folder: Path, repo_id: str = "") -> tuple[str, str]:
    """Return the title and the text of a model's card, "" for what it has not.

    Front matter, pictures and all HTML are left out: a visit to the page loads nothing from
    elsewhere. Links to other files of the model lead to the Hub, if the model is from there.

    Args:
        folder: the model.
        repo_id: its id on the Hub, perhaps with @ and a commit, tag or branch; else "".
    """
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    before = ""
    while text != before:  # what is left over may form the next
        before = text
        text = CARD_HTML.sub("", CARD_IMAGE.sub("", text))
        text = CARD_LINK.sub(partial(lead_to_hub, repo_id), text)
    title = re.match(r"\s*# ([^\n]+)", text)
    return (title[1], text[title.end() :]) if title else ("", text.lstrip())


def lead_to_hub(repo_id: str, link: re.Match[str]) -> str:
    """Return a link of a card as it is if it leads elsewhere; else one to the Hub, or its text."""
    text, target = link.groups()
    if re.match(r"[a-z][a-z0-9+.-]*:", target, re.I):
        return link[0]
    if not repo_id or target.startswith(("#", "/")):
        return str(text)
    from huggingface_hub.constants import ENDPOINT

    name, _, revision = repo_id.partition("@")
    return f"[{text}]({ENDPOINT}/{name}/blob/{revision or 'main'}/{target.removeprefix('./')})"


def read_temperature(folder: Path) -> Temperature | None:
    """Return the first temperature of these weights, in one view, of their own crop and dtype.

    Raises:
        ValueError: if it is not as an evaluation writes it.
    """
    file, weights = folder / "eval_results.json", folder / "model.safetensors"
    if not file.is_file() or not weights.is_file():
        return None
    with weights.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    try:
        for result in json.loads(file.read_text(encoding="utf-8"))["results"]:
            found = (result.get("calibration") or {}).get("temperature")
            protocol = result.get("protocol") or {}
            changed = any(map(protocol.get, ("crop", "crops_of", "flip", "scales", "dtype")))
            usual = protocol.get("views", 1) == 1 and not changed
            if found and usual and result["model"]["sha256"] == sha256:
                images, value = found["fitted_on"], float(found["value"])
                if not 0 < value < math.inf:
                    raise ValueError(f"a temperature must be above 0; got {value}")
                where = f"{images['num_samples']:,} images of the split {images['split']}"
                return Temperature(value, plain(where))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{file} must be as `convzoo evaluate` writes it; {error!r}. Evaluate the model again."
        ) from error
    return None


def find_examples(model: Path) -> list[str]:
    """Return some pictures of CONVZOO_EXAMPLES, else the model's, the app's or the photos'.

    Raises:
        FileNotFoundError: if CONVZOO_EXAMPLES is no folder.
    """
    if given := os.environ.get("CONVZOO_EXAMPLES"):
        if not Path(given).is_dir():
            raise FileNotFoundError(f"CONVZOO_EXAMPLES must be a folder of pictures; got {given!r}")
        folders = [Path(given)]
    else:
        folders = [model / "examples", HERE / "examples", HERE / "data/photos"]
    for folder in filter(Path.is_dir, folders):
        suffixes = {".jpg", ".jpeg", ".png"}
        pictures = sorted(str(file) for file in folder.iterdir() if file.suffix.lower() in suffixes)
        return pictures[:: -(-len(pictures) // MAX_EXAMPLES) or 1]  # spread over the whole folder
    return []


def open_upload(path: object) -> BinaryIO:
    """Open what a visitor gave: a regular file below the folder of uploads, and nothing else.

    Raises:
        ValueError: if it is anything else, or was deleted; the text is for the visitor.
    """
    from gradio.utils import get_upload_folder

    if not isinstance(path, str) or len(path) > MAX_PATH:
        raise ValueError(NOT_GIVEN)
    try:
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(os.path.realpath(get_upload_folder())):
            raise ValueError(NOT_GIVEN)
        if not stat.S_ISREG(real.stat().st_mode):
            raise ValueError(NOT_GIVEN)
        return real.open("rb")
    except FileNotFoundError:
        hours = DELETE_UPLOADS[1] // 3600
        raise ValueError(
            f"The picture is no longer here, it was deleted after {hours} h: give it again."
        ) from None
    except (OSError, ValueError):  # no path at all
        raise ValueError(NOT_GIVEN) from None


def read_picture(picture: dict[str, Any]) -> "Picture":
    """Read what the page or a client gave; see `read_image`."""
    with open_upload(picture["path"]) as file:
        return read_image(file)


def read_image(file: BinaryIO) -> "Picture":
    """Read a picture as the pipeline of transformers does: RGB, turned by EXIF, without alpha.

    Args:
        file: a picture of one of IMAGE_FORMATS.

    Returns:
        The picture; its `info` has nothing but "transparent", if parts of it are.

    Raises:
        ValueError: if the file is too large, no picture or damaged; the text is for the visitor.
    """
    from PIL import Image, ImageOps

    if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
        raise ValueError(f"The file is larger than {MAX_FILE_BYTES >> 20} MB: give a smaller one.")
    if is_heic(file.read(128)):
        raise ValueError(
            "This is HEIC, a format of phones that is not read here: save the photo as JPEG. "
            "iPhones take JPEGs after Settings > Camera > Formats > Most Compatible."
        )
    file.seek(0)
    Image.init()
    formats = [name for name in IMAGE_FORMATS if name in Image.OPEN]
    try:
        with Image.open(file, formats=formats) as opened:  # reads no pixels yet
            if opened.width * opened.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            upright = ImageOps.exif_transpose(opened)
            deep = upright.mode.startswith("I;16")  # convert() cuts such off, and does not scale
            image = (upright.point(lambda grey: grey / 256) if deep else upright).convert("RGB")
            transparent = is_transparent(upright)
    except Image.DecompressionBombError:
        limit = MAX_PIXELS // 10**6
        raise ValueError(f"The picture has more than {limit} megapixels: shrink it.") from None
    except Exception as error:  # what decoders raise for damaged data is not specified
        raise ValueError(
            "The file is damaged, or no picture: give a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF."
        ) from error
    # Processors might turn the picture once more, by EXIF or XMP data.
    image.info = {"transparent": True} if transparent else {}
    return image


def is_heic(start: bytes) -> bool:
    """Return True if a file starts as HEIC does, which most phones of one maker write."""
    if start[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(start[:4]), len(start))  # of the box that names the brands
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, end, 4))}
    return bool(brands & HEIF_BRANDS) and not brands & {b"avif", b"avis"}


def is_transparent(image: "Picture") -> bool:
    """Return True if some pixels are transparent, even partly."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return min(image.convert("RGBA").getchannel("A").tobytes()) < 255
    return False


def grad_cam(model: Any, pixel_values: "Tensor", index: int) -> "Tensor | None":
    """Weigh the last feature map by what it contributes to a class, with Grad-CAM.

    Args:
        model: a classifier of transformers whose last hidden state is a feature map.
        pixel_values: one preprocessed picture, (1, C, H, W).
        index: the class.

    Returns:
        A map (h, w), 0 or more, of the size of the feature map; None if the model has no such.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, arXiv:1610.02391, equations 1 and 2.
    """
    import torch

    output = model(pixel_values, output_hidden_states=True)
    maps: Tensor | None = output.hidden_states[-1] if output.hidden_states else None
    if maps is None or maps.ndim != 4:
        return None
    (gradient,) = torch.autograd.grad(output.logits[0, index], maps, allow_unused=True)
    if gradient is None:  # the model copied the feature map before it went on
        return None
    weights = gradient.mean((2, 3), keepdim=True)
    heat: Tensor = (weights * maps).sum(1)[0].relu().detach()
    return heat


def draw_heat(heat: "Tensor", pixel_values: "Tensor", processor: Any) -> "Picture":
    """Lay a heat map over the picture in grey, cropped as the model sees it.

    Args:
        heat: (h, w), 0 or more.
        pixel_values: the preprocessed picture, (1, C, H, W).
        processor: what preprocessed it.

    Returns:
        A Pillow image, W x H.
    """
    import torch
    from PIL import Image

    normalized = getattr(processor, "do_normalize", True)
    mean = torch.tensor((normalized and getattr(processor, "image_mean", None)) or [0.0])
    std = torch.tensor((normalized and getattr(processor, "image_std", None)) or [1.0])
    rescaled = getattr(processor, "do_rescale", True)
    factor = (rescaled and getattr(processor, "rescale_factor", None)) or 1
    seen = (pixel_values[0].cpu() * std[:, None, None] + mean[:, None, None]) / factor
    grey = seen.clamp(0, 255).mean(0)[..., None]
    heat = (heat / heat.max().clamp(min=1e-12)).cpu()[None, None]
    heat = torch.nn.functional.interpolate(heat, grey.shape[:2], mode="bilinear")[0, 0]
    stops = torch.tensor(INFERNO, dtype=torch.float32)
    position = heat * (len(stops) - 1)
    below = position.long().clamp(max=len(stops) - 2)
    colour = torch.lerp(stops[below], stops[below + 1], (position - below)[..., None])
    return Image.fromarray(((grey + colour) / 2).round().byte().numpy())


def explain(classifier: Classifier, image: "Picture", label: str) -> tuple["Picture | None", str]:
    """Return a heat map of what speaks for a class (None if it has none), and its description."""
    pixel_values = classifier.pixel_values(image)
    heat = grad_cam(classifier.model, pixel_values, classifier.labels.index(label))
    if heat is None:
        return None, "This model has no feature map by which to explain a class."
    picture = draw_heat(heat, pixel_values, classifier.processor)
    if heat.max() == 0:
        return picture, f"No part of the picture speaks for \u201c{plain(label)}\u201d."
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    left, top = 100 * (column + 0.5) / heat.shape[1], 100 * (row + 0.5) / heat.shape[0]
    return picture, (
        f"Bright parts speak for \u201c{plain(label)}\u201d, most of all {left:.0f} % from the "
        f"left and {top:.0f} % from the top. Choose another class to see what speaks for it."
    )


def draw_slopes(model: Any) -> str:
    """Draw the learnt slopes of all PReLU layers as SVG, from input to output; without any, ""."""
    import torch

    layers = {
        n: m.weight.detach() for n, m in model.named_modules() if isinstance(m, torch.nn.PReLU)
    }
    if not layers:
        return ""
    every_slope = torch.cat([weight.flatten().cpu() for weight in layers.values()])
    low, high = min(0, every_slope.min().item()), max(0.25, every_slope.max().item())

    def y(slope: "Tensor | float") -> float:
        return round(130 - 120 * (float(slope) - low) / (high - low), 1)

    marks = []
    for value in {0, high} | ({low} if low < -0.1 * high else set()):
        marks.append(f'<line x1="34" x2="360" y1="{y(value)}" y2="{y(value)}" opacity="0.25"/>')
        marks.append(f'<text x="30" y="{y(value) + 3}" text-anchor="end">{value:.2f}</text>')
    for number, (name, weight) in enumerate(layers.items()):
        x = round(34 + 326 * (number + 0.5) / len(layers), 1)
        least, median, most = weight.min(), weight.median(), weight.max()
        marks.append(
            f"<g><title>{html.escape(name)}: {least:.3f} to {most:.3f}, median {median:.3f}</title>"
            f'<line x1="{x}" x2="{x}" y1="{y(least)}" y2="{y(most)}" stroke-width="2"/>'
            f'<circle cx="{x}" cy="{y(median)}" r="2.5"/></g>'
        )
    summary = (
        f"Slopes of {len(layers)} layers, from input to output: "
        f"{every_slope.min():.2f} to {every_slope.max():.2f}, median {every_slope.median():.2f}."
    )
    return (
        f"<p>{summary} A bar spans the slopes of a layer, its dot is their median. "
        "With slope 0 a PReLU is a ReLU, with slope 1 it changes nothing.</p>"
        f'<svg viewBox="0 0 360 140" role="img" aria-label="{summary}">{"".join(marks)}</svg>'
    )


def rotation(channels: int, degrees: float) -> "Tensor":
    """Return an orthogonal matrix that turns all directions by an angle, in random planes.

    Directions are paired at random (always the same way) and each pair is turned in its plane; of
    an odd number one direction is kept. The result is (channels, channels), float64.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(channels, channels, dtype=torch.float64, generator=generator)
    basis = torch.linalg.qr(noise).Q
    first, second = basis[:, 0 : channels - 1 : 2], basis[:, 1:channels:2]
    turn = second @ first.T - first @ second.T
    angle = math.radians(degrees)  # Rodrigues' formula, in many planes at once
    identity = torch.eye(channels, dtype=torch.float64)
    turned: Tensor = identity + math.sin(angle) * turn + (1 - math.cos(angle)) * turn @ turn
    return turned


def rotate(
    classifier: Classifier, image: "Picture", degrees: float
) -> tuple[dict[str, float], str]:
    """Rotate the residual stream of the last stage of a QLNet, and classify a picture with it.

    Returns:
        The five likeliest classes of the rotated model, and a sentence about what changed.
    """
    before = classifier.logits(image)
    rotated = copy.copy(classifier)
    rotated.model = copy.deepcopy(classifier.model)
    channels = classifier.model.classifier.in_features
    rotated.model.rotate_stream(len(rotated.model.stages) - 1, rotation(channels, degrees))
    after = rotated.logits(image)
    old, new = classifier.model.classifier.weight, rotated.model.classifier.weight
    details = (
        f"The {channels} channels of the last stage are turned by {degrees:.0f} degrees. Largest "
        f"change of a weight of the classifier: {(new - old).abs().max():.2g}. Largest change of a "
        f"logit: {(after - before).abs().max():.1e}. In exact arithmetic no logit would change."
    )
    return rotated.likeliest(after), details


def answer(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function; what it says about a wrong picture becomes a message of the page."""
    import gradio as gr

    try:
        return function(*args, **kwargs)
    except ValueError as error:  # processors and models have limits of their own
        raise gr.Error(str(error), print_exception=False) from error


def classify(classifier: Classifier, image: "Picture") -> list[Any]:
    """Return classes, time, and a heat map of the likeliest class with its description."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        logits = classifier.logits(image)
        seconds.append(time.perf_counter() - start)
    classes = classifier.likeliest(logits)
    milliseconds = 1000 * statistics.median(seconds)
    size = f"{image.width} x {image.height}"
    details = f"{milliseconds:.0f} ms (median of {RUNS} runs) for this {size} picture"
    if image.info.get("transparent"):
        details += (
            ". The model does not see transparency, but the colours stored beneath it: the second "
            "picture shows them."
        )
    return [classes, details, *explain(classifier, image, next(iter(classes)))]


def show_as_seen(picture: dict[str, Any] | None) -> dict[str, Any]:
    """Show a transparent picture once more, as the models see it; hide that for any other."""
    import gradio as gr

    image = None if picture is None else answer(read_picture, picture)
    if image is None or not image.info.get("transparent"):
        image = None
    update: dict[str, Any] = gr.update(value=image, visible=image is not None)
    return update


def rotate_weights(
    classifier: Classifier, picture: dict[str, Any] | None, degrees: float
) -> tuple[dict[str, float], str]:
    """Answer the slider: the classes of the rotated model, and what changed."""
    if picture is None:
        return {}, INVITATION
    image = answer(read_picture, picture)
    classes, details = answer(rotate, classifier, image, degrees)
    return classes, details


def add_results(classifier: Classifier, picture: "gr.Image") -> list[Any]:
    """Add a model's column to the page; return the components that show its results."""
    import gradio as gr

    def explain_choice(picture: dict[str, Any], choice: gr.SelectData) -> Any:
        image = answer(read_picture, picture)
        return answer(explain, classifier, image, choice.value)

    top5 = gr.Label(label="Likeliest classes", elem_classes="top5")
    details = gr.Markdown(INVITATION, label="Details", elem_classes="details")
    heat_map = gr.Image(
        label="Grad-CAM",
        elem_classes="cam",
        height=320,
        interactive=False,
        buttons=["download", "fullscreen"],  # "share" would call elsewhere
        alt_text="Heat map over the picture; the text below describes it",
    )
    text = gr.Markdown(label="Explanation", elem_classes="explanation")
    top5.select(explain_choice, picture, [heat_map, text], **OF_MODELS, **PRIVATE)
    return [top5, details, heat_map, text]


def add_rotation(
    classifier: Classifier, picture: "gr.Image", of_model: str
) -> tuple[Callable[..., Any], list[Any], list[Any]]:
    """Add what rotates a QLNet's weights; return the event's function, inputs and outputs."""
    import gradio as gr

    with gr.Accordion(f"Rotate the weights{of_model}", open=False):
        gr.Markdown(
            "The channels of this model can be rotated: the weights that write them "
            "are multiplied by an orthogonal matrix, those that read them by its "
            "inverse. Other weights, the same function."
        )
        degrees = gr.Slider(0, 180, value=90, step=1, label="Angle in degrees")
        rotated = gr.Label(label="Classes of the rotated model", elem_classes="top5")
        changes = gr.Markdown(INVITATION, elem_classes="changes")
    turn, given, shown = partial(rotate_weights, classifier), [picture, degrees], [rotated, changes]
    degrees.change(turn, given, shown, trigger_mode="always_last", **OF_MODELS, **PRIVATE)
    return turn, given, shown


def guarded_blocks() -> "type[gr.Blocks]":
    """Return a class of pages that look at all that is sent, before gradio does.

    Gradio opens any image whose sender leaves out "meta", and downloads what has an address.
    """
    import gradio as gr

    def checked(part: Any, value: Any) -> Any:
        if isinstance(part, gr.Image) and value is not None:
            path = value.get("path") if isinstance(value, dict) else None
            answer(open_upload, path).close()
            return {"path": path, "meta": {"_type": "gradio.FileData"}}
        if isinstance(value, (dict, list)):  # a file in a wrong place
            raise gr.Error(NOT_GIVEN, print_exception=False)
        return value

    class GuardedBlocks(gr.Blocks):
        async def preprocess_data(
            self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any
        ) -> Any:
            parts = [*block_fn.inputs, *(None for _ in inputs)]  # too many are ignored by gradio
            inputs = [checked(part, value) for part, value in zip(parts, inputs, strict=False)]
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)

    return GuardedBlocks


class RouteGuard:
    """Refuse requests that gradio would answer but the page never makes.

    `file=` and `proxy=` fetch what lies elsewhere, `process_recording` gives a file to ffmpeg.
    """

    UNUSED = re.compile(r"/(file=/*[a-z][a-z0-9+.-]*:|proxy=|process_recording\b)", re.IGNORECASE)

    def __init__(self, app: Callable[..., Any]):
        self.app = app

    async def __call__(
        self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]
    ) -> None:
        """Answer as an ASGI application does."""
        if not self.UNUSED.search(scope.get("path", "")):
            await self.app(scope, receive, send)
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": NOT_GIVEN.encode()})


def build_demo(classifiers: list[Classifier], examples: list[str]) -> "gr.Blocks":
    """Build the page.

    Args:
        classifiers: the models, which stand side by side.
        examples: paths of pictures to offer; may be empty.

    Returns:
        The page, a `gradio.Blocks`, not yet served.
    """
    import gradio as gr

    def predict(picture: dict[str, Any] | None) -> list[Any]:
        """Return for each model classes, time, and a heat map of the first with its description."""
        if picture is None:
            return [{}, INVITATION, None, ""] * len(classifiers)
        image = answer(read_picture, picture)
        return [part for c in classifiers for part in answer(classify, c, image)]

    several = len(classifiers) > 1
    title = classifiers[0].headline()
    if several:
        first, *others = classifiers
        same = all(other.labels == first.labels for other in others)
        title = first.headline(f"{len(classifiers)} models") if same else "Image classifiers"
    outputs, rotations = [], []
    page = guarded_blocks()(title=title, delete_cache=DELETE_UPLOADS)
    with page, gr.Column(elem_id="page"):
        gr.Markdown(f"# {plain(title)}" + ("" if several else f"\n{classifiers[0].facts()}"))
        with gr.Row():
            with gr.Column(min_width=300):
                picture = gr.Image(label="Picture", elem_id="picture", height=320)
                seen = gr.Image(
                    label="As the model sees it: without transparency",
                    elem_id="seen",
                    height=320,
                    interactive=False,
                    visible=False,
                    buttons=["fullscreen"],
                )
                if examples:
                    gr.Examples(examples, picture, elem_id="examples", **PRIVATE)
            for classifier in classifiers:
                with gr.Column(min_width=300):
                    if several:
                        gr.Markdown(f"## {plain(classifier.headline())}\n{classifier.facts()}")
                    outputs += add_results(classifier, picture)
        for classifier in classifiers:
            of_model = f": {classifier.title}" if several else ""
            if hasattr(classifier.model, "rotate_stream"):
                rotations.append(add_rotation(classifier, picture, of_model))
            if slopes := draw_slopes(classifier.model):
                with gr.Accordion(f"Learnt PReLU slopes{of_model}", open=False):
                    gr.HTML(slopes, elem_classes="slopes")
            if classifier.card:
                with gr.Accordion(f"Model card{of_model}", open=False):
                    gr.Markdown(classifier.card)
        page.load(None, js=NAME_EXAMPLES, **PRIVATE)
        # The file itself is taken: gr.Image would turn it, and explain no error.
        prediction = picture.change(predict, picture, outputs, api_name="predict", **OF_MODELS)
        prediction.failure(lambda: None, None, picture, **PRIVATE)  # clears the page
        prediction.success(show_as_seen, picture, seen, preprocess=False, **PRIVATE)
        for turn, given, shown in rotations:
            prediction.success(turn, given, shown, **OF_MODELS, **PRIVATE)
    return page


def default_models() -> list[str]:
    """Return the models of CONVZOO_MODEL, of models.txt, of `make quickstart`, or a shipped one."""
    listed = HERE / "models.txt"
    if given := os.environ.get("CONVZOO_MODEL"):
        return [name.strip() for name in given.split(",") if name.strip()]
    if listed.is_file():  # its folders lie beside it
        names = listed.read_text(encoding="utf-8").split()
        return [str(HERE / name) if (HERE / name).is_dir() else name for name in names]
    return [str(folder) for folder in (QUICKSTART, SHIPPED) if folder.is_dir()][:1]


def main(argv: list[str] | None = None) -> None:
    """Serve the page until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "model", nargs="*", default=default_models(), help="model folders or Hub ids"
    )
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    args = parser.parse_args(argv)
    if not args.model:
        parser.error(
            "a model is needed: run `make quickstart`, or give a model folder or Hub id here or in "
            "the environment variable CONVZOO_MODEL"
        )
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read by `import gradio`
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", str(MAX_EVENTS))
    classifiers = []
    try:
        for name in args.model:
            classifiers.append(load_classifier(name))
        examples = find_examples(fetch(args.model[0]))
    except (OSError, ValueError) as error:
        parser.exit(1, f"app.py: cannot show the model {name!r}: {error}\n")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: tidied up
    with tempfile.TemporaryDirectory(prefix="convzoo-demo-") as uploads:
        if not os.environ.get("GRADIO_TEMP_DIR"):  # gradio's own is shared by all such programs
            os.environ["GRADIO_TEMP_DIR"] = uploads
        demo = build_demo(classifiers, examples)
        demo.queue(max_size=32).launch(
            server_name=args.host,
            server_port=args.port,
            max_file_size=MAX_FILE_BYTES,
            state_session_capacity=MAX_SESSIONS,
            app_kwargs={"middleware": [(RouteGuard, (), {})]},
            footer_links=["api", "settings"],
            run_history=False,
            css=CSS,
        )


if __name__ == "__main__":
    main()
