"""`show_sample`: a contact sheet of one sample, and its texts."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.engines.choosing import compose_sample
from vniah.engines.inputs import require_counter
from vniah.errors import InputError
from vniah.files import slug
from vniah.grid import Grid
from vniah.haystacks.frames import AnyHaystack, unit_of
from vniah.haystacks.library import VideoLibrary
from vniah.haystacks.text import TextHaystack
from vniah.needles import NeedleSet
from vniah.paths import picture_path
from vniah.protocol import AnyModel, Frames
from vniah.results import Results
from vniah.results.applied import intervention_of
from vniah.show.facts import Facts
from vniah.show.frames import OnRead, Shown, read_frames
from vniah.show.prompt import Prompt, chat_prompt, composed_prompt, text_prompt
from vniah.show.selection import find_sample, narrowed
from vniah.show.storyboard import Tile, make_storyboard
from vniah.tasks import Sample, Task, load_task
from vniah.tasks.controls import plan_samples
from vniah.tasks.controls.applied import Applied, is_applied_copy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_AROUND = 20
_MAX_IN_FILE_NAME = 120  # characters


@dataclass(frozen=True)
class ShownSample:
    """A sample as the model sees it; a notebook shows its picture.

    Attributes:
        sample: the sample.
        text: its frames, texts and tokens in words, in lines.
        figure: a figure of matplotlib.
        axes: the axes of the figure that show frames, in their order.
    """

    sample: Sample
    text: str
    figure: "Figure" = field(repr=False)
    axes: "tuple[Axes, ...]" = field(repr=False)

    def save(self, path: str | Path | None = None) -> Path:
        """Writes the figure into a PNG, PDF or SVG file; its path is returned.

        Args:
            path: the file; its suffix chooses the format. By default a PNG in the working folder
                that is named after the sample.

        Raises:
            InputError: the suffix is unknown.
        """
        from vniah.analysis.plot.panels import write_figure
        from vniah.analysis.plot.typesetting import own_settings

        path = picture_path(Path(path or file_name(self.sample.sample_id)))
        with own_settings():
            write_figure(self.figure, path)
        return path

    def _repr_png_(self) -> bytes:
        """For notebooks."""
        from vniah.analysis.plot.typesetting import own_settings

        file = io.BytesIO()
        with own_settings():
            self.figure.savefig(file, format="png", dpi=100)
        return file.getvalue()


def file_name(sample_id: str) -> str:
    """The name of a sample's picture: ``"600-0.2-red-7.png"``."""
    return f"{slug(sample_id.replace('/', '-'))[:_MAX_IN_FILE_NAME]}.png"


def show_sample(
    model: AnyModel | None,
    haystack: AnyHaystack,
    needles: NeedleSet,
    grid: Grid,
    sample_id: str | None = None,
    *,
    needle_id: str | None = None,
    task: str | Task = "vniah",
    task_options: Mapping[str, str] | None = None,
    controls: str | Sequence[str] = "all",
    results: Results | None = None,
    around: int = 2,
    notes: Sequence[str] = (),
    on_progress: OnRead | None = None,
) -> ShownSample:
    """A contact sheet of one sample: its frames, the prompt with special tokens, its tokens.

    The model encodes nothing and answers nothing: it composes the prompt, and scales and crops the
    frames that are drawn.

    Args:
        model: of any of the three levels of `vniah.protocol`; None shows frames and texts only.
        haystack: at least as long as the sample; for a task of text, a `TextHaystack`; for one of
            question sets, a `vniah.tasks.vqa.opening.QuestionVideos`.
        needles: the pictures with their questions and answers.
        grid: numbers of frames, and depths or positions; a place that ``sample_id`` names need not
            be in it.
        sample_id: the sample; by default the first one, or the first one with ``needle_id``.
        needle_id: a needle that the sample shows or asks about.
        task: as for `vniah.run_sweep`.
        task_options: as for `vniah.run_sweep`.
        controls: as for `vniah.run_sweep`; those among whose samples it is looked for.
        results: a run; the sample's line is shown.
        around: frames before and after each needle.
        notes: further lines for the end of the text.
        on_progress: called with (frames read, frames to read) of the haystack.

    Raises:
        InputError: there is no such sample; the message names the nearest ones.
        TaskError: there is no such task, or its samples are invalid.
        HaystackTooShortError: the haystack ends before the last frame of the sample.
        ModelError: the model composes no prompt.
    """
    if not 0 <= around <= _MOST_AROUND:
        raise InputError(f"around must be from 0 to {_MOST_AROUND} frames, got {around}")
    chosen = load_task(task, task_options)
    if sample_id is not None:
        grid = narrowed(grid, sample_id)
    source: AnyHaystack = haystack
    if isinstance(haystack, TextHaystack):
        if model is None:
            measured = (
                "" if results is None else f", such as {results.name}, which the run measured"
            )
            raise InputError(
                "the length of a text counts in tokens, which the tokenizer of a model gives: give "
                f"a model with --model{measured}"
            )
        source = haystack.read_by(require_counter(model), grid.max_frames)
    applied = None if results is None else intervention_of(results)
    more = () if applied is None else (Applied(),)
    samples = plan_samples(chosen, grid, needles, source, controls, more=more)
    sample = find_sample(samples, sample_id, needle_id=needle_id)
    if is_applied_copy(sample):
        notes = (*notes, f"the run has it with {applied}, which is not applied to what is shown")
    story = make_storyboard(Frames.of(sample.shown), around=around)
    tiles = [item for item in story if isinstance(item, Tile)]
    if isinstance(haystack, TextHaystack):
        if tiles:
            haystack.frames()  # raises: a text has none
        frames = Shown({}, "")
    else:
        frames = read_frames(tiles, haystack, needles, model, on_progress=on_progress)
    library = haystack if isinstance(haystack, VideoLibrary) else None
    facts = _with_result(
        Facts(
            sample,
            chosen.name,
            caption=frames.caption,
            model=None if model is None else model.name,
            prompt=None if model is None else _prompt(model, sample, library),
            library=library,
            notes=tuple(notes),
            unit=unit_of(haystack),
        ),
        results,
    )
    from vniah.analysis.plot.typesetting import own_settings
    from vniah.show.sheet import draw_sheet

    with own_settings():
        figure, axes = draw_sheet(facts, story, frames.pictures, frames.seconds)
    return ShownSample(sample, facts.text, figure, axes)


def _prompt(model: AnyModel, sample: Sample, library: VideoLibrary | None) -> Prompt:
    sequences = compose_sample(model, sample)
    if sample.text is not None:
        return text_prompt(sample, require_counter(model), sequences)
    if sequences is None:
        return chat_prompt(sample)
    return composed_prompt(model, sequences, library)


def _with_result(facts: Facts, results: Results | None) -> Facts:
    """With the sample's line in a run, and a note if that is of another sample of this id."""
    if results is None:
        return facts
    sample = facts.sample
    lines = (*results.samples, *results.control_samples)
    line = next((one for one in lines if one.sample_id == sample.sample_id), None)
    notes = list(facts.notes)
    if line is not None:
        for name in ("question", "answer"):
            if getattr(line, name) != getattr(sample, name):
                notes.append(
                    f"the run has another {name} for this sample: {getattr(line, name)!r}; its "
                    "needle set or its task has changed since"
                )
    return replace(facts, result=line, run=str(results.path), notes=tuple(notes))
