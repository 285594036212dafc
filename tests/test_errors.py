import pytest
from torch.utils.data import DataLoader, Dataset

from convzoo.errors import user_message


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
