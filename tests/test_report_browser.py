"""Reports in a browser: keys, clicks, filters, colours, and what happens to hostile texts.

They need a Chromium: `apt-get install chromium`, or `python -m playwright install chromium`.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from runs import PUBLISHED_DIR, make_run, make_sample
from test_report import hostile, uneven

from vniah.analysis.report import make_report
from vniah.results import load_results

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: vniah[dev]")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-sandbox"),
]


SIZE = {"width": 1400, "height": 900}


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests, with a folder of its own."""
    with sync_api.sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, NAMES)), None)
        path = Path(path or playwright.chromium.executable_path)
        if not path.exists():
            pytest.skip("needs a browser: apt-get install chromium, or playwright install chromium")
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def window(browser):
    return browser.new_context(viewport=SIZE)


def watched(context):
    """A page of a context, with the list of what its scripts complain of and what it asks for."""
    page, complaints = context.new_page(), []
    page.set_default_timeout(8000)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("request", lambda request: complaints.append(request.url))
    return page, complaints


@pytest.fixture(scope="module")
def shared(window):
    return watched(window)


@pytest.fixture
def show(shared, tmp_path):
    """Opens the report of some runs; at the end no script has failed and nothing was asked for."""
    page, complaints = shared
    complaints.clear()
    page.set_viewport_size(SIZE)
    page.emulate_media(color_scheme="light")

    def open_page(*runs, size=SIZE):
        path = tmp_path / "report.html"
        make_report(runs, pictures=False).save(path)
        page.set_viewport_size(size)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        complaints[:] = [one for one in complaints if not one.startswith(("file:", "data:"))]
        return page

    open_page.complaints = complaints
    yield open_page
    assert complaints == []


def with_controls(results):
    samples = []
    for k in range(10):
        sample = make_sample(results.cells[0].cell, k, k == 9)
        fields = {"num_frames": 8, "needle_id": f"needle-{k}"}
        sample = replace(sample, cell=None, control="no-needle", fields=fields)
        samples.append(replace(sample, sample_id=f"8/-/needle-{k}/no-needle"))
    return replace(results, control_samples=tuple(samples))


def names(page):
    return page.locator(".sample h3").all_text_contents()


def choose(page, label, option):
    page.get_by_label(label, exact=True).select_option(label=option)


def test_a_click_on_a_cell_shows_its_samples_and_keeps_them(show):
    page = show(make_run(outcome=uneven))
    page.click("tbody tr:nth-child(2) td >> nth=1")  # 16 frames, depth 0.5
    assert names(page) == [f"16/0.5/needle-{k}" for k in range(10)]
    assert page.inner_text("#cell").startswith("16 frames, depth 0.5: 0.78 (0.45 to 0.94 for")
    assert "7 of 9 right" in page.inner_text("#cell") and "1 not run" in page.inner_text("#cell")
    last = page.locator(".sample").nth(9).inner_text()
    assert "out of memory" in last and "not run" in last
    first = page.locator(".sample").nth(0).inner_text()
    for text in ("Which number is on the card?", "expected", "7", "right"):
        assert text in first
    page.hover("tbody tr:nth-child(1) td >> nth=0")
    page.wait_for_timeout(150)
    assert names(page)[0] == "16/0.5/needle-0", "it is kept"
    page.keyboard.press("Escape")
    page.hover("tbody tr:nth-child(1) td >> nth=1")
    sync_api.expect(page.locator(".sample h3").first).to_have_text("16/0/needle-0")


def test_arrow_keys_go_from_cell_to_cell(show):
    page = show(make_run("8,16", positions="0,12"))
    page.focus("#filters select >> nth=0")
    page.keyboard.press("Shift+Tab")
    assert names(page) == [f"8/0/needle-{k}" for k in range(10)]
    page.keyboard.press("ArrowDown")
    assert names(page)[0] == "8/0/needle-0", "8 frames have no position 12"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert names(page)[0] == "16/0.75/needle-0"
    assert page.evaluate("document.activeElement.matches(':focus-visible')")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowUp")
    assert names(page)[0] == "16/0.75/needle-0", "it is kept"
    assert page.locator("[aria-selected=true]").count() == 1
    page.keyboard.press("Escape")
    page.keyboard.press("Home")
    assert names(page)[0] == "8/0/needle-0"
    assert page.locator("td[tabindex='0']").count() == 1, "one stop of Tab"


