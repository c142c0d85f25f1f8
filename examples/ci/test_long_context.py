"""The gate as a test: `pytest ci` fails, with the table of changes, if the checkpoint got worse."""

import os
from pathlib import Path

import vniah

CI_DIR = Path(__file__).parent


def test_the_checkpoint_still_finds_needles() -> None:
    """The newest checkpoint holds the rules of the gate."""
    vniah.assert_no_regression(
        os.environ.get("VNIAH_CANDIDATE", "results/nightly/candidate__film__find"),
        os.environ.get("VNIAH_BASELINE", CI_DIR / "baseline"),
        rules=CI_DIR / "gate.toml",
    )
