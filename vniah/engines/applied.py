"""The engine of runs with an intervention: samples on the model as it is, then on the changed one.

Copies of samples (`vniah.tasks.controls.applied`) are run with the intervention, all others without
it, as if there were no copies. A process runs its share of the plain samples first.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vniah.embeddings.batches import encode_batch
from vniah.engines.base import CheckReport, OnFramesReady, Outcome
from vniah.engines.decoder import DecoderEngine
from vniah.engines.inputs import require_encoder
from vniah.engines.interventions import Changes, Intervention, settings_of
from vniah.engines.model_state import ModelState
from vniah.errors import CheckError, ModelError
from vniah.haystacks.frames import AnyHaystack
from vniah.needles import NeedleSet
from vniah.options import Decoding
from vniah.protocol import DecoderModel, FrameSpan, LanguageModel
from vniah.tasks.base import Sample

_RECORDED = ("share", "not_shared_because", "passes", "flops", "tile_size")
_IN_ALL = ("passes", "flops", "flops_not_shared")


@dataclass(frozen=True)
class _State:
    """What tells whether a model is as it was.

    Attributes:
        logits: what it gives for a short sequence.
        noise: by how much they differ when they are computed again; 0 but for kernels that sum in
            an order of their own.
        settings: of its decoder.
        parts: what it consists of.
        volatile: names of parts that a plain pass changes by itself.
    """

    logits: Tensor
    noise: float
    settings: Mapping[str, Any]
    parts: ModelState
    volatile: frozenset[str]

    def change_to(
        self, logits: Tensor, settings: Mapping[str, Any], parts: ModelState
    ) -> str | None:
        """What is not the same in a model that gives and has this now; None if it is the same."""
        if (change := self.parts.change_to(parts, self.volatile)) is not None:
            return change
        if settings != self.settings:
            return "its config is another"
        difference = float((logits - self.logits).abs().max())
        return "its logits are others" if difference > 4 * self.noise else None


class AppliedEngine:
    """Reads samples with a decoder, and copies of them with the same decoder changed.

    Args:
        model: the model.
        intervention: changes it.
        make: makes an engine of a model, given how answers are generated.
        decoding: as `DecoderEngine`.
        is_copy: whether a sample is to be run with the intervention.
    """

    def __init__(
        self,
        model: DecoderModel | LanguageModel,
        intervention: Intervention,
        make: Callable[[DecoderModel | LanguageModel, Decoding | None], DecoderEngine],
        decoding: Decoding | None,
        *,
        is_copy: Callable[[Sample], bool],
    ) -> None:
        self._model = model
        self._intervention = intervention
        self._make = make
        self._plain = make(model, decoding)
        self._is_copy = is_copy
        self.criterion = self._plain.criterion
        self.notes = self._plain.notes
        self._copies: Sequence[Sample] = ()
        self._are_pending: Sequence[bool] = ()
        self._num_plain = 0
        self._num_changed = 0
        self._before: _State | None = None
        self._checked: dict[str, Any] = {}
        self._description: Mapping[str, Any] = {}
        self._changed: DecoderEngine | None = None
        self._entered = ExitStack()

    @property
    def decoding(self) -> Decoding | None:
        """As `vniah.engines.base.Engine`; of both halves."""
        return self._plain.decoding

    @decoding.setter
    def decoding(self, decoding: Decoding | None) -> None:
        self._plain.decoding = decoding

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
        """As `vniah.engines.base.Engine.prepare`; frames are changed when they are read."""
        self._plain.prepare(
            haystack, needles, num_frames, shown=shown, cache=cache, on_progress=on_progress
        )

    def plan(self, samples: Sequence[Sample], is_pending: Sequence[bool]) -> int:
        """As `vniah.engines.base.Engine.plan`; the batches of copies come last.

        The intervention is tried, undone, and checked to have been undone, before anything is run.

        Raises:
            ModelError: it fails, or leaves the model changed.
            CheckError: the forward pass gives other logits than the changed model's own.
        """
        self.undo()
        flags = {one.sample_id: flag for one, flag in zip(samples, is_pending, strict=True)}
        plain = [one for one in samples if not self._is_copy(one)]
        copies = {_original_id(one): one for one in samples if self._is_copy(one)}
        self._num_plain = self._plain.plan(plain, [flags[one.sample_id] for one in plain])
        # The same tree for both halves: so an intervention that does nothing changes no last bit.
        self._copies = [copies.get(one.sample_id, one) for one in plain]
        self._are_pending = [self._is_copy(one) and flags[one.sample_id] for one in self._copies]
        self._num_changed, self._before, self._checked, self._description = 0, None, {}, {}
        if any(self._are_pending):
            pictures = _Pictures.of(self._model) if self._shows_frames() else None
            self._before = self._state()
            with self._intervention.applied_to(self._model) as changes:
                if pictures is not None and not pictures.are_same(self._model):
                    raise ModelError(
                        f"{self._intervention.name} changes how pictures are encoded, and frames "
                        "are encoded before it is called, so that it would have no effect: change "
                        "the encoded frames (changes.frames) or the decoder instead"
                    )
                engine, self._num_changed = self._planned(changes)
                self._description = engine.description
                self._checked = self._check(engine, changes)
            self.require_undone()
        return self._num_plain + self._num_changed

    def _planned(self, changes: Changes) -> tuple[DecoderEngine, int]:
        """An engine of the changed model, with a plan of the copies; and the number of batches.

        The plan holds the samples of controls as well, which are not read.
        """
        trial = self._plain.trial_sequences()
        longest = self._plain.longest_sequence
        model, frames = changes.seen_by(self._plain.frames, trial[0], longest)
        engine = self._make(model, self.decoding)
        engine.take_frames(frames, trial)
        return engine, engine.plan(self._copies, self._are_pending)

    def _check(self, engine: DecoderEngine, changes: Changes) -> dict[str, Any]:
        """Runs short sequences with the changes; compares with the model's own pass, which has all
        of them but changed keys and values.
        """
        name = self._intervention.name
        with changes.without_keys_values() if changes.has_keys_values else nullcontext():
            if not engine.trial_logits().isfinite().all():
                raise ModelError(f"with {name} the logits of {self._model.name} are not finite")
            found = engine.compare()
        for agreement in found:
            if not agreement.passed:
                raise CheckError(
                    f"with {name} the forward pass does not give what {self._model.name} itself "
                    f"gives then: {agreement.sentence()}. Nothing was measured; vniah calls the "
                    "parts of a layer by itself, so change what both passes use, such as weights, "
                    "or use the methods of the function's argument"
                )
        if changes.has_keys_values and not engine.trial_logits().isfinite().all():
            raise ModelError(f"with {name} the logits of {self._model.name} are not finite")
        return {agreement.way: dict(agreement.record()) for agreement in found}

    @property
    def planned_flops(self) -> int | None:
        """As `vniah.engines.base.Engine.planned_flops`."""
        found = self._plain.planned_flops
        return found if found is None else found + self._description.get("flops", 0)

    def check(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.check`; the changed model was checked by `plan`."""
        of_changed = {f"{way}, applied": found for way, found in self._checked.items()}
        return {**self._plain.check(), **of_changed}

    def run(self, batch: int) -> Iterator[tuple[Sample, Outcome]]:
        """As `vniah.engines.base.Engine.run`."""
        if batch < self._num_plain:
            self.undo()
            yield from self._plain.run(batch)
            return
        if self._changed is None:
            self._plain.release()
            # Anew, as long passes may have changed what a module keeps for later ones.
            assert self._before is not None, "plan comes first"
            self._before = replace(self._state(), logits=self._before.logits)
            changes = self._entered.enter_context(self._intervention.applied_to(self._model))
            self._changed, num_batches = self._planned(changes)
            assert num_batches == self._num_changed, "the plan of the copies is always the same"
        yield from self._changed.run(batch - self._num_plain)

    def describe(self) -> Mapping[str, Any]:
        """As `vniah.engines.base.Engine.describe`; operations are those of both halves."""
        found = dict(self._plain.describe())
        if self._description:
            found |= {name: found[name] + self._description[name] for name in _IN_ALL}
            found["applied"] = {
                name: self._description[name] for name in _RECORDED if name in self._description
            }
        return found

    def why_not_without_frames(self, sample: Sample) -> str | None:
        """As `vniah.engines.base.Engine.why_not_without_frames`."""
        return self._plain.why_not_without_frames(sample)

    def examine(
        self, needles: NeedleSet, *, cache: Path | None, on_prepared: Callable[[], None]
    ) -> CheckReport:
        """As `vniah.engines.base.Engine.examine`, of the model as it is."""
        return self._plain.examine(needles, cache=cache, on_prepared=on_prepared)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """A block behind which the model is as it was before.

        Raises:
            ModelError: the intervention left it changed.
        """
        try:
            yield
        finally:
            self.undo()
        self.require_undone()

    def undo(self) -> None:
        """Undoes what the intervention changed, if it is in effect."""
        self._changed = None
        self._entered.close()

    def require_undone(self) -> None:
        """Raises `ModelError` if the model gives, or has, something else than before it was
        changed.
        """
        if self._before is None:
            return
        logits, settings = self._plain.trial_logits(), settings_of(self._model.decoder)
        change = self._before.change_to(logits, settings, ModelState.of(self._model))
        if change is not None:
            raise ModelError(
                f"{self._intervention.name} left the model changed ({change}), so that it would be "
                "measured changed as well: write it as a context manager "
                "(@contextlib.contextmanager) that puts back behind its yield what it changed"
            )

    def _state(self) -> _State:
        """That of the model now, after two plain passes, between which it may change by itself."""
        logits = self._plain.trial_logits()
        first = ModelState.of(self._model)
        noise = float((self._plain.trial_logits() - logits).abs().max())
        parts = ModelState.of(self._model)
        volatile = frozenset(first.differing(parts))
        return _State(logits, noise, settings_of(self._model.decoder), parts, volatile)

    def _shows_frames(self) -> bool:
        return any(one.frames for one in self._plain.trial_sequences())


