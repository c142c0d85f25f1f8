"""Chooses the engine of a model: the one place that tells kinds of model apart."""

from typing import get_args

from vniah.engines.applied import AppliedEngine
from vniah.engines.base import Engine, EngineOptions
from vniah.engines.decoder import DecoderEngine
from vniah.engines.inputs import compose_candidates, require_model
from vniah.engines.interventions import Intervention
from vniah.engines.one_pass import OnePassEngine
from vniah.engines.per_sample import ChatEngine, PerSampleEngine
from vniah.engines.server import ServerEngine
from vniah.errors import InputError, ModelError
from vniah.models.server.client import ServerModel
from vniah.options import MAX_NEW_TOKENS, Decoding, Scorer, Share
from vniah.protocol import (
    AnyModel,
    DecoderModel,
    EncodingModel,
    LanguageModel,
    TokenModel,
    TokenSequence,
    needed_form,
)
from vniah.tasks.base import Sample
from vniah.tasks.controls.applied import is_applied_copy
from vniah.tasks.controls.exact import is_exact_copy


def choose_engine(model: AnyModel, options: EngineOptions | None = None) -> Engine:
    """The engine that runs a model.

    Args:
        model: of any of the three levels of `vniah.protocol`.
        options: how samples are run.

    Raises:
        ModelError: the model lacks something that its level needs.
        InputError: an option is invalid, or this kind of model does not support it.
    """
    require_model(model)
    options = options or EngineOptions()
    _require_share(options)
    decoding = choose_decoding(model, options)
    engine = _make_engine(model, options, decoding)
    if decoding is not None and (note := getattr(model, "generation_note", None)):
        engine.notes.append(note)
    return engine


def _require_share(options: EngineOptions) -> None:
    if options.share not in get_args(Share):
        raise InputError(f"share must be tree, none or one-pass, got {options.share!r}")


def choose_applied(
    model: AnyModel, options: EngineOptions, intervention: Intervention
) -> AppliedEngine:
    """The engine that runs samples on a model, and copies of them on the same model changed.

    Raises:
        ModelError: the model lacks something that its level needs.
        InputError: an option is invalid, or vniah does not run the model's decoder.
    """
    require_model(model)
    _require_share(options)
    if not isinstance(model, DecoderModel | LanguageModel):
        where = "answers on a server" if isinstance(model, ServerModel) else "has none"
        raise InputError(
            f"--apply {intervention.name} changes a decoder that vniah runs, and {model.name} "
            f"{where}: leave it out"
        )
    if options.share == "one-pass":
        raise InputError(
            "--share one-pass is approximate, and --apply measures what exact scores differ by: "
            "leave out one of the two"
        )
    engine = AppliedEngine(
        model,
        intervention,
        lambda one, decoding: DecoderEngine(one, options, decoding),
        choose_decoding(model, options),
        is_copy=is_applied_copy,
    )
    if engine.decoding is not None and (note := getattr(model, "generation_note", None)):
        engine.notes.append(note)
    return engine


def _make_engine(model: AnyModel, options: EngineOptions, decoding: Decoding | None) -> Engine:
    if isinstance(model, DecoderModel | LanguageModel):
        if options.share == "one-pass":
            if options.trace_attention:
                raise InputError(
                    "--trace-attention cannot be combined with --share one-pass, whose rows attend "
                    "to several copies of the haystack; remove one of the two options"
                )
            return OnePassEngine(model, options, is_exact=is_exact_copy)
        return DecoderEngine(model, options, decoding)
    if options.trace_attention:
        raise InputError(
            f"--trace-attention needs a model with a decoder that vniah runs, and {model.name} has "
            "none: leave it out"
        )
    if options.share == "one-pass":
        raise InputError(
            f"--share one-pass needs a model with a decoder that vniah runs, and {model.name} has "
            "none: leave it out"
        )
    if options.attention != "auto":
        raise InputError(
            f"attention {options.attention} needs a model with a decoder; {model.name} runs its "
            "own forward pass"
        )
    if options.group is not None:
        raise InputError(
            f"--context-parallel {options.group.size()} needs a model with a decoder; "
            f"{model.name} runs its own forward pass"
        )
    if isinstance(model, EncodingModel):
        return PerSampleEngine(model, decoding)
    if isinstance(model, ServerModel):
        if options.num_processes > 1:
            raise InputError(
                "only one process may send requests to a server, and this job has "
                f"{options.num_processes}; start it without torchrun, with --concurrency"
            )
        return ServerEngine(model)
    return ChatEngine(model)


def choose_decoding(model: AnyModel, options: EngineOptions) -> Decoding | None:
    """How a model's answers are generated; None for chat models and for the scorer ``"argmax"``.

    Args:
        model: its attribute ``stop_ids``, a tuple of token ids, says where its answers end, and
            its attribute ``max_new_tokens`` how long they are by default.
        options: with the scorer ``"generate"`` the model generates answers.

    Raises:
        InputError: an option is invalid, or the model has no method ``decode``.
        ModelError: its ``stop_ids`` are not token ids, or its ``max_new_tokens`` is no whole number
            from 1.
    """
    if options.scorer not in get_args(Scorer):
        raise InputError(f"scorer must be argmax or generate, got {options.scorer!r}")
    if options.scorer == "argmax" or not isinstance(model, TokenModel):
        return None
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be 1 or more, got {options.max_new_tokens}")
    if not callable(getattr(model, "decode", None)):
        raise InputError(
            f"--scorer generate judges the text that a model writes, and {model.name} has no "
            "method decode(token_ids) that turns tokens into text; add one, or use --scorer argmax"
        )
    stop_ids = getattr(model, "stop_ids", ())
    if form := needed_form("stop_ids", stop_ids):
        raise ModelError(f"stop_ids of {model.name} must be {form}, got {stop_ids!r}")
    own = getattr(model, "max_new_tokens", MAX_NEW_TOKENS)
    if form := needed_form("max_new_tokens", own):
        raise ModelError(f"max_new_tokens of {model.name} must be {form}, got {own!r}")
    return Decoding(options.max_new_tokens or own, stop_ids)


def compose_sample(model: AnyModel, sample: Sample) -> tuple[TokenSequence, ...] | None:
    """What a model reads for a sample, one sequence for each candidate answer.

    Returns:
        None for a chat model, which gets the pictures and the question themselves.

    Raises:
        ModelError: as `vniah.engines.inputs.compose_candidates`.
    """
    return compose_candidates(model, sample) if isinstance(model, TokenModel) else None


def require_decoder(model: AnyModel, purpose: str) -> DecoderModel | LanguageModel:
    """The model, if it has a decoder that vniah runs.

    Args:
        model: of any level.
        purpose: what needs a decoder, e.g. ``"estimate"``.

    Raises:
        ModelError: the model lacks something that its level needs.
        InputError: it has no decoder.
    """
    require_model(model)
    if not isinstance(model, DecoderModel | LanguageModel):
        raise InputError(
            f"{model.name} has no decoder that vniah runs, so nothing is known of its cost; "
            f"{purpose} needs a model with a decoder"
        )
    return model
