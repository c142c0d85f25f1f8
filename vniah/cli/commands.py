"""What each command does. Prints, and returns the exit code."""

import argparse
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vniah.cli.display import Bars, format_average, format_table
from vniah.cli.ropes import (
    asked_ropes,
    only_rope,
    override_rope,
    print_ropes,
    refuse_impossible,
    rope_folder,
    shared_name,
)
from vniah.errors import InputError
from vniah.grid import Grid
from vniah.models.rope_text import RopeChoice

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vniah.forward.mesh import Mesh
    from vniah.haystacks import Haystack
    from vniah.models.protocol import AnyModel
    from vniah.models.server import ServerOptions
    from vniah.needles import NeedleSet
    from vniah.results import Results

_HEATMAP_NAME = "heatmap.png"

# Options of a server, by the names of `ServerOptions`.
_SERVER_FIELDS = (
    *("max_tokens", "concurrency", "max_requests", "timeout_seconds", "num_retries"),
    *("key_variable", "needs_usage"),
)


def run(options: argparse.Namespace) -> int:
    """Measures a grid, prints the table, draws the heatmap; for each RoPE that is asked for."""
    from vniah.manifest import make_manifest
    from vniah.needles import load_needles
    from vniah.plot import save_heatmaps

    grid, choices = _parse_grid(options), asked_ropes(options)
    is_one = len(choices) == 1
    needles = load_needles(_needles_name(options))
    outcomes: list[_Outcome] = []
    with _open_mesh(options) as mesh, Bars(mesh.is_leader) as bars:
        say = print if mesh.is_leader else _say_nothing
        model = _load_model(options, choices[0], mesh)
        refuse_impossible(model, choices)
        if not mesh.is_leader:
            mesh.wait_for("haystack")
        haystack = _open_haystack(options, grid.max_frames, bars)
        if mesh.is_leader:
            mesh.announce("haystack")
        for choice in choices:
            if not is_one:
                override_rope(model, choice)
            if options.output is None:
                output = _default_output(make_manifest(model, haystack, needles, grid))
            else:
                output = rope_folder(options.output, choice, is_one=is_one)
            if outcomes:
                say("")
            say(
                f"{model.name}{'' if is_one else f', {choice.label},'} on {haystack.name}: "
                f"{len(grid.cells)} cells x {len(needles)} needles -> {output}"
            )
            outcome = _measure(options, model, haystack, needles, grid, output, mesh, bars)
            outcomes.append(outcome)
            if mesh.is_leader and not is_one:
                outcome.show()
    if not mesh.is_leader:
        return 0
    if is_one:
        return outcomes[0].show()
    runs = [outcome.results for outcome in outcomes]
    shared = shared_name(options.output, options.task, runs)
    return print_ropes(choices, runs, save_heatmaps(runs, shared / _HEATMAP_NAME))


@dataclass(frozen=True)
class _Outcome:
    """A run that was made.

    Attributes:
        results: all of it.
        output: its folder.
        num_asked: samples that this start asked; None if there was nothing to do.
        seconds: how long that took.
    """

    results: "Results"
    output: Path
    num_asked: int | None
    seconds: float

    def show(self) -> int:
        """Prints it and draws its heatmap; the exit code."""
        from vniah.plot import save_heatmaps

        print()
        if self.num_asked is not None:
            print(f"{self.num_asked} samples in {self.seconds:.0f} s")
        else:
            print("nothing to do: every sample of this run is there already")
        for note in self.results.manifest.get("notes", []):
            print(f"note: {note}")
        picture = save_heatmaps([self.results], self.output / _HEATMAP_NAME)
        return _print_results(self.results, picture)


def _measure(
    options: argparse.Namespace,
    model: "AnyModel",
    haystack: "Haystack",
    needles: "NeedleSet",
    grid: Grid,
    output: Path,
    mesh: "Mesh",
    bars: Bars,
) -> _Outcome:
    """One sweep, with its bars."""
    from vniah.sweep import run_sweep

    started = time.perf_counter()
    num_done: list[int] = []

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage == "sweep":
            num_done.append(done)
        bars.show(stage, done, total)

    results = run_sweep(
        model,
        haystack,
        needles,
        grid,
        output=output,
        cache=options.cache,
        overwrite=options.overwrite,
        share=options.share,
        attention=options.attn,
        mesh=mesh,
        on_progress=on_progress,
    )
    num_asked = num_done[-1] - num_done[0] if num_done else None
    return _Outcome(results, output, num_asked, time.perf_counter() - started)


def _say_nothing(line: str) -> None:
    pass


def _needles_name(options: argparse.Namespace) -> str:
    """What --needles says; by default what the model can know."""
    from vniah.models.loading import embedded_models

    return options.needles or ("cards" if options.model in embedded_models() else "counterfactual")


