"""Read the footprint of a training from the file that CodeCarbon writes (emissions.csv)."""

import csv
import math

from hub_cards.card.formatting import Rows, duration, joined, plain, present
from hub_cards.evidence.folder import Evidence
from hub_cards.files import Record


def read_emissions(evidence: Evidence) -> Record | None:
    """Read what CodeCarbon measured, if emissions.csv is in the model folder.

    A file has several rows for a run that was looked at while it went on, each with the sums so
    far, and several runs for a training that was resumed: the last rows of the runs are added.

    Returns:
        `grams` of CO2 equivalents, `kwh`, `seconds`, `place` and `hardware`; None without a file.

    Raises:
        ValueError: if the file is no such file.

    Source: https://mlco2.github.io/codecarbon/output.html
    """
    path = evidence.folder / "emissions.csv"
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        runs = {row.get("run_id"): row for row in csv.DictReader(file)}
    try:
        sums = [
            math.fsum(float(row[name]) for row in runs.values())
            for name in ("emissions", "energy_consumed", "duration")
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be as CodeCarbon writes it; {error!r}") from error
    if not runs or not all(math.isfinite(value) and value >= 0 for value in sums):
        raise ValueError(f"{path} must hold finite numbers of at least one run; got {sums}")
    last = list(runs.values())[-1]
    return {
        "grams": round(1000 * sums[0], 3),
        "kwh": sums[1],
        "seconds": sums[2],
        "place": joined([last.get("region"), last.get("country_name")]),
        "hardware": joined([last.get("gpu_model"), last.get("cpu_model")]),
    }


def emission_rows(found: Record) -> Rows:
    """Give the footprint as rows of a table."""
    return present(
        [
            ("CO2 equivalents", f"{found['grams']:.6g} g, by CodeCarbon"),
            ("Energy", f"{found['kwh']:.4g} kWh"),
            ("Time", duration(found["seconds"])),
            ("Place", plain(found["place"])),
            ("Hardware", plain(found["hardware"])),
        ]
    )


def emission_metadata(found: Record, fine_tuned: bool) -> Record:
    """Give the footprint as the Hub's `co2_eq_emissions`, in grams."""
    metadata = {
        "emissions": found["grams"],
        "source": "CodeCarbon",
        "training_type": "fine-tuning" if fine_tuned else "pre-training",
        "geographical_location": found["place"],
        "hardware_used": found["hardware"],
    }
    return {key: value for key, value in metadata.items() if value != ""}
