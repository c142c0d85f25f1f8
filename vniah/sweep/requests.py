"""Estimates what a sweep sends to a server: requests, pictures, and the tokens of prompts."""

from collections.abc import Mapping
from dataclasses import dataclass

from vniah.engines.base import EngineOptions
from vniah.engines.choosing import choose_engine
from vniah.engines.inputs import require_can_read
from vniah.grid import Grid
from vniah.haystacks.library import VideoLibrary
from vniah.haystacks.text import TextHaystack
from vniah.models.server.client import ServerModel
from vniah.needles import NeedleSet
from vniah.sweep.samples import askable_samples, read_text
from vniah.tasks import Task, load_task
from vniah.tasks.controls import ChosenControls
from vniah.tasks.parsing import Option


@dataclass(frozen=True)
class RequestsEstimate:
    """What a sweep sends to a server.

    A request that fails is sent again, and some before the first sample show whether the server
    reads all that it is sent; these are not counted.

    Attributes:
        model_name: the server's name for the model.
        num_samples: number of samples, controls included; each takes one request.
        num_pictures: pictures in all requests.
        num_prompt_tokens: of all texts, by the tokenizer of the model; None for a task of frames,
            whose tokens only the server knows.
        max_tokens: number of tokens of the longest text; None likewise.
        max_answer_tokens: the most tokens of all answers.
        max_requests: the most requests that the options allow; None for no limit.
        notes: remarks, such as which control is left out.
    """

    model_name: str
    num_samples: int
    num_pictures: int
    num_prompt_tokens: int | None
    max_tokens: int | None
    max_answer_tokens: int
    max_requests: int | None
    notes: tuple[str, ...]


def estimate_requests(
    model: ServerModel,
    needles: NeedleSet,
    grid: Grid,
    *,
    haystack: TextHaystack | VideoLibrary | None = None,
    task: str | Task = "vniah",
    task_options: Mapping[str, Option] | None = None,
    controls: ChosenControls = "default",
) -> RequestsEstimate:
    """What a sweep sends to a server; nothing is sent for it.

    Args:
        model: the server.
        needles: what is inserted, with its questions and answers.
        grid: the cells.
        haystack: as `vniah.sweep.estimate.estimate`.
        task: as `vniah.sweep.run.run_sweep`.
        task_options: as `vniah.sweep.run.run_sweep`.
        controls: as `vniah.sweep.run.run_sweep`.

    Raises:
        InputError: the task shows text, and the server's tokenizer is not known.
        TaskError: there is no such task, or its samples cannot be made.
    """
    engine = choose_engine(model, EngineOptions())
    known = None if haystack is None else read_text(haystack, model, grid)
    loaded = load_task(task, task_options)
    samples = askable_samples(loaded, grid, needles, known, engine, controls)
    require_can_read(model, samples)
    lengths = [len(model.token_ends(one.prompt)) for one in samples if one.text is not None]
    return RequestsEstimate(
        model_name=model.name,
        num_samples=len(samples),
        num_pictures=sum(sample.num_shown for sample in samples),
        num_prompt_tokens=sum(lengths) if lengths else None,
        max_tokens=max(lengths, default=None),
        max_answer_tokens=len(samples) * model.options.max_tokens,
        max_requests=model.options.max_requests,
        notes=tuple(engine.notes),
    )
