"""Opens what a command's options name: the model, the haystack, the needles, the processes."""

import argparse
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from vniah.cli.environment import explained_imports
from vniah.cli.pages import frame_size, has_pages, page_size
from vniah.cli.printing import working
from vniah.errors import InputError, VniahError
from vniah.grid import Grid
from vniah.options import DEFAULT_DEPTHS, LoadOptions
from vniah.options.precision import DEFAULT_PRECISION, Precision
from vniah.options.rope import RopeChoice, rope_choices

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch.distributed import ProcessGroup

    from vniah.models.server.client import ServerOptions
    from vniah.needles import NeedleSet
    from vniah.protocol import AnyModel
    from vniah.results import Results
    from vniah.sweep.mesh import Mesh
    from vniah.sweep.run import SweepOptions
    from vniah.tasks.base import Reads

# The options of a server, with the names of the fields of `ServerOptions`.
SERVER_FIELDS = (
    *("max_tokens", "concurrency", "max_requests", "timeout_seconds", "num_retries"),
    *("key_variable", "needs_usage", "tokenizer"),
)


NO_NEEDLES = ""
"""The name of the needle set of a task that hides nothing."""


def load_libraries() -> None:
    """Imports torch and transformers, which takes seconds; a terminal is told so at once.

    Raises:
        InputError: one of them cannot be imported.
    """
    with working("loading torch and transformers"), explained_imports():
        import torch
        import transformers

        assert torch
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        for name in ("transformers", "huggingface_hub"):  # `shown_log` shows what they log
            log = logging.getLogger(name)
            log.handlers.clear()
            log.propagate = True


def parse_grid(options: argparse.Namespace) -> Grid:
    """The grid of --frames or --tokens with --positions, if given, else with --depths.

    A task of question sets has the one depth 0. A task that cannot be loaded is refused where it is
    needed, and not here.

    Raises:
        InputError: the grid cannot be read, or there are depths where they have no meaning.
    """
    reads: Reads | None = None
    with suppress(VniahError):
        reads = _reads_of_task(options)
    if reads == "questions":
        _require_frames(options)
        if options.positions is not None or options.depths not in (DEFAULT_DEPTHS, "0"):
            raise InputError(
                f"the task {options.task} inserts nothing, so that a depth or position has no "
                "meaning; leave out --depths and --positions"
            )
        return Grid.parse(options.frames, "0")
    tokens = getattr(options, "tokens", None)
    lengths, unit = (options.frames, "frames") if tokens is None else (tokens, "tokens")
    if options.positions is None:
        return Grid.parse(lengths, options.depths, unit=unit)
    return Grid.parse(lengths, positions=options.positions, unit=unit)


def what_is_read(options: argparse.Namespace) -> "Reads":
    """What the task of --task reads; frames for a command without a task.

    Raises:
        InputError: --tokens is given and the task shows frames, or the other way round; or a task
            option is invalid.
        TaskError: there is no such task.
    """
    if getattr(options, "task", None) is None:
        return "frames"
    found = _reads_of_task(options)
    if found != "text":
        _require_frames(options)
    elif getattr(options, "tokens", "") is None:
        raise InputError(
            f"the task {options.task} shows text, whose length counts in tokens: give --tokens, "
            "such as 512:4096:512, in place of --frames"
        )
    return found


def _require_frames(options: argparse.Namespace) -> None:
    if getattr(options, "tokens", None) is not None:
        raise InputError(
            f"the task {options.task} shows frames: give --frames in place of --tokens, or a task "
            "of text, --task niah"
        )


def _reads_of_task(options: argparse.Namespace) -> "Reads":
    """What the task of --task reads, by the task alone."""
    from vniah.tasks import load_task
    from vniah.tasks.base import reads_of

    if getattr(options, "task", None) is None:
        return "frames"
    return reads_of(load_task(options.task, task_options(options)))


def shows_text(options: argparse.Namespace) -> bool:
    """Whether the task of --task shows text; errors are those of `what_is_read`."""
    return what_is_read(options) == "text"


def task_options(options: argparse.Namespace) -> dict[str, str]:
    """The options of the task: those of --task-option, --needle-frames and --needle-style.

    Raises:
        InputError: one of them is given twice.
    """
    given = [*options.task_option]
    given += [
        (name, getattr(options, name))
        for name in ("needle_frames", "needle_style")
        if getattr(options, name, None) is not None
    ]
    found: dict[str, str] = {}
    for name, value in given:
        if name in found:
            raise InputError(
                f"the task option {name} is given twice, as {found[name]!r} and {value!r}; give it "
                "once, several values as a comma list where the task takes them"
            )
        found[name] = value
    return found


def check_options(options: argparse.Namespace) -> None:
    """Reads what options say together, as far as that needs nothing but them.

    Raises:
        InputError: the grid cannot be read, or two options cannot be combined.
    """
    grid = parse_grid(options)
    task_options(options)
    require_shared_passes(options)
    _max_new_tokens(options)
    _adaptive(options, grid)
    if getattr(options, "apply", None) is not None:
        require_can_apply(options)


