"""The interface of engines. An engine reads the candidate answers of samples, batch by batch.

There is an engine for each kind of model, and `vniah.engines.choosing` alone tells the kinds apart.
An engine knows no task: it is given samples, and returns a reading for each candidate answer.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from vniah.embeddings.shown import ShownPictures, frames_shown
from vniah.errors import InputError, ModelError, first_line
from vniah.forward.greedy import likeliest_token
from vniah.forward.memory import is_out_of_memory
from vniah.haystacks.frames import AnyHaystack
from vniah.haystacks.images import RepeatedPictures
from vniah.haystacks.library import VideoLibrary
from vniah.needles import Needle, NeedleSet
from vniah.options import Decoding, Scorer, Share
from vniah.options.approximation import Approximation
from vniah.protocol import (
    HAYSTACK,
    AnyModel,
    FrameSpan,
    TokenModel,
    TokenSequence,
    needle_source,
)
from vniah.scoring import GeneratedText, NeedleAttention, Reading, score_logits
from vniah.tasks.base import Sample
from vniah.tasks.placement import haystack_frames, insert_needle

Outcome = tuple[Reading, ...] | str
"""A reading for each candidate of a sample (one in all for a chat model), or why there is none."""

OnFramesReady = Callable[[int, int], None]
"""Called with (number of prepared frames, number of all frames)."""

ARGMAX = "argmax at every position of the answer span"
GENERATED = "generated text"
"""The criteria by which an answer is right, as the manifest names them."""

Shown = TypeVar("Shown")

_MOST_CHARACTERS = 1_000_000
_MOST_OF_LIBRARY = 20_000  # pictures, of some 50 to 500 kB each


@dataclass(frozen=True)
class EngineOptions:
    """How samples are run.

    Attributes:
        share: whether common prefixes of samples are computed once.
        attention: name of the attention kernel, one of `vniah.options.ATTENTION_NAMES`.
        scorer: whether the argmax or the generated text decides.
        max_new_tokens: generated text ends after this many tokens at the latest; by default what
            the model's attribute of this name says, else 32.
        group: the processes that run each forward pass together; None for this one alone.
        num_processes: number of processes of the whole job.
        scratch_dir: folder for keys and values that do not fit into memory.
        approximation: how far samples are approximate where states are shared by all needles.
        trace_attention: whether the attention mass on the needle is kept, of every layer and head.
    """

    share: Share = "tree"
    attention: str = "auto"
    scorer: Scorer = "argmax"
    max_new_tokens: int | None = None
    group: ProcessGroup | None = None
    num_processes: int = 1
    scratch_dir: Path | None = None
    approximation: Approximation | None = None
    trace_attention: bool = False


@dataclass(frozen=True)
class CheckReport:
    """What an engine found when it tried a model.

    Attributes:
        lines: the findings, as lines of text.
        passed: whether vniah may run the model.
    """

    lines: tuple[str, ...]
    passed: bool


class Engine(Protocol):
    """Reads the candidate answers of samples with one model.

    Attributes:
        criterion: what decides that an answer is right, for the manifest.
        decoding: how answers are generated; None where the argmax decides, and for models that
            answer in words.
        notes: remarks for the manifest, such as damage in the video; work adds more of them.
    """

    criterion: str
    decoding: Decoding | None
    notes: list[str]

    def prepare(
        self,
        haystack: AnyHaystack,
        needles: NeedleSet,
        num_frames: int,
        *,
        shown: Iterable[FrameSpan] = (),
        cache: Path | None = None,
        on_progress: OnFramesReady | None = None,
    ) -> None:
        """Prepares all pictures that samples show; called first.

        Args:
            haystack: the video whose first ``num_frames`` frames are shown.
            needles: the needles whose pictures are shown.
            num_frames: haystack frames of the longest sample.
            shown: what the samples show; needles drawn into haystack frames, and pictures of the
                set that are not those of its needles, are prepared where it names them.
            cache: folder for embeddings; by default one under the user's cache.
            on_progress: called as frames are prepared.
        """

    def plan(self, samples: Sequence[Sample], is_pending: Sequence[bool]) -> int:
        """Plans the batches of a sweep, or of a round of it; a later plan replaces an earlier one.

        Args:
            samples: all samples of the sweep, or of the round.
            is_pending: for each of them, whether it is still to be run.

        Returns:
            The number of batches.
        """

    @property
    def planned_flops(self) -> int | None:
        """The operations of the planned passes; None where they are not known."""

    def check(self) -> Mapping[str, Any]:
        """Checks the model on short samples; called after `plan`. The result is for the manifest.

        Raises:
            CheckError: the sweep would measure wrong numbers.
        """

    def run(self, batch: int) -> Iterator[tuple[Sample, Outcome]]:
        """Runs the pending samples of a batch; gives each with its outcome."""

    def describe(self) -> Mapping[str, Any]:
        """How the samples are run, for the manifest; called after `plan`.

        Engines of models with embeddings add the ``oddness`` of the needles
        (`vniah.embeddings.oddness`).
        """

    def why_not_without_frames(self, sample: Sample) -> str | None:
        """Why the model cannot be asked a question without frames; None if it can.

        Called before anything is prepared. So controls that the model cannot answer are left out.

        Args:
            sample: one that shows no frame.
        """

    def examine(
        self, needles: NeedleSet, *, cache: Path | None, on_prepared: Callable[[], None]
    ) -> CheckReport:
        """Tries the model on the pictures of a needle set; no other method need be called.

        Args:
            needles: pictures, questions and answers.
            cache: as `prepare`.
            on_prepared: called when the pictures are prepared.
        """


@dataclass(frozen=True)
class Pictures(Generic[Shown]):
    """All pictures that samples show, in memory, for models that answer in words.

    Attributes:
        haystack: the pictures of the haystack's frames, by their numbers.
        needles: the pictures of each needle, by its source.
        blended: haystack frames into which a needle is drawn, by source and number of the frame.
    """

    haystack: Mapping[int, Shown]
    needles: Mapping[str, Sequence[Shown]]
    blended: Mapping[str, Mapping[int, Shown]]

    @classmethod
    def of(
        cls,
        haystack: AnyHaystack,
        needles: NeedleSet,
        num_frames: int,
        encode: Callable[[np.ndarray], Shown],
        *,
        notes: list[str],
        shown: Iterable[FrameSpan] = (),
        most_of_library: int | None = _MOST_OF_LIBRARY,
        on_progress: OnFramesReady | None = None,
    ) -> "Pictures[Shown]":
        """The first ``num_frames`` frames and the needles' pictures, each encoded by ``encode``.

        ``shown`` is as in `Engine.prepare`. Of a library it names the frames that are needed, at
        most ``most_of_library``; None where ``encode`` does not keep them in memory.

        Raises:
            InputError: more frames of a library are needed than are held in memory.
        """
        spans = tuple(shown)
        named = ShownPictures.of(spans, needles)
        drawn_at = named.blended_at()
        frames: dict[int, Shown] = {}
        blended: dict[str, dict[int, Shown]] = {picture.source: {} for picture in named.blended}
        # A text has no frames.
        films = haystack.frames(stop=num_frames, on_damage=notes.append) if num_frames else ()
        if isinstance(haystack, VideoLibrary):
            wanted = frames_shown(spans)
            num_frames = len(wanted)
            if most_of_library is not None and num_frames > most_of_library:
                raise InputError(
                    f"the questions show {num_frames:,} pictures, and a model that answers in "
                    f"words is shown at most {most_of_library:,}, which are held in memory; ask "
                    "fewer questions or frames"
                )
            films = haystack.frames_at(wanted, on_damage=notes.append)
        for frame in films:
            frames[frame.index] = encode(frame.image)
            for drawn in drawn_at.get(frame.index, ()):
                image = drawn.drawn_into(frame.image, frame.index)
                blended[drawn.source][frame.index] = encode(image)
            if on_progress is not None:
                on_progress(len(frames), num_frames)
        pictures = {
            needle_source(picture.needle_id): [encode(np.array(one)) for one in picture.frames]
            for picture in (*needles, *named.others)
        }
        return cls(frames, pictures, blended)

    def show(self, spans: Sequence[FrameSpan]) -> list[Shown]:
        """The pictures of some spans, in order."""
        shown: list[Shown] = []
        for span in spans:
            if span.source in self.blended:
                blended = self.blended[span.source]
                shown += [blended[index] for index in range(span.start, span.stop)]
            elif span.source == HAYSTACK:
                shown += [self.haystack[index] for index in range(span.start, span.stop)]
            else:
                shown += self.needles[span.source][span.start : span.stop]
        return shown


def shown_in_tests(samples: Iterable[Sample]) -> Iterator[tuple[FrameSpan, ...]]:
    """What each sample of the test shows; controls may show the haystack in another order."""
    return (sample.shown for sample in samples if sample.control is None)


def try_sample(sample: Sample, read: Callable[[Sample], tuple[Reading, ...]]) -> Outcome:
    """What ``read`` returns for a sample, or one line on why the sample cannot be run."""
    try:
        return read(sample)
    except ModelError as error:
        return first_line(error)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return f"out of memory: {first_line(error)}"


def find_refusal(model: AnyModel, ask: Callable[[], object]) -> str | None:
    """Why a model cannot be asked a question without frames; None if it can.

    A model says so itself by an attribute ``needs_frames = True``, or by an error.

    Args:
        model: of any level.
        ask: asks it such a question, as far as that can be tried at little cost.
    """
    if getattr(model, "needs_frames", False):
        return f"{model.name} needs frames (needs_frames = True)"
    try:
        ask()
    except Exception as error:  # noqa: BLE001  # somebody's model, which nobody has asked so before
        return f"{model.name} failed without frames: {type(error).__name__}: {first_line(error)}"
    return None


def read_candidate(
    model: TokenModel,
    sequence: TokenSequence,
    logits: Tensor,
    *,
    seconds: float,
    generated: GeneratedText | None = None,
    attention: NeedleAttention | None = None,
) -> Reading:
    """The reading of a candidate answer, from its logits.

    Args:
        model: decodes the argmax tokens to text, if it has a method ``decode``.
        sequence: the sequence with the candidate as its answer.
        logits: ``[len(answer_ids), vocabulary]``.
        seconds: how long it took to compute them.
        generated: what the model wrote, if it generated an answer.
        attention: how much attention its rows pay to the needle, if that was traced.

    Raises:
        ModelError: the logits have another shape, or hold NaN or infinity; or ``decode`` does not
            return text.
    """
    require_logits(model, sequence, logits)
    score = score_logits(logits, sequence.answer_ids)
    decode = getattr(model, "decode", None)
    prediction = None if decode is None else decode(score.predicted_ids)
    if prediction is not None:
        prediction = require_text(prediction, f"decode of {model.name}")
    return Reading(seconds, sequence.answer_ids, score, prediction, generated, attention=attention)


def require_logits(model: TokenModel, sequence: TokenSequence, logits: object) -> None:
    """Raises `ModelError` unless these are rows of logits, one for each token of the answer."""
    expected = len(sequence.answer_ids)
    if not isinstance(logits, Tensor):
        raise ModelError(f"answer_logits of {model.name} gave {type(logits).__name__}, no tensor")
    if logits.ndim != 2 or len(logits) != expected:
        raise ModelError(
            f"answer_logits of {model.name} gave shape {tuple(logits.shape)}; "
            f"expected ({expected}, vocabulary), one row for each answer token"
        )


def put_into_words(
    model: TokenModel, token_ids: tuple[int, ...], decoding: Decoding
) -> GeneratedText:
    """Generated tokens as text, without the stop token.

    Raises:
        ModelError: the model's ``decode`` does not return text.
    """
    text = model.decode(decoding.without_stop(token_ids))  # type: ignore[union-attr]
    return GeneratedText(require_text(text, f"decode of {model.name}"), token_ids)


def require_text(text: object, what: str) -> str:
    """The text that a model gave.

    Args:
        text: what the method returned.
        what: names the method and the model in errors, e.g. ``"decode of my-model"``.

    Raises:
        ModelError: it is no text, or too long to be kept.
    """
    if not isinstance(text, str):
        raise ModelError(f"{what} gave {type(text).__name__}, not text")
    if len(text) > _MOST_CHARACTERS:
        raise ModelError(f"{what} gave {len(text):,} characters; {_MOST_CHARACTERS:,} are kept")
    return text


def decode_by_passes(
    logits_of: Callable[[TokenSequence], Tensor],
    sequence: TokenSequence,
    decoding: Decoding,
    *,
    num_needed: int,
) -> tuple[int, ...]:
    """Greedy decoding by one whole forward pass for each token.

    Args:
        logits_of: as `VisionLanguageModel.answer_logits`, ``[len(answer_ids), vocabulary]``.
        sequence: its segments are the prompt; its answer does not matter.
        decoding: says when the answer ends.
        num_needed: number of tokens of the longest candidate answer.

    Raises:
        ModelError: the logits hold NaN or infinity.
    """
    tokens: list[int] = []
    never_read = sequence.answer_ids[0]  # a model reads all tokens of an answer but the last
    while not decoding.has_ended(tokens, num_needed):
        rows = logits_of(sequence.with_answer((*tokens, never_read)))
        tokens.append(likeliest_token(rows[-1]))
    return tuple(tokens)


def repeat_pictures(needles: NeedleSet) -> RepeatedPictures:
    """A haystack to try a model on: the pictures of a needle set, repeated without end."""
    pictures = tuple(np.array(image) for needle in needles for image in needle.frames[:1])
    if not pictures:
        raise InputError(
            f"the needle set {needles.name} holds texts, and a model that reads frames is tried on "
            "pictures; give another one with --needles"
        )
    return RepeatedPictures(f"pictures-of-{needles.name}", pictures, needles.sha256)


def shows_text(needles: NeedleSet) -> bool:
    """Whether the needles of a set are texts; a set has needles of one kind."""
    return len(needles) > 0 and all(needle.text is not None for needle in needles)


def trial_directory(cache: Path | None) -> Path | None:
    """The folder for embeddings of trial pictures, inside the one for those of the haystack."""
    return None if cache is None else cache / "trial"


def trial_text(needles: NeedleSet, needle: Needle, *, length: int, index: int | None) -> Sample:
    """A short sample of text: the texts of a needle set, repeated, with one needle among them.

    Args:
        needles: of text; the haystack is made of them.
        needle: the one that is asked for.
        length: number of texts of the haystack.
        index: how many of them stand before the needle; None leaves it out.
    """
    texts = [str(one.text) for one in islice(cycle(needles), length)]
    if index is not None:
        texts.insert(index, str(needle.text))
    return Sample(
        sample_id=f"-/-/trial/{length}/{index}/{needle.needle_id}",
        cell=None,
        shown=(),
        text=tuple(texts),
        question=needle.question,
        candidates=needle.answers,
        choices=needle.choices,
    )


def trial_sample(needle: Needle, *, num_frames: int, needle_index: int | None) -> Sample:
    """A short sample to try a model on; without a needle where ``needle_index`` is None."""
    if needle_index is None:
        shown = haystack_frames(num_frames)
    else:
        shown = insert_needle(num_frames, needle_index, needle.needle_id)
    return Sample(
        sample_id=f"-/-/trial/{num_frames}/{needle_index}/{needle.needle_id}",
        cell=None,
        shown=shown,
        question=needle.question,
        candidates=needle.answers,
        choices=needle.choices,
    )
