"""Start-up times: `import modeling` beside what it stands on, and the commands' --help.

python benchmarks/import_time.py
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from convzoo.environment import command_line, describe_environment, now
from convzoo.files import write_json

STANDS_ON = (
    "import torch, transformers.image_processing_utils, transformers.modeling_layers; "
    "from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification"
)
COMMANDS = {
    "torch and transformers": ["-c", STANDS_ON],
    "import modeling": ["-c", "import modeling"],
    "python -m convzoo --help": ["-m", "convzoo", "--help"],
    "python -m hub_cards --help": ["-m", "hub_cards", "--help"],
    "python app.py --help": ["app.py", "--help"],
}


def main() -> None:
    """Run every command in turn, several rounds, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command")
    parser.add_argument("--output", default="benchmarks/results/import_time_202611.json")
    args = parser.parse_args()
    seconds = {name: [] for name in COMMANDS}
    for _ in range(args.rounds):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(round(time.perf_counter() - start, 3))
    for name, times in seconds.items():
        print(f"{name:30} {statistics.median(times):.2f} s")
    write_json(
        Path(args.output),
        {
            "what": "wall seconds of whole processes, interleaved",
            "command": command_line("python benchmarks/import_time.py"),
            "date": now(),
            "environment": describe_environment(),
            "n": args.rounds,
            "median_seconds": {name: statistics.median(times) for name, times in seconds.items()},
            "seconds": seconds,
        },
    )


if __name__ == "__main__":
    main()