def test_filters_choose_needles_controls_and_outcomes(show):
    page = show(with_controls(make_run(outcome=uneven)))
    assert page.inner_text("#count") == "20 of 50 samples"
    page.click("#more")
    page.click("#more")
    assert page.inner_text("#count") == "50 of 50 samples" and page.locator("#more").is_hidden()
    choose(page, "Outcome", "not run")
    assert page.inner_text("#count") == "5 of 5 samples"
    choose(page, "Outcome", "wrong")
    choose(page, "Needle", "needle-6")
    assert names(page) == ["8/0/needle-6", "16/0/needle-6"]
    choose(page, "Outcome", "all outcomes")
    choose(page, "Needle", "all needles")
    choose(page, "Test or control", "no-needle")
    assert names(page) == [f"8/-/needle-{k}/no-needle" for k in range(10)]
    page.click("tbody tr:nth-child(2) td >> nth=0")
    assert len(names(page)) == 10, "a control without a depth is in all cells of its length"
    page.click("tbody tr:nth-child(2) td >> nth=1")
    assert page.inner_text("#count") == "No sample has this cell and these filters."
    page.click("text=All cells")
    choose(page, "Test or control", "test and controls")
    assert page.inner_text("#count") == "20 of 60 samples"


def test_several_results_answer_side_by_side(show):
    first, second = make_run(), make_run("16,32", outcome=lambda cell, k: k < 5)
    page = show(
        first, replace(second, name="other"), load_results(PUBLISHED_DIR / "longva-7b_vniah.json")
    )
    page.click("table[data-run='0'] tbody tr:nth-child(1) td >> nth=1")  # 16 frames
    assert page.inner_text("#count") == "10 of 10 questions"
    rows = page.locator(".sample").nth(9).locator("tbody tr").all_inner_texts()
    assert [row.split() for row in rows] == [["tiny", "right", "7"], ["other", "wrong", "3"]]
    of_any = "Outcome in at least one result"
    choose(page, of_any, "not the same in all results")
    assert names(page) == [f"16/0/needle-{k}" for k in range(5, 10)]
    choose(page, of_any, "wrong")
    assert page.locator(".sample").nth(0).locator("tbody tr").count() == 2, "all that answered it"
    choose(page, of_any, "not the same in all results")
    page.click("table[data-run='1'] tbody tr:nth-child(1) td >> nth=1")  # 32 frames, in one of them
    assert page.inner_text("#count") == "No sample has this cell and these filters."
    choose(page, of_any, "all outcomes")
    assert page.locator(".sample").nth(0).locator("tbody tr").count() == 1
    choose(page, of_any, "not the same in all results")
    choose(page, "Results", "tiny")
    page.click("text=All cells")
    assert page.inner_text("#count") == "20 of 60 questions"
    outcome = page.get_by_label("Outcome", exact=True)
    assert outcome.input_value() == "", "one result alone differs from none"
    assert outcome.locator("option:disabled").inner_text() == "not the same in all results"
    page.click("table[data-run='2'] tbody tr:nth-child(1) td >> nth=0")
    assert page.inner_text("#count") == "A published table has no samples."
    assert page.get_by_label("Results", exact=True).input_value() == "2"
    choose(page, "Results", "all, side by side")
    assert "A published table has no samples" in page.inner_text("#cell")


def with_numbers(results, name):
    """The run under another name, with log-probabilities, margins and ranks."""
    numbers = {"logprob": -12.345, "margin": -0.005678, "rank": 12}
    samples = tuple(replace(sample, **numbers) for sample in results.samples)
    return replace(results, name=name, samples=samples)


SCROLLS = """() => new Promise((done) => {
  const look = (left) => {
    if (document.activeElement.scrollLeft > 0 || !left) done(left > 0);
    else setTimeout(look, 20, left - 1);
  };
  look(200);
})"""

IS_WIDER = "one => one.scrollWidth > one.clientWidth + 1"


