"""The command line of the engine, as a user types it."""

import json
import tomllib
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
import typer
from PIL import Image
from transformers import pipeline
from typer.main import get_command

import convzoo.conversion.converting
import convzoo.evaluation.evaluating
import convzoo.resizing.command
from convzoo.cli import evaluate, main
from convzoo.cli.parsing import spread, with_home, with_options_of_groups
from convzoo.cli.program import COMMANDS
from convzoo.evaluation.crop_settings import CropSettings
from convzoo.evaluation.protocols import Computation, EvaluationProtocol
from modeling import CNN, CNNConfig, ConvZooImageProcessor
from tests.support.clients import ROOT, run, run_warm
from tests.support.images import COLOURS, coloured_images, write_split

NAMES = dict(enumerate(COLOURS))


def save_model(folder):
    sizes = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
    model = CNN(CNNConfig(stem="small", num_labels=3, id2label=NAMES, **sizes))
    model.save_pretrained(folder)
    ConvZooImageProcessor(18, crop_size=16).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def photos(tmp_path):
    """A folder with two images, one of them in a folder of its own, and a text file."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    Image.new("RGB", (20, 20), COLOURS["red"]).save(folder / "b.png")
    Image.new("RGB", (20, 20), COLOURS["blue"]).save(folder / "more" / "a.JPG")
    (folder / "notes.txt").write_text("none")
    return folder


def test_help_answers_without_loading_torch():
    done = run("-X", "importtime", "-m", "convzoo", "--help")
    for command in ("evaluate", "predict", "convert", "recipe", "preprocess", "inspect"):
        assert command in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "datasets", "evaluate", "gradio", "numpy"}
    assert not loaded & {"rich", "pydantic", "importlib.metadata", "convzoo.cli.evaluate"}


GARBAGE = """
import gc, sys
from convzoo.cli import main
for argv in (sys.argv[1:], None):
    assert main(argv) == 0
    print("gc", gc.isenabled(), gc.get_freeze_count())
