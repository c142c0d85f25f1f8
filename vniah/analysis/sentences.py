"""What is said of a run in sentences: by the commands, and in reports."""

from collections.abc import Sequence

from vniah.analysis.labels import these, unit_notes
from vniah.analysis.statistics.summary import summarize
from vniah.analysis.table_notes import average_over
from vniah.errors import counted
from vniah.results import Results, SampleResult


def format_average(results: Results) -> str:
    """The mean over the cells that have a score.

    It says over how many of how many cells, in how many of these samples are missing, and that it
    is the score of these needles on this film.
    """
    if results.average is None:
        is_begun = bool(results.samples or not results.manifest)
        return f"average: none, no sample {'could be scored' if is_begun else 'has been run yet'}"
    name = f"{'approximate ' * results.is_approximate}average"
    if results.stopped_early:  # before the number, as only the line may be copied
        name = f"{name} of a run that was stopped early, not to be quoted"
    text = f"{name}: {results.average:.4f} over {average_over(results)}"
    sizes = {score.num_samples for score in results.cells}
    (size,) = sizes if len(sizes) == 1 else (None,)
    if size:  # else the mean over cells is not the share of samples
        correct = sum(score.num_correct or 0 for score in results.cells)
        text += f" ({correct:,} of {counted(size * len(results.cells), 'sample')})"
    return f"{text}, for {these(results)}"


def format_summary(results: Results) -> list[str]:
    """The average, then what the run says about needles like these, in a sentence a line."""
    return [format_average(results), *summarize(results).lines, *unit_notes([results])]


def format_oddness(results: Results) -> str | None:
    """How far the needles stand out among the haystack's frames, in one line; None if unknown."""
    found = results.oddness
    if not found:
        return None
    mean, least, most = sum(found.values()) / len(found), min(found.values()), max(found.values())
    units = results.axis
    return (
        f"oddness: {mean:.2f} (from {least:.2f} to {most:.2f}), the share of the haystack's "
        f"{units} that stand out less than a needle; 0.5 is a {units[:-1]} like any other"
    )


def format_agreement(results: Results) -> list[str]:
    """Lines on how often generated answers and the argmax agree; none where nothing was generated.

    Judged by tokens they agree but for ties: the argmax is right at every position exactly where
    decoding begins with the answer. Judged by text they need not, as a model may write more, or
    give the answer in other words.
    """
    judged = [sample for sample in results.samples if sample.greedy_correct is not None]
    if not judged:
        return []
    tokens = [sample for sample in judged if sample.argmax_correct != sample.greedy_correct]
    texts = [sample for sample in judged if sample.argmax_correct != sample.correct]
    num_argmax = sum(bool(sample.argmax_correct) for sample in texts)
    scorer = results.manifest.get("scorer", {})
    stop_ids = set(scorer.get("stop_ids", ()))
    num_cut = sum(not stop_ids.intersection(sample.predicted_ids[-1:]) for sample in judged)
    return [
        f"tokens: {_agreement(len(judged), tokens)}",
        f"text: {_agreement(len(judged), texts)}"
        + f" ({num_argmax} right by the argmax only, {len(texts) - num_argmax} by the text only)"
        * bool(texts),
        *(
            [
                f"{num_cut} of {len(judged)} texts were cut off before the model ended them; for "
                "one that never does, --max-new-tokens 1 cuts where its answer is as long"
            ]
            if num_cut and scorer.get("max_new_tokens") != 1
            else []
        ),
    ]


def format_attention(results: Results) -> str | None:
    """In how many right and wrong samples the needle was seen; None where that was not traced.

    Controls are not counted.
    """
    traced = [sample for sample in results.samples if sample.needle_seen is not None]
    if not traced:
        return None
    right, wrong = (
        [s for s in traced if bool(s.correct) == is_right] for is_right in (True, False)
    )
    used, unused = (sum(s.needle_seen == "seen" for s in some) for some in (right, wrong))
    text = (
        f"attention: the needle was seen in {used:,} of {counted(len(right), 'right sample')}; "
        f"of {counted(len(wrong), 'wrong one')} "
    )
    if not wrong:
        return text.removesuffix("of 0 wrong ones ") + "none is wrong"
    return text + f"it was seen and not used in {unused:,}, and not seen in {len(wrong) - unused:,}"


def _agreement(num_judged: int, differing: Sequence[SampleResult]) -> str:
    text = f"greedy decoding and argmax agree on {num_judged - len(differing)} of {num_judged}"
    if not differing:
        return text
    first = differing[0]
    return text + (f"; first not: {first.sample_id}, {first.prediction!r} for {first.answer!r}")
