"""Cards as a whole: metadata, code, writing."""

import ast
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hub_cards.card.rendering import write_card
from hub_cards.cli import main
from tests.support.clients import STRANGER
from tests.support.hub_server import GUARD, HubServer
from tests.support.model_folders import (
    CONFIGS,
    DATASET,
    NAMES,
    make_bare,
    make_full,
    put,
    put_results,
    render,
    result,
    section,
)


def test_metadata_holds_the_numbers_of_the_results_file(full):
    other = DATASET | {"id": "ILSVRC/imagenet-1k", "name": "ImageNet", "revision": "abc"}
    metrics = {"top1_accuracy": 0.1234567890123, "top5_accuracy": 0.5, "loss": 1.0}
    put_results(full, result(full), result(full, dataset=other, metrics=metrics))

    data = ModelCard.load(write_card(full, repo_id="someone/tiny-cnn")).data

    assert data.model_name == "tiny-cnn"
    assert data.license == "apache-2.0"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-classification")
    assert data.datasets == ["zalando-datasets/fashion_mnist", "ILSVRC/imagenet-1k"]
    assert data.tags == ["convzoo", "cnn", "vision"] and data.metrics == ["accuracy"]
    assert {r.task_type for r in data.eval_results} == {"image-classification"}
    assert data.eval_results[2].dataset_type == "ILSVRC/imagenet-1k"
    found = [
        (r.dataset_name, r.dataset_split, r.dataset_revision, r.metric_name, r.metric_value)
        for r in data.eval_results
    ]
    assert found == [
        ("Fashion-MNIST sample", "test", None, "Top-1 accuracy", 81 / 263),
        ("Fashion-MNIST sample", "test", None, "Top-5 accuracy", 0.75),
        ("ImageNet", "test", "abc", "Top-1 accuracy", 0.1234567890123),
        ("ImageNet", "test", "abc", "Top-5 accuracy", 0.5),
    ]


def test_a_sample_is_not_indexed_as_the_dataset_it_is_from(full):
    entry = ModelCard(render(full)).data.eval_results[0]
    assert entry.dataset_type == "fashion-mnist-sample"
    assert "[zalando-datasets/fashion_mnist](https://huggingface.co/datasets/" in render(full)


def test_example_images_are_offered_where_the_hub_will_have_them(full):
    (full / "examples").mkdir()
    for name in ("00000_ankle_boot.png", "00250_t#1.jpg"):
        Image.new("RGB", (8, 8)).save(full / "examples" / name)
    assert "widget" not in render(full)
    assert ModelCard(render(full, repo_id="someone/tiny")).data["widget"] == [
        {
            "src": f"https://huggingface.co/someone/tiny/resolve/main/examples/{name}",
            "example_title": title,
        }
        for name, title in (("00000_ankle_boot.png", "ankle boot"), ("00250_t%231.jpg", "t#1"))
    ]


def test_reproduce_repeats_the_recorded_commands(full):
    code = section(render(full), "Reproduce")
    assert "accelerate launch train_accelerate.py recipes/tiny.toml\npython -m convzoo eval" in code


def test_missing_evidence_is_said_and_nothing_else(bare):
    card = render(bare)
    for title in (
        "Training data",
        "Training procedure",
        "Training results",
        "Evaluation",
        "Weak spots",
        "Calibration",
        "Robustness",
        "Measurement",
        "Environmental impact",
        "Reproduce",
    ):
        assert section(card, title) == "Not measured."
    data = ModelCard(card).data
    assert data.eval_results is None and data.datasets is None and data.metrics is None
    assert " %" not in card


@pytest.mark.parametrize("model_type", CONFIGS)
@pytest.mark.parametrize("make", [make_bare, make_full])
def test_no_card_has_a_placeholder(tmp_path, model_type, make):
    card = render(make(tmp_path / "model", model_type))
    for text in ("More Information", "your-", "TODO", "{{", "None", "path/to", "<", "nan", "null"):
        assert text not in card.replace("<!-- hub_cards", "")


PAPERS = {
    "cnn": ["he2015delving", "he2016deep"],
    "alexnet": ["krizhevsky2012imagenet", "krizhevsky2014one"],
    "qlnet": ["liu2023novel"],
}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_family_cites_its_papers(tmp_path, model_type):
    citation = section(render(make_bare(tmp_path / "model", model_type)), "Citation")
    assert re.findall(r"@\w+{(\w+),", citation) == PAPERS[model_type]
    assert citation.count("{") == citation.count("}")


