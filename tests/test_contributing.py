"""CONTRIBUTING.md tells the truth: its answers are where it says, its steps name what exists."""

import re

import pytest

from tests.support.clients import ROOT
from tests.support.documents import Page

PAGE = Page("CONTRIBUTING.md")
QUESTIONS = PAGE.table("| question | file |")


def test_twenty_questions_are_answered():
    assert len(QUESTIONS) >= 20
    asked = [question for question, _, _ in QUESTIONS]
    assert len(set(asked)) == len(asked) and all(question.endswith("?") for question in asked)


@pytest.mark.parametrize("row", QUESTIONS, ids=lambda row: row[0])
def test_the_answer_is_where_it_says(row):
    _, file, word = (cell.strip("`") for cell in row)
    assert word in (ROOT / file).read_text(encoding="utf-8")


def test_files_in_its_sentences_exist():
    for name in re.findall(r"`([\w/]+/[\w.]+\.\w+|[\w/]+/)`", PAGE.text):
        example = re.search(r"_x\.|/x\.", name)  # of the family that is being added
        made = name.startswith("runs/")
        assert made or example or (ROOT / name).exists(), name


def test_the_architecture_has_ten_lines():
    part = PAGE.text.partition("in ten lines\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\d+\. ", part, re.MULTILINE)) == 10
