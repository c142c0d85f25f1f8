"""Claim: a report with 10,000 samples is ready in under 3 s, and one with 200,000 does not freeze.

Writes the report of a made-up run and opens it in a headless Chromium, from the disk. Prints how
long the report takes to make, the size of the file, and in the browser the time until the page is
ready to use, until a click on a cell has drawn its samples, and until a filter over all samples has
drawn what it finds. Each is the median of some openings. Needs playwright and a Chromium.

    python -m benchmarks.report [--samples 10000,200000] [--openings 5] [--browser PATH]
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from playwright.sync_api import Browser, sync_playwright

from vniah.analysis.report import make_report
from vniah.grid import Grid
from vniah.results import Results, SampleResult, grid_record

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
GRID = Grid.parse("200:4000:200", "0:1:0.1")
NAMES = ("chromium", "chromium-browser", "google-chrome")
CLICK = "td[data-cell='100']"


def make_run(num_samples: int, seed: int = 0) -> Results:
    """A run of 220 cells; every text of a needle is its own, and numbers are all different."""
    rng = np.random.default_rng(seed)
    num_needles = -(-num_samples // len(GRID.cells))
    needles = [f"needle-{k}" for k in range(num_needles)]
    samples = []
    for cell in GRID.cells:
        for needle_id in needles:
            is_right = bool(rng.random() < 0.8)
            samples.append(
                SampleResult(
                    sample_id=f"{cell.prefix}{needle_id}",
                    task="vniah",
                    cell=cell,
                    question=f"Which number is on the card that {needle_id} shows?",
                    answer=str(len(needle_id)),
                    fields={"needle_index": cell.needle_index, "needle_id": needle_id},
                    prediction=f"the number is {rng.integers(100)}",
                    correct=is_right,
                    logprob=-float(rng.exponential()),
                    rank=1 if is_right else 2,
                    margin=float(rng.normal()),
                )
            )
    manifest = {
        "format_version": 2,
        "task": "vniah",
        "controls": [],
        "model": {"name": "made-up", "tokens_per_frame": 144},
        "haystack": {"name": "made-up", "kind": "generated"},
        "needles": {"name": "made-up", "ids": needles},
        "grid": grid_record(GRID),
        "protocol": {},
        "sample_ids": " ".join(sample.sample_id for sample in samples),
    }
    return Results("made-up", Path("made-up"), manifest, tuple(samples))


def measure(browser: Browser, path: Path) -> Mapping[str, float]:
    """Seconds of one opening, by what they are of."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    try:
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        found = {"until the page is ready": time.perf_counter() - started}
        found["a cell is clicked"] = page.evaluate(_TIMED, [CLICK, "click", None])
        found["wrong ones of all cells"] = page.evaluate(_TIMED, ["#filter-1", "change", "0"])
        return found
    finally:
        page.close()


_TIMED = """async ([selector, kind, value]) => {
  if (value !== null) document.querySelector("#filters button").click();
  const element = document.querySelector(selector);
  const started = performance.now();
  if (value !== null) element.value = value;
  element.dispatchEvent(new Event(kind, { bubbles: true }));
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  if (!document.querySelector(".sample")) throw new Error("nothing is drawn");
  return (performance.now() - started) / 1000;
}"""


def main() -> None:
    """Prints the times of each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", default="10000,200000")
    parser.add_argument("--openings", type=int, default=5)
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, NAMES)), None))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser: Any = playwright.chromium.launch(executable_path=options.browser, args=ARGUMENTS)
        for num_samples in map(int, options.samples.split(",")):
            run = make_run(num_samples)
            path = Path(folder, f"{num_samples}.html")
            started = time.process_time()
            report = make_report([run], pictures=False)
            seconds = time.process_time() - started
            report.save(path)
            times = [measure(browser, path) for _ in range(options.openings)]
            print(f"{len(run.samples):,} samples, {path.stat().st_size / 1e6:.1f} MB")
            print(f"  making the report takes {seconds:.1f} s of processor time")
            for name in times[0]:
                print(f"  {name}: {median(one[name] for one in times):.2f} s")
            for note in report.notes:
                print(f"  note: {note}")
        browser.close()


if __name__ == "__main__":
    main()
