"""The tokens of pictures by encoding, as a command prints them."""

import json

import pytest

from vniah.cli import main


def test_encodings_of_a_model_are_printed(tmp_path, capsys):
    assert main(["models", "--encodings", "reference-anyres", "--frame-size", "96x96"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["picture", "frame", "UniRes", "tokens", "AnyRes", "tokens"]
    assert lines[1].split() == ["96", "x", "96", "4", "2", "x", "2", "16", "2", "x", "2", "80"]
    assert lines[2].split() == ["at", "most", "4", "49", "196", "4", "80"]
    assert lines[3].endswith("grids of 48 px, whole picture first, rows across grids")
    # A configuration is enough; the numbers of the published tower, and the paper's largest.
    config = {"model_type": "llava_qwen", "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["models", "--encodings", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "816 x 1056    144   3 x 4   1,728   2 x 2   2,448" in output
    assert "at most    144      49   7,056       4   2,928" in output
    assert "reads images as one picture" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encodings", "nowhere"], "there is no model 'nowhere'"),
        (["--frame-size", "8x8"], "add --encodings MODEL"),
        (["--encodings", "reference-long", "--frame-size", "8000x1"], "too long and thin"),
    ],
)
def test_encodings_that_cannot_be_had_are_refused(words, message, capsys):
    assert main(["models", *words]) == 2
    assert message in capsys.readouterr().err


def test_encodings_are_those_of_the_original_layout(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    assert main(["models", "--encodings", str(tmp_path)]) == 2
    assert "has model_type 'qwen2_vl'; encodings are those of" in capsys.readouterr().err
