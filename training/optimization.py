"""What the training stages share: the learning rate, and checkpoints that a stage goes on from."""

import math
import time
from pathlib import Path

import torch
from torch import nn

from training.recipe import RECIPE
from vniah.files import atomic_path


def make_optimizer(modules: list[nn.Module], *, learning_rate: float) -> torch.optim.AdamW:
    """AdamW over all parameters of ``modules``."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.AdamW(
        parameters, lr=learning_rate, betas=RECIPE.betas, weight_decay=RECIPE.weight_decay
    )


def learning_rate(step: int, *, steps: int, peak: float) -> float:
    """Linear warm-up, then a cosine down to a small share of ``peak``."""
    warm = min(1.0, (step + 1) / RECIPE.warmup_steps)
    last = RECIPE.last_rate_share
    return peak * warm * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def take_step(optimizer: torch.optim.AdamW, loss: torch.Tensor, *, rate: float) -> None:
    """One clipped step at learning rate ``rate``."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], RECIPE.largest_gradient)
    optimizer.step()


class Checkpoint:
    """A file with modules, optimizer and step, from which a restarted stage goes on."""

    def __init__(
        self, path: Path, modules: dict[str, nn.Module], optimizer: torch.optim.AdamW
    ) -> None:
        self._path, self._modules, self._optimizer = path, modules, optimizer
        self._saved_at = time.monotonic()

    def restore(self) -> int:
        """Loads the file where there is one; the step to go on with."""
        if not self._path.exists():
            return 0
        state = torch.load(self._path, weights_only=True)
        for name, module in self._modules.items():
            module.load_state_dict(state[name])
        self._optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def save(self, step: int) -> None:
        """Writes the file at once; ``step`` is the next step to take."""
        state = {name: module.state_dict() for name, module in self._modules.items()}
        with atomic_path(self._path) as unfinished:
            torch.save(
                {**state, "optimizer": self._optimizer.state_dict(), "step": step}, unfinished
            )
        self._saved_at = time.monotonic()

    def save_when_due(self, step: int) -> None:
        """Writes the file if the last time is long enough ago."""
        if time.monotonic() - self._saved_at >= RECIPE.checkpoint_seconds:
            self.save(step)


def load_modules(path: Path, modules: dict[str, nn.Module], *, steps: int) -> None:
    """Fills ``modules`` from the checkpoint of a stage that has taken all its ``steps``.

    Raises:
        SystemExit: the stage has not run, or not to its end.
    """
    if not path.exists():
        raise SystemExit(f"{path} is missing: run the stage before, see training/README.md")
    state = torch.load(path, weights_only=True)
    if state["step"] != steps:
        raise SystemExit(f"{path} is at step {state['step']} of {steps}: run its stage to the end")
    for name, module in modules.items():
        module.load_state_dict(state[name])
