"""benchmarks/gpu.py: every step runs on a CPU in tiny sizes, and its results are those it says."""

import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.metadata import requires

import pytest
import torch
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks import gpu
from benchmarks.gpu_steps import training
from benchmarks.gpu_steps.networks import Work, build
from benchmarks.gpu_steps.record import Record, is_fatal
from benchmarks.gpu_steps.timing import bytes_of_a_step, flops_of_a_step
from tests.support.clients import ROOT


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory, colour_data):
    """The folder of a dry run of the whole command."""
    folder = tmp_path_factory.mktemp("gpu")
    arguments = ["--dry-run", "--minutes", "20", "--data", colour_data, "--results", folder]
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def rows(folder, step):
    return {row["case"]: row for row in json.loads((folder / f"{step}.json").read_text())["rows"]}


def test_a_dry_run_completes_every_step(dry_run):
    summary = json.loads((dry_run / "summary.json").read_text())
    assert {name: step["state"] for name, step in summary["steps"].items()} == {
        step.name: "complete" for step in gpu.STEPS
    }
    unavailable = [each for each in summary["errors"] if "No module named" in each["error"]]
    assert summary["errors"] == unavailable, "peers may miss, nothing else"
    assert {each["step"] for each in unavailable} <= {"networks"}
    assert summary["tests"].keys() <= {"passed", "skipped"} and summary["tests"]["passed"] >= 4
    assert summary["dry_run"] is True


def test_networks_have_time_memory_and_bounds(dry_run):
    found = rows(dry_run, "networks")
    for row in (row for row in found.values() if "error" not in row):
        assert row["images_per_second"] > 0 and row["floor_gb"] >= 0 and row["share_of_floor"] < 1
    ratio = json.loads((dry_run / "summary.json").read_text())["prelu_over_relu"]
    case = "training bf16 eager batch 2"
    expected = (
        found[f"cnn_prelu {case}"]["milliseconds"] / found[f"cnn_relu {case}"]["milliseconds"]
    )
    assert ratio[case] == {"time": round(expected, 4)}


def test_input_and_training_have_rates(dry_run):
    found = rows(dry_run, "input")
    assert all(row["crops_per_second"] > 0 for case, row in found.items() if "worker" in case)
    trained = [row for case, row in found.items() if case.startswith("training")]
    assert len(trained) == 1 and all(0 <= row["data_wait_fraction"] <= 1 for row in trained)
    seeds = rows(dry_run, "cifar10").values()
    assert [row["recipe"] for row in seeds] == ["cifar10_cnn_prelu"]
    assert all(0 <= row["top1_accuracy"] <= 1 for row in seeds)


