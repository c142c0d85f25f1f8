"""What a task said about itself in the manifest: how its results are split and labelled."""

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypedDict

from msgspec import Meta

_Name = Annotated[str, Meta(min_length=1, max_length=1000)]
_Names = Annotated[list[_Name], Meta(max_length=100)]


class TaskDetails(TypedDict):
    """The section ``task_details`` of a manifest; `vniah.tasks.details` says what each entry is."""

    settings: NotRequired[dict[str, Any]]
    labels: NotRequired[dict[str, _Name]]
    facets: NotRequired[_Names]
    measures: NotRequired[_Names]
    references: NotRequired[dict[str, _Name]]
    all_of: NotRequired[_Name]
    clusters: NotRequired[_Name]
    asks_needles: NotRequired[bool]


_OF_EARLIER_MANIFESTS: Mapping[str, TaskDetails] = {"vniah": {"asks_needles": True}}
"""Details that tasks had before manifests recorded them."""


def details_in(manifest: Mapping[str, Any]) -> TaskDetails:
    """The details in a manifest; empty where it has none, as for a published table."""
    earlier = _OF_EARLIER_MANIFESTS.get(manifest.get("task", ""), {})
    details: TaskDetails = {**earlier, **manifest.get("task_details", {})}
    return details