def require_can_apply(options: argparse.Namespace) -> None:
    """Raises `InputError` unless --apply names a function, and goes with the other options."""
    from vniah.factories import is_factory
    from vniah.models.server.client import is_server

    name = options.apply
    if not is_factory(name):
        raise InputError(f"--apply must be package.module:function, got {name!r}")
    if is_server(options.model):
        raise InputError(
            f"--apply {name} changes a model that vniah runs, and {options.model} answers on a "
            "server: leave it out"
        )
    others = {
        "--adaptive": getattr(options, "adaptive", False),
        "--stop-early": getattr(options, "stop_early", None) is not None,
        "--share one-pass": options.share == "one-pass",
    }
    for option, is_given in others.items():
        if is_given:
            raise InputError(
                f"--apply {name} runs every sample exactly, without and with it, and cannot be "
                f"combined with {option}: leave out one of the two"
            )


def sweep_options(options: argparse.Namespace) -> "SweepOptions":
    """How a sweep is run."""
    from vniah.sweep.run import SweepOptions

    return SweepOptions(
        task=options.task,
        task_options=task_options(options),
        controls=options.controls,
        cache=options.cache,
        share=options.share,
        attention=options.attn,
        scorer=options.scorer,
        max_new_tokens=_max_new_tokens(options),
        adaptive=_adaptive(options, parse_grid(options)),
        stop_early=load_baseline(options),
        window=options.window,
        verify=options.verify,
        screen=_load_other(options.screen, "screen"),
        apply=options.apply,
        trace_attention=options.trace_attention,
    )


def load_baseline(options: argparse.Namespace) -> "Results | None":
    """The run that a sweep is compared with while it is going on; None for one that runs whole."""
    return _load_other(options.stop_early, "baseline")


def _load_other(path: "Path | None", name: str) -> "Results | None":
    """The results of another run, if its path is given; ``name`` names it in a message."""
    if path is None:
        return None
    from vniah.analysis.compare.pairing import load

    return load(path, name)


def _max_new_tokens(options: argparse.Namespace) -> int | None:
    if options.max_new_tokens is None:
        return None
    if options.scorer != "generate":
        raise InputError("--max-new-tokens is for generated answers: add --scorer generate")
    return int(options.max_new_tokens)


def _adaptive(options: argparse.Namespace, grid: Grid) -> Precision | None:
    """How precisely an adaptive sweep finds the effective length; None for a whole grid."""
    if not options.adaptive:
        if options.precision is not None:
            raise InputError("--precision is for adaptive sweeps: add --adaptive")
        return None
    from vniah.sweep.search import require_depths

    require_depths(grid)
    return cast("Precision", options.precision or DEFAULT_PRECISION)


def needles_name(options: argparse.Namespace) -> str:
    """The needle set of --needles; by default one with things that the model can recognize, numbers
    for a task of text, and numbers on pages for a document. `NO_NEEDLES` for a task that hides
    nothing.

    Numbers on pages are drawn at the size of the haystack's pages, unless their name says another.

    Raises:
        InputError: needles are given for a task that hides nothing.
    """
    reads = what_is_read(options)
    if reads == "questions":
        if options.needles is not None:
            raise InputError(
                f"the task {options.task} hides nothing: leave out --needles, and give the "
                "questions with their videos by --haystack"
            )
        return NO_NEEDLES
    from vniah.models.loading import embedded_models
    from vniah.models.packaged import PACKAGED
    from vniah.needles.numbers import NUMBERS
    from vniah.needles.pages import PAGES, is_without_size, name_with_size

    model = getattr(options, "model", None)
    is_embedded = model in embedded_models()
    name = options.needles
    if name is None and not is_embedded and has_pages(options) and reads != "text":
        name = PAGES
    if name is not None and is_without_size(name):
        size = page_size(options)
        return str(name) if size is None else name_with_size(name, size)
    if options.needles is None and (reads == "text" or model in PACKAGED):
        return NUMBERS
    return options.needles or ("cards" if is_embedded else "counterfactual")


def load_named_needles(name: str) -> "NeedleSet":
    """The needle set that `needles_name` names."""
    from vniah.needles import NeedleSet, load_needles

    return NeedleSet.none() if name == NO_NEEDLES else load_needles(name)


def only_rope(options: argparse.Namespace) -> RopeChoice:
    """The RoPE of a command that takes only one.

    Raises:
        InputError: several are given.
    """
    choices = rope_choices(options.rope_theta, options.rope_scaling)
    if len(choices) > 1:
        raise InputError(
            f"--rope-theta and --rope-scaling name {len(choices)} RoPEs, and only run and "
            "perplexity measure take several; give one value"
        )
    return choices[0]