def _print_results(results: "Results", picture: Path) -> int:
    print(f"\n{format_table(results)}\n")
    failed = [sample for sample in results.samples if sample.error is not None]
    if failed:
        print(f"{len(failed)} samples could not be run; the first: {failed[0].error}")
    print(format_average(results))
    print(f"heatmap: {picture}")
    return 0 if results.average is not None else 1


def encode(options: argparse.Namespace) -> int:
    """Fills the embedding cache."""
    from vniah.embeddings import encode_haystack
    from vniah.models.protocol import EncodingModel

    num_frames = Grid.parse(options.frames, "0").max_frames
    with Bars() as bars:
        model = _load_model(options, only_rope(options))
        if not isinstance(model, EncodingModel):
            raise InputError(f"{model.name} is a chat model: it reads pictures, not embeddings")
        haystack = _open_haystack(options, num_frames, bars)
        started, encoded = time.perf_counter(), [0]

        def on_progress(done: int, total: int) -> None:
            encoded.append(done)
            bars.show("encode", done, total)

        cache = encode_haystack(
            model, haystack, num_frames, directory=options.cache, on_progress=on_progress
        )
        seconds = time.perf_counter() - started
    if len(encoded) == 1:
        print(f"nothing to do: {cache.num_frames:,} frames are encoded already")
    else:
        print(f"{cache.num_frames:,} frames encoded, {_rate(encoded, seconds)}")
    for note in cache.notes():
        print(f"note: {note}")
    print(f"cache: {cache.directory}")
    return 0


def _rate(encoded: Sequence[int], seconds: float) -> str:
    """Frames per second of this start, whatever an earlier one had done."""
    from vniah.embeddings import BATCH_SIZE

    num_frames = encoded[-1] - max(0, encoded[1] - BATCH_SIZE)
    return f"{num_frames / seconds:.1f} frames/s"


def check(options: argparse.Namespace) -> int:
    """Says what a model lacks or gets wrong, then compares the forward pass with its own."""
    from vniah.check import check_model
    from vniah.models.protocol import EncodingModel
    from vniah.models.server import is_server
    from vniah.needles import load_needles

    needles = load_needles(_needles_name(options))
    with _open_mesh(options) as mesh:
        model = _load_model(options, only_rope(options), mesh, load_any=True)
        # A server is asked for what it counts, once for each length: its questions may be billed.
        if not is_server(options.model) and not _conforms(model, needles, mesh):
            return 1
        if not mesh.is_leader and isinstance(model, EncodingModel):
            mesh.wait_for("encoded")
        report = check_model(
            model,
            needles,
            group=mesh.context_group,
            attention=options.attn,
            cache=options.cache,
            on_encoded=lambda: mesh.announce("encoded") if mesh.is_leader else None,
        )
    if mesh.is_leader:
        for line in report.lines:
            print(line)
    return 0 if report.holds else 1


def models(options: argparse.Namespace) -> int:
    """Prints the table of families."""
    import transformers

    from vniah.cli.display import format_families

    transformers.logging.set_verbosity_error()
    from vniah.models.families import list_families
    from vniah.models.loading import embedded_models

    print(format_families(list_families()))
    print(f"\nembedded: {', '.join(embedded_models())}")
    print("any other: package.module:factory")
    return 0


def _conforms(model: "AnyModel", needles: "NeedleSet", mesh: "Mesh") -> bool:
    """Whether nothing fatal was found of the model; the leader looks, and prints what it finds."""
    from vniah.conformance import examine

    if mesh.is_leader:
        found = examine(model, needles)
        for line in found.lines:
            print(line)
        mesh.count("not conforming", not found.holds)
        mesh.announce("examined")
    mesh.wait_for("examined")
    return mesh.count("not conforming") == 0


def estimate(options: argparse.Namespace) -> int:
    """Says what a run will take, before anything runs."""
    from vniah.cli.estimate import format_estimate
    from vniah.estimate import estimate
    from vniah.needles import load_needles

    grid, needles = _parse_grid(options), load_needles(_needles_name(options))
    found = estimate(
        _load_model(options, only_rope(options)),
        needles,
        grid,
        num_ranks=options.context_parallel,
        attention=options.attn,
    )
    print(format_estimate(found))
    return 0 if found.memory.fits else 1


