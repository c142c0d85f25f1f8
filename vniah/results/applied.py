"""The half of a run whose samples were run with an intervention, as a run of its own."""

from dataclasses import replace

from vniah.options.intervention import APPLIED
from vniah.results.once import once
from vniah.results.plan import planned_ids
from vniah.results.records import Results

_ENDING = f"/{APPLIED}"


def intervention_of(results: Results) -> str | None:
    """The ``package.module:function`` that a run applied; None for one that applied nothing."""
    record = results.manifest.get("intervention")
    return None if record is None else str(record["function"])


@once
def applied_results(results: Results) -> Results | None:
    """The samples of a run that were run with its intervention.

    They have the ids of the samples without it, so that tables, pictures and comparisons take both
    halves as two runs of the same samples: ``compare(results, applied_results(results))``.

    Args:
        results: a run, also one that is not complete.

    Returns:
        The other half, without controls; None if the run applied nothing, or is a part of a run.
    """
    name = intervention_of(results)
    if name is None or results.part:
        return None
    copies = tuple(
        replace(one, sample_id=one.sample_id.removesuffix(_ENDING), control=None)
        for one in results.control_samples
        if one.control == APPLIED
    )
    planned = [
        one.removesuffix(_ENDING) for one in planned_ids(results.manifest) if one.endswith(_ENDING)
    ]
    manifest = {
        **{key: value for key, value in results.manifest.items() if key != "intervention"},
        "controls": [],
        "sample_ids": " ".join(planned),
    }
    return replace(
        results,
        name=f"{results.name} with {name.rpartition(':')[2]}",
        manifest=manifest,
        samples=copies,
        control_samples=(),
    )
