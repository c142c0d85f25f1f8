"""Which heavy packages each command loads: only those that it needs."""

import json
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).resolve().parents[1] / "results"

# In the order of how much they load, since nothing is ever unloaded.
COMMANDS = """
import contextlib, io, json, sys
from vniah.cli import main
HEAVY = ("torch", "transformers", "matplotlib", "seaborn", "pandas", "datasets", "av", "numpy")
HEAVY += ("scipy", "statsmodels")
run, png = sys.argv[1:]
for arguments in (
    ["--version"], ["run", "--help"], ["models"], ["compare", run, run],
    ["plot", run, "--output", png], ["report", run, "--output", png + ".html"],
):
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code
    loaded = [name for name in HEAVY if name in sys.modules]
    print(json.dumps([arguments[0], code, loaded]))
"""


def test_commands_load_only_what_they_need(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-c", COMMANDS),
            *(RESULTS / "reference-long", tmp_path / "heatmap.png"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        ["--version", 0, []],
        ["run", 0, []],
        ["models", 0, []],
        ["compare", 0, []],
        ["plot", 0, ["matplotlib", "seaborn", "pandas", "numpy", "scipy", "statsmodels"]],
        ["report", 0, ["matplotlib", "seaborn", "pandas", "numpy", "scipy", "statsmodels"]],
    ]
