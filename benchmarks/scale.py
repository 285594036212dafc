"""Training at scale: very large datasets measured, and 8, 64 and 512 GPUs by arithmetic.

    PYTHONPATH=. python benchmarks/scale.py
    PYTHONPATH=. python benchmarks/scale.py --parts arithmetic      # the others as they were

Measured, each run in a fresh process: the order of 14 million and of 1 billion images in row groups
of 100 (what a reader needs to begin, to resume, to cross an epoch's boundary, and to hold), opening
as many row groups in parquet files (one file under many names, whose images are small: what is read
of them is their ends), and a checkpoint of the CNN with PReLU. By arithmetic: bytes, requests,
memory, checkpoints and gradients of 8, 64 and 512 GPUs, from what the order's simulation counts and
from constants, each of which says where it comes from.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.read_amplification import GROUP_BYTES, GROUP_ROWS, ROWS, Plan, imagenet_groups
from convzoo.data.order import DataOrder
from convzoo.environment import command_line, provenance
from convzoo.files import write_json
from convzoo.training.checkpointing import save_checkpoint
from modeling import CNN, CNNConfig
from tests.support.images import encode, write_split

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "scale_202611.json"
DATASETS = {"14 million": 141_972, "1 billion": 10_000_000}  # row groups of 100 images
LAYOUTS = {"14 million": (3_155, 45), "1 billion": (10_000, 1_000)}  # files, row groups in each
GPUS, GPUS_OF_HOST, WORKERS, MEGABYTES = (8, 64, 512), 8, 8, 2048
BATCHES = {8: 1024, 64: 8192, 512: 8192}  # larger ones are rarely trained on

ORDER = """
import json, sys, time
import numpy as np, psutil
from convzoo.data.order import DataOrder
from convzoo.data.row_groups import Numbers
from convzoo.data.share import Share

groups, batch = int(sys.argv[1]), 8192
rows = Numbers(np.full(groups, 100))
sizes = Numbers(np.full(groups, 11_000_000))


def uss():
    return psutil.Process().memory_full_info().uss / 1e6


def status(name):  # of Linux; MB
    (line,) = (line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


def take(steps):
    seconds = []
    for step in steps:
        start = time.perf_counter()
        for position in order.positions(step, Share(5, 512)).tolist():
            order.locate(position)
        seconds.append(time.perf_counter() - start)
    return seconds


open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
before, resident = uss(), status("VmRSS")
wall, cpu = time.perf_counter(), time.process_time()
order = DataOrder(rows, sizes, global_batch_size=batch, memory_bytes=2**31, seed=0)
epoch = order.num_rows // batch
take(range(int(2.4 * epoch), int(2.4 * epoch) + 1))
found = {"resume_seconds": time.perf_counter() - wall, "resume_cpu": time.process_time() - cpu}
found["held_in_an_epoch"] = uss() - before
cpu = time.process_time()
take(range(int(2.6 * epoch), int(2.6 * epoch) + 1))  # the next epoch is laid out in a thread
if order._takes_long:
    order._layouts.get(3)
found["next_epoch_cpu"] = time.process_time() - cpu
found["held_with_the_next"] = uss() - before
found["boundary_step_seconds"] = max(take(range(3 * epoch - 3, 3 * epoch + 4)))
found["most"] = status("VmHWM") - resident
json.dump({name: round(value, 4) for name, value in found.items()}, sys.stdout)
"""

OPENING = """
import json, sys, time
import datasets, psutil
from convzoo.data.opening import open_split


def uss():
    return psutil.Process().memory_full_info().uss / 1e6


def status(name):  # of Linux; MB
    (line,) = (line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6


open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
before, resident = uss(), status("VmRSS")
wall, cpu = time.perf_counter(), time.process_time()
split = open_split(sys.argv[1], "train")
found = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
found |= {"held": uss() - before, "row_groups": len(split.groups), "images": split.num_rows}
found["most"] = status("VmHWM") - resident
json.dump({name: round(value, 3) for name, value in found.items()}, sys.stdout)
"""


def main() -> None:
    """Measure what was asked for, compute the rest, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--runs", type=int, default=5, help="fresh processes for each dataset")
    parser.add_argument("--output", default=str(RESULT))
    args = parser.parse_args()
    output = Path(args.output)
    content = json.loads(output.read_text()) if output.exists() else {}
    content |= {
        "what": "very large datasets measured (seconds, megabytes beyond the libraries'), and what "
        "8, 64 and 512 GPUs take by arithmetic",
    }
    parts = [part for part in PARTS if part in args.parts]  # the arithmetic has the others' figures
    if "arithmetic" in parts and "checkpoint" not in {*parts, *content}:
        parser.error(
            f"the arithmetic needs how long a checkpoint takes, which {output} does not have; add "
            f"checkpoint to --parts"
        )
    for part in parts:
        content[part] = PARTS[part](args.runs, content) | {
            **provenance(command_line("PYTHONPATH=. python benchmarks/scale.py")),
        }
        print(json.dumps(content[part], indent=2))
        write_json(output, content)


# ---- measured ----------------------------------------------------------------------------------
def measure_order(runs: int, _: dict) -> dict:
    """What a reader needs for the order of each dataset, in fresh processes."""
    return {
        "n": runs,
        "datasets": summaries(
            {
                name: [in_process(ORDER, str(groups)) for _ in range(runs)]
                for name, groups in DATASETS.items()
            }
        ),
    }


def measure_opening(runs: int, _: dict) -> dict:
    """What opening takes, from local files: of the larger dataset once."""
    found = {}
    for name, (files, groups) in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), files, groups)
            count = runs if files * groups < 10**6 else 1
            found[name] = [in_process(OPENING, f"{folder}/all") for _ in range(count)]
    return {
        "n": {name: len(each) for name, each in found.items()},
        "files": {name: files for name, (files, _) in LAYOUTS.items()},
        "datasets": summaries(found),
    }


