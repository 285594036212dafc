"""docs/models.md and docs/evaluation.md tell the truth: parameters, formats, fields, the metric."""

import re

import pytest
import torch

import modeling
from convzoo.conversion.formats import FORMATS
from convzoo.evaluation.statistics import MAX_CONFUSIONS, NUM_BINS
from tests.support.clients import run
from tests.support.documents import Page

MODELS, EVALUATION = Page("docs/models.md"), Page("docs/evaluation.md")


@pytest.mark.parametrize("row", MODELS.table("| family | preset |"), ids=lambda row: row[1])
def test_a_preset_has_the_parameters_of_its_row(row):
    family, preset, parameters, _ = (cell.strip("`") for cell in row)
    config = eval(preset, vars(modeling).copy())
    assert config.model_type == family
    with torch.device("meta"):
        model = modeling.FAMILIES[type(config)](config)
    assert f"{model.num_parameters():,}" == parameters


def test_the_formats_are_those_that_are_converted():
    rows = [[name, project.strip("<>")] for name, project in MODELS.table("| format |")]
    assert rows == [[fmt.name, fmt.project] for fmt in FORMATS]


def test_the_metric_computes_what_stands_beside_it():
    (block,) = EVALUATION.blocks("python")
    assert run("-c", block).stdout.strip() == re.search(r"  # (.*)", block)[1]


def test_its_constants_are_those_of_the_code():
    assert f"over {NUM_BINS} bins" in EVALUATION.sentences
    assert f"the {MAX_CONFUSIONS} most frequent errors" in EVALUATION.sentences
