"""What a sweep of sizes has finished, on the disk until all of it is done.

One size is an evaluation, which goes on by itself where it was interrupted. A sweep that was
interrupted takes the results of the sizes before; one that was finished measures all again.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convzoo.evaluation.prediction_file import FOLDER
from convzoo.evaluation.results import EvalResult, check_result
from convzoo.files import SCHEMA_VERSION, json_sha256, read_json, write_json

logger = logging.getLogger(__name__)


class FinishedSizes:
    """The results of a sweep so far; of a model without a folder they are not kept.

    Args:
        home: the folder that keeps results and predictions, or None.
        asked: everything that a person asked for, as JSON has it: the same command finds them.
    """

    def __init__(self, home: Path | None, asked: Mapping[str, Any]):
        self.home = home
        self.path = home / FOLDER / f".{json_sha256(asked)[:8]}.sizes.json" if home else None
        self.results: dict[str, EvalResult] = self._read()

    def _read(self) -> dict[str, EvalResult]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            content = read_json(self.path)["results"]
            return {key: check_result(each, str(self.path)) for key, each in content.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read, all sizes are measured again: %s", self.path, error)
            return {}

    def find(self, identity: Mapping[str, Any]) -> EvalResult | None:
        """Return the result of an evaluation with the same identity, whose predictions are there.

        Args:
            identity: everything that predictions depend on, see `Task.identity`.
        """
        result = self.results.get(json_sha256(identity))
        if result is None or self.home is None or "predictions" not in result:
            return None
        return result if (self.home / result["predictions"]["file"]).is_file() else None

    def add(self, identity: Mapping[str, Any], result: EvalResult) -> None:
        """Keep a result.

        Raises:
            OSError: if the file cannot be written.
        """
        if self.path is not None:
            self.results[json_sha256(identity)] = result
            write_json(self.path, {"schema_version": SCHEMA_VERSION, "results": self.results})

    def clear(self) -> None:
        """Forget all of it: the sweep is done."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
