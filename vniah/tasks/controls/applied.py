"""The control ``applied``: every sample of the test once more, on a model that was changed.

A run with an intervention (``--apply``) measures the model as it is, and each sample of the test a
second time with what the intervention changes. So both halves have the same samples, in pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vniah.needles import NeedleSet
from vniah.options.intervention import APPLIED
from vniah.tasks.base import Sample
from vniah.tasks.controls.base import Finding, Row


class Applied:
    """Copies of all samples of the test, which are run with the intervention.

    The id of a copy is that of its sample, with ``/applied`` behind it.
    """

    name = APPLIED

    def samples(self, samples: Sequence[Sample], needles: NeedleSet) -> Iterator[Sample]:
        """As `vniah.tasks.controls.base.Control.samples`."""
        for sample in samples:
            name = f"{sample.sample_id}/{self.name}"
            yield replace(sample, sample_id=name, control=self.name)

    def finding(
        self, tests: Sequence[Row], own: Sequence[Row], others: Mapping[str, Sequence[Row]]
    ) -> Finding | None:
        """As `vniah.tasks.controls.base.Control.finding`: what an intervention does says nothing
        for or against the test (`vniah.analysis.statistics.intervention`).
        """
        return None


def is_applied_copy(sample: Sample) -> bool:
    """Whether a sample is to be run with the intervention of its run."""
    return sample.control == APPLIED
