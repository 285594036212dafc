import json

import torch
from accelerate import Accelerator

from convzoo.training.batch_norm import share_statistics
from tests.support.clients import run_warm

# Each process gives its buffers its own number; all must end with the same values.
SCRIPT = """
import json, pathlib, sys
import torch
from accelerate import Accelerator
from convzoo.training.batch_norm import share_statistics

accelerator = Accelerator()
model = torch.nn.Sequential(
    torch.nn.BatchNorm2d(2), torch.nn.PReLU(3), torch.nn.BatchNorm2d(1, track_running_stats=False),
    torch.nn.Sequential(torch.nn.BatchNorm2d(5)),
)
number = accelerator.process_index
found = {}
for how in ("average", "first", "sync"):
    for module in (model[0], model[3][0]):
        module.running_mean.copy_(10 ** (number + torch.arange(module.num_features)))
        module.running_var.fill_(4.0 * number)
    share_statistics(model, accelerator, how)
    found[how] = [
        [norm.running_mean.tolist(), norm.running_var.tolist()] for norm in (model[0], model[3][0])
    ]
pathlib.Path(sys.argv[1], f"{number}.json").write_text(json.dumps(found))
accelerator.end_training()  # a process that ends with its group open may abort
"""


def test_two_processes_get_the_same_statistics(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run_warm(script, tmp_path, processes=2)
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (0, 1))
    mean = [[[5.5, 55], [2, 2]], [[5.5, 55, 550, 5500, 55000], [2] * 5]]
    assert first["average"] == second["average"] == mean
    assert (
        first["first"]
        == second["first"]
        == first["sync"]
        == [
            [[1, 10], [0, 0]],
            [[1, 10, 100, 1000, 10000], [0] * 5],
        ]
    )
    assert second["sync"][0] == [[10, 100], [4, 4]]  # as they were


def test_one_process_keeps_its_statistics():
    norm = torch.nn.BatchNorm2d(3)
    norm(torch.randn(4, 3, 2, 2))
    before = norm.running_mean.clone()
    share_statistics(norm, Accelerator(cpu=True), "average")
    assert torch.equal(norm.running_mean, before) and before.any()
