"""The arguments of the commands that read results."""

import argparse
from typing import Any, get_args

from vniah.cli import comparing, pictures, reports, tables, values
from vniah.cli.arguments.groups import add_caption_option, add_command, add_width_option
from vniah.options import Palette, PictureKind, SecondAxis, TableFormat, TableKind


def add_plot(verbs: Any) -> None:
    """``plot``."""
    plot = add_command(
        verbs, "plot", "draw the heatmaps of runs or of published tables, or curves of runs"
    )
    plot.add_argument(
        "results",
        nargs="+",
        type=values.path,
        metavar="RESULT",
        help="a run's folder, or a JSON table",
    )
    plot.add_argument("--output", type=values.picture, metavar="FILE", help=".png, .pdf or .svg")
    plot.add_argument(
        "--training-length",
        type=values.whole(10**12),
        metavar="TOKENS",
        help="draw a dotted line at this training length of the language model",
    )
    plot.add_argument(
        "--tokens-per-frame",
        type=values.whole(10**6),
        metavar="N",
        help="tokens of a frame, for results that do not say it, such as published tables "
        "(LongVA: 144)",
    )
    plot.add_argument(
        "--kind",
        choices=get_args(PictureKind),
        default="heatmap",
        help="heatmap (default); lengths: accuracy against the number of frames or tokens, a line "
        "for each result with its 95 %% band; difference: how each cell changed from the first "
        "result to the second; controls: the heatmap and a panel for each control; needles: a row "
        "for each needle; retention: accuracy against the seconds, or pages, since the needle, a "
        "curve for each depth or position; attention: which layers and heads attend to the needle "
        "in right and in wrong samples, of a run with --trace-attention",
    )
    plot.add_argument(
        "--value",
        default="correct",
        metavar="NAME",
        help="what is drawn: correct (default), or a number of the samples such as error_seconds "
        "or logprob",
    )
    plot.add_argument(
        "--by",
        metavar="FIELD",
        help="one heatmap for each value of this field of the samples, e.g. num_distractors",
    )
    plot.add_argument(
        "--groups",
        action="store_true",
        help="a heatmap of the groups of samples that are right as a whole beside each, for tasks "
        "that have groups, e.g. retrieve-all",
    )
    plot.add_argument(
        "--cell",
        metavar="N/DEPTH",
        help="with --kind attention: only the samples of this cell, such as 256/0.5; 256/* is all "
        "depths at 256 frames, and */0.5 this depth at all lengths",
    )
    _add_allow_approximate(plot)
    _add_look(plot)
    plot.set_defaults(command=pictures.plot)


def _add_allow_approximate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-approximate",
        action="store_true",
        help="compare an approximate run (--share one-pass) with an exact one, or two that are "
        "approximate in different ways, which is else refused; the output says so",
    )


def _add_look(plot: argparse.ArgumentParser) -> None:
    """How a picture looks, not what it shows."""
    plot.add_argument(
        "--palette",
        choices=get_args(Palette),
        help="colours of scores; safe (default): in order in grey and for colour-blind readers; "
        "published: those of the paper",
    )
    plot.add_argument("--annotate", action="store_true", help="write the values into the cells")
    plot.add_argument(
        "--second-axis",
        choices=get_args(SecondAxis),
        help="count above the heatmap as well: seconds of video in h, min and s, or visual tokens",
    )
    add_width_option(plot)
    plot.add_argument(
        "--columns", type=values.whole(1000), metavar="N", help="panels in a row, at most"
    )
    add_caption_option(plot)


def add_table(verbs: Any) -> None:
    """``table``."""
    table = add_command(verbs, "table", "print tables of runs or of published tables")
    table.add_argument(
        "results",
        nargs="+",
        type=values.path,
        metavar="RESULT",
        help="a run's folder, or a JSON table; several are shown side by side",
    )
    table.add_argument(
        "--kind",
        choices=get_args(TableKind),
        default="lengths",
        help="what has a row or a column: lengths (default), cells, needles, controls, or what "
        "run --apply changed",
    )
    table.add_argument(
        "--format",
        choices=get_args(TableFormat),
        help="text for the terminal, markdown or latex with two digits, csv or json with whole "
        "numbers; by default as the suffix of --output says, else text",
    )
    table.add_argument(
        "--output",
        type=values.path,
        metavar="FILE",
        help="write a .txt, .md, .tex, .csv or .json file",
    )
    table.add_argument(
        "--intervals",
        action=argparse.BooleanOptionalAction,
        help="put the 95 %% interval behind each score, or leave it out; by default only markdown "
        "and latex have it; csv and json always do",
    )
    table.add_argument(
        "--by",
        metavar="FIELD",
        help="a line for each value of this field of the samples, e.g. duration, and one for all",
    )
    table.set_defaults(command=tables.table)


