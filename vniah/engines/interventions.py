"""Interventions: a function of the user that changes a loaded model while some samples are run.

The function gets a `Changes`. By its methods it changes what layers attend to, or how frames are
read, and vniah undoes that. Whatever else it changes, such as weights, it undoes itself: then it is
a context manager.

>>> def int8_keys(changes):
...     def rounded(rows):
...         scale = rows.abs().amax(-1, keepdim=True).clamp(min=1e-8) / 127
...         return (rows / scale).round() * scale
...     changes.keys_values(lambda layer, keys, values: (rounded(keys), values))
"""

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from vniah.embeddings.encode import EncodedFrames
from vniah.engines.sources import source_sha256
from vniah.errors import InputError, ModelError, VniahError, first_line, short_repr
from vniah.factories import find_factory, is_factory, place_of
from vniah.forward.hooks import KeysValuesChange, keys_values_changed, window_forced
from vniah.forward.memory import is_out_of_memory
from vniah.protocol import DecoderModel, LanguageModel, TokenSequence

FramesChange = Callable[[Tensor], Tensor]
"""Called with encoded frames ``[num_frames, tokens, H]`` on the CPU; gives as many, which all have
equally many tokens."""

# By how much what a function gives for rows together and apart may differ, relative to its size.
# One that treats each row by itself differs by rounding at most; with a scale for all rows, eight
# bits differ by .005. A function that treats the first rows otherwise differs in few rows, where
# they are cut.
_MOST_DIFFERENCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_MOST_DIFFERENCE_IN_HALF = 1e-3
_MOST_AT_BORDERS = 1e-3
_BORDER_ROWS = 8


@dataclass(frozen=True)
class Intervention:
    """A function that changes a model, and its name.

    Attributes:
        name: ``package.module:function``.
        sha256: of the file that holds the function and of the user's own files that it imports, as
            `vniah.engines.sources.source_sha256` gives it.
        function: is called with a `Changes`; gives nothing, or a context manager.
    """

    name: str
    sha256: str
    function: Callable[["Changes"], object]

    @classmethod
    def of(cls, source: "str | Callable[[Changes], object]") -> "Intervention":
        """The one that a name stands for, or a function.

        Args:
            source: ``package.module:function``, or a function at the top of a module.

        Raises:
            InputError: there is no such function, its file cannot be read, or it, or one that it
                imports, was changed since it was imported.
        """
        if isinstance(source, str):
            if not is_factory(source):
                raise InputError(
                    f"--apply must be package.module:function, got {short_repr(source)}"
                )
            function, name = find_factory(source, InputError), source
        else:
            function = source
            place = getattr(function, "__module__", None), getattr(function, "__qualname__", "<>")
            name = ":".join(map(str, place))
            if not is_factory(name):
                raise InputError(
                    "what is applied must be a function at the top of a module, so that its name "
                    f"and its file say what it does, got {short_repr(function)}"
                )
        return cls(name, source_sha256(function, name), function)

    @property
    def short_name(self) -> str:
        """The name of the function."""
        return self.name.rpartition(":")[2]

    def record(self) -> dict[str, str]:
        """For the manifest."""
        return {"function": self.name, "sha256": self.sha256}

    @contextmanager
    def applied_to(self, model: DecoderModel | LanguageModel) -> Iterator["Changes"]:
        """A block in which the model is changed.

        Raises:
            ModelError: the function fails, or gives something else than a context manager.
        """
        changes = Changes(model, self)
        manager = self._begin(changes)
        try:
            with changes.in_effect():
                yield changes
        finally:
            if manager is not None:
                with self.failing("when its changes were undone"):
                    # Not with the error of the block: what comes after ``yield`` is to run.
                    manager.__exit__(None, None, None)

    def _begin(self, changes: "Changes") -> Any:
        """Calls the function; gives the context manager that undoes its changes, entered."""
        with self.failing():
            found: Any = self.function(changes)
            if hasattr(found, "__enter__") and hasattr(found, "__exit__"):
                found.__enter__()
                return found
        if inspect.isgenerator(found):
            raise ModelError(
                f"{self.name} yields, but is no context manager: write @contextlib.contextmanager "
                "above it"
            )
        if found is not None:
            raise ModelError(
                f"{self.name} gave {short_repr(found)}; it must give nothing, or a context manager "
                "that undoes its changes"
            )
        return None

    @contextmanager
    def failing(self, when: str = "") -> Iterator[None]:
        """A block of the user's code, whose errors are one line that names it."""
        try:
            yield
        except VniahError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            parts = (self.name, "failed", when, f"in {place_of(error)}:")
            raise ModelError(
                f"{' '.join(filter(None, parts))} {type(error).__name__}: {first_line(error)}"
            ) from error


