"""How the samples of a sweep are run: for its manifest, and in a line of the log."""

import logging
from collections.abc import Mapping
from typing import Any

from vniah.engines.base import Engine
from vniah.forward.kv_cache import NAME_OF_LOCATION
from vniah.sweep.mesh import Mesh

_LOG = logging.getLogger("vniah")

_OF_THE_PLAN = ("passes", "flops", "flops_not_shared")


def describe_forward(
    engine: Engine, mesh: Mesh, *, num_samples: int, num_left: int, is_adaptive: bool
) -> dict[str, Any]:
    """Checks the model, and describes for the manifest how the samples are run.

    Args:
        engine: that runs them, with a plan of all.
        mesh: the processes of the job.
        num_samples: number of samples.
        num_left: how many of these have no score yet.
        is_adaptive: whether the plan is only of what there could be to run.

    Raises:
        CheckError: the forward pass gives other logits than the model's own.
    """
    found = engine.check()  # which may change how a server is asked
    described = dict(engine.describe())
    if mesh.is_leader and "passes" in described:
        text = _in_words(described, num_samples, num_left)
        _LOG.info(f"the whole grid would be {text}" if is_adaptive else text)
    if is_adaptive:  # its rounds have plans of their own
        described = {k: v for k, v in described.items() if k not in _OF_THE_PLAN}
    if found:
        described["check"] = dict(found)
    return {**described, "processes": mesh.size}


def _about_layers(record: Mapping[str, Any]) -> list[str]:
    """Where layers come from whose weights are not on the device, or not whole."""
    num_ranks = record.get("layer_weights_shared_by", 1)
    if num_ranks > 1:
        where = " in host memory" if "layer_weights_on" in record else ""
        return [f"layers shared by {num_ranks} processes{where}, gathered one by one"]
    return ["layers fetched from the host one by one"] if "layer_weights_on" in record else []


def _in_words(record: Mapping[str, Any], num_samples: int, num_left: int) -> str:
    """Describes in one line how the forward pass is run, from its record in the manifest."""
    share = record["flops"] / max(1, record["flops_not_shared"])
    why = record.get("not_shared_because")
    place = record.get("keys_and_values_on", "device")
    parts = [
        f"{record['passes']:,} pass{'es' * (record['passes'] != 1)} for {num_samples:,} samples, "
        + (f"with {share:.0%} of the operations of one by one" if share != 1 else "one by one"),
        *([f"nothing is shared, because {why}"] if why else []),
        *([f"{num_left:,} samples are left to do"] if num_left < num_samples else []),
        f"chunks of {record.get('tile_size', 0):,} rows",
        *([f"keys and values kept {NAME_OF_LOCATION[place]}"] if place != "device" else []),
        *_about_layers(record),
        "logits as by the model's own forward pass",
    ]
    return "; ".join(parts)
