"""Time and bytes until the first batch of a dataset of ImageNet's shape, streamed from a Hub.

    PYTHONPATH=. python benchmarks/first_batch.py

294 parquet files of about 500 MB, in row groups of 100 images. The Hub is that of the tests, on
loopback: bytes and requests are those of a real one, the seconds leave out its network. Each run is
a process of its own with empty caches; its clock starts after the imports. CPU seconds are of all
its threads, and do not depend much on what else the machine does. Every other process leaves what
it imported to the garbage collector, as train_accelerate.py does not: `searched` has those. The
server's journal tells what was asked for: ends of files, row groups that the first batch needs, or
anything else.
"""

import argparse
import json
import os
import re
import statistics
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from convzoo.data.remote import FOOTER_BYTES
from convzoo.environment import command_line, provenance
from convzoo.files import write_json
from tests.support.hub_server import HubServer
from tests.support.images import encode, write_split

FILES, GROUPS, ROWS, IMAGE_BYTES = 294, 45, 100, 110_000
BATCH, MEMORY = 128, 512 * 2**20
RESULT = "benchmarks/results/first_batch_202611.json"

STREAMS = f"""
import gc, json, os, sys, time, urllib.request
from convzoo.data.share import Share
from convzoo.data.stream import TrainStream, train_batches
from convzoo.data.order import DataOrder
from convzoo.recipe.settings import Augmentation, Preprocessing
from convzoo.data.opening import open_split
from convzoo.images.train_transform import TrainTransform
import datasets  # the clock starts after imports

if "freeze" in sys.argv:
    gc.freeze()
started, cpu = time.perf_counter(), time.process_time()
source = open_split("user/imagenet", "train")
opened = time.perf_counter() - started
order = DataOrder(source.group_rows, source.group_bytes,
    global_batch_size={BATCH}, memory_bytes={MEMORY}, seed=0)
transform = TrainTransform(Augmentation(), Preprocessing())
stream = TrainStream(source, order, transform=transform, share=Share(), steps=range(100))
batches = train_batches(stream, num_workers=0)
batch = next(batches)
first, cpu = time.perf_counter() - started, time.process_time() - cpu
urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/api/telemetry/first-batch").close()
windows = [order.locate(position)[0] for position in order.positions(0, Share()).tolist()]
needed = {{source.groups[group] for window in windows for group, _, _ in window.pieces}}
json.dump(
    dict(opened=opened, first=first, cpu=cpu, rows=source.num_rows, groups=len(source.groups),
         shape=list(batch["pixels"].shape), lanes=order.num_lanes, needed=sorted(needed)),
    open("saw.json", "w"),
)
os._exit(0)  # without waiting for what is read ahead
"""


def main() -> None:
    """Stream the first batch in several processes and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=7, help="fresh processes")
    parser.add_argument("--output", default=RESULT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serve_imagenet(Path(folder)) as hub:
        runs, searched = [], []
        for run in range(args.runs):
            for found, freeze in ((runs, True), (searched, False)):
                here = Path(folder) / f"{run} {freeze}"
                found.append(stream_first_batch(hub, here, freeze=freeze))
                print(found[-1], flush=True)
    write_json(
        Path(args.output),
        {
            "what": f"from opening {FILES} files of {runs[0]['file_bytes']:,} bytes on a loopback "
            f"Hub to the first batch of {BATCH} training crops, one process, no decoding workers",
            **provenance(command_line("PYTHONPATH=. python benchmarks/first_batch.py")),
            "n": len(runs),
            "median_and_range": {
                key: [choose(run[key] for run in runs) for choose in (statistics.median, min, max)]
                for key in ("seconds_to_open", "seconds", "cpu_seconds", "bytes", "requests")
            },
            "searched": {
                key: [
                    choose(run[key] for run in searched) for choose in (statistics.median, min, max)
                ]
                for key in ("seconds", "cpu_seconds")
            },
            "runs": runs,
        },
    )


def serve_imagenet(folder: Path) -> HubServer:
    """A Hub with the dataset user/imagenet: one file under 294 names, of made-up images."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (8, 240, 320, 3), dtype=np.uint8)
    encoded = [encode(image) for image in noise]
    # Behind its end a JPEG may have anything: here what makes each row distinct and full-sized.
    rows = [encoded[i % 8] for i in range(ROWS * GROUPS)]
    rows = [row + rng.bytes(IMAGE_BYTES - len(row)) for row in rows]
    labels = [i % 3 for i in range(len(rows))]
    write_split(folder / "one", "train", rows, labels, files=1, rows_per_group=ROWS)
    (shard,) = (folder / "one" / "data").iterdir()
    (folder / "all" / "data").mkdir(parents=True)
    for number in range(FILES):
        name = f"train-{number:05d}-of-{FILES:05d}.parquet"
        os.link(shard, folder / "all" / "data" / name)
    server = HubServer(folder / "hub", {"hf_user": "user"})
    server.add_repo("datasets", "user/imagenet", folder / "all", link=True)
    return server


def stream_first_batch(hub: HubServer, folder: Path, *, freeze: bool = True) -> dict:
    """Seconds, and what the server sent, until a fresh process has its first batch."""
    start = len(hub.journal)
    folder.mkdir()
    hub.run(
        "-c", STREAMS, *(["freeze"] * freeze), home=folder / "home", token="hf_user", cwd=folder
    )
    saw = json.loads((folder / "saw.json").read_text())
    (shard,) = (folder.parent / "one" / "data").iterdir()
    footer, file_bytes = pq.read_metadata(shard), shard.stat().st_size
    needed = [(file, *_extent(footer.row_group(group))) for file, group in saw["needed"]]
    counts = {"ends": 0, "row_groups": 0, "other": 0}
    sent = requests = 0
    for request in hub.journal[start:]:
        if request.path.startswith("/api/telemetry/first-batch"):
            break
        sent, requests = sent + request.sent, requests + 1
        if request.path.startswith("/storage/"):
            file = int(re.search(r"train-(\d+)-of", request.path)[1])
            first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", request.range).groups())
            kind = "ends" if first >= file_bytes - FOOTER_BYTES else "other"
            if (file, True) in {(f, low <= first and last < high) for f, low, high in needed}:
                kind = "row_groups"
            counts[kind] += 1
    return {
        "seconds_to_open": round(saw["opened"], 2),
        "seconds": round(saw["first"], 2),
        "cpu_seconds": round(saw["cpu"], 2),
        "load_average": round(os.getloadavg()[0], 1),
        "bytes": sent,
        "requests": requests,
        "end_requests": counts["ends"],
        "row_group_requests": counts["row_groups"],
        "other_requests": counts["other"],
        "needed_row_groups": len(needed),
        "file_bytes": file_bytes,
        **{key: saw[key] for key in ("shape", "rows", "groups", "lanes")},
    }


def _extent(group):
    """First byte of a row group, and the byte after its last one."""
    columns = [group.column(number) for number in range(group.num_columns)]
    starts = [column.dictionary_page_offset or column.data_page_offset for column in columns]
    ends = [s + c.total_compressed_size for s, c in zip(starts, columns, strict=True)]
    return min(starts), max(ends)


if __name__ == "__main__":
    main()
