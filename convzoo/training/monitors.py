"""Looks inside a model while it trains: gradients, batch norms, slopes, residual branches, weights.

A look is one line of monitors.jsonl: the step, and for each chosen monitor its numbers by layer.
Looks only read: weights, gradients and random numbers are those of a run without them. Between
looks nothing is hooked. `convzoo.inspection.monitor_report` draws the lines and says what is wrong
in them.

On several processes the first one looks; gradients are the averaged ones of all, activations and
mixing those of its own share of the batch. A compiled model calls no hooks that come after its
compilation, so "residual_ratio" needs train.compile = false; the other monitors do not care.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convzoo.health import dead_channels, slope_statistics
from convzoo.training.metrics_log import MetricsLog


class Monitors:
    """Look inside a model at the first step of a run, and then every so many steps.

    | name | for each | numbers |
    | --- | --- | --- |
    | gradients | kernel (more than one dimension) | see `gradient_statistics` |
    | batch_norm | batch norm | mean of |running mean|, least, mean and greatest running variance,
      dead: share of channels that carry nothing, see `convzoo.health` |
    | slopes | PReLU | min, mean, max, outside: share not in [0, 1] |
    | residual_scales | residual block | scale: softplus of the parameter |
    | residual_ratio | residual block | ratio: norm of the scaled branch (before drop path) over
      that of the shortcut, over all images of the step |
    | weight_change | parameter | relative: norm of the change since the last look (since_step) over
      the larger of the norms then and now; keeps a copy of all weights on their device |
    | mixing | step | kind, share that images keep, box of CutMix: for each draw |

    A step calls `begin`, then what it comes to: `mixing`, `watching`, `after_backward`, `end`.

    Args:
        model: the bare model, not its DDP or compiled wrapper.
        names: which of the table; nothing happens if empty.
        every_steps: steps between looks.
        folder: gets monitors.jsonl.
        start_step: steps done so far; later lines of the file are dropped.
        enabled: False on all processes but one.

    Raises:
        ValueError: if the model has nothing that a monitor could look at.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        *,
        every_steps: int,
        folder: Path,
        start_step: int = 0,
        enabled: bool = True,
    ):
        self.names = set(names) if enabled else set()
        self.every_steps = every_steps
        self.line: dict[str, Any] | None = None  # None where the step is not looked at
        if not self.names:
            return
        self._find_layers(model)
        self._check_there_is_something(type(model).__name__)
        self.log = MetricsLog(folder / "monitors.jsonl", start_step)
        if "weight_change" in self.names:
            self._keep_weights(start_step)

    def _find_layers(self, model: nn.Module) -> None:
        self.parameters = dict(model.named_parameters())
        self.kernels = {
            name.removesuffix(".weight"): parameter
            for name, parameter in self.parameters.items()
            if parameter.ndim > 1 and parameter.requires_grad
        }
        modules = dict(model.named_modules())
        norm_classes = (nn.BatchNorm2d, nn.SyncBatchNorm)
        self.norms = {n: m for n, m in modules.items() if isinstance(m, norm_classes)}
        self.slopes = {n: m.weight for n, m in modules.items() if isinstance(m, nn.PReLU)}
        self.blocks = {n: m for n, m in modules.items() if hasattr(m, "shortcut")}
        self.scales: dict[str, Tensor] = {
            n: m.residual_scale for n, m in self.blocks.items() if hasattr(m, "residual_scale")
        }

    def _check_there_is_something(self, model_name: str) -> None:
        needed = {
            "gradients": (self.kernels, "kernels that are trained"),
            "batch_norm": (self.norms, "batch norms"),
            "slopes": (self.slopes, "PReLUs"),
            "residual_scales": (self.scales, "residual scales"),
            "residual_ratio": (self.blocks, "residual blocks"),
        }
        for name in sorted(self.names & set(needed)):
            layers, description = needed[name]
            if not layers:
                raise ValueError(
                    f"monitor {name!r} looks at {description}; {model_name} has none. Take it out "
                    f"of monitor.names"
                )

    def begin(self, step: int) -> None:
        """Begin a step; its number is how many steps were done before it."""
        self.step = step + 1  # done when the line is written
        looks = self.names and (step == 0 or self.step % self.every_steps == 0)
        self.line = {} if looks else None

    def mixing(self, drawn: tuple[np.ndarray, np.ndarray]) -> None:
        """Note how a batch was mixed.

        Args:
            drawn: what `MixupCutmix.draw` returned: shares (n,), boxes (n, 4).
        """
        if self.line is None or "mixing" not in self.names:
            return
        shares, boxes = drawn[0].tolist(), drawn[1].tolist()
        noted = self.line.setdefault("mixing", {"kind": [], "share": [], "box": []})
        for share, (top, bottom, left, right) in zip(shares, boxes, strict=True):
            cut = bottom > top and right > left
            noted["kind"].append("cutmix" if cut else "mixup" if share < 1 else "none")
            noted["share"].append(share)
            noted["box"].append([top, bottom, left, right] if cut else None)

    def watching(self) -> AbstractContextManager[None]:
        """Return the context of a step's forward and backward passes, all its micro-batches."""
        if self.line is None or "residual_ratio" not in self.names:
            return nullcontext()
        return self._hooked(self.line)

    def after_backward(self, scaler: torch.amp.GradScaler | None = None) -> None:
        """Look at the gradients before they are clipped.

        Args:
            scaler: of fp16, whose scale the gradients still have; None without one.
        """
        if self.line is None or "gradients" not in self.names:
            return
        loss_scale = scaler.get_scale() if scaler else 1.0
        self.line["gradients"] = {
            name: gradient_statistics(kernel.grad, loss_scale)
            for name, kernel in self.kernels.items()
            if kernel.grad is not None
        }

    @torch.no_grad()
    def end(self) -> dict[str, Any] | None:
        """Look at the weights after the optimizer's step, and write the line; returns it."""
        line, self.line = self.line, None
        if line is None:
            return None
        if "batch_norm" in self.names:
            line["batch_norm"] = {n: _norm_statistics(m) for n, m in self.norms.items()}
        if "slopes" in self.names:
            line["slopes"] = {n: slope_statistics(w) for n, w in self.slopes.items()}
        if "residual_scales" in self.names:
            line["residual_scales"] = {
                name: {"scale": F.softplus(scale).item()} for name, scale in self.scales.items()
            }
        if "weight_change" in self.names:
            line["since_step"] = self.kept_step
            line["weight_change"] = {
                name: {"relative": _relative_change(self.kept[name], new)}
                for name, new in self.parameters.items()
            }
            self._keep_weights(self.step)
        self.log.write(step=self.step, **line)
        return {"step": self.step, **line}

    def _keep_weights(self, step: int) -> None:
        self.kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.kept_step = step

    @contextmanager
    def _hooked(self, line: dict[str, Any]) -> Iterator[None]:
        """Sum squares of branches and shortcuts, and put their ratios into the line.

        Activation checkpointing runs a block a second time, which adds to both or to none.
        """
        squares: dict[str, list[Tensor | float]] = {name: [0.0, 0.0] for name in self.blocks}
        # In training mode bn3 has multiplied by the scale (`CNNBlock.forward`).
        scales = {
            name: 1.0 if self.blocks[name].training else F.softplus(scale).item()
            for name, scale in self.scales.items()
        }

        def adder(name: str, index: int) -> Callable[[nn.Module, Any, Tensor], None]:
            def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
                norm = torch.linalg.vector_norm(output.detach(), dtype=torch.float32)
                squares[name][index] += norm.square()

            return add

        handles = []
        for name, block in self.blocks.items():
            handles.append(block.bn3.register_forward_hook(adder(name, 0)))
            handles.append(block.shortcut.register_forward_hook(adder(name, 1)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        line["residual_ratio"] = {}
        for name, (branch, shortcut) in squares.items():
            ratio = _ratio(branch, shortcut)
            ratio = None if ratio is None else scales.get(name, 1.0) * math.sqrt(ratio)
            line["residual_ratio"][name] = {"ratio": ratio}


@torch.no_grad()
def gradient_statistics(gradient: Tensor, loss_scale: float = 1.0) -> dict[str, Any]:
    """Describe one kernel's gradient in numbers.

    Args:
        gradient: of any shape.
        loss_scale: what it is divided by first.

    Returns:
        norm; rms, the norm over the root of the count; zeros, the share of entries that are exactly
        0; kurtosis, excess over a normal distribution's (0 if all are equal); and the histogram
        of the others: counts[i] entries have 2^(low + i) <= |g| < 2^(low + i + 1). Bins of a fixed
        grid, of which each layer takes those it fills, so looks can be compared. Only finite:
        False if one entry is infinite or not a number.
    """
    values = gradient.detach().float().flatten() / loss_scale
    if not values.isfinite().all():
        return {"finite": False}
    deviation = values - values.mean()
    spread = deviation.square().mean().sqrt()
    kurtosis = (deviation / spread).pow(4).mean().item() - 3 if spread > 0 else 0.0
    nonzero = values[values != 0]
    norm = values.norm().item()
    statistics = {
        "norm": norm,
        "rms": norm / math.sqrt(len(values)),
        "zeros": 1 - len(nonzero) / len(values),
        "kurtosis": kurtosis,
        "low": 0,
        "counts": [],
    }
    if len(nonzero):
        exponents = nonzero.frexp().exponent - 1  # frexp's mantissa is in [0.5, 1)
        low = exponents.min()
        statistics["low"] = low.item()
        statistics["counts"] = torch.bincount((exponents - low).long()).tolist()
    return statistics


def _norm_statistics(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> dict[str, float]:
    assert norm.running_mean is not None and norm.running_var is not None
    variance, mean = norm.running_var.float(), norm.running_mean.float()
    return {
        "mean": mean.abs().mean().item(),
        "var_min": variance.min().item(),
        "var_mean": variance.mean().item(),
        "var_max": variance.max().item(),
        "dead": dead_channels(norm).float().mean().item(),
    }


def _relative_change(old: Tensor, new: Tensor) -> float | None:
    return _ratio((new - old).norm(), torch.maximum(old.norm(), new.norm()))


def _ratio(part: Tensor | float, whole: Tensor | float) -> float | None:
    """Divide; None if the whole is 0."""
    part, whole = float(part), float(whole)
    return part / whole if whole else None
