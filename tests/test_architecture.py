"""Rules of the code base that a reader may rely on."""

import ast
import re
import sys
from graphlib import TopologicalSorter

import pytest
import yaml

from tests.support.clients import ROOT

PACKAGES = ("modeling", "convzoo", "hub_cards")
SOURCES = [
    *sorted(
        path
        for folder in (*PACKAGES, "benchmarks", "tests", "data")
        for path in (ROOT / folder).rglob("*.py")
    ),
    ROOT / "train_accelerate.py",
    ROOT / "app.py",
]
# What each part may import of ours.
MAY_IMPORT = {
    "modeling": set(),
    "convzoo": {"modeling"},
    "train_accelerate.py": {"modeling", "convzoo", "hub_cards"},  # to push what it trained
    "hub_cards": set(),
    "app.py": set(),
    "benchmarks": {"modeling", "convzoo", "tests", "train_accelerate"},
}


def imported_modules(path):
    """Top-level names of all absolute imports in a file, wherever they stand."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_imports_follow_the_direction_of_the_layout(part):
    ours = {"modeling", "convzoo", "hub_cards", "train_accelerate", "app", "tests"}
    paths = [ROOT / part] if part.endswith(".py") else sorted((ROOT / part).rglob("*.py"))
    for path in paths:
        allowed = MAY_IMPORT[part] | {part.removesuffix(".py")}
        assert imported_modules(path) & ours <= allowed, path


def test_names_do_not_hide_libraries_or_say_nothing():
    forbidden = {"datasets", "evaluate", "accelerate", "transformers", "gradio", "torch"}
    for path in [*ROOT.glob("*.py"), *(p for p in ROOT.iterdir() if p.is_dir())]:
        assert path.stem not in forbidden | set(sys.stdlib_module_names), path
    vague = {"utils", "helpers", "common", "misc"}
    assert not [path for path in SOURCES if path.stem in vague]


# The rooms of each package from the ground up: a room imports from the rooms before it only.
ROOMS = {
    "convzoo": (
        *("allocator", "errors", "labels", "imagenet_classes", "health", "layers", "files"),
        *("environment", "signals", "model_names", "log_lines", "text_table"),
        "convolution_kernels",
        "inference",
        *("conversion", "recipe", "images", "data", "training", "evaluation"),
        *("resizing", "inspection", "report", "comparison"),
        *("calibration", "own_images", "prediction"),
        *("exporting", "benchmarking"),
        *("experiments", "cli", "__main__"),
    ),
    "hub_cards": ("files", "evidence", "card", "hub", "index", "verify", "cli", "__main__"),
}


def imported_rooms(path, package):
    """Rooms of a package, and modules that lie in none, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith(f"{package}."))


@pytest.mark.parametrize("package", ROOMS)
def test_no_import_runs_back_to_a_higher_room(package):
    rooms = ROOMS[package]
    not_rooms = {"__init__", "__pycache__", "py"}  # the last of py.typed
    assert {path.stem for path in (ROOT / package).iterdir()} - not_rooms == {
        *rooms,
        *({"quoted_results"} if package == "hub_cards" else ()),
    }
    for path in (ROOT / package).rglob("*.py"):
        room = path.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in imported_rooms(path, package):
            assert rooms.index(other) <= rooms.index(room), f"{path} imports {package}.{other}"


