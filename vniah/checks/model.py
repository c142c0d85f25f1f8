"""The forward pass against the model's own: does vniah compute what the model computes?"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.engines.base import CheckReport, EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.needles import NeedleSet
from vniah.protocol import AnyModel

if TYPE_CHECKING:
    import torch.distributed as dist


def check_model(
    model: AnyModel,
    needles: NeedleSet,
    *,
    group: "dist.ProcessGroup | None" = None,
    attention: str = "auto",
    cache: Path | None = None,
    on_prepared: Callable[[], None] = lambda: None,
) -> CheckReport:
    """Tries a model on short questions about a needle set's own pictures.

    Args:
        model: of any level.
        needles: pictures, questions and answers.
        group: processes that run each pass together, if there are several.
        attention: as `vniah.sweep.run.run_sweep`.
        cache: folder for the pictures' embeddings; by default under the user's cache.
        on_prepared: called when the pictures are ready.

    Raises:
        ModelError: the model cannot be run.
        InputError: the attention kernel does not run here.
    """
    engine = choose_engine(model, EngineOptions(attention=attention, group=group))
    return engine.examine(needles, cache=cache, on_prepared=on_prepared)