def require_shared_passes(options: argparse.Namespace) -> None:
    """Raises `InputError` if weights are to be shared, and no processes make the same passes."""
    if getattr(options, "shard_weights", False) and getattr(options, "context_parallel", 1) < 2:
        raise InputError(
            "--shard-weights shares weights among the processes that compute each pass together, "
            "and here one process computes it alone; add --context-parallel N, under torchrun with "
            "N processes or a multiple of N, or leave out --shard-weights"
        )


def open_job(options: argparse.Namespace) -> "AbstractContextManager[Mesh]":
    """The processes of this job: a single one unless torchrun started several."""
    from vniah.models.checkpoints import find_device
    from vniah.sweep.mesh import open_mesh

    return open_mesh(context_parallel=options.context_parallel, device=find_device(options.device))


def load_named_model(
    options: argparse.Namespace,
    rope: RopeChoice,
    mesh: "Mesh | None" = None,
    *,
    load_any: bool = False,
    has_decoder: bool = True,
) -> "AnyModel":
    """The model of --model with the given RoPE.

    In a job of several processes it is loaded on the device of this process; a plug-in that takes
    no device chooses one itself, and --device is only used for communication.

    Args:
        options: of the command.
        rope: the RoPE to use.
        mesh: the processes of the job.
        load_any: True accepts whatever a factory returns, so that it can be checked.
        has_decoder: False for a command that only encodes frames.
    """
    from vniah.factories import is_factory
    from vniah.models.loading import load_plug_in, open_model, takes_option
    from vniah.models.server.client import is_server

    device = options.device
    if mesh is not None and mesh.size > 1:
        decides = is_factory(options.model) and not takes_option(options.model, "device")
        device = None if decides or is_server(options.model) else str(mesh.device)
    group = _weights_group(options, mesh) if has_decoder else None
    load_options = _load_options(options, rope, device, group)
    server = _server_options(options)
    with working(f"loading {options.model}"):
        if load_any and is_factory(options.model):
            return cast("AnyModel", load_plug_in(options.model, load_options))
        return open_model(options.model, load_options, server=server, has_decoder=has_decoder)


def load_named_outline(
    options: argparse.Namespace, rope: RopeChoice, mesh: "Mesh | None" = None
) -> "AnyModel":
    """The model of --model for an estimate: without its weights, if its layout allows that.

    Models of which an estimate needs the weights are loaded, as by `load_named_model`.
    """
    from vniah.models.outline import open_outline

    if _server_options(options) is None:
        require_shared_passes(options)
        load_options = _load_options(options, rope, options.device)
        num_ranks = options.context_parallel if options.shard_weights else 1
        found = open_outline(options.model, load_options, num_ranks=num_ranks)
        if found is not None:
            return found
    if options.shard_weights:
        raise InputError(
            f"{options.model} has to be loaded to be estimated, and then a process has all of its "
            "weights: estimate it without --shard-weights"
        )
    return load_named_model(options, rope, mesh)


def _weights_group(options: argparse.Namespace, mesh: "Mesh | None") -> "ProcessGroup | None":
    """The processes that share the weights with this one; None if it has all of them."""
    if not options.shard_weights:
        return None
    if mesh is None:
        raise InputError(
            "--shard-weights is for vniah run, check and estimate with --context-parallel, and "
            "this command runs in one process; leave it out"
        )
    require_shared_passes(options)
    return mesh.context_group


def _load_options(
    options: argparse.Namespace,
    rope: RopeChoice,
    device: str | None,
    weights_group: "ProcessGroup | None" = None,
) -> LoadOptions:
    from vniah.models.server.client import is_server

    chosen = {option.name: getattr(options, option.name) for option in fields(LoadOptions)}
    chosen |= {"device": device, "rope_theta": rope.theta, "rope_scaling": rope.scaling}
    chosen["shard_weights"] = weights_group
    chosen["frame_size"] = frame_size(options)
    if is_server(options.model):
        chosen["frame_size"] = None  # here it is the size of sent pictures: see `_server_options`
    return LoadOptions(**chosen)


def _server_options(options: argparse.Namespace) -> "ServerOptions | None":
    """The options of a server that were given; None if there were none."""
    from vniah.models.server.client import ServerOptions, is_server
    from vniah.models.server.messages import FrameFormat

    given = _given(options, {name: name for name in SERVER_FIELDS})
    if "tokenizer" in given and getattr(options, "task", None) and not shows_text(options):
        raise InputError(
            f"--tokenizer counts the tokens of texts, and the task {options.task} shows frames: "
            "leave it out, or give a task of text, --task niah"
        )
    of_frames = {"frames_as": "frames_as"}
    if is_server(options.model):
        of_frames["size"] = "frame_size"  # for checkpoints it is the size that the tower reads
    if frames := _given(options, of_frames):
        given["frames"] = FrameFormat(**frames)
    return ServerOptions(**given) if given else None


def _given(options: argparse.Namespace, names: Mapping[str, str]) -> dict[str, Any]:
    """The options that were given, by the names of their fields."""
    values = {field: getattr(options, name, None) for field, name in names.items()}
    return {field: value for field, value in values.items() if value is not None}