@dataclass(frozen=True)
class _Pictures:
    """A picture as a model encodes it.

    Attributes:
        encoded: the picture, ``[1, *frame_shape]``.
        noise: by how much it differs when it is encoded again.
    """

    encoded: Tensor
    noise: float

    @classmethod
    def of(cls, model: DecoderModel | LanguageModel) -> "_Pictures":
        """As the model encodes it now."""
        encoded = _encode(model)
        return cls(encoded, float((_encode(model) - encoded).abs().max()))

    def are_same(self, model: DecoderModel | LanguageModel) -> bool:
        """Whether the model encodes it as before."""
        found = _encode(model)
        if found.shape != self.encoded.shape:
            return False
        return float((found - self.encoded).abs().max()) <= 4 * self.noise


def _encode(model: DecoderModel | LanguageModel) -> Tensor:
    """A picture with a gradient and stripes, encoded as those of haystacks are."""
    rows = np.arange(224, dtype=np.uint8)
    picture = np.stack([rows[:, None] + 0 * rows, rows[None] + 0 * rows[:, None]], -1)
    picture = np.concatenate([picture, picture[..., :1] ^ picture[..., 1:]], -1)
    return encode_batch(require_encoder(model), [picture], size=1).double()


def _original_id(copy: Sample) -> str:
    """The id of the sample that a copy is of."""
    return copy.sample_id.removesuffix(f"/{copy.control}")