def test_two_results_fit_and_what_does_not_is_reached_by_keys(show):
    run = make_run("600:7200:600", "0,1", num_needles=2)
    page = show(*(with_numbers(run, f"A-long-name-of-a-model-step-{k}000") for k in range(2)))
    last = page.locator(".sample .numbers span").nth(2)
    for width in (1280, 1024, 800, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert not page.evaluate(f"({IS_WIDER})(document.documentElement)"), width
        assert not page.eval_on_selector(".sample", IS_WIDER), width
        assert last.inner_text() == "rank 12"
        box = last.bounding_box()
        assert box["x"] + box["width"] <= width, width
        average = page.get_by_role("row", name="average").locator("td").last.bounding_box()
        assert average["x"] + average["width"] <= width, width
        if width == 1280:
            assert page.locator(".scroll[tabindex]:visible").count() == 0, (
                "nothing is to be scrolled"
            )
    map_box = page.get_by_role("region", name="Accuracy by depth").first
    sync_api.expect(map_box).to_have_attribute("tabindex", "0")
    assert "Wider than the window" in page.inner_text("#maps")
    map_box.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(SCROLLS), "the arrow keys move it"
    page.set_viewport_size({"width": 1280, "height": 900})
    sync_api.expect(page.locator(".wider:visible")).to_have_count(0)


def test_names_from_right_to_left_stay_in_their_place(show):
    hebrew = "\u05e9\u05dc\u05d5\u05dd"
    run = with_controls(make_run("8", "0", num_needles=1, needles__ids=[f"{hebrew}-7"]))
    samples = [
        replace(
            sample,
            sample_id=f"{place}{hebrew}-7{ending}",
            fields={**sample.fields, "needle_id": f"{hebrew}-7"},
        )
        for sample, place, ending in (
            (run.samples[0], "8/0/", ""),
            (run.control_samples[0], "8/-/", "/no-needle"),
        )
    ]
    run = replace(run, samples=(samples[0],), control_samples=(samples[1],))
    page = show(run, replace(run, path=Path("runs", hebrew, "5")))
    choose(page, "Test or control", "test and controls")
    assert names(page) == [f"8/0/{hebrew}-7", f"8/-/{hebrew}-7/no-needle"]
    for number, num_parts in ((0, 2), (1, 3)):
        parts = page.locator(".sample h3").nth(number).locator("> *")
        lefts = [part.bounding_box()["x"] for part in parts.all()]
        assert len(lefts) == num_parts and lefts == sorted(lefts)
    path = page.locator(".path").nth(1)
    assert path.inner_text() == f"Read from runs/{hebrew}/5"
    assert path.locator("bdi").all_inner_texts() == [hebrew]


def test_results_without_samples_say_why(show):
    page = show(make_run("8", "0", outcome=lambda cell, k: None), make_run("8", "0"))
    choose(page, "Results", page.locator("#filter-2 option").nth(1).inner_text())
    assert page.inner_text("#count") == "No sample of this run has been run yet."


def test_hostile_texts_are_texts(show):
    run = hostile(make_run(outcome=uneven))
    page = show(run, replace(run, name="beside"))
    page.click("tbody tr:nth-child(1) td >> nth=0")
    text = page.locator(".sample").nth(0).inner_text()
    assert "</script><script>bad()</script>" in text and "\\u202e" in text
    assert page.locator("img").count() == 0
    assert page.evaluate("typeof bad") == "undefined"
    assert page.locator("script").count() == 2
    is_wider = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(is_wider)
    page.set_viewport_size({"width": 400, "height": 800})
    assert not page.evaluate(is_wider)


def test_long_answers_stay_in_their_place(show):
    run = make_run("8", "0", num_needles=1)
    long = replace(run.samples[0], prediction="word " * 2000, answer="x" * 10_000)
    page = show(replace(run, samples=(long,)))
    assert page.locator(".sample").bounding_box()["height"] < 700
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_colours_follow_the_system_and_the_switch(show):
    page = show(make_run("8", "0"))

    def is_dark():
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, color[4:-1].split(","))) < 200

    for scheme, other in (("light", "dark"), ("dark", "light")):
        page.emulate_media(color_scheme=scheme)
        assert is_dark() == (scheme == "dark")
        page.select_option("#theme", other)
        assert is_dark() == (other == "dark")
        page.select_option("#theme", "")
        assert is_dark() == (scheme == "dark")


def test_without_a_script_everything_but_the_list_of_samples_is_there(browser, tmp_path):
    path = tmp_path / "report.html"
    make_report([make_run(outcome=uneven)], pictures=False).save(path)
    page, complaints = watched(browser.new_context(java_script_enabled=False))
    page.goto(path.as_uri())
    assert [one for one in complaints if not one.startswith("file:")] == []
    assert page.locator(".scroll[tabindex='0']").count() == page.locator(".scroll").count() > 0
    text = page.inner_text("main")
    assert "The list of samples is drawn by the script" in text and "average: " in text
    assert page.locator("td:visible", has_text="0.56").count() >= 2
    assert page.locator("#filters").is_hidden() and page.locator("#theme").is_hidden()


def test_nothing_but_the_own_script_runs(show):
    page = show(make_run("8", "0"))
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = true";
          window.refused = 0;
          document.addEventListener("securitypolicyviolation", () => { window.refused += 1; });
          document.body.append(script);
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("[window.refused, window.ran]") == [1, None]
    (complaint,) = show.complaints
    assert "Content Security Policy" in complaint
    show.complaints.clear()
