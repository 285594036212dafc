"""Start-up: imports of the training processes and the commands' --help, in processor time.

    PYTHONPATH=. python benchmarks/import_time.py

Whole processes, interleaved. Processor time hardly depends on what else the machine does. What
`train_accelerate.py` imports is counted twice: as a script, which does not search for garbage
meanwhile, and as a module, which does.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from convzoo.environment import command_line, provenance
from convzoo.files import write_json

STANDS_ON = (
    "import torch, transformers.image_processing_utils, transformers.modeling_layers; "
    "from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification"
)
COMMANDS = {
    "torch": ["-c", "import torch"],
    "torch and transformers": ["-c", STANDS_ON],
    "import modeling": ["-c", "import modeling"],
    "import train_accelerate": ["-c", "import train_accelerate"],
    "python train_accelerate.py --help": ["train_accelerate.py", "--help"],
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
            before = os.times()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            used = after.children_user + after.children_system
            used -= before.children_user + before.children_system
            seconds[name].append(round(used, 2))
    for name, times in seconds.items():
        print(f"{name:35} {statistics.median(times):.2f} s")
    write_json(
        Path(args.output),
        {
            "what": "processor seconds of whole processes, interleaved",
            **provenance(command_line("PYTHONPATH=. python benchmarks/import_time.py")),
            "n": args.rounds,
            "median_and_range": {
                name: [choose(times) for choose in (statistics.median, min, max)]
                for name, times in seconds.items()
            },
        },
    )


if __name__ == "__main__":
    main()
