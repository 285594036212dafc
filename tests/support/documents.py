"""Pages of docs/ and the result files whose figures they state."""

import json
import re

from tests.support.clients import ROOT


def result_file(name):
    """The content of a file in benchmarks/results/."""
    path = ROOT / "benchmarks" / "results" / f"{name}_202611.json"
    return json.loads(path.read_text(encoding="utf-8"))


class Page:
    """A page of docs/, whose figures are to be those of result files."""

    def __init__(self, path):
        self.path = ROOT / path
        self.text = self.path.read_text(encoding="utf-8")
        self.sentences = " ".join(self.text.split())

    def table(self, heading):
        """The rows of the table whose first line begins so."""
        lines = self.text[self.text.index(heading) :].splitlines()[2:]
        lines = "\n".join(lines).partition("\n\n")[0].splitlines()
        return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in lines]

    def check_form(self):
        """At most 140 lines of 120 characters outside tables; links lead to files."""
        assert self.text.count("\n") <= 140
        prose = [line for line in self.text.splitlines() if not line.startswith("|")]
        assert max(map(len, prose)) <= 120
        for link in re.findall(r"\]\(([^)]+)\)", self.text):
            assert (self.path.parent / link).exists(), link