def test_no_test_file_imports_another():
    """What several of them share lies in tests/support/."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            if module and module.startswith("tests."):
                assert module.startswith("tests.support."), f"{path} imports {module}"


def test_no_modules_import_each_other_in_a_circle():
    """Also not for types alone, and not inside functions."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    arrows = {}
    for module, path in files.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                level = node.level and module.rpartition(".")[0]
                base = f"{level}.{node.module}" if level else node.module
                found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        arrows[module] = found & files.keys()
    TopologicalSorter(arrows).prepare()  # raises CycleError, which names the modules


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_its_test_file(package):
    """test_<module>.py or, where the name alone says too little, test_<room>_<module>.py."""
    tests = {path.stem for path in (ROOT / "tests").glob("test_*.py")}
    together = {  # modules that one file tests through their command or their card
        "configuration_cnn": "modeling_cnn",
        "configuration_convzoo": "zoo",
        "modeling_convzoo": "zoo",
        "configuration_alexnet": "modeling_alexnet",
        "configuration_qlnet": "modeling_qlnet",
        "image_processing_convzoo": "image_processing",
        "__main__": "commands",
        "formats": "converting",
        **dict.fromkeys(("published", "sources", "preprocessing", "writing"), "starting_points"),
        "color": "policies",
        "crops": "train_transform",
        "normalize": "train_transform",
        "boxes": "mixing",
        "erasing": "mixing",
        "ten_crop": "mixing",
        "corruption_filters": "corruptions",
        "transfer": "mixing",
        "curves": "metrics_log",
        "batches": "lr_range",
        "finetuning": "building",
        "schedule": "optimization",
        "settings": "recipe_files",
        "rules": "recipe_files",
        "files": "checkpointing",
        "examples": "stream",
        "unreadable": "stream",
        "tables": "opening",
        "cards": "opening",
        "row_files": "image_lists",
        "member_split": "tar_shards",
        "folder_listing": "folders",
        "folder_layout": "folders",
        "folder_metadata": "folders",
        "allowed_formats": "decoding",
        "predicting": "evaluating",
        "prediction_table": "prediction_file",
        "unfinished": "predicting_to_file",
        **dict.fromkeys(("corrupting", "robustness_results"), "robustness"),
        **dict.fromkeys(("rederiving", "strict_loading"), "remeasuring"),
        "classifiers": "evaluating",
        "class_matching": "evaluating",
        "chosen_images": "evaluating",
        "recorded_share": "validation_share",
        "copies": "validation_share",
        "dataset_report": "inspection_dataset",
        "model_report": "inspection_model",
        "card": "resizing_command",
        **dict.fromkeys(("comparison_figures", "pairing", "verdicts"), "comparing"),
        **dict.fromkeys(("mistakes", "rereading", "illustrations", "png_figures"), "report"),
        **dict.fromkeys(("page", "reporting", "wording"), "report"),
        "run": "train_accelerate",
        "run_data": "train_accelerate",
        "run_folder": "train_accelerate",
        "run_log": "train_accelerate",
        "learner": "train_accelerate",
        "batch_transform": "train_accelerate",
        **dict.fromkeys(("looking", "starting_point", "presets", "recipe_text"), "own_images"),
        "launching": "own_images",
        **dict.fromkeys(("classifier", "answer_files"), "classifying"),
        **dict.fromkeys(("programs", "export_card", "classify"), "exporting"),
        **dict.fromkeys(("contestants", "timing"), "benchmarking"),
        "run_table": "reading_runs",
        "examination": "survey",
        "tensorboard_pages": "trackers",
        "sweep_settings": "sweeping",
    }
    for path in (ROOT / package).rglob("*.py"):
        if path.stem == "__init__" or "metrics" in path.parts or package == "hub_cards":
            continue
        name = "commands" if path.parent.name == "cli" else together.get(path.stem, path.stem)
        assert {f"test_{name}", f"test_{path.parent.name}_{name}"} & tests, (
            f"{path} has no test file"
        )


def test_the_hooks_of_a_commit_are_the_checks_of_make_lint():
    recipe = (ROOT / "Makefile").read_text().partition("\nlint:")[2].split("\n\n")[0]
    checks = re.findall(r"^\t\$\(BIN\) (.*)$", recipe, flags=re.MULTILINE)
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in local["hooks"]] == [f".venv/bin/python {c}" for c in checks]


def test_libraries_do_not_print():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.stem == "__main__" or "cli" in path.parts:
                continue
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            printing = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
            assert not printing, path


def test_code_is_ascii():
    for path in SOURCES:
        assert path.read_text(encoding="utf-8").isascii(), path


def test_public_functions_explain_themselves():
    """Every public function, class and method of the packages has a docstring."""
    for path in SOURCES:
        if ROOT / "tests" in path.parents:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"
