"""How often each row of a split comes in an epoch, where classes are to be balanced.

A class of n of the N rows gets a share of an epoch in proportion to n ** (1 - strength): 0 leaves
the classes as they are, 0.5 takes the square root of their sizes, 1 gives all the same share. An
epoch keeps its N samples, so steps and schedules do not change.

Each class walks through its rows in a drawn order, round and round; an epoch takes the next k rows
of it, k being the class's samples in an epoch. So in any number of epochs E each row of the class
came E * k / n times, rounded down or up, and how often it comes in one is a function of the seed
and of the number of the epoch alone.

Source: Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition",
arXiv:1910.09217, equation 1, with q = 1 - strength.
"""

from collections.abc import Sequence

import numpy as np

CHUNK = 2**20  # rows that are looked at at once: 14 million need little memory


class ClassBalance:
    """Tells how often each row comes in an epoch.

    Args:
        labels: class number of each row of the split, in its order.
        group_rows: rows of each row group, in the split's order.
        strength: 0 leaves the classes as they are, 1 makes them equal.
        seed: of the order in which a class walks through its rows.

    Attributes:
        counts: rows of each class number up to the largest that occurs.
        samples: samples of each class in an epoch; together they are as many as the rows.
    """

    def __init__(
        self, labels: np.ndarray, group_rows: Sequence[int], *, strength: float, seed: int
    ):
        self.counts = np.bincount(labels)
        self.samples = samples_per_epoch(self.counts, strength)
        # Small types: 6 bytes a row, of up to 255 classes 5, which data workers share.
        self.labels = labels.astype(np.min_scalar_type(len(self.counts)))
        self.starts = np.concatenate([[0], np.cumsum(group_rows)]).astype(np.int64)
        rng = np.random.default_rng([seed, *b"balance"])
        shuffled = rng.permutation(np.arange(len(labels), dtype=np.int32))
        by_class = shuffled[np.argsort(self.labels[shuffled], kind="stable")]
        firsts = np.cumsum(self.counts) - self.counts
        # Place of each row on its class's way.
        self.places = np.empty(len(labels), np.int32)
        self.places[by_class] = np.arange(len(labels)) - np.repeat(firsts, self.counts)

    def describe(self, label_names: Sequence[str]) -> str:
        """Say how often images of the smallest and of the largest class come in an epoch."""
        used = np.flatnonzero(self.counts)
        ends = [used[np.argmin(self.counts[used])], used[np.argmax(self.counts[used])]]
        return "in an epoch " + ", and ".join(
            f"each of the {self.counts[number]:,} images of {label_names[number]!r} comes "
            f"{self.samples[number] / self.counts[number]:.2f} times"
            for number in ends
        )

    def times(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """Return how often each of the rows from `start` to `stop` comes in an epoch, int64."""
        labels, places = self.labels[start:stop], self.places[start:stop]
        counts, samples = self.counts[labels], self.samples[labels]
        # Of the class's samples j in [epoch * k, (epoch + 1) * k), those with j % n == place.
        before, after = (-((places - number * samples) // counts) for number in (epoch, epoch + 1))
        return np.asarray(after - before)

    def group_entries(self, epoch: int) -> np.ndarray:
        """Return how many samples of an epoch lie in each row group, int64."""
        entries = np.zeros(len(self.starts) - 1, np.int64)
        first = 0
        while first < len(entries):  # whole row groups of about CHUNK rows
            last = int(np.searchsorted(self.starts, self.starts[first] + CHUNK, side="right")) - 1
            last = max(last, first + 1)
            start, stop = int(self.starts[first]), int(self.starts[last])
            sums = np.concatenate([[0], np.cumsum(self.times(epoch, start, stop))])
            entries[first:last] = np.diff(sums[self.starts[first : last + 1] - start])
            first = last
        return entries

    def rows(self, epoch: int, group: int) -> np.ndarray:
        """Return the row of each sample of an epoch that lies in a row group, ascending."""
        start, stop = int(self.starts[group]), int(self.starts[group + 1])
        return np.asarray(np.repeat(np.arange(stop - start), self.times(epoch, start, stop)))


def samples_per_epoch(counts: np.ndarray, strength: float) -> np.ndarray:
    """Share the rows of an epoch out among the classes.

    Args:
        counts: rows of each class; a class without rows gets none.
        strength: see the module's docstring.

    Returns:
        Samples of each class, int64: counts.sum() * n ** (1 - strength) / sum of these, rounded
        down or up so that they add up to counts.sum(); those with the largest remainders get one
        more, of equal ones the first classes.
    """
    total = int(counts.sum())
    shares = np.where(counts > 0, counts.astype(float) ** (1 - strength), 0.0)
    exact = total * shares / shares.sum()
    # What is whole but for rounding errors is whole.
    exact = np.where(np.abs(exact - np.rint(exact)) < 1e-12 * total, np.rint(exact), exact)
    samples = np.floor(exact).astype(np.int64)
    largest = np.argsort(samples - exact, kind="stable")
    samples[largest[: total - samples.sum()]] += 1
    return np.asarray(samples)