def add_report(verbs: Any) -> None:
    """``report``."""
    report = add_command(
        verbs,
        "report",
        "write a page with the summary, maps, tables and all samples of runs or published tables",
    )
    report.add_argument(
        "results",
        nargs="+",
        type=values.path,
        metavar="RESULT",
        help="a run's folder, or a JSON table; several stand side by side",
    )
    report.add_argument(
        "--output",
        type=values.page,
        metavar="FILE",
        help="an .html file, which needs nothing besides; default: report.html, in the run's "
        "folder if there is one run",
    )
    report.add_argument(
        "--needles",
        type=values.source,
        action="append",
        default=[],
        metavar="S",
        help="folder or hub id of a needle set, for its pictures; those that come with vniah are "
        "found without it; may be repeated",
    )
    report.set_defaults(command=reports.report)


def add_compare(verbs: Any) -> None:
    """``compare``."""
    compare = add_command(
        verbs,
        "compare",
        "compare a run with an earlier one; exit code 0: it holds the rules (by default: no "
        "significant fall), 1: regression, 2: not comparable; with --stop-early 3: not known yet",
    )
    compare.add_argument(
        "baseline", type=values.path, metavar="BASELINE", help="folder of a run, or published table"
    )
    compare.add_argument(
        "candidate", type=values.path, metavar="CANDIDATE", help="the same, to compare with it"
    )
    compare.add_argument(
        "--applied",
        action="store_true",
        help="compare the candidate's samples with its intervention (run --apply); with the same "
        "run as BASELINE and CANDIDATE: what the intervention changes",
    )
    compare.add_argument(
        "--max-drop",
        type=values.real(100),
        metavar="X",
        help="by how much the score of a cell may fall, in [0, 1]",
    )
    compare.add_argument(
        "--max-mean-drop",
        type=values.real(100),
        metavar="X",
        help="by how much the average of the cells may fall, in [0, 1]",
    )
    compare.add_argument(
        "--min-mean",
        type=values.real(100),
        metavar="X",
        help="the least average of the candidate, in [0, 1]",
    )
    compare.add_argument(
        "--min-effective-length",
        type=values.whole(10**12),
        metavar="LENGTH",
        help="the least effective length of the candidate (score at least 0.9 up to there)",
    )
    compare.add_argument(
        "--floor",
        type=values.setting_of_length,
        action="append",
        metavar="LENGTH=X",
        help="the least score at a number of frames, pages or tokens, e.g. 512=0.9; may be "
        "repeated",
    )
    compare.add_argument(
        "--keep-cell",
        action="append",
        metavar="LENGTH:DEPTH",
        help="a cell whose score may not fall at all, e.g. 512:0.5; may be repeated",
    )
    compare.add_argument(
        "--significance",
        type=values.real(100),
        metavar="P",
        help="no fall may be significant; how often one is found by chance at most (0.005 if no "
        "rule is given)",
    )
    compare.add_argument(
        "--significant-drop",
        type=values.real(100),
        metavar="X",
        help="on the same samples a significant fall of the average is one by more than X, in "
        "[0, 1] (default 0.1)",
    )
    compare.add_argument(
        "--allowed-errors",
        type=values.whole(10**9),
        metavar="N",
        help="how many samples only the candidate may have been unable to run; they count as "
        "wrong (default 0)",
    )
    compare.add_argument(
        "--unpaired",
        action="store_true",
        default=None,
        help="compare runs of which some needles, or their names, are the same as if all needles "
        "were others",
    )
    _add_allow_approximate(compare)
    compare.add_argument(
        "--rules", type=values.path, metavar="FILE", help="rules in TOML; options replace them"
    )
    compare.add_argument(
        "--stop-early",
        action="store_true",
        help="the candidate may be going on: say whether its verdict is known, however often this "
        "is asked. A quarter of the significance is for that, for a fall of the average; the "
        "complete run has the rest, for which it takes 11 needles instead of 10",
    )
    compare.add_argument(
        "--format",
        choices=("text", "json", "junit", "markdown"),
        default="text",
        help="what is printed (default text)",
    )
    compare.set_defaults(command=comparing.compare)