"""


def test_garbage_is_not_searched_for_in_what_a_process_of_its_own_imports(model, photos):
    said = run("-c", GARBAGE, "predict", model, photos / "b.png").stdout.splitlines()
    by_python, by_itself = (line.split()[1:] for line in said if line.startswith("gc "))
    assert by_python == ["True", "0"]
    assert by_itself[0] == "True" and int(by_itself[1]) > 100_000


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_has_examples_and_its_sentence(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: convzoo {command} [OPTIONS] ")
    assert COMMANDS[command] in " ".join(text.split())
    assert "--quiet" in text and "--help" in text
    assert f"\n  convzoo {command}" in text.partition("\nExamples:\n")[2]


def test_commands_that_read_a_dataset_take_all_that_names_one(capsys):
    found = 0
    for command in COMMANDS:
        main([command, "--help"])
        text = capsys.readouterr().out
        named = [f"\n  --{name} " in text for name in ("image-column", "label-column", "root")]
        assert all(named) or not any(named), command
        found += all(named)
    assert found == 9


def test_options_of_a_group_come_as_one_parameter_and_stand_where_it_does():
    @dataclass
    class Sizes:
        width: Annotated[int, typer.Option(help="In pixels.")] = 3
        height: int = 4

    def command(name: str, *, sizes: Sizes, loud: bool = False) -> str:
        return f"{name} {sizes} {loud}"

    app = typer.Typer()
    app.command()(with_options_of_groups(command))
    program = get_command(app)
    names = [parameter.name for parameter in program.params]
    assert names[:4] == ["name", "width", "height", "loud"]
    printed = program.main(["a", "--height", "5", "--loud"], standalone_mode=False)
    assert printed == f"a {Sizes(3, 5)} True"


def test_help_of_a_command_loads_nothing_but_typer():
    done = run("-X", "importtime", "-m", "convzoo", "evaluate", "--help")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "transformers", "datasets", "numpy", "rich", "pydantic"}


def test_no_command_shows_the_help_and_is_an_error(capsys):
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


def test_the_version_is_that_of_the_project():
    done = run("-m", "convzoo", "--version")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert done.stdout == f"convzoo {project['version']}\n"
    assert project["scripts"]["convzoo"] == "convzoo.cli:main"


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("convzoo pre", {"predict", "preprocess"}), ("convzoo re", {"recipe", "report"})],
)
def test_commands_are_completed(typed, completed):
    words = {"_TYPER_COMPLETE_ARGS": typed, "COMP_WORDS": typed, "COMP_CWORD": "1"}
    code = "from convzoo.cli import main; main([])"
    done = run("-c", code, _CONVZOO_COMPLETE="complete_bash", **words)
    assert set(done.stdout.split()) == completed


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--splits a b --limit 3", "--splits=a --splits=b --limit 3"),
        ("x --splits a", "x --splits=a"),
        ("--splits a --splits b", "--splits=a --splits=b"),
        ("--splits=a b", "--splits=a b"),
        ("--splits", "--splits"),
        ("--splits --limit 3", "--splits --limit 3"),
        ("--classes", "--classes="),
        ("--classes --limit 3", "--classes= --limit 3"),
        ("--classes a b --limit 3", "--classes=a --classes=b --limit 3"),
        ("--splits a -- --splits b", "--splits=a -- --splits b"),
        ("--json", "--json="),
        ("--json --limit 3", "--json= --limit 3"),
        ("--json - x", "--json=- x"),
        ("--json file x", "--json=file x"),
        ("--limit -3 x", "--limit -3 x"),
    ],
)
def test_options_of_several_or_optional_values(typed, read):
    several, optional = {"--splits", "--classes"}, {"--classes", "--json"}
    assert spread(typed.split(), several=several, optional=optional) == read.split()


def test_the_home_folder_is_found_behind_an_option(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = ["~/a b", "--output=~/a.json", "~", "--data=~", "a~/b", "--split=a~", "~b/c", "x\n~/"]
    expected = ["/home/me/a b", "--output=/home/me/a.json", "/home/me", "--data=/home/me"]
    assert [with_home(word) for word in given] == [*expected, *given[4:]]


@pytest.fixture
def evaluated(monkeypatch):
    """What `evaluate_model` was called with, instead of an evaluation."""
    calls = []

    def evaluate_model(*arguments, **options):
        calls.append((arguments, options))
        return [{"metrics": {}}]

    monkeypatch.setattr(convzoo.evaluation.evaluating, "evaluate_model", evaluate_model)
    monkeypatch.setattr(evaluate, "is_main_process", lambda: True)
    return calls


@pytest.mark.parametrize(
    ("typed", "classes"),
    [
        ("", ()),
        ("--classes", None),
        ("--classes tench", ["tench"]),
        ("--classes tench goldfish --limit 7", ["tench", "goldfish"]),
    ],
)
def test_classes_are_none_several_or_the_models(typed, classes, *, evaluated, capsys):
    assert main(["evaluate", "m", "--data", "d", "--json", *typed.split()]) == 0
    ((_, options),) = evaluated
    assert options["choice"].classes == classes
    assert options["choice"].limit == (7 if "7" in typed else 0)
    assert json.loads(capsys.readouterr().out) == {"metrics": {}}


def test_options_arrive_as_they_are_typed(evaluated, tmp_path, capsys):
    options = (
        "--split val --batch-size 3 --num-workers 0 --crops 10 --exif-rotation --name n --fast"
    )
    options += " --revision r --image-column i --label-column l --trust-remote-code --json"
    options += " --match-classes number --size 160 --crop-ratio 0.9 --interpolation box"
    options += " --crops-of image --scales 1,1.5 --averaged logits --dtype bfloat16"
    options += " --channels-last --compile --fast-decoding"
    file = tmp_path / "result.json"
    assert main(["evaluate", "m", "--data", "d", *options.split(), "--output", str(file)]) == 0
    (((model, data, *_), given),) = evaluated
    assert (model, data.path, data.name, data.revision) == ("m", "d", "n", "r")
    assert (data.image_column, data.label_column) == ("i", "l")
    protocol = EvaluationProtocol(
        crop=CropSettings(size=160, ratio=0.9, interpolation="box"),
        crops=10,
        crops_of="image",
        scales=(1.0, 1.5),
        averaged="logits",
        computation=Computation(fused=True, dtype="bfloat16", channels_last=True, compiled=True),
        exif_rotation=True,
        fast_decoding=True,
        batch_size=3,
        num_workers=0,
    )
    assert given["protocols"] == [protocol] and given["split"] == "val"
    assert given["trust_remote_code"] is True and given["choice"].match_by == "number"
    assert json.loads(file.read_text()) == {"metrics": {}}


def test_splits_are_several(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(
        convzoo.resizing.command, "preprocess", lambda *_, **options: calls.append(options)
    )
    monkeypatch.setattr(convzoo.resizing.command, "resizing_report_text", lambda report: "copied")
    assert main(["preprocess", "--splits", "train", "test", "--size", "9", "in", "out"]) == 0
    assert calls[0]["splits"] == ("train", "test")
    assert capsys.readouterr().out == "copied\n"


def test_importing_the_models_loads_no_training_library():
    """benchmarks/import_time.py measures the time."""
    done = run("-c", "import sys, modeling; print(*sys.modules)")
    heavy = {"datasets", "evaluate", "gradio", "matplotlib", "transformers.pipelines"}
    assert not heavy & set(done.stdout.split())


def test_recipe_prints_every_key_or_a_resolved_file(tmp_path):
    explained = run("-m", "convzoo", "recipe").stdout
    assert "learning_rate = 0.1  # Peak learning rate" in explained
    resolved = run("-m", "convzoo", "recipe", "recipes/quickstart.toml", "train.epochs=3").stdout
    assert "epochs = 3.0" in resolved and "momentum = 0.9" in resolved


def test_a_wrong_command_names_the_right_ones():
    done = run("-m", "convzoo", "evalute", check=False)
    assert done.returncode == 2 and "evaluate" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("evaluate m", "error: Missing option '--data'; see convzoo evaluate --help"),
        ("evaluate m --data d --crops 3", "error: --crops: '3' is not one of '1', '10'"),
        ("evaluate m --data d --foo", "error: No such option: --foo"),
        ("predict m", "error: Missing argument 'IMAGE'; see convzoo predict --help"),
        (
            "inspect m --gpus none",
            "error: --gpus: must be a whole number of at least 1; got 'none'",
        ),
        ("preprocess a b --splits", "error: Option '--splits' requires an argument"),
        ("preprocess a b --quality high", "error: --quality: "),
        ("--foo", "error: No such option: --foo; see convzoo --help"),
        ("train r.toml", "error: there is no command 'train': `accelerate launch -q train_"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(typed, message, capsys):
    assert main(typed.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message) and captured.err.count("\n") == 1
    assert "--help" in captured.err and not captured.out


# A finder of modules that fails when one is looked for, as Ctrl-C or a missing package would.
FAIL_AT_IMPORT = """
import sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            raise {error}
sys.meta_path.insert(0, Finder())
from convzoo.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("module", ["typer", "pydantic", "convzoo.recipe.files"])
def test_an_interrupt_is_told_in_one_word_while_importing_too(module):
    code = FAIL_AT_IMPORT.format(error="KeyboardInterrupt")
    done = run("-c", code, module, "recipe", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("module", ["typer", "pydantic", "convzoo.recipe.files"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(module):
    code = FAIL_AT_IMPORT.format(error="ModuleNotFoundError(f'No module named {name!r}')")
    done = run("-c", code, module, "recipe", check=False)
    assert done.returncode == 1
    expected = f"error: No module named '{module}'. Install it: pip install -e '.[train]'\n"
    assert done.stderr == expected


def test_an_error_that_is_ours_keeps_its_traceback(monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(convzoo.conversion.converting, "convert", fail)
    with pytest.raises(ZeroDivisionError):
        main(["convert", "a", "b"])


def test_predict_takes_folders_and_names_what_is_broken(model, photos, *, tmp_path, capsys):
    broken, missing = tmp_path / "broken.jpg", tmp_path / "missing.jpg"
    broken.write_bytes(b"no image")
    last = photos / "b.png"
    names = [str(name) for name in (broken, photos, missing, last)]
    assert main(["predict", model, *names, "--top-k", "2"]) == 1
    captured = capsys.readouterr()
    answered = [line for line in captured.out.splitlines() if not line.startswith(" ")]
    assert answered == [str(last), str(photos / "more" / "a.JPG"), str(last)]
    assert len(captured.out.splitlines()) == 9
    problems = captured.err.splitlines()
    assert problems[0].startswith(f"error: {broken}: an image must be")
    assert problems[1] == f"error: {missing}: No such file or directory"
    assert main(["predict", model, *names, "--top-k", "2", "--json"]) == 1
    items = json.loads(capsys.readouterr().out)
    assert [item["image"] for item in items] == answered
    assert {len(item["predictions"]) for item in items} == {2}
    assert main(["predict", model, str(broken), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == []


def test_predict_and_the_pipeline_say_the_same_of_a_phones_photo(model, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    noise = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png", exif=exif)
    assert main(["predict", model, str(tmp_path / "photo.png"), "--json"]) == 0
    (item,) = json.loads(capsys.readouterr().out)
    expected = pipeline("image-classification", model=model)(str(tmp_path / "photo.png"))
    scores = {row["label"]: row["score"] for row in expected}
    assert {row["label"]: row["score"] for row in item["predictions"]} == pytest.approx(scores)


def test_predict_refuses_a_folder_without_images(tmp_path, capsys):
    assert main(["predict", "model", str(tmp_path)]) == 1
    assert "must be an image file, or a folder with some" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_code_of_a_model_runs_only_if_it_is_trusted(command, tmp_path, *, photos, capsys):
    folder = tmp_path / "stranger"
    save_model(folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "stranger"}
    (folder / "config.json").write_text(json.dumps(config))
    write_split(tmp_path / "data", "test", *coloured_images(3, seed=0))
    words = {
        "predict": ["predict", str(folder), str(photos)],
        "evaluate": ["evaluate", str(folder), "--data", str(tmp_path / "data")],
    }[command]
    words += ["--num-workers", "0"] if command == "evaluate" else []
    assert main(words) == 1
    assert "trust_remote_code=True" in capsys.readouterr().err
    assert main([*words, "--trust-remote-code"]) == 0
    assert str(folder if command == "evaluate" else photos) in capsys.readouterr().out


def test_inspect_prints_json_or_writes_it(model, tmp_path, capsys):
    file = tmp_path / "report.json"
    assert main(["inspect", model, "--json", str(file)]) == 0
    assert "multiply-adds" in capsys.readouterr().out
    report = json.loads(file.read_text())
    assert report["num_labels"] == 3
    for words in (["inspect", model, "--json"], ["inspect", "--json", "-", model]):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out).keys() == report.keys()


def test_convert_prints_what_it_wrote_as_json(tmp_path, monkeypatch, capsys):
    def convert(source, output, labels):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "conversion.json").write_text('{"format": "timm"}')
        return f"format  timm {labels}"

    monkeypatch.setattr(convzoo.conversion.converting, "convert", convert)
    assert main(["convert", "weights", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {"format": "timm", "output": str(tmp_path / "out")}


def test_quiet_leaves_only_the_result(model, tmp_path):
    write_split(tmp_path / "data", "test", *coloured_images(9, seed=0))
    command = ("-m", "convzoo", "evaluate", model, "--data", tmp_path / "data")
    command += ("--num-workers", 0, "--json")
    done = run(*command, "--quiet")
    assert json.loads(done.stdout)["dataset"]["num_samples"] == 9
    assert done.stderr == ""


def test_predict_refuses_what_is_no_image(model, capsys):
    assert main(["predict", model, str(ROOT / "README.md")]) == 1
    assert "README.md: an image must be a readable JPEG" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("--batch-size", 0, 1), ("--num-workers", -1, 0), ("--limit", -3, 0)],
)
def test_numbers_out_of_range_are_refused_at_once(option, value, least):
    done = run("-m", "convzoo", "evaluate", "m", "--data", "d", option, value, check=False)
    assert done.returncode == 2
    assert f"{option}: must be a whole number of at least {least}; got '{value}'" in done.stderr


def test_evaluation_shows_neither_bars_of_loading_nor_missing_cards(tmp_path):
    write_split(tmp_path / "data", "test", *coloured_images(9, seed=0))
    (tmp_path / "data" / "README.md").write_text("Three colours.\n")  # a card without front matter
    save_model(tmp_path / "model")
    command = ("evaluate", tmp_path / "model", "--data", tmp_path / "data", "--num-workers", 0)
    done = run_warm("-m", "convzoo", *command)
    assert "top-1" in done.stdout and "evaluate: " in done.stderr  # the bar that --quiet hides
    assert "Loading weights" not in done.stderr and "metadata block" not in done.stderr
