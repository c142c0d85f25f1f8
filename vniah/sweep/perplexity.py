"""Perplexity by position: how well a model predicts the tokens of long documents.

One forward pass over a document gives the negative log-likelihood of all its tokens, so that a fall
beyond the length that a model was trained for is seen in one pass, where a needle has to be found
in a grid of cells.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vniah.engines.documents import Document, check_losses, cut_documents, document_losses
from vniah.engines.inputs import require_model
from vniah.errors import InputError, ModelError, counted
from vniah.files import hash_settings, slug
from vniah.forward.decoders import heads_of
from vniah.forward.kernels import find_kernel
from vniah.haystacks.text import TextHaystack
from vniah.paths import user_path
from vniah.protocol import AnyModel, LanguageModel
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


def measure_perplexity(
    model: AnyModel,
    haystack: TextHaystack,
    *,
    num_tokens: int,
    num_documents: int = DEFAULT_DOCUMENTS,
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
        num_tokens: the length of each document, with what the tokenizer puts before it.
        num_documents: how many are measured, from the beginning of the text.
        output: the folder; by default one in ``results``, named after the settings.
        overwrite: discard what the folder holds instead of going on.
        attention: name of the attention kernel, as in `vniah.options`.
        progress: whether to show a bar on stderr, or in the notebook.

    Returns:
        All documents that the folder holds.

    Raises:
        RunMismatchError: the folder holds results with other settings.
        HaystackTooShortError: the text is shorter than the documents need.
        InputError: the model reads no text, or an argument is out of range.
        CheckError: the forward pass gives other losses than the model's own.
        ModelError: a loss is not finite, or a pass does not fit into the memory.
    """
    reader = _require_reader(model)
    require_counts(num_tokens, num_documents)
    settings: dict[str, Any] = {
        "kind": "perplexity",
        "model": model_record(model),
        "haystack": {"name": haystack.name, **haystack.identity()},
        "num_tokens": num_tokens,
        "definition": _DEFINITION,
    }
    directory = _default_output(settings) if output is None else user_path(output, "the output")
    environment = environment_record(getattr(model, "device", None))
    folder = PerplexityFolder(
        directory, {**settings, "environment": environment}, overwrite=overwrite
    )
    cut = cut_documents(reader, haystack, num_tokens)
    documents = [next(cut) for _ in range(num_documents)]  # a text that is too short is refused now
    with Bars(progress) as bars:
        _measure(reader, documents, folder, attention, bars)
    return folder.results()


def _measure(
    model: LanguageModel,
    documents: list[Document],
    folder: PerplexityFolder,
    attention: str,
    bars: Bars,
) -> None:
    """Measures the documents that a folder lacks."""
    weight = model.decoder.lm_head.weight
    heads = heads_of(model.decoder.model)
    kernel = find_kernel(attention, weight.device, weight.dtype, heads)
    check = None
    if any(one.number not in folder.documents for one in documents):
        check = check_losses(model, documents[0], kernel=kernel)
    with folder.open(check):
        left = [one for one in documents if one.number not in folder.documents]
        num_done = len(documents) - len(left)
        for done, document in enumerate(left, start=num_done):
            bars.show("perplexity", done, len(documents))
            folder.add(_losses(model, document, kernel))
        bars.show("perplexity", len(documents), len(documents))


def _losses(model: LanguageModel, document: Document, kernel: Any) -> DocumentLosses:
    nats = document_losses(model, document.sequence, kernel=kernel).double().numpy()
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
