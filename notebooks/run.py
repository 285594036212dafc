"""Run notebooks, and keep what their cells printed and drew in them.

    python notebooks/run.py                           # all of this folder
    python notebooks/run.py notebooks/symmetry.ipynb

Cells run in one process after another, as Jupyter runs them, in the notebook's folder; a cell that
fails ends the run, and its notebook stays as it was. Kept are printed text, the value of the last
line and figures of pyplot, as PNG. The hash of the cells is kept, too, so that a test sees cells
that were edited and not run again.
"""

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.resolve()


def main() -> None:
    """Run the notebooks that are named, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("notebooks", nargs="*", default=sorted(map(str, FOLDER.glob("*.ipynb"))))
    for name in parser.parse_args().notebooks:
        process = os.fork()
        if process == 0:
            run(Path(name).resolve())
            os._exit(0)
        if status := os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]):
            sys.exit(status)
        print(name, flush=True)


def run(path: Path) -> None:
    """Run the cells of a notebook in order, and write their outputs into it."""
    os.environ["MPLBACKEND"] = "agg"
    sys.path.insert(0, str(FOLDER.parent))
    os.chdir(path.parent)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        cell["execution_count"] = number
        cell["outputs"] = outputs_of("".join(cell["source"]), names, number)
    notebook["metadata"]["sources_sha256"] = sources_sha256(notebook)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    aside = path.with_suffix(".partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def outputs_of(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Run one cell in a namespace; return its outputs in the form of notebooks."""
    tree, last = ast.parse(source), None
    end = tree.body[-1] if tree.body else None
    if isinstance(end, ast.Expr) and not source.rstrip().endswith(";"):
        last = ast.Expression(end.value)
        tree.body.pop()
    place, value, printed = f"cell {number}", None, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, place, "exec"), names)
        if last is not None:
            value = eval(compile(last, place, "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": lines(text)})
    outputs += [{"data": data, "metadata": {}, "output_type": "display_data"} for data in figures()]
    if value is not None:
        data = {"text/plain": lines(repr(value))}
        outputs.append(
            {
                "data": data,
                "execution_count": number,
                "metadata": {},
                "output_type": "execute_result",
            }
        )
    return outputs


def figures() -> list[dict[str, Any]]:
    """Draw and close the open figures of pyplot."""
    if "matplotlib.pyplot" not in sys.modules:
        return []
    pyplot = sys.modules["matplotlib.pyplot"]
    drawn = []
    for number in pyplot.get_fignums():
        buffer = io.BytesIO()
        pyplot.figure(number).savefig(buffer, dpi=72, bbox_inches="tight")
        image = base64.b64encode(buffer.getvalue()).decode()
        drawn.append({"image/png": image, "text/plain": ["<Figure>"]})
    pyplot.close("all")
    return drawn


def lines(text: str) -> list[str]:
    """Split text as notebooks keep it."""
    return text.splitlines(keepends=True)


def sources_sha256(notebook: dict[str, Any]) -> str:
    """Hash the code of a notebook."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


if __name__ == "__main__":
    main()
