"""Shares of rows: processes, their workers, and what is cut into parts."""

import pytest

from convzoo.data.share import Share


@pytest.mark.parametrize(("total", "count"), [(0, 3), (1, 4), (10, 1), (61, 7), (100, 8)])
def test_shares_are_all_of_it_in_order_and_differ_by_one_at_most(total, count):
    shares = [Share(index, count).of(total) for index in range(count)]
    assert [number for share in shares for number in share] == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_workers_have_shares_of_the_share_of_their_process():
    whole = [Share(rank, 3).part(worker, 4) for rank in range(3) for worker in range(4)]
    assert whole == [Share(reader, 12) for reader in range(12)]
    assert Share().of(7) == range(7) and Share().part(0, 1) == Share()
