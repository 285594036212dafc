import tomllib

import pytest

from convzoo.recipe.files import (
    describe_settings,
    load_recipe,
    recipe_differences,
    recipe_from_tables,
    recipe_to_tables,
    recipe_to_toml,
)
from convzoo.recipe.settings import Train, sections
from tests.support.clients import ROOT

QUICKSTART = ROOT / "recipes" / "quickstart.toml"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_survives_writing_and_reading(path, tmp_path):
    recipe = load_recipe(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(recipe_to_toml(recipe))
    assert load_recipe(copy) == recipe
    assert recipe_from_tables(recipe_to_tables(recipe)) == recipe


def test_overrides_are_toml_values_or_words():
    recipe = load_recipe(QUICKSTART, ["train.epochs=2", "run.name=other", "model.depths=[1, 1, 2]"])
    assert recipe.train.epochs == 2.0 and isinstance(recipe.train.epochs, float)
    assert recipe.run.name == "other"
    assert recipe.model.config["depths"] == [1, 1, 2]


@pytest.mark.parametrize("text", ["2026-11-28", "1.50", "1_000", "true", "07", "v1.0"])
def test_a_key_of_texts_takes_every_word_as_it_is(text):
    assert load_recipe(QUICKSTART, [f"run.name={text}"]).run.name == text


def test_the_home_folder_is_found_where_no_shell_puts_it(tmp_path, monkeypatch):
    """Shells expand ~ in the beginning of a word only, and would make a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = ("data.path", "data.root", "data.cache_dir", "finetune.pretrained", "run.output_dir")
    recipe = load_recipe(QUICKSTART, [f"{key}=~/a b" for key in keys])
    data, home = recipe.data, str(tmp_path / "a b")
    assert [data.path, data.root, data.cache_dir, recipe.finetune.pretrained] == [home] * 4
    assert recipe.folder == tmp_path / "a b" / "quickstart"


def test_a_run_has_the_name_of_its_file_as_far_as_a_folder_can(tmp_path):
    path = tmp_path / "Meine Gr\u00f6\u00dfe (2).toml"
    path.write_text(QUICKSTART.read_text())
    assert load_recipe(path).run.name == "Meine-Gr\u00f6\u00dfe-2"


@pytest.mark.parametrize("stem", ["exp-", "-exp", "v1.", ".hidden", "_", "-"])
def test_a_name_that_a_folder_can_have_is_taken_as_it_is(stem, tmp_path):
    """Else a run that was begun before would not be found, or another one's would."""
    path = tmp_path / f"{stem}.toml"
    path.write_text(QUICKSTART.read_text())
    assert load_recipe(path).run.name == stem


@pytest.mark.parametrize("stem", ["!!!", "! .", " - "])
def test_a_name_of_which_nothing_is_left_is_refused(stem, tmp_path):
    path = tmp_path / f"{stem}.toml"
    path.write_text(QUICKSTART.read_text())
    with pytest.raises(ValueError, match="must have a letter or a digit.*set run.name"):
        load_recipe(path)
    assert load_recipe(path, ["run.name=mine"]).run.name == "mine"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.epochs=2", ["trian", "quickstart.toml", "did you mean 'train'"]),
        ("optimizer.weigth_decay=1", ["weigth_decay", "[optimizer]", "'weight_decay'"]),
        ("model.depth=[1]", ["depth", "[model]", "'depths'"]),
        ("model.depths=[1]", ["depths", "hidden_sizes"]),
        ("model.depths=3", ["depths in ", "[model] must be of type list[int]", "got 3"]),
        ("model.hidden_sizes=['a']", ["hidden_sizes", "of type list[int]", "got ['a']"]),
        ("model.embedding_size=true", ["embedding_size", "of type int; got True"]),
        ("model.prelu_init=wide", ["prelu_init", "of type float | int; got 'wide'"]),
        ("model.use_prelu=0", ["use_prelu", "of type bool; got 0"]),
        ("model.model_type=resnet", ["cnn, alexnet, qlnet", "resnet"]),
        ("train.epochs=many", ["epochs", "float", "many"]),
        ("train.channels_last=1", ["channels_last", "bool", "1"]),
        ("train.class_weights=inverse", ["none, balanced, effective, or a table", "'inverse'"]),
        ("train.class_weights={cat=0}", ["class_weights", "numbers above 0; got {'cat': 0}"]),
        ("train.global_batch_size=0", ["global_batch_size", "[1, inf]", "0"]),
        ("train.global_batch_size=1.5", ["global_batch_size", "int"]),
        ("train.label_smoothing=1.5", ["label_smoothing", "[0.0, 1.0]"]),
        ("optimizer.learning_rate=nan", ["learning_rate", "nan"]),
        ("train.epochs=inf", ["epochs", "finite"]),
        ("train.epochs=0", ["epochs", "(0.0, 9007199254740992.0]", "got 0"]),
        ("train.epochs=1e300", ["epochs", "9007199254740992.0]", "1e+300"]),
        ("train.eval_crops=true", ["eval_crops", "of type int", "True"]),
        ("train.epochs=true", ["epochs", "of type float", "True"]),
        ("run.trackers=wandb", ["trackers", "a list of texts", "'wandb'"]),
        ("run.trackers=['mlflow']", ["trackers", "tensorboard, trackio, wandb; got 'mlflow'"]),
        ("augmentation.color_jitter=[]", ["color_jitter", "a list of numbers; got []"]),
        ("schedule.warmup_epochs=4.5", ["warmup_epochs", "at most train.epochs, 4.0; got 4.5"]),
        ("train.epochs=0.25", ["warmup_epochs", "at most train.epochs, 0.25; got 0.5"]),
        ("preprocessing.mean=3", ["mean", "list"]),
        ("data.path=''", ["data.path", "must be set"]),
        ("augmentation.scale=[0.5]", ["scale", "two numbers, the smaller first"]),
        ("augmentation.scale=[0.9, 0.1]", ["scale", "the smaller first; got [0.9, 0.1]"]),
        ("optimizer.betas=[0.9]", ["betas", "two numbers"]),
        ("preprocessing.mean=[0.1, 0.2]", ["mean", "one number for each channel, 3"]),
        ("preprocessing.std=[0, 0, 0]", ["std", "[1e-06, inf]"]),
        ("run.name=../../elsewhere", ["run.name", "folder name", "../../elsewhere"]),
        ("run.seed=100000000000000000000", ["seed", "100000000000000000000"]),
        ("epochs=3", ["section.key=value", "epochs=3"]),
        ("augmentation.repeats=3", ["global_batch_size", "a multiple of augmentation.repeats, 3"]),
        ("augmentation.first_crop=8", ["growing_epochs", "must be set together; got 8 and 0.0"]),
        ("augmentation.growing_from_epoch=2", ["less than growing_epochs, 0.0; got 2.0"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_rule(override, words):
    with pytest.raises(ValueError, match=words[0]) as caught:
        load_recipe(QUICKSTART, [override])
    for word in words:
        assert word in str(caught.value)


def test_a_warm_up_may_be_as_long_as_the_run():
    assert load_recipe(QUICKSTART, ["schedule.warmup_epochs=4"]).schedule.warmup_epochs == 4.0


def test_a_section_that_is_built_directly_is_checked_and_frozen():
    settings = Train(epochs=3)
    assert settings.epochs == 3.0 and isinstance(settings.epochs, float)
    with pytest.raises(ValueError, match="frozen"):
        settings.epochs = 4.0
    with pytest.raises(ValueError, match="epoch\n.*not permitted"):
        Train(epoch=3)


def test_a_written_recipe_is_spelled_as_published_ones_are():
    """recipe.toml travels with the weights, so its bytes stay; these lines are of release 0.1."""
    classes = 'data.classes=["caf\u00e9", "tab\\there"]'
    lines = recipe_to_toml(load_recipe(QUICKSTART, [classes, "optimizer.eps=0.00001"])).split("\n")
    for line in (
        'classes = ["caf\\u00e9", "tab\\there"]',
        "eps = 1e-05",
        "hidden_sizes = [16, 64, 128]",
        "mean = [0.286, 0.286, 0.286]",
        "nesterov = true",
        "trackers = []",
    ):
        assert line in lines
    assert lines[:3] == ["[run]", 'name = "quickstart"', 'output_dir = "runs"']
    assert lines[lines.index("[model]") - 1] == "" and lines[-1] == ""


def test_a_missing_or_broken_recipe_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.toml does not exist.*quickstart\.toml"):
        load_recipe(ROOT / "recipes" / "nothing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[train\n")
    with pytest.raises(ValueError, match=r"broken\.toml must be a TOML file"):
        load_recipe(broken)


def test_differences_name_what_moves_weights_and_nothing_else():
    old = load_recipe(QUICKSTART)
    new = load_recipe(
        QUICKSTART,
        [
            *("data.num_workers=7", "run.name=x", "train.keep_checkpoints=9", "train.epochs=3"),
            *("data.path=elsewhere", "data.revision=abc"),
        ],
    )
    assert recipe_differences(old, new) == [f"train.epochs: {old.train.epochs} -> 3.0"]


def test_every_setting_is_explained_with_its_default():
    text = describe_settings()
    tables = tomllib.loads(text)
    for name, section in sections().items():
        assert f"[{name}]  # {section.__doc__}" in text
        for key, setting in section.model_fields.items():
            assert setting.description[0].isupper() or setting.description[0] == "'"
            assert setting.description.endswith(".") and setting.description in text
            if key != "config":
                default = setting.default
                assert tables[name][key] == (
                    list(default) if isinstance(default, tuple) else default
                )


def test_defaults_obey_their_own_limits():
    """A section checks what it is given, not its defaults; so they are given."""
    for section in sections().values():
        assert section.model_validate(section().model_dump()) == section()


@pytest.mark.parametrize(
    "setting",
    [
        *("schedule.name=plateau", "train.keep_best=true", "run.publish=best"),
        "train.early_stopping_patience=3",
    ],
)
@pytest.mark.parametrize("without", ["data.eval_split=", "train.evaluate_every_epochs=0"])
def test_what_follows_evaluations_needs_them(setting, without):
    load_recipe(QUICKSTART, [setting])
    with pytest.raises(ValueError, match="needs data.eval_split or data.eval_fraction, and"):
        load_recipe(QUICKSTART, [setting, without])
    load_recipe(QUICKSTART, [setting, "data.eval_split=", "data.eval_fraction=0.1"])


@pytest.mark.parametrize(
    "change", ["train.evaluate_every_epochs=0.5", "data.eval_limit=9", "data.eval_split=train"]
)
@pytest.mark.parametrize(
    ("decided", "differences"),
    [
        *(("schedule.name=cosine", 0), ("schedule.name=plateau", 1), ("train.keep_best=true", 1)),
        *(("run.publish=best", 1), ("train.early_stopping_patience=3", 1)),
    ],
)
def test_evaluations_matter_where_they_decide(decided, differences, change):
    recipes = (load_recipe(QUICKSTART, [decided]), load_recipe(QUICKSTART, [decided, change]))
    assert len(recipe_differences(*recipes)) == differences


def test_a_name_may_be_a_number(tmp_path):
    assert load_recipe(QUICKSTART, ["run.name=2024"]).run.name == "2024"


def test_a_section_that_is_none_is_named(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("train = 5")
    with pytest.raises(ValueError, match=r"must be a section, as in \[train\]; got 5"):
        load_recipe(path, ["train.epochs=1"])