class Changes:
    """What an intervention changes of a model, until it is undone.

    Args:
        model: the loaded model.
        intervention: whose changes they are.

    Attributes:
        model: the loaded model, as `vniah.load_model` gives it.
        decoder: its causal language model of transformers.
    """

    def __init__(self, model: DecoderModel | LanguageModel, intervention: Intervention) -> None:
        self.model = model
        self.decoder = model.decoder
        self._intervention = intervention
        self._keys_values: KeysValuesChange | None = None
        self._frames: FramesChange | None = None
        self._window: int | None = None
        self._tried_layers: set[int] = set()
        self._num_tokens: int | None = None

    def keys_values(self, change: KeysValuesChange) -> None:
        """Has all rows attend to changed keys and values.

        Args:
            change: called with the number of a layer, from 0, and the keys and values of some rows,
                each ``[sequences, key heads, rows, head size]`` in the model's dtype, keys after
                RoPE. It gives both, of the same shapes, dtype and device. Rows come in pieces of
                any size, so it has to treat each row by itself; this is tried.

        Raises:
            InputError: there is such a function already.
        """
        if self._keys_values is not None:
            raise InputError(f"{self._intervention.name} changes keys and values twice; do it once")
        self._keys_values = change

    def frames(self, change: FramesChange) -> None:
        """Has the model read changed frames.

        Args:
            change: called with encoded frames, ``[num_frames, tokens, hidden size]`` on the CPU, in
                the order in which they are read. It gives as many frames of the same dtype, which
                may have fewer tokens, or more, if all have equally many. Frames come in pieces of
                any size, so it has to treat each frame by itself; this is tried.

        Raises:
            InputError: there is such a function already.
        """
        if self._frames is not None:
            raise InputError(f"{self._intervention.name} changes frames twice; do it once")
        self._frames = change

    def window(self, num_tokens: int) -> None:
        """Has all rows attend to the last tokens only, in every layer.

        Args:
            num_tokens: how many tokens a row sees, itself included.

        Raises:
            InputError: it is no whole number from 1, or there is a window already.
        """
        if type(num_tokens) is not int or num_tokens < 1:
            raise InputError(
                f"the window of {self._intervention.name} must be a whole number of tokens from 1, "
                f"got {short_repr(num_tokens)}"
            )
        if self._window is not None:
            raise InputError(f"{self._intervention.name} sets a window twice; do it once")
        self._window = num_tokens

    @property
    def has_keys_values(self) -> bool:
        """Whether keys and values are changed."""
        return self._keys_values is not None

    @contextmanager
    def without_keys_values(self) -> Iterator[None]:
        """A block in which all other changes stay in effect, but keys and values are as they are.

        The decoder's own forward pass knows nothing of changed keys and values. In this block it
        can be compared with.
        """
        change, self._keys_values = self._keys_values, lambda layer, keys, values: (keys, values)
        tried, self._tried_layers = self._tried_layers, set()
        try:
            yield
        finally:
            self._keys_values, self._tried_layers = change, tried

    @contextmanager
    def in_effect(self) -> Iterator[None]:
        """A block in which the decoder attends as the methods of this object say.

        Raises:
            ModelError: the decoder has layers of a kind that cannot be changed so.
        """
        body = self.decoder.model
        with ExitStack() as undo:
            if self._keys_values is not None:
                undo.enter_context(keys_values_changed(body, self._changed_keys_values))
            if self._window is not None:
                undo.enter_context(window_forced(body, self._window))
            yield

    def seen_by(
        self, frames: EncodedFrames, trial: TokenSequence, longest: TokenSequence | None = None
    ) -> tuple[DecoderModel | LanguageModel, EncodedFrames]:
        """The model and the frames as they are read.

        Args:
            frames: the encoded frames.
            trial: a short sequence of the model; the function of frames is tried on its frames.
            longest: the longest sequence that is to be read; by default the short one.

        Raises:
            ModelError: the function of frames gives something that cannot be read.
        """
        if self._frames is None:
            return self.model, frames
        model = self.model
        if not isinstance(model, DecoderModel) or not trial.frames:
            raise ModelError(f"{self._intervention.name} changes frames, and the task shows text")
        if len(model.frame_shape) != 2:
            raise ModelError(
                f"{self._intervention.name} changes frames, and those of {model.name} are of "
                "several parts, which are added to several layers: change keys and values instead"
            )
        some = frames.store.read(trial.frames)
        changed = self._changed_frames(some)
        self._num_tokens = changed.shape[1]
        apart = [self._changed_frames(frame[None]) for frame in some]
        self._require_equal(changed, torch.cat(apart), "frames", "frame")
        for one, other in zip(changed, apart, strict=True):
            self._require_equal(one, other[0], "frames", "frame", _MOST_AT_BORDERS)
        store = frames.store.changed(self._changed_frames)
        seen = EncodedFrames(store, frames.num_frames, frames.notes)
        if self._num_tokens == model.frame_shape[0]:
            return model, seen
        sequences = (trial,) if longest is None else (trial, longest)
        return _WithTokens(model, self._num_tokens, sequences, self._intervention.name), seen

    def _changed_keys_values(
        self, layer: int, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        num_rows = keys.shape[2]
        if layer in self._tried_layers or num_rows < 2:
            return self._call_keys_values(layer, keys, values)
        self._tried_layers.add(layer)
        # In the middle, and at an odd row, where no group of some rows begins.
        cuts = sorted({num_rows // 2, (num_rows // 3) | 1})
        given = keys.clone(), values.clone()
        found = self._call_keys_values(layer, keys, values)
        for cut in cuts:
            self._require_same_apart(layer, given, found, cut)
        return found

    def _require_same_apart(
        self, layer: int, given: tuple[Tensor, Tensor], found: tuple[Tensor, Tensor], cut: int
    ) -> None:
        """Raises `ModelError` unless rows before and after a cut give the same as together."""
        keys, values = given
        parts = [
            self._call_keys_values(layer, keys[:, :, rows].clone(), values[:, :, rows].clone())
            for rows in (slice(cut), slice(cut, None))
        ]
        border = slice(max(0, cut - _BORDER_ROWS), cut + _BORDER_ROWS)
        for together, *two in zip(found, *parts, strict=True):
            apart = torch.cat(two, 2)
            self._require_equal(together, apart, "keys and values", "row")
            near, near_apart = together[:, :, border], apart[:, :, border]
            self._require_equal(near, near_apart, "keys and values", "row", _MOST_AT_BORDERS)

    def _call_keys_values(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        assert self._keys_values is not None
        with self._intervention.failing():
            found: Any = self._keys_values(layer, keys, values)
        if not isinstance(found, tuple | list) or len(found) != 2:
            self._refuse("keys and values", f"{_named(found)}; give a pair of tensors")
        for name, given, one in zip(("keys", "values"), (keys, values), found, strict=True):
            self._require_like(name, given, one, tuple(given.shape))
        return found[0], found[1]

    def _changed_frames(self, frames: Tensor) -> Tensor:
        assert self._frames is not None
        with self._intervention.failing():
            # A copy, as frames that were read may be the file of the cache itself.
            found: Any = self._frames(frames.clone())
        num_tokens = self._num_tokens
        if num_tokens is None:  # the first time
            is_sized = isinstance(found, Tensor) and found.ndim == 3 and found.shape[1] > 0
            num_tokens = found.shape[1] if is_sized else frames.shape[1]
        self._require_like("frames", frames, found, (len(frames), num_tokens, frames.shape[2]))
        changed: Tensor = found
        return changed

    def _require_like(
        self, what: str, given: Tensor, found: object, shape: tuple[int, ...]
    ) -> None:
        """Raises `ModelError` for what cannot stand in the place of the given tensor."""
        if not isinstance(found, Tensor):
            self._refuse(what, f"{_named(found)}; give a tensor")
        if tuple(found.shape) != shape:
            self._refuse(what, f"shape {tuple(found.shape)}; expected {shape}")
        if (found.dtype, found.device) != (given.dtype, given.device):
            self._refuse(
                what,
                f"{found.dtype} on {found.device}; expected {given.dtype} on {given.device}, as of "
                "what it was given",
            )

    def _require_equal(
        self, together: Tensor, apart: Tensor, what: str, unit: str, most: float | None = None
    ) -> None:
        """Raises `ModelError` unless what comes of rows or frames is the same in other pieces."""
        if most is None:
            most = _MOST_DIFFERENCE.get(together.dtype, _MOST_DIFFERENCE_IN_HALF)
        size = float(together.double().norm())
        difference = float((together.double() - apart.double()).norm())
        if not size < torch.inf:
            self._refuse(what, "numbers that are not finite")
        if difference > most * size:
            self._refuse(
                what,
                f"something else for several {unit}s together than for the same ones apart (by "
                f"{difference / size:.2g} of their size): which are together depends on the memory "
                f"that is free, so treat each {unit} by itself",
            )

    def _refuse(self, what: str, found: str) -> NoReturn:
        raise ModelError(f"the function of {what} in {self._intervention.name} gave {found}")


def _named(value: object) -> str:
    return "one tensor" if isinstance(value, Tensor) else short_repr(value)


class _WithTokens:
    """A model whose frames have another number of tokens; all else is that of the model.

    Args:
        model: the model as it was loaded.
        num_tokens: of a frame.
        sequences: some of the model, among them the longest that is to be read.
        name: of the intervention.

    Raises:
        ModelError: the positions of their tokens are not simply 0, 1, 2 and so on.
    """

    def __init__(
        self, model: DecoderModel, num_tokens: int, sequences: Iterable[TokenSequence], name: str
    ) -> None:
        self._model = model
        self.name = model.name
        self.revision = model.revision
        self.decoder = model.decoder
        self.frame_shape = (num_tokens, model.frame_shape[1])
        for sequence in sequences:
            positions = model.position_ids(sequence)
            counted = torch.arange(sequence.num_tokens(model.frame_shape[0]))
            if not torch.equal(positions.cpu().double(), counted.double()):
                raise ModelError(
                    f"{name} gives frames {num_tokens} tokens instead of {model.frame_shape[0]}, "
                    f"and {model.name} places its tokens by the tokens of its frames, or does not "
                    f"number those of {len(counted):,} tokens one by one: give frames of the same "
                    "number of tokens"
                )

    def encode_frames(self, frames: Sequence[Any]) -> Tensor:
        return self._model.encode_frames(frames)

    def compose(self, frames: Any, question: str, answer: str) -> TokenSequence:
        return self._model.compose(frames, question, answer)

    def position_ids(self, sequence: TokenSequence) -> Tensor:
        return torch.arange(sequence.num_tokens(self.frame_shape[0]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def settings_of(decoder: Any) -> dict[str, Any]:
    """A copy of what the config of a decoder's stack of layers says."""
    return copy.deepcopy(vars(decoder.model.config))
