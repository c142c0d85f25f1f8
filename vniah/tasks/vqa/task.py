"""Questions about videos with more and more frames: does a model use what it is shown?

Zhang et al. 2024, "Long Context Transfer from Language to Vision", section 5.2 and Table 6, measure
Video-MME at 8 to 384 frames, which are spread evenly over each video.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

from vniah.answers import find_ambiguous
from vniah.errors import TaskError
from vniah.grid import Cell, Grid
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.library import uniform_pictures
from vniah.needles import NeedleSet
from vniah.protocol import HAYSTACK, Frames, FrameSegment, FrameSpan
from vniah.scoring import Reading, Score, score_options
from vniah.tasks.base import Reads, Sample
from vniah.tasks.multiple_choice import CRITERION, LETTERS, WORDS, ask_options
from vniah.tasks.parsing import Option, one_of
from vniah.tasks.vqa.opening import QuestionVideos, VideoQuestion, require_question_videos

_DEPTH = Fraction(0)


class VideoQuestions:
    """The task ``vqa``: every question of a set at every number of frames.

    The frames of a sample are spread evenly over the video, from the first picture to the last
    (`vniah.haystacks.library.uniform_pictures`). Depth has no meaning here: the grid has the one
    depth 0, and tables are split by the class of a video's length. Samples about one video are not
    independent of one another, so intervals are over videos.

    A question may have several right options. Then the answer is right if one of them is the most
    probable, and ``num_right_options`` says how many there are.

    Args:
        answers: ``"letters"`` lists the options with letters and reads the letters, as published;
            ``"words"`` asks the question alone and reads the words of each option. By default as
            the set says, and that is letters for those of others.

    Raises:
        TaskError: the option is invalid.
    """

    name = "vqa"
    axes = ("num_frames", "depth")
    controls = ("blind",)
    criterion = CRITERION
    facets = ("duration", "question_type")
    labels: Mapping[str, str] = {
        "duration": "Length of the video",
        "question_type": "Type of the question",
    }
    clusters = "video"
    insertion = "nothing is inserted"
    frame_rate = (
        "num_frames pictures of a video, spread evenly from the first to the last: "
        "np.linspace(0, pictures - 1, num_frames, dtype=int)"
    )
    reads: Reads = "questions"

    def __init__(self, answers: Option = None) -> None:
        self._answers = None if answers is None else one_of(answers, "answers", (LETTERS, WORDS))
        self.settings: Mapping[str, Any] = {} if answers is None else {"answers": self._answers}

    def samples(
        self, grid: Grid, needles: NeedleSet, haystack: AnyHaystack | None
    ) -> Iterator[Sample]:
        """As `vniah.tasks.base.Task.samples`: length by length, in the order of the set.

        Raises:
            TaskError: the grid has other depths than 0.
            InputError: the haystack is no question set.
        """
        asked = require_question_videos(haystack, self.name)
        if grid.positions or grid.depths != (_DEPTH,):
            raise TaskError(
                f"the task {self.name} inserts nothing, so that a depth or position has no "
                "meaning; leave out --depths and --positions (Grid.of(frames, [0]))"
            )
        answers = self._answers or asked.answers
        for num_frames in grid.frames:
            cell = Cell(num_frames, _DEPTH)
            show = cache(lambda video, n=num_frames: _frames_of(asked, video, n))
            for question in asked.questions:
                yield _sample(asked, question, cell, show(question.video), answers)

    def score(self, sample: Sample, readings: Sequence[Reading]) -> Score:
        """As `vniah.tasks.base.Task.score`: is a right option the most probable?

        Of a text that was written, the option that it names counts. Where the rules of
        `vniah.answers` could not tell the words of all options apart, only letters do.
        """
        choices = sample.choices
        if choices is not None and find_ambiguous(tuple(choices)):
            choices = None
        right = [sample.candidates[place] for place in _right_places(sample)]
        scores = [
            score_options(sample.candidates, readings, answer, choices=choices) for answer in right
        ]
        best = max(scores, key=lambda score: (score.correct, _known(score.logprob)))
        if len(right) == 1:
            return best
        wrong = [
            reading.logits.logprob
            for candidate, reading in zip(sample.candidates, readings, strict=False)
            if candidate not in right and reading.logits is not None
        ]
        if best.logprob is None:
            return best
        return replace(
            best,
            rank=1 + sum(logprob > best.logprob for logprob in wrong),
            margin=best.logprob - max(wrong),
        )


def _frames_of(asked: QuestionVideos, video: int, num_frames: int) -> tuple[FrameSpan, ...]:
    first = asked.first_frame(video)
    ordinals = uniform_pictures(asked.videos[video].num_pictures, num_frames)
    return Frames.of(FrameSegment(HAYSTACK, first + ordinal) for ordinal in ordinals).spans


def _sample(
    asked: QuestionVideos,
    question: VideoQuestion,
    cell: Cell,
    shown: tuple[FrameSpan, ...],
    answers: str,
) -> Sample:
    right, *others = question.right
    if answers == WORDS:
        text, candidates, choices = question.question, question.options, None
    else:
        listed = ask_options(
            question.question, question.options, right, answers=LETTERS, instruction=""
        )
        text, candidates, choices = listed.question, listed.candidates, listed.choices
    video = asked.videos[question.video]
    return Sample(
        sample_id=cell.prefix + question.question_id,
        cell=cell,
        shown=shown,
        question=text,
        candidates=candidates,
        answer=candidates[right],
        choices=choices,
        fields={
            "question_id": question.question_id,
            "video": video.name,
            "duration": question.duration,
            "seconds_of_video": round(video.seconds, 3),
            **({"question_type": question.question_type} if question.question_type else {}),
            **(_of_several(question) if others else {}),
            **({"options": list(question.options)} if answers == WORDS else {}),
            "num_options": len(question.options),
            "num_pictures": min(cell.num_frames, video.num_pictures),
        },
    )


def _of_several(question: VideoQuestion) -> dict[str, Any]:
    """The fields of a question with several right options."""
    return {
        "right_options": [question.options[place] for place in question.right],
        "num_right_options": len(question.right),
    }


def _known(logprob: float | None) -> float:
    return float("-inf") if logprob is None else logprob


def _right_places(sample: Sample) -> Sequence[int]:
    """The places of the right options; of several by their words, as a control may move them."""
    several = sample.fields.get("right_options")
    if isinstance(several, list | tuple):
        options = sample.choices or sample.candidates
        return [place for place, option in enumerate(options) if option in several]
    return [sample.candidates.index(sample.answer)]
