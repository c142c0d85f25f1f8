"""What each command does. Prints, and returns the exit code."""

import argparse
import hashlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vniah.cli.display import Bars, format_agreement, format_average, format_table
from vniah.errors import InputError
from vniah.grid import Grid

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from vniah.forward.mesh import Mesh
    from vniah.haystacks import Haystack
    from vniah.models.protocol import AnyModel
    from vniah.results import Results

_HEATMAP_NAME = "heatmap.png"


def run(options: argparse.Namespace) -> int:
    """Measures a grid, prints the table, draws the heatmap."""
    from vniah.forward.generation import MAX_NEW_TOKENS, choose_decoding
    from vniah.manifest import make_manifest
    from vniah.needles import load_needles
    from vniah.plot import save_heatmaps
    from vniah.sweep import run_sweep

    grid = _parse_grid(options)
    if options.max_new_tokens is not None and options.scorer != "generate":
        raise InputError("--max-new-tokens is for generated answers: add --scorer generate")
    max_new_tokens = MAX_NEW_TOKENS if options.max_new_tokens is None else options.max_new_tokens
    needles = load_needles(_needles_name(options))
    with _open_mesh(options) as mesh, Bars(mesh.is_leader) as bars:
        say = print if mesh.is_leader else _say_nothing
        model = _load_model(options, mesh)
        decoding = choose_decoding(model, options.scorer, max_new_tokens)
        if not mesh.is_leader:
            mesh.wait_for("haystack")
        haystack = _open_haystack(options, grid.max_frames, bars)
        if mesh.is_leader:
            mesh.announce("haystack")
        manifest = make_manifest(model, haystack, needles, grid, decoding)
        output = options.output or _default_output(manifest)
        say(
            f"{model.name} on {haystack.name}: {len(grid.cells)} cells x {len(needles)} needles "
            f"-> {output}"
        )
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
            scorer=options.scorer,
            max_new_tokens=max_new_tokens,
            mesh=mesh,
            on_progress=on_progress,
        )
        seconds = time.perf_counter() - started
    if not mesh.is_leader:
        return 0
    print()
    if num_done:
        print(f"{num_done[-1] - num_done[0]} samples in {seconds:.0f} s")
    else:
        print("nothing to do: every sample of this run is there already")
    for note in results.manifest.get("notes", []):
        print(f"note: {note}")
    return _print_results(results, save_heatmaps([results], output / _HEATMAP_NAME))


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
    for line in format_agreement(results):
        print(line)
    print(f"heatmap: {picture}")
    return 0 if results.average is not None else 1


def encode(options: argparse.Namespace) -> int:
    """Fills the embedding cache."""
    from vniah.embeddings import encode_haystack
    from vniah.models.protocol import EncodingModel

    num_frames = Grid.parse(options.frames, "0").max_frames
    with Bars() as bars:
        model = _load_model(options)
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
    """Compares the forward pass with the model's own."""
    from vniah.check import check_model
    from vniah.models.protocol import EncodingModel
    from vniah.needles import load_needles

    needles = load_needles(_needles_name(options))
    with _open_mesh(options) as mesh:
        model = _load_model(options, mesh)
        if not mesh.is_leader and isinstance(model, EncodingModel):
            mesh.wait_for("encoded")
        report = check_model(
            model,
            needles,
            group=mesh.context_group,
            cache=options.cache,
            on_encoded=lambda: mesh.announce("encoded") if mesh.is_leader else None,
        )
    if mesh.is_leader:
        for line in report.lines:
            print(line)
    return 0 if report.holds else 1


def estimate(options: argparse.Namespace) -> int:
    """Says what a run will take, before anything runs."""
    from vniah.cli.estimate import format_estimate
    from vniah.estimate import estimate
    from vniah.needles import load_needles

    grid, needles = _parse_grid(options), load_needles(_needles_name(options))
    found = estimate(_load_model(options), needles, grid, num_ranks=options.context_parallel)
    print(format_estimate(found))
    return 0 if found.memory.fits else 1


def plot(options: argparse.Namespace) -> int:
    """Draws heatmaps of runs or published tables."""
    from vniah.plot import save_heatmaps
    from vniah.results import load_results

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
    for results in runs:
        print(f"{results.name}: {format_average(results)}")
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


def _load_model(options: argparse.Namespace, mesh: "Mesh | None" = None) -> "AnyModel":
    """The model; in a job of several processes on the device of this one.

    A plug-in puts itself where it wants; in a job --device says where its ranks meet.
    """
    import transformers

    from vniah.models.loading import is_factory, load_model

    transformers.logging.set_verbosity_error()
    device = options.device
    if mesh is not None and mesh.size > 1:
        device = None if is_factory(options.model) else str(mesh.device)
    return load_model(
        options.model,
        dtype=options.dtype,
        device=device,
        rope_theta=options.rope_theta,
        prompt_template=options.prompt_template,
    )


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


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) from a text such as ``96x96``."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if match is None:
        raise InputError(f"--size must be WIDTHxHEIGHT in pixels, such as 96x96, got {text!r}")
    return int(match[1]), int(match[2])
