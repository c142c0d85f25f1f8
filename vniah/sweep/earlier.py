"""Takes up runs that began when other settings were the default, with their own settings."""

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vniah.engines.base import Engine
from vniah.errors import ResultsError
from vniah.options import MAX_NEW_TOKENS
from vniah.results import MANIFEST_NAME
from vniah.results.manifests import read_manifest
from vniah.sweep.manifest import EARLIER_DEFAULT
from vniah.sweep.samples import begun_with
from vniah.tasks import Sample

_LOG = logging.getLogger("vniah")


def keep_earlier_length(engine: Engine, manifest: dict[str, Any], output: Path) -> dict[str, Any]:
    """The manifest for a run that began when 32 tokens were everyone's default; so is the engine.

    Args:
        engine: changed if there is such a run.
        manifest: of this start.
        output: the folder of the run.
    """
    decoding, scorer = engine.decoding, None
    if decoding is None:
        return manifest
    with suppress(ResultsError):  # there is no run, or one that the folder itself refuses
        scorer = read_manifest(output / MANIFEST_NAME).get("scorer")
    if scorer != {**manifest["scorer"], "max_new_tokens": MAX_NEW_TOKENS}:
        return manifest
    engine.decoding = replace(decoding, max_new_tokens=MAX_NEW_TOKENS)
    return {**manifest, "scorer": scorer}


def keep_earlier_controls(
    samples: tuple[Sample, ...], manifest: dict[str, Any], output: Path
) -> tuple[tuple[Sample, ...], dict[str, Any]]:
    """The samples and the manifest for a run that began when there were fewer default controls.

    Args:
        samples: of this start, with the default controls.
        manifest: of this start.
        output: the folder of the run.
    """
    as_given = samples, manifest
    with suppress(ResultsError):
        earlier = read_manifest(output / MANIFEST_NAME)
        names = earlier.get("controls")
        if names != EARLIER_DEFAULT or names == manifest["controls"]:
            return as_given
        begun = begun_with(samples, names, earlier["sample_ids"].split())
        if begun is None:
            return as_given
        _LOG.warning(
            f"this run began with the control {', '.join(names)} alone, and goes on so; "
            "another --output, or --overwrite, gives it all default controls"
        )
        ids = " ".join(sample.sample_id for sample in begun)
        return begun, {**manifest, "controls": names, "sample_ids": ids}
    return as_given
