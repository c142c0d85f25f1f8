"""How tests share a significance, and how many needles it takes."""

NUM_TESTS = 3
"""How many tests share a significance: those of a fall of needles like these."""

NUM_TESTS_PAIRED = NUM_TESTS + 2
"""On the same samples there are two more, of what these needles lost (`LossTests`)."""

EARLY_SHARE = 0.25
"""The share of the significance that stopping early uses; the tests of the whole run have the rest,
so that all of them together alarm no more often."""


def level_of_each(significance: float, *, is_paired: bool) -> float:
    """The share of a significance that each of the tests has."""
    return significance / (NUM_TESTS_PAIRED if is_paired else NUM_TESTS)


def why_too_few_to_stop(significance: float, num_needles: int) -> str | None:
    """Why a comparison that may stop early could end without a verdict; None if it cannot.

    Args:
        significance: that of all tests, of which stopping early has its share.
        num_needles: of the runs, which have the same samples.
    """
    left = left_by_early(significance)
    needed = _num_needed(left, is_paired=True)
    if needed is not None and needed <= num_needles:
        return None
    text = what_it_takes(left, is_paired=True, early_of=significance)
    if needed is not None:
        text += f" needles, and the baseline has {num_needles:,}"
    plain = _num_needed(significance, is_paired=True)
    if plain is None:
        return text
    return (
        f"{text}. Without --stop-early, vniah compare of the whole run takes "
        f"{'only' if plain <= num_needles else 'at least'} {plain}"
    )


def left_by_early(significance: float) -> float:
    """What stopping early leaves of a significance for the tests of the complete run."""
    return significance * (1 - EARLY_SHARE)


def what_it_takes(significance: float, *, is_paired: bool, early_of: float | None) -> str:
    """How many needles a significance takes, or that no number is enough.

    Args:
        significance: that of the tests of a complete run.
        is_paired: whether the runs have the same samples.
        early_of: the significance that was asked, of which stopping early has left this one.
    """
    needed = _num_needed(significance, is_paired=is_paired)
    level = f"for a significance of {significance:g} "
    if early_of is not None:
        level = f"{share_of_early(early_of)}; for that "
    if needed is not None:
        return f"{level}it takes at least {needed}"
    from vniah.analysis.statistics.paired import NUM_RANDOM

    num = NUM_RANDOM + 1
    least = (early_of or significance) / (num * level_of_each(significance, is_paired=is_paired))
    return (
        f"{level}no number of needles is enough, as the tests draw {num:,} rearrangements; take a "
        f"significance above {least:.3g}"
    )


def share_of_early(significance: float) -> str:
    """What stopping early takes of a significance, in words."""
    return (
        f"stopping early takes a quarter of the significance of {significance:g}, and the "
        f"tests of the complete run have the other {left_by_early(significance):g}"
    )


def _num_needed(significance: float, *, is_paired: bool) -> int | None:
    from vniah.analysis.statistics.falls import num_needed

    return num_needed(level_of_each(significance, is_paired=is_paired), is_paired=is_paired)
