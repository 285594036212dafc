"""A report about a model as text for people."""

from collections.abc import Iterator

from convzoo.health import FINE
from convzoo.inspection.model import LayerCost, ModelReport


def model_report_text(report: ModelReport) -> str:
    """Return a report as text, with tables of at most 100 columns."""
    parts = (_heading, _layer_lines, _slope_lines, _branch_lines, _norm_lines, _closing_lines)
    return "\n".join(line for part in parts for line in part(report))


def _heading(report: ModelReport) -> Iterator[str]:
    totals, size = report["totals"], "x".join(map(str, report["input_size"]))
    yield report["path"]
    yield (
        f"{report['model_type']}, {report['num_labels']} classes, {totals['parameters']:,} "
        f"parameters, {_with_unit(totals['multiply_adds'])} multiply-adds for {size}"
    )
    if not report["has_weights"]:
        yield "It has no weights: these are fresh ones."


def _layer_lines(report: ModelReport) -> Iterator[str]:
    yield ""
    yield f"{'layer':<42}{'type':<16}{'output':>14}{'parameters':>14}{'mult-adds':>12}"
    parts: dict[str, list[LayerCost]] = {}
    for layer in report["layers"]:
        parts.setdefault(_part(layer["name"]), []).append(layer)
    for part, layers in parts.items():
        for layer in layers:
            shape = "x".join(map(str, layer["output"] or ())) or "-"
            cost = _with_unit(layer["multiply_adds"]) if layer["multiply_adds"] else ""
            name = layer["name"] if len(layer["name"]) < 42 else f"...{layer['name'][-38:]}"
            row = f"{name:<42}{layer['type']:<16}{shape:>14}{layer['parameters']:>14,}{cost:>12}"
            yield row.rstrip()
        if len(parts) > 1 and len(layers) > 1:
            parameters = sum(layer["parameters"] for layer in layers)
            cost = _with_unit(sum(layer["multiply_adds"] for layer in layers))
            yield f"{'= ' + part:<72}{parameters:>14,}{cost:>12}"


def _slope_lines(report: ModelReport) -> Iterator[str]:
    if report["slopes"]:
        yield from ("", f"{'PReLU slopes':<28}   min    mean     max  outside [0,1]  near start")
    for row in report["slopes"]:
        yield (
            f"{row['name']:<26}{row['min']:>8.3f}{row['mean']:>8.3f}{row['max']:>8.3f}"
            f"{row['outside_0_1']:>13.1%}{row['near_start']:>12.1%}  {row['verdict']}"
        )


def _branch_lines(report: ModelReport) -> Iterator[str]:
    if report["residual_branches"]:
        yield from ("", f"{'residual branches':<26}   scale    gain  strength")
    for row in report["residual_branches"]:
        scale = "-" if row["scale"] is None else f"{row['scale']:.3f}"
        yield (
            f"{row['name']:<26}{scale:>8}{row['gain']:>8.3f}{row['strength']:>10.3f}"
            f"  {row['verdict']}"
        )


def _norm_lines(report: ModelReport) -> Iterator[str]:
    if len({row["verdict"] for row in report["batch_norms"]}) < 2:
        return  # the closing line says it
    yield from ("", f"{'batch norms':<26}channels   gain ~ 0  variance ~ 0")
    for row in report["batch_norms"]:
        if row["verdict"] != FINE:
            yield (
                f"{row['name']:<26}{row['channels']:>8}{row['dead_gain']:>11}"
                f"{row['dead_input']:>14}  {row['verdict']}"
            )


def _closing_lines(report: ModelReport) -> Iterator[str]:
    yield ""
    for title, verdicts in (
        ("slopes", [row["verdict"] for row in report["slopes"]]),
        ("residual branches", [row["verdict"] for row in report["residual_branches"]]),
        ("batch norms", [row["verdict"] for row in report["batch_norms"]]),
    ):
        if verdicts:
            counts = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
            said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            yield f"{title}: {said}"
    yield from report["advice"]
    for name, probability in report.get("predictions", {}).items():
        yield f"{probability:7.1%}  {name}"
    for path in report.get("images", ()):
        yield f"drawn: {path}"


def _part(name: str) -> str:
    """The stage, or else the first component, that a layer belongs to."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "stages" else 1])


def _with_unit(count: int) -> str:
    """A count with three decimals of its unit."""
    if count >= 1e8:
        return f"{count / 1e9:.3f} G"
    return f"{count / 1e6:.3f} M" if count >= 1e5 else f"{count / 1e3:.3f} k"
