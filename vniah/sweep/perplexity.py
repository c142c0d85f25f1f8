"""Perplexity by position: how well a model predicts the tokens of long documents.

One forward pass over a document gives the negative log-likelihood of all its tokens, so that a fall
beyond the length that a model was trained for is seen in one pass, where a needle has to be found
in a grid of cells. Documents may follow the frames of a video, which do not count themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vniah.embeddings.cache import FrameStore
from vniah.embeddings.encode import encode_haystack
from vniah.engines.document_losses import check_losses, document_losses
from vniah.engines.documents import Document, cut_documents, prompt_of_frames, require_room
from vniah.engines.inputs import require_encoder, require_model
from vniah.errors import InputError, ModelError, counted
from vniah.files import hash_settings, slug
from vniah.forward.attention import Kernel
from vniah.forward.kernels import find_kernel
from vniah.forward.kinds.choosing import heads_of
from vniah.grid import MAX_FRAMES
from vniah.haystacks.frames import AnyHaystack, unit_of
from vniah.haystacks.text import TextHaystack
from vniah.paths import user_path
from vniah.protocol import HAYSTACK, AnyModel, EncodingModel, LanguageModel, TokenSequence
from vniah.results.perplexity import (
    MOST_TOKENS,
    DocumentLosses,
    PerplexityFolder,
    PerplexityResults,
)
from vniah.sweep.manifest import environment_record, model_record
from vniah.sweep.progress import Bars

DEFAULT_DOCUMENTS = 4

MOST_DOCUMENTS = 10_000

_DEFINITION = (
    "natural logarithm; every token but those that the tokenizer puts before a text, and but the "
    "first of all, given all tokens before it in its document"
)

_AFTER_FRAMES = (
    "the text stands where the answer to a question without words about the frames would stand; "
    "every token of it counts, and none of the prompt with the frames"
)


@dataclass(frozen=True)
class FramesBefore:
    """The frames that every document follows: the first of a haystack.

    Attributes:
        haystack: a video, images or pages, as `vniah.haystacks.haystack.open_haystack` gives them.
        num_frames: how many of its frames, at least 1.
        cache: folder of the embeddings; by default one under the user's cache.
    """

    haystack: AnyHaystack
    num_frames: int
    cache: Path | None = None

    def record(self) -> dict[str, Any]:
        """What the settings of a result say of the frames."""
        return {
            "count": self.num_frames,
            "haystack": {"name": self.haystack.name, **self.haystack.identity()},
            "definition": _AFTER_FRAMES,
        }

    def encode(self, model: EncodingModel, bars: Bars) -> tuple[FrameStore, Sequence[str]]:
        """The encoded frames, and what was noted of them; encodes those that the cache lacks.

        Raises:
            HaystackTooShortError: there are fewer frames.
            HaystackError: a frame cannot be read.
            CacheError: the folder of the cache holds something else.
        """
        bars.unit = unit_of(self.haystack)
        encoded = encode_haystack(
            model,
            self.haystack,
            self.num_frames,
            directory=self.cache,
            on_progress=lambda done, total: bars.show("encode", done, total),
        )
        return FrameStore({HAYSTACK: (encoded, 0)}), encoded.notes()


def measure_perplexity(
    model: AnyModel,
    haystack: TextHaystack,
    *,
    num_tokens: int,
    num_documents: int = DEFAULT_DOCUMENTS,
    frames: FramesBefore | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    attention: str = "auto",
    progress: bool = True,
) -> PerplexityResults:
    """The negative log-likelihood of every token of some documents, each in one forward pass.

    Each document is written to ``output`` as soon as it is done. Started again on the same folder
    it measures only those that are missing; more documents can be asked for later.

    Args:
        model: a language model; any model whose decoder vniah runs and that reads text alone.
        haystack: the text, as `vniah.haystacks.text.open_text` gives it; long enough for all
            documents.
        num_tokens: the length of each document, with what is before the text: frames and the prompt
            around them, or what the tokenizer puts there.
        num_documents: how many are measured, from the beginning of the text.
        frames: what every document follows, for a model that reads frames as well; by default
            nothing.
        output: the folder; by default one in ``results``, named after the settings.
        overwrite: discard what the folder holds instead of going on.
        attention: name of the attention kernel, as in `vniah.options`.
        progress: whether to show a bar on stderr, or in the notebook.

    Returns:
        All documents that the folder holds.

    Raises:
        RunMismatchError: the folder holds results with other settings.
        HaystackTooShortError: the text is shorter than the documents need, or the video has fewer
            frames.
        InputError: the model reads no text, or no frames; an argument is out of range; or the
            frames leave no room for a text.
        CheckError: the forward pass gives other losses than the model's own.
        ModelError: a loss is not finite, or a pass does not fit into the memory.
    """
    require_counts(num_tokens, num_documents)
    reader, prompt = _require_reader(model), None
    if frames is not None:
        prompt = require_frames(model, frames.num_frames, num_tokens)
    settings: dict[str, Any] = {
        "kind": "perplexity",
        "model": model_record(model),
        "haystack": {"name": haystack.name, **haystack.identity()},
        "num_tokens": num_tokens,
        "definition": _DEFINITION,
        **({} if frames is None else {"frames": frames.record()}),
    }
    directory = _default_output(settings) if output is None else user_path(output, "the output")
    for name, value in _trained_tokens(reader).items():
        settings["model"].setdefault(name, value)
    environment = environment_record(getattr(model, "device", None))
    folder = PerplexityFolder(
        directory, {**settings, "environment": environment}, overwrite=overwrite
    )
    cut = cut_documents(reader, haystack, num_tokens, prompt=prompt)
    documents = [next(cut) for _ in range(num_documents)]  # a text that is too short is refused now
    with Bars(progress) as bars:
        _measure(reader, documents, frames, folder, attention, bars)
    return folder.results()


def _measure(
    model: LanguageModel,
    documents: list[Document],
    frames: FramesBefore | None,
    folder: PerplexityFolder,
    attention: str,
    bars: Bars,
) -> None:
    """Measures the documents that a folder lacks."""
    weight = model.decoder.lm_head.weight
    heads = heads_of(model.decoder.model)
    kernel = find_kernel(attention, weight.device, weight.dtype, heads)
    store, check = FrameStore({}), None
    notes: Sequence[str] = ()
    if any(one.number not in folder.documents for one in documents):
        if frames is not None:
            store, notes = frames.encode(require_encoder(model), bars)
        check = check_losses(model, documents[0], store=store, kernel=kernel)
    with folder.open(check, notes):
        left = [one for one in documents if one.number not in folder.documents]
        num_done = len(documents) - len(left)
        for done, document in enumerate(left, start=num_done):
            bars.show("perplexity", done, len(documents))
            folder.add(_losses(model, document, store, kernel))
        bars.show("perplexity", len(documents), len(documents))


def _losses(
    model: LanguageModel, document: Document, store: FrameStore, kernel: Kernel
) -> DocumentLosses:
    nats = document_losses(model, document.sequence, store=store, kernel=kernel).double().numpy()
    is_bad = ~np.isfinite(nats)
    if is_bad.any():
        place = int(is_bad.argmax()) + document.first
        raise ModelError(
            f"{model.name} gives no finite probability at position {place:,} of document "
            f"{document.number}, and {counted(int(is_bad.sum()), 'position')} in all: its numbers "
            "overflow; load it with another dtype (--dtype float32)"
        )
    # Rounding may leave less than nothing of a token that is certain.
    return DocumentLosses(
        document.number, document.start, document.stop, document.first, nats.clip(min=0.0)
    )


def _require_reader(model: AnyModel) -> LanguageModel:
    """The model, if its perplexity can be measured.

    Raises:
        InputError: it does not read text alone, or only answers in words.
        ModelError: its decoder cannot be run.
    """
    if not isinstance(model, LanguageModel):
        raise InputError(
            f"perplexity is of the tokens of a text, and {model.name} has no decoder that reads "
            "text alone (compose_text and token_ends); give a language model, such as smollm2"
        )
    require_model(model)
    return model


def require_frames(model: AnyModel, num_frames: int, num_tokens: int) -> TokenSequence:
    """The prompt with so many frames, if a text has room behind it.

    Args:
        model: the model that is to read it.
        num_frames: the number of frames.
        num_tokens: the length of a document, with those of the prompt.

    Raises:
        InputError: the number is out of range; the model reads no frames, or no text; or no token
            of a text has room.
        ModelError: its decoder cannot be run, or it composes no prompt.
    """
    if not 1 <= num_frames <= MAX_FRAMES:
        raise InputError(
            f"a text follows from 1 to {MAX_FRAMES:,} frames, got {num_frames:,}; leave them out "
            "to measure text alone"
        )
    reader = _require_reader(model)
    if not isinstance(model, EncodingModel):
        raise InputError(
            f"{model.name} is a language model, which reads text and no frames: leave the frames "
            "(--frames) out, or give a model that reads both"
        )
    prompt = prompt_of_frames(reader, num_frames)
    require_room(reader, prompt, num_tokens)
    return prompt


def _trained_tokens(model: LanguageModel) -> Mapping[str, int]:
    """The length for which a decoder was trained, as its configuration says, if it does."""
    found = getattr(model.decoder.model.config, "max_position_embeddings", None)
    return {"trained_tokens": found} if type(found) is int and found >= 1 else {}


def require_counts(num_tokens: int, num_documents: int) -> None:
    """Raises `InputError` unless documents can have this length, and be so many."""
    if not 2 <= num_tokens <= MOST_TOKENS:
        raise InputError(
            f"a document has from 2 to {MOST_TOKENS:,} tokens, since nothing predicts the first; "
            f"got {num_tokens:,}"
        )
    if not 1 <= num_documents <= MOST_DOCUMENTS:
        raise InputError(
            f"the number of documents must be from 1 to {MOST_DOCUMENTS:,}, got {num_documents:,}"
        )


def _default_output(settings: dict[str, Any]) -> Path:
    """The folder of a result: the same for the same settings."""
    name = slug(settings["model"]["name"].rstrip("/").rpartition("/")[2])[:60] or "model"
    return Path("results", f"{name}-perplexity-{hash_settings(settings)[:8]}")
