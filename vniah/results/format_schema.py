"""JSON schemas (2020-12) of the files of runs and of perplexity: what each field means, its unit.

They come with the package, for other programs: vniah itself reads these files by declared types.
The fields of one version of a format stay as they are; what a new version of vniah adds is
optional.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from vniah.errors import InputError, short_repr
from vniah.files import PACKAGE_DIR
from vniah.results.manifests import FORMAT_VERSION, READ_VERSIONS
from vniah.results.perplexity import FORMAT_VERSION as PERPLEXITY_VERSION

SchemaFile = Literal["manifest", "samples", "attention", "perplexity", "document"]

SCHEMAS_DIR = PACKAGE_DIR / "data" / "schemas"

_VERSIONS: Mapping[str, tuple[int, ...]] = {
    "manifest": READ_VERSIONS,
    "samples": READ_VERSIONS,
    "attention": (FORMAT_VERSION,),
    "perplexity": (PERPLEXITY_VERSION,),
    "document": (PERPLEXITY_VERSION,),
}


def format_schema(file: SchemaFile, version: int | None = None) -> dict[str, Any]:
    """The schema of a file.

    Args:
        file: ``"manifest"`` for ``manifest.json`` and ``"samples"`` for a line of
            ``samples.jsonl`` of a run, ``"attention"`` for one of its ``attention.jsonl``;
            ``"perplexity"`` for ``perplexity.json`` and
            ``"document"`` for ``document-0000.json`` and the like of a result of perplexity.
        version: the ``format_version`` that a manifest or ``perplexity.json`` carries; by default
            the newest.

    Raises:
        InputError: there is no such file or version.
    """
    if file not in get_args(SchemaFile):
        *names, last = get_args(SchemaFile)
        raise InputError(
            f"there are schemas of {', '.join(names)} and {last}, got {short_repr(file)}"
        )
    version = max(_VERSIONS[file]) if version is None else version
    if version not in _VERSIONS[file]:
        known = ", ".join(map(str, _VERSIONS[file]))
        one_of = f"one of {known}" if len(_VERSIONS[file]) > 1 else known
        raise InputError(f"format_version of {file} is {one_of}, got {short_repr(version)}")
    found: dict[str, Any] = json.loads((SCHEMAS_DIR / f"{file}-{version}.json").read_bytes())
    return found
