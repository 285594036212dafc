"""Count the training images that cannot be read."""

import logging

logger = logging.getLogger(__name__)


class UnreadableImages:
    """Counts the images that could not be read; too many of them stop training.

    Args:
        allowed: how many different ones may be met.
    """

    def __init__(self, allowed: int):
        self.allowed = allowed
        self.reasons: dict[str, str] = {}

    def know(self, reasons: dict[str, str]) -> None:
        """Count images that other processes met, or that were met before a run was resumed."""
        self.reasons |= reasons

    def add(self, found: list[tuple[str, str]]) -> None:
        """Log images that were not met before.

        Args:
            found: (name, reason) of each, as in a batch.

        Raises:
            ValueError: if there are more than allowed.
        """
        for where, reason in found:
            if where not in self.reasons:
                self.reasons[where] = reason
                logger.warning("unreadable, another image takes its place: %s: %s", where, reason)
        if found and len(self.reasons) > self.allowed:
            raise ValueError(
                f"at most {self.allowed} images may be unreadable (data.max_unreadable_share); "
                f"got {len(self.reasons)}, the last: {where}: {reason}. Mend the data, or raise "
                f"the share"
            )