def plot(options: argparse.Namespace) -> int:
    """Draws heatmaps of runs or published tables."""
    from vniah.plot import save_heatmaps
    from vniah.results import load_results, rope_remarks

    runs = [load_results(path) for path in options.results]
    output = options.output
    if output is None:
        first = runs[0].path
        output = first / _HEATMAP_NAME if first.is_dir() and len(runs) == 1 else Path(_HEATMAP_NAME)
    picture = save_heatmaps(
        runs,
        output,
        training_tokens=options.training_length,
        tokens_per_frame=options.tokens_per_frame,
    )
    for results, remark in zip(runs, rope_remarks(runs), strict=True):
        print(f"{results.name}{remark and f', {remark}'}: {format_average(results)}")
    print(f"heatmap: {picture}")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Says whether a candidate holds what a baseline reached."""
    from vniah.regression import compare

    comparison = compare(options.baseline, options.candidate, max_drop=options.max_drop)
    if comparison.fallen:
        print(comparison.table())
    print(comparison.summary())
    return 0 if comparison.holds else 1


def make_haystack(options: argparse.Namespace) -> int:
    """Draws a haystack video."""
    from vniah.haystacks import make_haystack

    width, height = parse_size(options.size)
    with Bars() as bars:
        path = make_haystack(
            options.path,
            seconds=options.seconds,
            seed=options.seed,
            fps=options.fps,
            size=(width, height),
            overwrite=options.overwrite,
            on_progress=lambda done, total: bars.show("draw", done, total),
        )
    print(f"haystack: {path}")
    return 0


def _parse_grid(options: argparse.Namespace) -> Grid:
    """The grid of --frames with --positions, if there are any, else with --depths."""
    if options.positions is None:
        return Grid.parse(options.frames, options.depths)
    return Grid.parse(options.frames, positions=options.positions)


def _open_mesh(options: argparse.Namespace) -> "AbstractContextManager[Mesh]":
    """The processes of this job; one, if it was not started by torchrun."""
    from vniah.forward.mesh import open_mesh
    from vniah.models.loading import find_device

    return open_mesh(context_parallel=options.context_parallel, device=find_device(options.device))


def _load_model(
    options: argparse.Namespace,
    rope: RopeChoice,
    mesh: "Mesh | None" = None,
    *,
    load_any: bool = False,
) -> "AnyModel":
    """The model with that RoPE; in a job of several processes on the device of this one.

    With ``load_any`` it may be anything that a factory gives. A plug-in that takes no device puts
    itself where it wants; in a job --device says where its ranks meet.
    """
    import transformers

    from vniah.models.loading import is_factory, load_model, load_plug_in, takes_option
    from vniah.models.server import is_server

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = options.device
    if mesh is not None and mesh.size > 1:
        decides = is_factory(options.model) and not takes_option(options.model, "device")
        device = None if decides or is_server(options.model) else str(mesh.device)
    chosen = {
        "dtype": options.dtype,
        "device": device,
        "rope_theta": rope.theta,
        "rope_scaling": rope.scaling,
        "prompt_template": options.prompt_template,
        "offload": options.offload,
        "load_in": options.load_in,
        "frame_size": None if is_server(options.model) else options.frame_size,
    }
    if load_any and is_factory(options.model):
        return cast("AnyModel", load_plug_in(options.model, chosen))
    return load_model(options.model, **chosen, server=_server_options(options))


def _server_options(options: argparse.Namespace) -> "ServerOptions | None":
    """How a server is asked, from what was given; None where nothing was."""
    from vniah.models.frame_parts import FrameFormat
    from vniah.models.server import ServerOptions, is_server

    given = _given(options, {name: name for name in _SERVER_FIELDS})
    of_frames = {"frames_as": "frames_as"}
    if is_server(options.model):
        of_frames["size"] = "frame_size"  # of checkpoints it means what their tower reads
    if frames := _given(options, of_frames):
        given["frames"] = FrameFormat(**frames)
    return ServerOptions(**given) if given else None


def _given(options: argparse.Namespace, names: Mapping[str, str]) -> dict[str, Any]:
    """By their fields' names, the options that the command has and that were given."""
    values = {field: getattr(options, name, None) for field, name in names.items()}
    return {field: value for field, value in values.items() if value is not None}


def _open_haystack(options: argparse.Namespace, num_frames: int, bars: "Bars") -> "Haystack":
    from vniah.haystacks import generated_haystack, open_haystack

    if options.haystack is None:
        chosen = (options.sampling, options.decoder, options.keep_damaged)
        if chosen != ("clock", "pyav", False):
            raise InputError(
                "--sampling, --decoder and --keep-damaged are for videos of yours: add --haystack"
            )
        return generated_haystack(
            num_frames, on_progress=lambda done, total: bars.show("draw", done, total)
        )
    return open_haystack(
        options.haystack,
        sampling=options.sampling,
        decoder=options.decoder,
        keep_damaged=options.keep_damaged,
    )


def _default_output(manifest: dict[str, Any]) -> Path:
    """A folder per run, the same for the same settings."""
    settings = {key: value for key, value in manifest.items() if key != "environment"}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^\w.-]+", "_", manifest["model"]["name"])
    return Path("results", f"{name}-{manifest['task']}-{key}")


def parse_size(text: str, option: str = "--size") -> tuple[int, int]:
    """(width, height) from a text such as ``96x96``."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None:
        raise InputError(f"{option} must be WIDTHxHEIGHT in pixels, such as 96x96, got {text!r}")
    return int(match[1]), int(match[2])