def test_a_second_run_has_nothing_left_to_do(dry_run, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(dry_run, folder)
    start = time.monotonic()
    assert gpu.main(["--dry-run", "--results", str(folder)]) == 0
    assert time.monotonic() - start < 20
    assert rows(folder, "networks") == rows(dry_run, "networks")


def step_of(tmp_path, monkeypatch, code):
    """Run a step whose module is `code`; returns what became of it and its rows."""
    package = tmp_path / "benchmarks" / "gpu_steps"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()  # in front of ours
    (package / "made_up.py").write_text(code)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    step = gpu.Step("made_up", 1.0)
    done = gpu.run_step(step, tmp_path, seconds=60, options=[], environment=environment)
    return done, gpu.read(tmp_path, "made_up").get("rows", [])


RECORD = f"""
import importlib.util, os, sys, time
from pathlib import Path
root = Path({str(ROOT)!r})
spec = importlib.util.spec_from_file_location("record", root / "benchmarks/gpu_steps/record.py")
record = importlib.util.module_from_spec(spec); sys.modules["record"] = record
spec.loader.exec_module(record)
args = record.step_arguments()
results = record.Record(args.output, "made up", seconds=args.seconds)
"""


def test_a_crash_costs_one_case_only(tmp_path, monkeypatch):
    code = """
results.measure("first", lambda: {"value": 1}, seconds=0)
results.measure("crashes", lambda: os.abort(), seconds=0)
results.measure("raises", lambda: 1 / 0, seconds=0)
def cuda():
    raise RuntimeError("CUDA error: an illegal access")
results.measure("CUDA", cuda, seconds=0)
results.measure("last", lambda: {"value": 2}, seconds=0)
results.finish()
"""
    done, found = step_of(tmp_path, monkeypatch, RECORD + code)
    assert (done["state"], done["restarts"]) == ("complete", 2)
    assert [row["case"] for row in found] == ["first", "crashes", "raises", "CUDA", "last"]
    assert found[1]["error"] == "the process ended while it ran"
    assert found[2]["error"] == "ZeroDivisionError: division by zero"
    assert is_fatal(found[3]["error"]) and not is_fatal(found[2]["error"])


def test_a_step_that_fails_at_once_is_not_tried_for_ever(tmp_path, monkeypatch):
    done, found = step_of(tmp_path, monkeypatch, "raise SystemExit(3)")
    assert (done["state"], done["restarts"], done["status"]) == ("failed", 0, 3) and found == []


def test_a_hang_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PATIENCE_SECONDS", 0.0)
    code = """
import subprocess
results.add({"case": "before"})
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(Path(args.output).parent / "child").write_text(str(child.pid))
time.sleep(600)
"""
    monkeypatch.setattr(subprocess, "Popen", patient_until(tmp_path / "child"))
    done, found = step_of(tmp_path, monkeypatch, RECORD + code)
    assert done["state"] == "out of time" and [row["case"] for row in found] == ["before"]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(child)


def test_a_case_that_ran_when_the_time_was_over_is_tried_once_more(tmp_path):
    path = tmp_path / "networks.json"

    def rows_of_a_new_process():
        gpu.try_again(tmp_path, "networks")
        record = Record(path, "made up", seconds=60)
        found = [row["case"] for row in record.content["rows"]]
        record._write(running="long")  # and the machine is gone
        return found

    assert [rows_of_a_new_process() for _ in range(3)] == [[], [], ["long"]]


def test_a_training_whose_time_is_over_has_its_rates_and_leaves_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LAUNCH", ("-c", LAUNCHER))
    monkeypatch.setattr(subprocess, "Popen", patient_until(tmp_path / "made_up/metrics.jsonl"))
    found = training.train("made_up", [], tmp_path, seconds=60.0)
    assert found["out_of_time"] and found["images_per_second"] == 200.0
    assert found["top1_accuracy"] == 0.5 and "final_train_loss" not in found
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(child)
    assert gpu.cifar10_means([found]) == {}


LAUNCHER = """
import json, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[2].partition("=")[2])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(folder / "child").write_text(str(child.pid))
(folder / "made_up").mkdir()
lines = [{"step": n, "loss": 2.0, "images_per_second": 100.0 * n, "data_wait_fraction": 0.0,
          "memory_gb": 1.0} for n in (1, 2)]
lines.append({"step": 2, "eval_top1_accuracy": 0.5, "eval_loss": 2.0})
(folder / "made_up" / "metrics.jsonl").write_text("".join(json.dumps(x) + chr(10) for x in lines))
time.sleep(600)
"""


def patient_until(file):
    """A class of processes whose time is over half a second after a file is there."""

    class Process(subprocess.Popen):
        def wait(self, timeout=None):
            deadline = time.monotonic() + (timeout or 0)
            while self.poll() is None and time.monotonic() < deadline and not file.exists():
                time.sleep(0.02)
            return super().wait(timeout and 0.5)

    return Process


def is_running(pid):
    """A zombie that nobody waited for does not run."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_case_is_not_begun_without_time(tmp_path):
    record = Record(tmp_path / "step.json", "made up", seconds=5)
    assert record.measure("short", dict, seconds=1) and not record.measure("long", dict, seconds=60)
    assert [row["case"] for row in json.loads((tmp_path / "step.json").read_text())["rows"]] == [
        "short"
    ]


def test_the_floor_of_a_convolution_and_a_batch_norm_by_hand():
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4)
    ).to("meta")
    read, written, parameters = 3 * 64, 4 * 64, 3 * 4 * 9 + 8
    forward = bytes_of_a_step(layers, 8, batch=5, width=2, training=False)
    assert forward == (read + written) * 5 * 2 + parameters * 2
    training = bytes_of_a_step(layers, 8, batch=5, width=2, training=True)
    elements = (read + written) + (2 * written + 2 * read) + 6 * written
    assert training == elements * 5 * 2 + parameters * (2 * 2 + 24)
    multiplications = 4 * 3 * 9 * 64
    assert flops_of_a_step(layers, 8, batch=5, training=False) == 2 * multiplications * 5


def test_a_resnet50_has_the_arithmetic_that_everybody_quotes():
    """4.1 thousand million multiplications an image at 224 pixels."""
    with torch.device("meta"):
        model = build("cnn_relu", tiny=False)
    flops = flops_of_a_step(model, 224, batch=1, training=False)
    assert flops / 2 == pytest.approx(4.1e9, rel=0.02)
    assert Work.train is not Work.predict


def test_without_a_gpu_it_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", "--results", str(tmp_path), "--minutes", "5"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "torch sees no GPU; --dry-run" in done.stderr
    assert not (tmp_path / "networks.json").exists()


def test_wheels_are_installed_beside_the_results(tmp_path):
    """A wheel made here, without a network."""
    import zipfile

    wheels, target = tmp_path / "wheels", tmp_path / "packages"
    wheels.mkdir()
    with pytest.raises(SystemExit, match="must be a folder with wheels"):
        gpu.install_wheels(wheels, target)
    with zipfile.ZipFile(wheels / "made_up-1.0-py3-none-any.whl", "w") as wheel:
        info = "made_up-1.0.dist-info"
        wheel.writestr("made_up.py", "VALUE = 7\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: made_up\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nGenerator: us\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tag)
        wheel.writestr(f"{info}/RECORD", "")
    gpu.install_wheels(wheels, target)
    gpu.install_wheels(wheels, target)  # nothing new
    environment = gpu.environment_of_steps(tmp_path, dry_run=True)
    code = "import made_up; print(made_up.VALUE)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "7"


def test_the_tests_for_a_gpu_are_found_without_one():
    from benchmarks.gpu_steps.tests import FILES

    marked = [path for path in ROOT.glob("tests/*.py") if "mark.gpu" in path.read_text()]
    assert {f"tests/{path.name}" for path in marked if path.name != "test_gpu_benchmark.py"} == {
        *FILES
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", *FILES],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    found = [line for line in done.stdout.splitlines() if "::" in line]
    assert len(found) >= 30
    assert {line.partition("::")[0] for line in found} == set(FILES)


def test_the_list_of_wheels_is_complete_and_can_be_read_by_pip():
    """Spaces around hyphens made a line that pip refuses."""
    lines = (ROOT / "benchmarks/gpu_wheels.txt").read_text().splitlines()
    listed = {canonicalize_name(Requirement(line).name) for line in lines if line[:1] != "#"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    machine = default_environment() | {"python_version": "3.12", "python_full_version": "3.12.0"}
    needed, todo = set(), [*wanted, "pytest", "hypothesis", "psutil", "turbojpeg"]
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if name in needed | {"torch", "torchvision", "jinja2"}:  # torch brings Jinja2
            continue
        if marker is None or marker.evaluate(machine | {"extra": ""}):
            needed.add(name)
            todo += requires(name) or []
    assert needed <= listed
