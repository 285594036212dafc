"""Pages for readers, and the result files whose figures they state."""

import json
import re

from tests.support.clients import ROOT


def result_file(name):
    """The content of a file in benchmarks/results/."""
    path = ROOT / "benchmarks" / "results" / f"{name}_202611.json"
    return json.loads(path.read_text(encoding="utf-8"))


class Page:
    """A page whose figures are to be those of result files: README.md, or one of docs/."""

    def __init__(self, path):
        self.path = ROOT / path
        self.text = self.path.read_text(encoding="utf-8")
        self.sentences = " ".join(self.text.split())

    def table(self, heading):
        """The rows of the table whose first line begins so."""
        lines = self.text[self.text.index(heading) :].splitlines()[2:]
        lines = "\n".join(lines).partition("\n\n")[0].splitlines()
        return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in lines]

    def tables(self):
        """Cells by column of every row of every table whose rows have an evidence."""
        for grid in re.findall(r"(?:^\|.*\n)+", self.text, re.MULTILINE):
            header, _, *lines = [
                [cell.strip() for cell in line.strip("|").split(" | ")]
                for line in grid.splitlines()
            ]
            if "evidence" in header:
                yield from (dict(zip(header, line, strict=True)) for line in lines)

    def blocks(self, language):
        """The blocks of code in a language."""
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE)

    def commands(self):
        """Commands of all bash blocks, without comments; one that goes over lines is one."""
        text = "\n".join(self.blocks("bash")).replace("\\\n", " ")
        lines = (" ".join(line.partition("  #")[0].split()) for line in text.splitlines())
        return [line for line in lines if line]

    def links(self):
        """What the page links to: addresses, and paths relative to the page."""
        return re.findall(r"\]\(([^)]+)\)", self.text)

    def check_form(self):
        """At most 140 lines of 120 characters outside tables; links lead to files."""
        assert self.text.count("\n") <= 140
        written = re.sub(
            r"<!-- zoo table: begin.*zoo table: end -->", "", self.text, flags=re.DOTALL
        )
        prose = [line for line in written.splitlines() if not line.startswith("|")]
        assert max(map(len, prose)) <= 120
        self.check_links()

    def check_links(self):
        """Links lead to files that exist."""
        for link in self.links():
            assert link.startswith("https://") or (self.path.parent / link).exists(), link