def test_description_follows_the_configuration(tmp_path):
    relu = render(make_bare(tmp_path / "relu", use_prelu=False, drop_path_rate=0.0))
    assert "PReLU" not in relu and "Stochastic depth" not in relu
    prelu = render(make_bare(tmp_path / "prelu"))
    assert "one learned slope for each channel" in prelu and "to 0.05 at the last" in prelu
    lrn = {"use_lrn": True, "final_relu": True, "hidden_sizes": [96, 256, 384, 384, 256]}
    paper = render(make_bare(tmp_path / "paper", "alexnet", **lrn))
    assert "ReLU on the logits" in paper and "one-tower" not in paper
    assert "normalisation** follows the first two" in paper


def test_code_loads_from_the_hub_only_when_the_id_is_known(full):
    local, published = render(full), render(full, repo_id="someone/tiny-cnn")
    assert 'model="."' in local and "someone" not in local
    assert 'model="someone/tiny-cnn"' in published and '"."' not in published
    for card in (local, published):
        blocks = re.findall(r"```python\n(.*?)```", card, re.S)
        assert len(blocks) == 3
        for block in blocks:
            ast.parse(block)
            assert "trust_remote_code=True" in block


@pytest.mark.parametrize("repo_id", ["tiny", "a/b/c", "some one/tiny", ""])
def test_repo_id_must_be_a_hub_id(full, repo_id):
    with pytest.raises(ValueError, match="repo_id must look like user/name"):
        render(full, repo_id=repo_id)


def test_rendering_twice_changes_nothing(full):
    path = write_card(full)
    before = path.read_bytes(), path.stat().st_mtime_ns
    assert write_card(full) == path
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_the_same_evidence_elsewhere_gives_the_same_bytes(full, tmp_path):
    shutil.copytree(full, tmp_path / "copy")
    assert write_card(full).read_bytes() == write_card(tmp_path / "copy").read_bytes()


def test_a_card_edited_by_hand_is_kept(full, capsys):
    path = write_card(full)
    edited = path.read_text().replace("# cnn-tiny", "# My model")
    path.write_text(edited)
    assert main(["render", str(full)]) == 1
    assert "edited by hand" in capsys.readouterr().err and path.read_text() == edited
    assert main(["render", str(full), "--force"]) == 0
    assert "# cnn-tiny" in path.read_text()


def test_a_foreign_readme_is_kept(full):
    put(full, "README.md", "mine")
    with pytest.raises(FileExistsError, match="--force"):
        write_card(full)
    assert (full / "README.md").read_text() == "mine"


def test_new_evidence_and_other_line_ends_are_no_hand_edit(full):
    path = write_card(full)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    put_results(full, result(full, metrics={"top1_accuracy": 0.25}))
    assert "**25.00 % top-1 accuracy**" in write_card(full).read_text()


def test_output_goes_to_another_file(full, tmp_path, capsys):
    target = tmp_path / "card.md"
    assert main(["render", str(full), "--output", str(target), "--repo-id", "someone/tiny"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert "# tiny\n" in target.read_text() and not (full / "README.md").exists()


@pytest.mark.parametrize("place", ["clone", "hub"])
def test_the_code_on_a_card_runs(tmp_path, place):
    """In a clone, or on the Hub; in a process that cannot import our packages."""
    from modeling import CNN, CNNConfig, ConvZooImageProcessor

    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    elsewhere.mkdir()
    labels = dict(enumerate(NAMES))
    CNN(CNNConfig(id2label=labels, **CONFIGS["cnn"])).save_pretrained(folder)
    ConvZooImageProcessor(size=32, crop_size=28).save_pretrained(folder)
    card = write_card(folder, repo_id="someone/tiny" if place == "hub" else None)
    blocks = re.findall(r"```python\n(.*?)```", card.read_text(), re.S)
    code = "\n".join(blocks) + "\nprint(features, model.config.num_labels)"
    where = folder if place == "clone" else elsewhere
    Image.new("RGB", (40, 60), "red").save(where / "photo.jpg")
    with HubServer(tmp_path / "hub", {"hf_someone": "someone"}) as hub:
        hub.add_repo("models", "someone/tiny", folder)
        program = ("-I", "-S", "-c", GUARD + STRANGER + code)
        done = hub.run(*program, home=tmp_path / "home", cwd=where)
        assert bool(hub.requests("model.safetensors")) == (place == "hub")
    shown = re.findall(r"^0\.\d{3}  (.*)$", done.stdout, re.M)
    assert len(shown) == 5 and set(shown) < set(NAMES)
    assert "(classifier): Identity()" in done.stdout and done.stdout.rstrip().endswith(" 7")
