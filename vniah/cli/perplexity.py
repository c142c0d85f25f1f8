"""The commands ``perplexity measure``, ``perplexity table`` and ``perplexity plot``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vniah.cli.environment import load_plot
from vniah.cli.inputs import load_libraries, load_named_model, only_rope
from vniah.cli.printing import comment, show, show_lines
from vniah.cli.tables import style_of, write_table
from vniah.errors import counted

if TYPE_CHECKING:
    from vniah.results.perplexity import PerplexityResults

PICTURE_NAME = "perplexity.png"


def measure_documents(options: argparse.Namespace) -> int:
    """Measures some documents, prints the table of their buckets and draws the curve."""
    rope = only_rope(options)
    load_libraries()
    from vniah.haystacks.text import open_text
    from vniah.sweep.perplexity import measure_perplexity, require_counts

    require_counts(options.tokens, options.documents)
    needed = (options.tokens + 512) * options.documents
    haystack = open_text(options.haystack, num_tokens=needed)
    model = load_named_model(options, rope)
    comment(
        f"{model.name} on {haystack.name}: {counted(options.documents, 'document')} of "
        f"{options.tokens:,} tokens"
    )
    found = measure_perplexity(
        model,
        haystack,
        num_tokens=options.tokens,
        num_documents=options.documents,
        output=options.output,
        overwrite=options.overwrite,
        attention=options.attn,
        progress=not options.quiet,
    )
    from vniah.analysis.perplexity import format_perplexities

    show_lines(format_perplexities([found], "text", options.bucket))
    picture = load_plot().save_perplexity_curves(
        [found], found.path / PICTURE_NAME, bucket=options.bucket
    )
    show(f"results: {found.path}")
    show(f"perplexity: {picture}")
    return 0


def tabulate(options: argparse.Namespace) -> int:
    """Prints or writes a table of results."""
    style = options.format or style_of(options.output)
    from vniah.analysis.perplexity import format_perplexities

    write_table(format_perplexities(_load(options), style, options.bucket), options.output)
    return 0


def draw(options: argparse.Namespace) -> int:
    """Draws the curves of results into one picture."""
    from vniah.analysis.perplexity import perplexity_labels, summarize_perplexity

    results = _load(options)
    output = options.output
    if output is None:
        output = results[0].path / PICTURE_NAME if len(results) == 1 else Path(PICTURE_NAME)
    picture = load_plot().save_perplexity_curves(
        results,
        output,
        bucket=options.bucket,
        training_tokens=options.training_length,
        width=options.width,
        caption=options.caption,
    )
    for name, found in zip(perplexity_labels(results), results, strict=True):
        for sentence in summarize_perplexity(found):
            show(f"{name}: {sentence}")
    show(f"perplexity: {picture}")
    return 0


def _load(options: argparse.Namespace) -> "list[PerplexityResults]":
    from vniah.results.perplexity import load_perplexity

    return [load_perplexity(path) for path in options.results]
