"""The published folder alone is enough: code, weights and processor load where we are not."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from modeling import (
    CNN,
    AlexNet,
    AlexNetConfig,
    CNNConfig,
    ConvZooImageProcessor,
    QLNet,
    QLNetConfig,
)
from tests.support.clients import run_as_stranger
from tests.support.golden_weights import checkerboard, images
from tests.support.models import extract_published_folders

MODELING = Path(__file__).parent.parent / "modeling"
REMOTE_CODE = sorted(path.name for path in MODELING.glob("*_*.py") if path.name != "__init__.py")
LABELS = {"id2label": {0: "cat", 1: "dog", 2: "owl"}}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 1]}
MODELS = {
    "cnn": lambda: CNN(CNNConfig(**LABELS, **STAGES)),
    "alexnet": lambda: AlexNet(
        AlexNetConfig.paper_2012(
            **LABELS, hidden_sizes=(8, 8, 8, 8, 8), classifier_hidden_size=16, pooled_size=2
        )
    ),
    "qlnet": lambda: QLNet(QLNetConfig(**LABELS, **STAGES)),
}
PROTOCOLS = {
    "cnn": "imagenet_bilinear_256",
    "alexnet": "mean_subtracted_bicubic_256",
    "qlnet": "imagenet_bicubic_235",
}
# What a stranger runs, in a folder of their own.
STRANGER = """
import json, sys
import numpy as np, torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

torch.set_num_threads(1)
for family in sys.argv[2:]:
    folder = f"{sys.argv[1]}/{family}"
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    loaded = {name.rpartition(".")[2] for name in sys.modules if name.startswith("transformers_m")}
    assert type(config).__module__.endswith(f".configuration_{family}"), type(config)
    assert "configuration_convzoo" in loaded and f"modeling_{family}" not in loaded, loaded
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    for thing in (processor, model, model.config):
        assert type(thing).__module__.startswith("transformers_modules."), type(thing)
    x = processor(Image.open("image.png"), return_tensors="pt")
    with torch.inference_mode():
        logits = model(**x).logits
    np.savez(f"{family}.npz", pixel_values=x["pixel_values"].numpy(), logits=logits.numpy())
    classify = pipeline("image-classification", model=folder, trust_remote_code=True, device="cpu")
    images = {name: classify(name, top_k=3) for name in ("image.png", "grey.png", "rgba.png")}
    json.dump(images, open(f"{family}.json", "w"))
    model.save_pretrained(f"again/{family}")
    processor.save_pretrained(f"again/{family}")
print([name for name in sys.modules if name.split(".")[0] in ("modeling", "convzoo")])
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The published folders, and the folder of a stranger who has used them."""
    published, elsewhere = (
        tmp_path_factory.mktemp("published"),
        tmp_path_factory.mktemp("elsewhere"),
    )
    torch.manual_seed(0)
    for family, make in MODELS.items():
        make().save_pretrained(published / family)
        processor = ConvZooImageProcessor.from_protocol(PROTOCOLS[family])
        processor.save_pretrained(published / family)
    image = Image.fromarray(checkerboard(240, 300))
    image.save(elsewhere / "image.png")
    image.convert("L").save(elsewhere / "grey.png")
    image.convert("RGBA").save(elsewhere / "rgba.png")
    done = run_as_stranger(STRANGER, published, *MODELS, folder=elsewhere)
    assert done.stdout.strip().endswith("[]"), "the stranger imported our package"
    return published, elsewhere


@pytest.mark.parametrize("family", MODELS)
def test_a_stranger_gets_the_same_numbers_from_the_published_folder(family, folders):
    published, elsewhere = folders
    processor = ConvZooImageProcessor.from_pretrained(published / family)
    model = AutoModelForImageClassification.from_pretrained(published / family)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the stranger: sums are taken in the same order
    with torch.inference_mode():
        x = processor(Image.open(elsewhere / "image.png"), return_tensors="pt")
        logits = model(**x).logits
    torch.set_num_threads(threads)
    result = np.load(elsewhere / f"{family}.npz")
    assert np.array_equal(result["pixel_values"], x["pixel_values"].numpy())
    assert np.array_equal(result["logits"], logits.numpy())

    answers = json.loads((elsewhere / f"{family}.json").read_text())
    scores = {entry["label"]: entry["score"] for entry in answers["image.png"]}
    expected = dict(zip(["cat", "dog", "owl"], logits[0].softmax(0).tolist(), strict=True))
    assert scores == pytest.approx(expected, rel=1e-4)  # softmax, and the names of the labels
    assert answers["rgba.png"] == answers["image.png"]
    assert answers["grey.png"] != answers["image.png"]


@pytest.mark.parametrize("family", MODELS)
def test_what_a_stranger_saves_is_complete_again(family, folders):
    published, elsewhere = folders
    names = {path.name for path in (published / family).iterdir()}
    assert names == {path.name for path in (elsewhere / "again" / family).iterdir()}
    for name in names:
        original, again = (published / family / name), (elsewhere / "again" / family / name)
        assert original.read_bytes() == again.read_bytes(), name


# Folders of before ------------------------------------------------------------------------------

OLD_STRANGER = """
import json, sys
import numpy as np, torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

