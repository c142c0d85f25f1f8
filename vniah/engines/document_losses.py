"""How well a model predicts the tokens of documents: for perplexity by position."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vniah.embeddings.cache import FrameStore
from vniah.engines.agreement import RoundingLimit, plain_logits
from vniah.engines.documents import Document, prompt_of_frames
from vniah.engines.inputs import DecoderInputs, SequenceCheck, size_of_frame
from vniah.errors import CheckError, ModelError, counted
from vniah.forward.attention import Kernel
from vniah.forward.devices import give_back_unused
from vniah.forward.losses import token_losses
from vniah.forward.memory import MAX_CHUNK_SIZE, MEMORY_ERRORS, MIN_CHUNK_SIZE, is_out_of_memory
from vniah.protocol import LanguageModel, TokenSequence

_TRIAL_TOKENS = 256
_TRIAL_CHUNK = 100  # so that results of several chunks are merged
_TRIAL_FRAMES = 4
_LEAST_OF_TRIAL = 64  # tokens of the text, however many those of the frames are


def document_losses(
    model: LanguageModel,
    sequence: TokenSequence,
    *,
    store: FrameStore | None = None,
    chunk_size: int | None = None,
    kernel: Kernel | None = None,
) -> Tensor:
    """The negative log-likelihood of each token of a sequence's answer, ``[num_answer_ids]`` fp32.

    Where memory runs out, smaller chunks go through a layer at once, which does not change it.

    Args:
        model: its decoder predicts the tokens.
        sequence: the answer is what counts. All of it is read, the last token too.
        store: holds the frames of the sequence, if it has some.
        chunk_size: rows that go through a layer at once; by default as many as are fast.
        kernel: computes the attention; by default the fastest that is right on the device.

    Raises:
        ModelError: the decoder cannot be run, has no embedding for a token, or a pass does not fit
            into the memory.
    """
    whole = _read_to_the_end(sequence)
    SequenceCheck(model).require_readable(whole)
    inputs = DecoderInputs(model, [whole], store or FrameStore({}))
    device = model.decoder.lm_head.weight.device
    chunk_size = chunk_size or MAX_CHUNK_SIZE.get(device.type, MAX_CHUNK_SIZE["cpu"])
    while True:
        positions = inputs.positions(0)
        num_tokens = positions.shape[-1]
        try:
            hidden = inputs.embed(whole.input_pieces, 0, num_tokens)
            return token_losses(
                model.decoder,
                hidden,
                positions,
                torch.tensor(sequence.answer_ids),
                chunk_size=chunk_size,
                kernel=kernel,
                images=inputs.images(whole.input_pieces),
                token_ids=inputs.token_ids(whole.input_pieces, 0, num_tokens),
                add_deepstack=_deepstack_of(inputs, whole, num_tokens),
            )
        except MEMORY_ERRORS as error:
            if not is_out_of_memory(error):
                raise
            if chunk_size <= MIN_CHUNK_SIZE:
                fewer = " or fewer frames" if sequence.frames else ""
                raise ModelError(
                    f"a pass over {num_tokens:,} tokens does not fit into the memory of {device}; "
                    f"measure shorter documents{fewer}"
                ) from error
        chunk_size //= 2
        give_back_unused(device)


def _deepstack_of(
    inputs: DecoderInputs, sequence: TokenSequence, num_tokens: int
) -> Callable[[int, Tensor], None] | None:
    """What adds DeepStack features to all rows of a sequence after a layer; None if nothing does.

    Most decoders have no DeepStack, and those that have it add to the first layers only.
    """
    if not inputs.num_deepstack_layers:
        return None

    def add(layer: int, hidden: Tensor) -> None:
        if layer < inputs.num_deepstack_layers:
            inputs.add_deepstack(layer, hidden, sequence.input_pieces, 0, num_tokens)

    return add


def _read_to_the_end(sequence: TokenSequence) -> TokenSequence:
    """The same with one more token in its answer: a pass reads all but the last."""
    return sequence.with_answer((*sequence.answer_ids, sequence.answer_ids[-1]))


def check_losses(
    model: LanguageModel,
    document: Document,
    *,
    store: FrameStore | None = None,
    kernel: Kernel | None = None,
) -> dict[str, float]:
    """Compares the losses of the first tokens of a document with those of the model's own forward.

    Args:
        model: as `document_losses`.
        document: at most its first 256 tokens are read; after frames at least 64 of the text, and
            the prompt of its first 4 frames.
        store: as `document_losses`.
        kernel: as `document_losses`.

    Returns:
        How they differ, for the settings of a result.

    Raises:
        CheckError: by more than rounding explains.
    """
    store = store or FrameStore({})
    trial, num_frames = _trial_of(model, document)
    ids = trial.answer_ids
    found = document_losses(model, trial, store=store, chunk_size=_TRIAL_CHUNK, kernel=kernel)
    logits = plain_logits(model, _read_to_the_end(trial), store)
    plain = cross_entropy(logits[:-1], torch.tensor(ids), reduction="none")
    limit = RoundingLimit.of(model, [_read_to_the_end(trial)], store, [logits])
    # A loss is the difference of two numbers, each as exact as a logit.
    largest = 2 * float(logits.abs().max())
    difference = found - plain
    most, rms = float(difference.abs().max()), float(difference.square().mean().sqrt())
    if not (most <= limit.of_max * largest and rms <= limit.of_rms * largest):
        raise CheckError(
            f"{model.name} gives other losses in vniah's forward pass than in its own: they differ "
            f"by {rms:.1e} nats ({limit.of_rms * largest:.1e} allowed), at most by {most:.1e} "
            f"({limit.of_max * largest:.1e} allowed), over {counted(len(ids), 'token')}"
        )
    return {
        **({"frames": num_frames} if num_frames else {}),
        "tokens": len(ids),
        "max_difference": float(f"{most:.3g}"),
        "rms_difference": float(f"{rms:.3g}"),
        "nats": float(f"{float(plain.mean()):.6g}"),
    }


def _trial_of(model: LanguageModel, document: Document) -> tuple[TokenSequence, int]:
    """The beginning of a document, and the number of frames in it."""
    num_frames = min(len(document.sequence.frames), _TRIAL_FRAMES)
    sequence, first = document.sequence, document.first
    if num_frames:
        sequence = prompt_of_frames(model, num_frames)
        first = sequence.num_tokens(size_of_frame(model))
    num_counted = max(_LEAST_OF_TRIAL, _TRIAL_TOKENS - first)
    return sequence.with_answer(document.sequence.answer_ids[:num_counted]), num_frames