def write_files(folder: Path, files: int, groups: int) -> None:
    """A parquet file of so many row groups under many names; images too long for statistics."""
    rng, image = np.random.default_rng(0), encode(np.zeros((1, 1, 3), np.uint8))
    images = [image + rng.bytes(4200 + int(extra)) for extra in rng.integers(0, 900, groups * 100)]
    labels = [number % 3 for number in range(len(images))]
    write_split(folder / "one", "train", images, labels, files=1, rows_per_group=100)
    (file,) = (folder / "one" / "data").iterdir()
    (folder / "all" / "data").mkdir(parents=True)
    for number in range(files):
        os.link(file, folder / "all" / "data" / f"train-{number:05d}-of-{files:05d}.parquet")


def in_process(code: str, argument: str) -> dict:
    """Run code in a fresh process; it prints JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, argument],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout)


def summaries(found: dict) -> dict:
    """[median, least, most] of each number of each dataset."""
    return {
        name: {
            key: [
                round(choose(run[key] for run in runs), 4)
                for choose in (statistics.median, min, max)
            ]
            for key in runs[0]
        }
        for name, runs in found.items()
    }


def measure_checkpoint(runs: int, _: dict) -> dict:
    """Seconds and bytes of a checkpoint of the CNN with PReLU, AdamW and averaged weights."""
    model = CNN(CNNConfig())
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    copies = [{n: t.clone() for n, t in model.state_dict().items()} for _ in range(2)]
    state = {"optimizer": optimizer.state_dict(), "ema": copies[0], "raw_model": copies[1]}
    seconds, cpu = [], []
    with tempfile.TemporaryDirectory() as folder:
        for step in range(runs):
            start, used = time.perf_counter(), time.process_time()
            checkpoint = save_checkpoint(
                Path(folder), step, fill=model.save_pretrained, state=state, keep=2
            )
            seconds.append(round(time.perf_counter() - start, 2))
            cpu.append(round(time.process_time() - used, 2))
        size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    return {
        "n": runs,
        "megabytes": round(size / 1e6),
        "seconds": [choose(seconds) for choose in (statistics.median, min, max)],
        "cpu": [choose(cpu) for choose in (statistics.median, min, max)],
        "parameters": model.num_parameters(),
    }


# ---- by arithmetic -----------------------------------------------------------------------------
def constants(checkpoint: dict) -> dict:
    """What the arithmetic rests on: value, and where it is from.

    Args:
        checkpoint: what `measure_checkpoint` found.
    """
    results = RESULT.parent
    memory = {
        run["num_workers"]: run["megabytes"][-1]
        for run in json.loads((results / "loader_memory_202611.json").read_text())["runs"]
    }
    pipeline = json.loads((results / "input_pipeline_2cpu_202611.json").read_text())["runs"]
    (photographs,) = (run for run in pipeline if run["data"] == "imagenet-sample")
    first = json.loads((results / "first_batch_202611.json").read_text())["runs"][0]
    return {
        "images_per_second_of_a_gpu": (2900, "assumed: what this project aims at on an H100"),
        "bytes_of_an_image": (photographs["mean_bytes"], "input_pipeline_2cpu_202611.json"),
        "images_of_a_row_group": (GROUP_ROWS, "what the Hub writes"),
        "crops_per_second_of_a_core": (
            photographs["crop"]["convzoo, uint8 batch (normalised on a GPU)"][
                "images_per_second_median"
            ],
            "input_pipeline_2cpu_202611.json",
        ),
        "requests_of_an_opening": (
            first["row_group_requests"] / first["needed_row_groups"],
            "first_batch_202611.json; each is asked of the Hub, which sends it on to its storage",
        ),
        "requests_of_a_start": (
            first["requests"] - first["end_requests"] - first["row_group_requests"],
            "first_batch_202611.json, of 294 files, by one process for all",
        ),
        "requests_allowed_in_5_minutes": (
            {"free": 5_000, "PRO": 12_000, "Enterprise": 50_000, "Enterprise Plus": 100_000},
            "quoted from https://huggingface.co/docs/hub/enterprise, resolvers, for each account",
        ),
        "megabytes_of_a_process": (memory[0], "loader_memory_202611.json"),
        "megabytes_of_a_worker": (
            round((memory[4] - memory[0]) / 4, 1),
            "loader_memory_202611.json",
        ),
        "batches_prepared_by_a_worker": (4, "convzoo/data/stream.py"),
        "checkpoint_seconds": (checkpoint["seconds"][0], "measured here"),
        "parameters": (checkpoint["parameters"], "of the CNN with PReLU"),
        "network_bytes_per_second_of_a_gpu": (
            50e9,
            "quoted, DGX H100: 400 Gb/s for each GPU, "
            "https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html",
        ),
        "nvlink_bytes_per_second_of_a_gpu": (450e9, "quoted, same page: 900 GB/s, both directions"),
    }


def compute(_: int, content: dict) -> dict:
    """The table of GPUs, from what the other parts found."""
    known = constants(content["checkpoint"])
    sizes = imagenet_groups()
    rows = []
    for gpus in GPUS:
        order = DataOrder(
            sizes,
            [GROUP_BYTES] * len(sizes),
            global_batch_size=BATCHES[gpus],
            memory_bytes=MEGABYTES * 2**20,
            seed=0,
        )
        plan = Plan(order, num_epochs=2)
        counted = plan.count(gpus, WORKERS)
        one_reader = plan.count(gpus, 1)
        rows.append(
            of_gpus(
                gpus,
                counted,
                one_reader=one_reader,
                known={key: value for key, (value, _) in known.items()},
            )
        )
    return {
        "constants": {
            key: {"value": value, "from": origin} for key, (value, origin) in known.items()
        },
        "dataset": {"images": ROWS, "row_groups": len(sizes)},
        "workers": WORKERS,
        "shuffle_memory_mb": MEGABYTES,
        "rows": rows,
    }


def of_gpus(gpus: int, counted: dict, *, one_reader: dict, known: dict) -> dict:
    """What a number of GPUs take.

    Args:
        gpus: how many, each with a process and WORKERS workers.
        counted: openings and bytes held, from the simulation of the order.
        one_reader: the same with one worker in each process.
        known: the constants.
    """
    batch, hosts = BATCHES[gpus], gpus // GPUS_OF_HOST
    speed = gpus * known["images_per_second_of_a_gpu"]
    step = batch / speed
    openings = counted["later_epoch"]
    bytes_read = speed * known["bytes_of_an_image"] * openings
    requests = speed / known["images_of_a_row_group"] * openings * known["requests_of_an_opening"]
    gradient = 2 * (gpus - 1) / gpus * 4 * known["parameters"]
    network = "nvlink" if hosts == 1 else "network"
    sending = gradient / known[f"{network}_bytes_per_second_of_a_gpu"]
    prepared = known["batches_prepared_by_a_worker"] * batch / gpus * 224 * 224 * 3 / 1e6
    memory = GPUS_OF_HOST * (
        known["megabytes_of_a_process"]
        + WORKERS * known["megabytes_of_a_worker"]
        + counted["megabytes_held_most"]
        + prepared
    )
    epoch = ROWS / speed
    return {
        "gpus": gpus,
        "global_batch_size": batch,
        "images_per_second": speed,
        "step_milliseconds": round(1e3 * step, 1),
        "epoch_seconds": round(epoch, 1),
        "openings_of_a_row_group": openings,
        "openings_with_one_worker": one_reader["later_epoch"],
        "gigabytes_per_second": round(bytes_read / 1e9, 2),
        "requests_per_second": round(requests),
        "requests_in_5_minutes": round(300 * requests),
        "gigabytes_of_a_host": round(memory / 1e3, 1),
        "cores_of_a_gpu": round(
            known["images_per_second_of_a_gpu"] / known["crops_per_second_of_a_core"], 1
        ),
        "gradient_megabytes_of_a_gpu": round(gradient / 1e6),
        "gradient_milliseconds": round(1e3 * sending, 2),
        "gradient_share_of_step": round(sending / step, 3),
        "checkpoint_share_of_an_epoch": round(known["checkpoint_seconds"] / epoch, 3),
    }


PARTS = {
    "order": measure_order,
    "opening": measure_opening,
    "checkpoint": measure_checkpoint,
    "arithmetic": compute,
}

if __name__ == "__main__":
    main()
