"""Samples of text that are shown: the prompt in words, and where the needle stands."""

import re

import pytest
from text_models import load_language_model, save_language_model, tokenizer_of

from vniah.cli import main
from vniah.errors import InputError
from vniah.grid import Grid
from vniah.haystacks.text import open_text
from vniah.needles.numbers import number_needles
from vniah.show.sample import show_sample
from vniah.sweep.run import run_sweep

GRID = Grid.parse("600", "0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("models") / "tiny")


def shown(model, **options):
    return show_sample(
        model,
        options.pop("haystack", None) or open_text(num_tokens=600),
        number_needles(2),
        GRID,
        task=options.pop("task", "niah"),
        **options,
    )


def test_the_prompt_and_the_place_of_the_needle_are_shown(folder, tmp_path):
    found = shown(load_language_model(tmp_path / "model"), task_options={"distractors": "1"})
    sample, text = found.sample, found.text
    assert "place: task niah, 600 tokens, depth 0.5" in text
    assert f"asked about: {sample.fields['needle_id']}" in text
    assert f"The special magic Singapore number is: {sample.answer}." in text
    assert re.search(r"<\.\.\. [\d,]+ characters of haystack \.\.\.>", text)
    first, last = map(int, re.search(r"needles/\S+ at (\d+)-(\d+)", text).groups())
    ids = tokenizer_of("bytes")(sample.prompt).input_ids
    assert f"tokens: {len(ids)} tokens before the answer" in text
    spelt = tokenizer_of("bytes").decode(ids[first : last + 1])
    assert f"special magic Singapore number is: {sample.answer}" in spelt and len(spelt) < 80
    assert "frames" not in text and not found.axes


def test_text_needs_a_model_that_counts(folder):
    with pytest.raises(InputError, match="which the tokenizer of a model gives: give"):
        shown(None)


def test_the_command_shows_a_sample_of_a_run(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_sweep(
        load_language_model(tmp_path / "model"),
        open_text(num_tokens=300),
        number_needles(2),
        Grid.parse("300", "0,1"),
        output="run",
        task="niah",
        controls="none",
        progress=False,
    )
    sample_id = f"300/1/{number_needles(2).ids[1]}/d0"
    assert main(["show", "run", sample_id, "--model", str(folder), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert f"sample: {sample_id}" in said and "result: " in said and "log-probability" in said
    assert main(["show", "run", "--model", str(folder), "--haystack", str(tmp_path)]) == 2
    assert "has no .txt file that holds text" in capsys.readouterr().err
    assert main(["show", "--task", "niah", "--model", str(folder)]) == 2
    assert "give --tokens" in capsys.readouterr().err