torch.set_num_threads(1)
x, logits = torch.from_numpy(np.load("images.npy")), {}
for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    assert processor(np.zeros((9, 9, 3), np.uint8))["pixel_values"].shape == (1, 3, 224, 224)
    with torch.inference_mode():
        logits[folder] = model(x).logits.tolist()
print(any(name.endswith(".modeling_convzoo") for name in sys.modules))
json.dump(logits, open("logits.json", "w"))
"""


@pytest.fixture(scope="module")
def old_folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    extract_published_folders(folder)
    return folder


def test_folders_of_before_load_with_their_own_code(old_folders, tmp_path):
    np.save(tmp_path / "images.npy", images(size=40).float().numpy())
    paths = [old_folders / family for family in MODELS]
    done = run_as_stranger(OLD_STRANGER, *paths, folder=tmp_path)
    assert done.stdout.strip().endswith("False")  # none of today's code
    logits = json.loads((tmp_path / "logits.json").read_text())
    expected = json.loads((old_folders / "logits.json").read_text())
    for family, path in zip(MODELS, paths, strict=True):
        np.testing.assert_allclose(logits[str(path)], expected[family], atol=1e-5)


@pytest.mark.parametrize("family", MODELS)
def test_folders_of_before_load_with_the_code_of_today_and_are_saved_with_it(
    family, old_folders, tmp_path
):
    model = AutoModelForImageClassification.from_pretrained(old_folders / family)
    processor = AutoImageProcessor.from_pretrained(old_folders / family)
    assert type(model).__module__ == f"modeling.modeling_{family}"
    with torch.inference_mode():
        logits = model(images(size=40).float()).logits
    expected = json.loads((old_folders / "logits.json").read_text())[family]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for name in ("preprocessor_config.json", "model.safetensors"):
        assert (tmp_path / name).read_bytes() == (old_folders / family / name).read_bytes()
    old, new = (
        json.loads((f / "config.json").read_text()) for f in (old_folders / family, tmp_path)
    )
    assert old["auto_map"].items() <= new["auto_map"].items()  # today's has more classes
    assert new == {**old, "auto_map": new["auto_map"]}
    assert (tmp_path / "modeling_convzoo.py").read_bytes() == (
        MODELING / "modeling_convzoo.py"
    ).read_bytes()


# The rules that make it possible ---------------------------------------------------------------


def test_every_file_of_the_package_is_remote_code_or_the_registration():
    assert {path.name for path in MODELING.glob("*.py")} == {*REMOTE_CODE, "__init__.py"}
    assert not [path for path in MODELING.iterdir() if path.is_dir() and path.name != "__pycache__"]


@pytest.mark.parametrize("name", REMOTE_CODE)
def test_remote_code_imports_only_what_every_hub_user_has(name):
    third_party = {"torch", "transformers"}
    if name.startswith("configuration_"):
        third_party = {"transformers", "huggingface_hub"}  # the latter is required by the former
    if name.startswith("image_processing_"):
        third_party = {"transformers", "numpy", "PIL"}
    if name == "configuration_convzoo.py":
        third_party = {"transformers"}
    allowed_siblings = {"configuration_convzoo"} if name.startswith("configuration_") else set()
    if name.startswith("modeling_"):
        allowed_siblings = {name.replace("modeling_", "configuration_")[:-3], "modeling_convzoo"}
        allowed_siblings |= {"layers_by_hand"}
    for node in ast.walk(ast.parse((MODELING / name).read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module in allowed_siblings, ast.unparse(node)
            continue
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            top = module.split(".")[0]
            assert top in sys.stdlib_module_names or top in third_party, ast.unparse(node)


@pytest.mark.parametrize("name", REMOTE_CODE)
def test_no_line_of_text_looks_like_a_relative_import(name):
    """Transformers looks for imports with a regular expression, in comments and docstrings too."""
    source = (MODELING / name).read_text()
    real = {
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    for number, line in enumerate(source.splitlines(), start=1):
        if line.strip().startswith(("from .", "import .")):
            assert number in real, line


def test_importing_the_package_costs_no_more_than_the_modules_it_stands_on():
    code = """
import sys
import torch
import transformers.image_processing_utils, transformers.modeling_layers
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification
before = set(sys.modules)
import modeling
print(sorted(name for name in set(sys.modules) - before if not name.startswith("modeling")))
print("transformers.pipelines" in sys.modules, "transformers.trainer" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=MODELING.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["[]", "False False"]
