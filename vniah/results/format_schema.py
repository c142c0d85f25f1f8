"""JSON schemas (2020-12) of the two files of a run: what each field means, and its unit.

They come with the package, for other programs: vniah itself reads runs by declared types. The
fields of one version of the format stay as they are; what a new version of vniah adds is optional.
"""

import json
from typing import Any, Literal, get_args

from vniah.errors import InputError, short_repr
from vniah.files import PACKAGE_DIR
from vniah.results.manifests import FORMAT_VERSION, READ_VERSIONS

RunFile = Literal["manifest", "samples"]

SCHEMAS_DIR = PACKAGE_DIR / "data" / "schemas"


def format_schema(file: RunFile, version: int = FORMAT_VERSION) -> dict[str, Any]:
    """The schema of ``manifest.json``, or of a line of ``samples.jsonl``.

    Args:
        file: ``"manifest"`` or ``"samples"``.
        version: the ``format_version`` that a manifest carries.

    Raises:
        InputError: there is no such file or version.
    """
    if file not in get_args(RunFile):
        raise InputError(
            f"there are schemas of {' and '.join(get_args(RunFile))}, got {short_repr(file)}"
        )
    if version not in READ_VERSIONS:
        raise InputError(
            f"format_version is one of {', '.join(map(str, READ_VERSIONS))}, got "
            f"{short_repr(version)}"
        )
    found: dict[str, Any] = json.loads((SCHEMAS_DIR / f"{file}-{version}.json").read_bytes())
    return found
