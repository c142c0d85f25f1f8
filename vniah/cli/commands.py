"""The commands except ``run``. Each function prints, and returns the exit code."""

import argparse
import shutil
from textwrap import fill
from typing import TYPE_CHECKING

from vniah.analysis.tables import format_columns
from vniah.cli.display import format_estimate, format_families, format_notes, format_requests
from vniah.cli.haystacks import open_named, require_named_haystack
from vniah.cli.inputs import (
    load_libraries,
    load_named_model,
    load_named_needles,
    load_named_outline,
    needles_name,
    only_rope,
    open_job,
    parse_grid,
    what_is_read,
)
from vniah.cli.printing import show, show_lines, working
from vniah.cli.sweeps.estimates import estimate_run, estimate_sweep, fits
from vniah.cli.windows import check_windows, require_one_pass
from vniah.errors import InputError, printable

if TYPE_CHECKING:
    from vniah.needles import NeedleSet
    from vniah.protocol import AnyModel
    from vniah.sweep.mesh import Mesh


def check(options: argparse.Namespace) -> int:
    """Says what a model lacks, then compares vniah's forward pass with the model's own.

    With --one-pass it also tries windows behind needles.
    """
    require_one_pass(options)
    rope = only_rope(options)
    load_libraries()
    from vniah.checks.model import check_model
    from vniah.engines.choosing import require_decoder
    from vniah.engines.inputs import reads_only_text
    from vniah.models.deferred import ReadsEncoderLater
    from vniah.models.families import HasFamily
    from vniah.models.server.client import is_server
    from vniah.needles import load_needles
    from vniah.needles.numbers import NUMBERS

    needles = load_needles(needles_name(options))
    with open_job(options) as mesh:
        model = load_named_model(options, rope, mesh, load_any=True)
        if options.needles is None and reads_only_text(model):
            needles = load_needles(NUMBERS)
        if isinstance(model, ReadsEncoderLater):
            model.read_encoder()
        if options.shard_weights:  # the leader alone must not run a layer
            require_decoder(model, "check --shard-weights")
        # Requests to a server may be billed, so only its token counts are checked, once per length.
        if not is_server(options.model) and not _conforms(model, needles, mesh):
            return 1
        if options.one_pass:
            require_decoder(model, "check --one-pass")
        if not mesh.is_leader:
            mesh.wait_for("encoded")
        report = check_model(
            model,
            needles,
            group=mesh.context_group,
            attention=options.attn,
            cache=options.cache,
            on_prepared=lambda: mesh.announce("encoded") if mesh.is_leader else None,
        )
    if mesh.is_leader:
        for line in report.lines:
            show(line)
        if isinstance(model, HasFamily) and model.family.note:
            show(f"note: {model.family.note}")
    if report.passed and options.one_pass and mesh.is_leader:
        return 0 if check_windows(options, model) else 1
    return 0 if report.passed else 1


def models(options: argparse.Namespace) -> int:
    """Prints the table of model families; or fetches a model, and prints where it lies; or prints
    the encodings of a model.
    """
    if options.frame_size is not None and options.encodings is None:
        raise InputError("--frame-size is for the table of encodings: add --encodings MODEL")
    if options.encodings is not None:
        return _show_encodings(options)
    if options.fetch is not None:
        return _fetch_model(options.fetch)
    from vniah.models.families import FAMILIES, VERIFIED_WITH
    from vniah.models.loading import embedded_models
    from vniah.models.packaged import PACKAGED

    width = shutil.get_terminal_size().columns
    show_lines(format_families(FAMILIES.values(), width=width))
    for line in format_notes(FAMILIES.values(), width=width):
        show_lines(line)
    show_lines(
        "\nlayers: their kinds in the published decoders. sharing: which samples share\n"
        "computation. ring: if --context-parallel works; one-pass: if --share one-pass\n"
        "does. RoPE: layers in which --rope-theta and --rope-scaling change something.\n"
        "The tests compare the logits of llava_* with the rules of the original package,\n"
        "written again, and those of all others with their own forward pass on pixels,\n"
        f"in transformers {VERIFIED_WITH}.\n"
    )
    embedded = f"embedded: {', '.join(embedded_models())}"
    show_lines(fill(embedded, width, break_on_hyphens=False))
    for name, packaged in PACKAGED.items():
        show_lines(fill(f"after vniah models --fetch {name}: {name}, {packaged.about}", width))
    show("any other: package.module:factory")
    return 0


def _show_encodings(options: argparse.Namespace) -> int:
    load_libraries()
    from vniah.models.llava.encodings import USUAL_SIZES, read_encodings
    from vniah.models.loading import config_folder

    found = read_encodings(config_folder(options.encodings))
    sizes = USUAL_SIZES if options.frame_size is None else [options.frame_size]
    show_lines(format_columns(found.rows(sizes)))
    own = "as one picture" if found.own is None else f"by {found.own.summary}"
    show(
        f"frame: tokens of a frame of a video. Behind UniRes and AnyRes: grids across x down, and "
        f"tokens. {printable(options.encodings)} reads images {own}"
    )
    return 0


def _fetch_model(name: str) -> int:
    load_libraries()
    from vniah.models.packaged import fetch

    with working(f"fetching and converting {name}"):
        folder = fetch(name)
    show(f"{name} is in {folder}: --model {name}")
    return 0


def _conforms(model: "AnyModel", needles: "NeedleSet", mesh: "Mesh") -> bool:
    """True if the model has no fatal fault; the leader examines it and prints what it finds."""
    from vniah.checks.conformance import examine

    if mesh.is_leader:
        found = examine(model, needles)
        for line in found.lines:
            show(line)
        mesh.count("not conforming", not found.passed)
        mesh.announce("examined")
    mesh.wait_for("examined")
    return mesh.count("not conforming") == 0


def estimate(options: argparse.Namespace) -> int:
    """Prints the memory, operations and time that a run will take."""
    if options.sweep is not None:
        return estimate_sweep(options.sweep)
    grid, rope = parse_grid(options), only_rope(options)
    load_libraries()
    from vniah.sweep.estimated import Estimate
    from vniah.sweep.progress import Bars

    require_named_haystack(options)
    needles = load_named_needles(needles_name(options))
    model = load_named_outline(options, rope)
    with Bars(not options.quiet) as bars:
        is_film = what_is_read(options) == "frames"
        haystack = None if is_film else open_named(options, grid.max_frames, bars)
    found = estimate_run(model, needles, grid, options, haystack)
    show_lines(format_estimate(found) if isinstance(found, Estimate) else format_requests(found))
    return 0 if fits(found) else 1


def make_haystack(options: argparse.Namespace) -> int:
    """Writes a generated haystack video."""
    from vniah.haystacks.haystack import make_haystack
    from vniah.sweep.progress import Bars

    with Bars(not options.quiet) as bars:
        path = make_haystack(
            options.path,
            seconds=options.seconds,
            seed=options.seed,
            fps=options.fps,
            size=options.size,
            overwrite=options.overwrite,
            on_progress=lambda done, total: bars.show("draw", done, total),
        )
    show(f"haystack: {path}")
    return 0
