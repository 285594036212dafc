import pickle
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader, Dataset

from convzoo.errors import expected_problem, user_message
from modeling import CNNConfig

MENDABLE = (OSError, ValueError, TypeError, RuntimeError, MemoryError, ImportError)
MENDABLE = (*MENDABLE, httpx.HTTPError, StrictDataclassError)


class Broken(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise ValueError(f"row {index} of a file:\nno image")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_message_is_the_same_from_a_worker(workers):
    loader = DataLoader(Broken(), batch_size=2, num_workers=workers)
    with pytest.raises(ValueError, match="row 0 of a file") as caught:
        next(iter(loader))
    assert user_message(caught.value) == "row 0 of a file:\nno image"


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (lambda: torch.nn.Linear(10**9, 10**9), "can't allocate memory"),
        (lambda: torch.nn.Linear(10**12, 10**12), "Storage size calculation overflowed"),
        (lambda: torch.nn.Linear(10**30, 8), "Overflow when unpacking"),
        (lambda: np.empty(10**14), "Unable to allocate"),
        (lambda: np.empty((10**9, 10**9, 10**9)), "array is too big"),
        (lambda: bytearray(10**15), "must fit into memory"),
        (lambda: CNNConfig(hidden_sizes="wide"), "field 'hidden_sizes' with value 'wide'"),
        (lambda: Path("/none/at/all").read_text(), "/none/at/all"),
        (lambda: int("x"), "invalid literal"),
        (lambda: __import__("no_such_package"), "no_such_package'. Install it: pip install"),
        (lambda: httpx.get("http://127.0.0.1:9"), "the Hub could not be reached; ConnectError"),
    ],
)
def test_what_a_person_can_mend_is_one_line(fail, words):
    with pytest.raises(MENDABLE) as caught:
        fail()
    line = expected_problem(caught.value)
    assert words in line and "\n" not in line


def test_a_pickle_that_asks_for_code_is_one_line(tmp_path):
    (tmp_path / "weights.bin").write_bytes(pickle.dumps({"weight": Path("x")}, 2))
    with pytest.raises(pickle.UnpicklingError) as caught:
        torch.load(tmp_path / "weights.bin", weights_only=True)
    line = expected_problem(caught.value)
    assert "a pickle with tensors and plain values only" in line and "\n" not in line


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shape"), TypeError(), IndexError()])
def test_an_error_of_ours_keeps_its_traceback(error):
    assert expected_problem(error) is None
