"""notebooks/: their cells run, and what stands below a cell came from it."""

import json
import re

import pytest

from notebooks.run import sources_sha256
from tests.support.clients import ROOT, run

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def kinds(cell):
    """What a cell gave: printed text, figures, values."""
    return [output["output_type"] for output in cell["outputs"]]


def executed(path, here):
    """The notebook as it is when a copy of it was run in another folder."""
    (here / "notebooks").mkdir()
    (here / "data").symlink_to(ROOT / "data")
    text = path.read_text(encoding="utf-8").replace("train.epochs=10", "train.epochs=1")
    copied = here / "notebooks" / path.name
    copied.write_text(text, encoding="utf-8")
    run(ROOT / "notebooks" / "run.py", copied, cwd=here)
    return read(copied)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] if path.stem == "own_images" else [])
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)
def test_cells_run_and_give_what_stands_below_them(path, tmp_path):
    stored, new = code_cells(read(path)), code_cells(executed(path, tmp_path))
    assert list(map(kinds, stored)) == list(map(kinds, new))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_was_run_as_it_is_and_is_small(path):
    notebook = read(path)
    cells = code_cells(notebook)
    assert notebook["metadata"]["sources_sha256"] == sources_sha256(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 400_000
    printed = "".join(line for output in outputs for line in output.get("text", ()))
    assert not re.search(r"/(tmp|home|root|work)/", printed)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    cells = read(path)["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_a_cell_that_fails_leaves_the_notebook_as_it_was(tmp_path):
    path = tmp_path / "broken.ipynb"
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    notebook = {"cells": [cell | {"source": ["1 / 0"]}], "metadata": {}, "nbformat": 4}
    path.write_text(json.dumps(notebook))
    done = run(ROOT / "notebooks" / "run.py", path, check=False)
    assert done.returncode and "ZeroDivisionError" in done.stderr and '"cell 1"' in done.stderr
    assert json.loads(path.read_text()) == notebook
