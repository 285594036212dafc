"""A share of something that is cut into parts which differ by one item at most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Part `index` of `count`: of the readers of a dataset, and so of what they read.

    Attributes:
        index: 0-based.
        count: how many parts there are.
    """

    index: int = 0
    count: int = 1

    def part(self, index: int, count: int) -> "Share":
        """Return part `index` of `count` of this share: a worker's among all workers of all."""
        return Share(self.index * count + index, self.count * count)

    def of(self, total: int) -> range:
        """Return the numbers below `total` that belong to this share."""
        return range(total * self.index // self.count, total * (self.index + 1) // self.count)
