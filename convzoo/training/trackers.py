"""TensorBoard, Trackio and Weights & Biases, through Accelerate; none of them can stop training.

They get what is in metrics.jsonl, which stays the record of a run. A resumed run continues the
same graphs. It repeats the steps since its checkpoint, and none of the three can take points back,
so `trackers.json` in the run folder remembers what each was sent: a point is sent once.

TensorBoard has more: the settings as hyper-parameters, and what monitors saw; tensorboard_pages.py.
It writes to <run folder>/tensorboard, Trackio to its database (TRACKIO_DIR), both without
a network; W&B follows WANDB_MODE, and writes to <run folder>/wandb with WANDB_MODE=offline.
"""

import importlib.util
import json
import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convzoo.files import read_json, write_json
from convzoo.training import tensorboard_pages

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

logger = logging.getLogger(__name__)

PROJECT = "convzoo"


class Trackers:
    """The trackers of a run, on its main process.

    A tracker that fails, at any time, is named in a warning and left out from then on.

    Args:
        names: of "tensorboard", "trackio", "wandb"; nothing is imported or written if empty.
        folder: the run folder, which exists.
        run_name: how the run is called in them, in the project "convzoo".
        config: nested settings of the run, shown with it.

    Raises:
        ValueError: if the package of a tracker is not installed.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, *, run_name: str, config: dict[str, Any]
    ):
        missing = [name for name in names if not importlib.util.find_spec(name)]
        if missing:
            raise ValueError(
                f"run.trackers must be installed; {', '.join(missing)} is not. "
                f"Run: pip install {' '.join(missing)}"
            )
        self.active: dict[str, GeneralTracker] = {}
        if not names:
            return
        self.record_path = folder / "trackers.json"
        self.record: dict[str, Any] = {"id": uuid.uuid4().hex[:8], "sent": {}}
        if self.record_path.is_file():
            try:
                record = read_json(self.record_path)
                self.record = {"id": str(record["id"]), "sent": dict(record["sent"])}
            except (ValueError, LookupError, TypeError):
                logger.warning("%s is damaged; the trackers begin new graphs", self.record_path)
        for name in names:
            self._attempt(
                name, partial(self._start, name, folder, run_name=run_name, config=config)
            )

    def log(self, step: int, **values: float | None) -> None:
        """Send a line of metrics. Points that were already sent are skipped.

        Args:
            step: optimizer steps done.
            values: numbers; None is left out.
        """
        for name in list(self.active):
            self._attempt(name, partial(self._send, name, step, values))

    def look(self, line: Mapping[str, Any] | None) -> None:
        """Send what monitors saw to TensorBoard.

        Args:
            line: of monitors.jsonl; None for a step that was not looked at.
        """
        if line and "tensorboard" in self.active:
            send = partial(self._send_once, "monitors", line["step"], tensorboard_pages.write_look)
            self._attempt("tensorboard", partial(send, line))

    def complete(self, step: int, images: Sequence[Path]) -> None:
        """Tell TensorBoard that the run has come to its end, and show it images.

        Args:
            step: the last one.
            images: files of images, such as the plots of monitors.
        """
        if "tensorboard" in self.active:

            def write(writer: Any) -> None:
                tensorboard_pages.write_images(writer, images, step)
                tensorboard_pages.write_end(writer)

            self._attempt("tensorboard", partial(self._send_once, "end", step, write))

    def finish(self) -> None:
        """Write what they still hold."""
        for name in list(self.active):
            self._attempt(name, self.active[name].finish)
        self.active = {}

    def _start(self, name: str, folder: Path, *, run_name: str, config: dict[str, Any]) -> None:
        from accelerate import tracking

        identity = self.record["id"]
        if name == "tensorboard":
            tracker = tracking.TensorBoardTracker("tensorboard", folder)
        elif name == "trackio":  # it finds a run by its name, which other folders may use, too
            tracker = tracking.TrackioTracker(
                PROJECT, name=f"{run_name}-{identity}", config=config, resume="allow"
            )
        else:
            tracker = tracking.WandBTracker(
                PROJECT, name=run_name, id=identity, config=config, resume="allow", dir=folder
            )
        tracker.start()
        if name == "tensorboard" and name not in self.record["sent"]:
            tracker.log({"recipe": f"```json\n{json.dumps(config, indent=1)}\n```"}, step=0)
            tensorboard_pages.write_settings(tracker.tracker, config)
        self.active[name] = tracker
        self.record["sent"].setdefault(name, {})

    def _send(self, name: str, step: int, values: dict[str, float | None]) -> None:
        sent = self.record["sent"][name]
        new = {
            key: value
            for key, value in values.items()
            if value is not None and step > sent.get(key, -1)
        }
        if new:
            tag_of = tensorboard_pages.tag_of if name == "tensorboard" else str
            self.active[name].log({tag_of(key): value for key, value in new.items()}, step=step)
            sent.update(dict.fromkeys(new, step))
            write_json(self.record_path, self.record)

    def _send_once(self, what: str, step: int, write: Callable[..., None], *about: Any) -> None:
        """Write to TensorBoard what was not sent before, under a name that no metric has."""
        sent = self.record["sent"]["tensorboard"]
        if step > sent.get(what, -1):
            writer = self.active["tensorboard"].tracker
            write(writer, *about)
            writer.flush()
            sent[what] = step
            write_json(self.record_path, self.record)

    def _attempt(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self.active.pop(name, None)
            logger.warning("%s failed and is left out from now on; %s", name, error)
