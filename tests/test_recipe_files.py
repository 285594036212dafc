import dataclasses
import math

import pytest

from convzoo.recipe.files import (
    describe_settings,
    load_recipe,
    recipe_differences,
    recipe_from_tables,
    recipe_to_tables,
    recipe_to_toml,
)
from convzoo.recipe.settings import Recipe
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


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.epochs=2", ["trian", "quickstart.toml", "did you mean 'train'"]),
        ("optimizer.weigth_decay=1", ["weigth_decay", "[optimizer]", "'weight_decay'"]),
        ("model.depth=[1]", ["depth", "[model]", "'depths'"]),
        ("model.depths=[1]", ["depths", "hidden_sizes"]),
        ("model.model_type=resnet", ["cnn, alexnet, qlnet", "resnet"]),
        ("train.epochs=many", ["epochs", "float", "many"]),
        ("train.channels_last=1", ["channels_last", "bool", "1"]),
        ("train.global_batch_size=0", ["global_batch_size", "[1, inf]", "0"]),
        ("train.global_batch_size=1.5", ["global_batch_size", "int"]),
        ("train.label_smoothing=1.5", ["label_smoothing", "[0.0, 1.0]"]),
        ("optimizer.learning_rate=nan", ["learning_rate", "nan"]),
        ("train.epochs=inf", ["epochs", "finite"]),
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
    ],
)
def test_a_wrong_setting_is_named_with_its_rule(override, words):
    with pytest.raises(ValueError) as caught:
        load_recipe(QUICKSTART, [override])
    for word in words:
        assert word in str(caught.value)


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
    for section in dataclasses.fields(Recipe):
        assert f"[{section.name}]  # " in text
        for setting in dataclasses.fields(section.type):
            assert setting.metadata["doc"]
            if setting.name != "config":
                assert f"\n{setting.name} = " in text


def test_defaults_obey_their_own_limits():
    for section in dataclasses.fields(Recipe):
        for setting in dataclasses.fields(section.type):
            low, high = setting.metadata["low"], setting.metadata["high"]
            values = setting.default if isinstance(setting.default, tuple) else [setting.default]
            for value in values:
                assert low is None or value >= low
                assert high is None or value <= high
                assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("setting", ["schedule.name=plateau", "train.keep_best=true"])
@pytest.mark.parametrize("without", ["data.eval_split=", "train.evaluate_every_epochs=0"])
def test_what_follows_evaluations_needs_them(setting, without):
    load_recipe(QUICKSTART, [setting])
    with pytest.raises(ValueError, match="need data.eval_split and train.evaluate_every_epochs"):
        load_recipe(QUICKSTART, [setting, without])


@pytest.mark.parametrize(
    "change", ["train.evaluate_every_epochs=0.5", "data.eval_limit=9", "data.eval_split=train"]
)
@pytest.mark.parametrize(
    ("decided", "differences"),
    [("schedule.name=cosine", 0), ("schedule.name=plateau", 1), ("train.keep_best=true", 1)],
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
