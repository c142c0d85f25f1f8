"""Haystacks of pages, PDFs among them, numbers on pages, and runs that count pages."""

import argparse
import json
from dataclasses import fields, replace

import numpy as np
import pytest
from checkpoints import write_checkpoint
from PIL import Image

import vniah
from vniah.analysis.plot.second_axis import second_labels
from vniah.analysis.sentences import format_summary
from vniah.cli import main
from vniah.cli.arguments import build_parser
from vniah.cli.inputs import needles_name
from vniah.cli.pages import frame_size
from vniah.cli.sweeps.members import Member
from vniah.errors import (
    HaystackError,
    HaystackTooShortError,
    InputError,
    MissingDependencyError,
    NeedleError,
)
from vniah.haystacks import pdf
from vniah.haystacks.haystack import open_haystack, require_haystack
from vniah.haystacks.page_text import draw_page
from vniah.haystacks.pages import usual_page_size
from vniah.haystacks.prose import write_prose
from vniah.needles import NeedleSet, load_needles
from vniah.needles.numbers import number_needles
from vniah.needles.pages import is_without_size, name_with_size
from vniah.options.rope import RopeChoice

SIZE = (100, 140)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four pages of prose, the third of them on its side."""
    path = tmp_path_factory.mktemp("data") / "pages"
    path.mkdir()
    for place in range(4):
        size = SIZE[::-1] if place == 2 else SIZE
        draw_page(write_prose(900, seed=place), size).save(path / f"p{place}.png")
    return path


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """A PDF of three pages: half an inch by one, with a black square at the top left."""
    pdfium = pytest.importorskip("pypdfium2", reason="needs the extra pdf: pypdfium2")
    path = tmp_path_factory.mktemp("data") / "three.pdf"
    made = pdfium.PdfDocument.new()
    for number in range(3):
        page = made.new_page(36, 72)
        image = pdfium.PdfImage.new(made)
        image.set_bitmap(pdfium.PdfBitmap.from_pil(Image.new("RGB", (8, 8), (number * 50, 0, 0))))
        image.set_matrix(pdfium.PdfMatrix().scale(18, 18).translate(0, 54))
        page.insert_obj(image)
        page.gen_content()
        if number == 2:
            page.set_rotation(90)
    made.save(path)
    made.close()
    return path


def options_of(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(["run", *words])


def test_pages_of_a_pdf_are_drawn_upright_on_white(document):
    haystack = open_haystack(document, dpi=144)
    frames = list(haystack.frames())
    assert [frame.image.shape for frame in frames] == [(144, 72, 3)] * 2 + [(72, 144, 3)]
    assert (haystack.unit, haystack.kind, haystack.dpi) == ("page", "pdf", 144)
    for number, frame in enumerate(frames[:2]):
        assert frame.index == number and frame.image.dtype == np.uint8
        assert (frame.image[4:32, 4:32] == (number * 50, 0, 0)).all()
        assert (frame.image[40:] == 255).all() and (frame.image[:, 40:] == 255).all()
    assert (frames[2].image[4:32, 112:140] == (100, 0, 0)).all()  # turned clockwise
    (second,) = haystack.frames(start=1, stop=2)
    assert second.index == 1 and np.array_equal(second.image, frames[1].image)


def test_resolution_and_renderer_of_a_pdf_are_part_of_its_identity(document):
    usual, fine = open_haystack(document), open_haystack(document, dpi=144)
    assert next(usual.frames()).image.shape == (96, 48, 3)
    assert usual.identity()["dpi"] == "96" and fine.identity()["dpi"] == "144"
    assert usual.identity()["renderer"].startswith("pdfium ")
    assert usual.sha256 == fine.sha256
    assert repr(usual) == "<Haystack three.pdf: 1 PDF, 96 pixels per inch>"


def test_pdf_is_known_by_its_first_bytes(document, tmp_path):
    (tmp_path / "download").write_bytes(document.read_bytes())
    assert open_haystack(tmp_path / "download").kind == "pdf"


def test_document_that_is_too_short_is_refused_in_pages(document, folder):
    with pytest.raises(HaystackTooShortError, match=r"has 3 pages, but 4 .* fewer pages, or give"):
        list(open_haystack(document).frames(stop=4))
    with pytest.raises(HaystackTooShortError, match="has 4 pages, but 5 were asked for"):
        list(open_haystack(folder, pages=True).frames(stop=5))
    with pytest.raises(HaystackTooShortError, match="has 4 frames as images, but 5 were"):
        list(open_haystack(folder).frames(stop=5))


@pytest.mark.parametrize("content", [b"", b"text", b"%PDF-1.4 and no more"])
def test_broken_pdf_is_refused_in_one_line(document, tmp_path, content):
    path = tmp_path / "broken\n.pdf"
    path.write_bytes(content)
    for read in (open_haystack, require_haystack, usual_page_size):
        with pytest.raises(HaystackError, match=r"cannot be read as a PDF: .*PDFium") as caught:
            read(path)
        assert "password" in str(caught.value)


def test_page_that_is_too_large_is_refused_before_it_is_drawn(document, tmp_path):
    pdfium = pytest.importorskip("pypdfium2", reason="needs the extra pdf: pypdfium2")
    made = pdfium.PdfDocument.new()
    made.new_page(14_000, 14_000)
    made.save(tmp_path / "poster.pdf")
    made.close()
    with pytest.raises(HaystackError, match=r"page 1 of .* has 18,667 x 18,667 pixels at 96"):
        open_haystack(tmp_path / "poster.pdf")
    assert usual_page_size(tmp_path / "poster.pdf", dpi=10) == (1945, 1945)


def test_pdf_without_its_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4")
    monkeypatch.setattr(pdf, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'vniah\[pdf\]'"):
        open_haystack(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("pdf", {"dpi": 0}, "dpi must be a whole number of pixels per inch from 1 to 2,400, got 0"),
        ("pdf", {"dpi": 96.0}, "dpi must be a whole number"),
        ("pdf", {"keep_damaged": True}, "a PDF is read whole or refused"),
        ("pdf", {"sampling": "longva"}, "'longva' is for videos"),
        ("pdf", {"stream": 1}, "stream and assume_fps are for videos"),
        ("pdf", {"pages": True}, None),
        ("folder", {"dpi": 96}, "dpi is for the pages of a PDF"),
        ("film", {"pages": True}, "pages is for a folder of images"),
        ("film", {"dpi": 96}, "dpi is for the pages of a PDF"),
        ("both", {}, "is a PDF among several paths"),
    ],
)
def test_choices_that_a_source_does_not_have_are_refused(
    document, folder, tmp_path, source, options, message
):
    film = tmp_path / "film.mp4"
    film.write_bytes(b"no film")
    named = {"pdf": document, "folder": folder, "film": film, "both": [document, film]}
    if message is None:
        assert open_haystack(named[source], **options).kind == "pdf"
        return
    with pytest.raises(InputError, match=message):
        open_haystack(named[source], **options)


def test_usual_size_is_that_of_most_pages(document, folder, tmp_path):
    assert usual_page_size(folder) == SIZE
    assert usual_page_size(document) == (48, 96)
    turned = Image.new("RGB", (30, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    turned.save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGB", (90, 90)).save(tmp_path / "b.png")
    assert usual_page_size(tmp_path) == (20, 30)  # of equally many the first
    (tmp_path / "a.jpg").write_bytes(b"damaged")
    assert usual_page_size(tmp_path) == (90, 90)
    (tmp_path / "b.png").write_bytes(b"damaged")
    with pytest.raises(HaystackError, match="not one of the images in"):
        usual_page_size(tmp_path)


def test_numbers_on_pages_have_the_same_pixels_everywhere():
    needles = load_needles("pages:2:3:120x160")
    numbers = number_needles(2, seed=3)
    assert [(n.needle_id, n.answer) for n in needles] == [(n.needle_id, n.answer) for n in numbers]
    assert {needle.image.size for needle in needles} == {(120, 160)}
    assert load_needles(needles.source).sha256 == needles.sha256
    assert needles.sha256 == "903b102d5e6dbc99b1ddfdf165ab48d1e44553e67b66c579eaec47592202e638"


def test_sentence_is_drawn_at_the_end_of_a_paragraph_in_the_middle():
    text = "\n\n".join(["word " * 30] * 6)
    plain, told = (np.asarray(draw_page(text, (400, 400), sentence=s)) for s in ("", "Here it is."))
    dark = [np.flatnonzero((page < 128).any((1, 2))) for page in (plain, told)]
    same = int(np.flatnonzero((plain != told).any((1, 2)))[0])
    assert 120 < same < 280 and (plain[:same] == told[:same]).all()
    # The first line that differs is the sentence, short, with empty lines around it.
    line = told[same : same + 11]
    assert (line < 128).any() and not (line[:, 120:] < 128).any()
    assert len(dark[0]) and not (told[same - 14 : same] < 128).any()


def test_larger_page_has_larger_letters():
    small, large = (draw_page("Aa", size) for size in [(400, 100), (1200, 300)])
    enlarged = small.resize((1200, 300), Image.Resampling.NEAREST)
    ink = [np.argwhere(np.asarray(page)[..., 0] == 0) for page in (enlarged, large)]
    assert np.array_equal(ink[0] - ink[0].min(0), ink[1] - ink[1].min(0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pages:x", "a set of pages is named"),
        ("pages:5:0:794", "got 'pages:5:0:794'"),
        ("pages:0", "1 to 10,000 needles"),
        ("pages:1:0:9000x10", "1x1 to 8192x8192 pixels, got 9000x10"),
        ("pages:1:0:60x60", "a page of 60 x 60 pixels is too small"),
        ("pages:1:0:200x40", "a page of 200 x 40 pixels is too small"),
    ],
)
def test_pages_that_cannot_be_drawn_are_refused(name, message):
    with pytest.raises(NeedleError, match=message):
        load_needles(name)


def test_needles_are_drawn_at_the_size_of_the_pages(folder, document):
    of_folder = ["--model", "x", "--haystack", str(folder)]
    assert needles_name(options_of(*of_folder)) == "counterfactual"
    assert needles_name(options_of(*of_folder, "--images", "grids")) == "pages:5:0:100x140"
    large = options_of(*of_folder, "--images", "grids", "--frame-size", "300x400")
    assert needles_name(large) == "pages:5:0:300x400"
    given = options_of(*of_folder, "--images", "grids", "--needles", "pages:7:1:64x64")
    assert needles_name(given) == "pages:7:1:64x64"
    of_pdf = options_of("--model", "x", "--haystack", str(document), "--dpi", "72")
    assert needles_name(of_pdf) == "pages:5:0:36x72"
    assert needles_name(options_of("--needles", "pages")) == "pages"  # a film has no pages
    assert name_with_size("pages:3", (8, 9)) == "pages:3:0:8x9"
    assert not is_without_size("numbers") and not is_without_size("pages:1:2:3x4")


def test_model_reads_pages_at_their_size(folder):
    assert frame_size(options_of("--haystack", str(folder))) is None
    of_pages = options_of("--haystack", str(folder), "--images", "grids")
    assert frame_size(of_pages) == SIZE
    with pytest.raises(InputError, match="give one of these, or a size, such as"):
        frame_size(options_of("--images", "grids"))
    assert frame_size(options_of("--images", "grids", "--frame-size", "96x96")) == (96, 96)


def test_pages_of_two_sizes_do_not_share_a_model(folder, document):
    def weights(*words):
        options = options_of("--images", "grids", *words)
        return Member("a", "a", options, RopeChoice()).weights

    first, second = ["--haystack", str(folder)], ["--haystack", str(document)]
    assert weights(*first) == weights(*first) != weights(*second)
    assert weights(*second) != weights(*second, "--dpi", "50")
    size = ["--frame-size", "96x96"]
    assert weights(*first, *size) == weights(*second, *size) != weights(*first)
    # An older sweep's index has no images and no dpi in it.
    of_films = Member("a", "a", options_of(*first), RopeChoice())
    assert len(of_films.film) == 6 and "'frames'" not in of_films.weights
    assert "images" in [option.name for option in fields(vniah.options.LoadOptions)]


@pytest.mark.usefixtures("quick_pictures")
def test_run_on_pages_counts_pages(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VNIAH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "tiny")
    grid = ["--frames", "2,4", "--depths", "0.5", "--controls", "none", "--quiet"]
    words = ["--model", "tiny", "--haystack", str(folder), "--images", "grids"]
    assert main(["run", *words, *grid, "--needles", "pages:2", "--output", "run"]) == 0
    output = capsys.readouterr().out
    assert "for these needles on this document" in output and "2 pages (160 tokens)" in output
    assert "frame" not in output and "film" not in output
    results = vniah.load_results("run")
    assert results.axis == "pages" and results.num_done == 4
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["haystack"]["kind"] == "pages"
    assert manifest["needles"]["name"] == "pages:2:0:100x140"
    model = manifest["model"]
    assert (model["images"], model["frame_size"]) == ("grids", "100x140")
    assert model["tokens_per_frame"] == 4 * 5 * 4  # as the table of encodings says
    assert "2 pages" in format_summary(results)[-1]
    with pytest.raises(InputError, match="counts pages, which last no time"):
        second_labels(results, [2, 4], "seconds")
    # Shown again as the run read it, without being told how.
    assert main(["show", "run", "--model", "tiny", "--haystack", str(folder), "--quiet"]) == 0
    output = capsys.readouterr().out
    assert "2 haystack pages, depth 0.5" in output and "<1 frame x 80 tokens: needles/" in output
    # At another size nothing of it is taken up.
    other = ["--frame-size", "64x64", "--needles", "pages:2:0:100x140"]
    assert main(["run", *words, *grid, *other, "--output", "run"]) == 2
    assert "frame_size" in capsys.readouterr().err


def test_images_as_grids_are_refused_for_other_models(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    words = ["--model", str(tmp_path), "--images", "grids", "--frame-size", "64x64"]
    assert main(["check", *words, "--needles", "cards"]) == 2
    assert "images 'grids' is for checkpoints in the original LLaVA" in capsys.readouterr().err


def test_page_of_four_pictures_is_read_as_grids_and_not_as_a_frame(tmp_path):
    # The reference model learned from images of up to four pictures, each of its tower's size.
    cards = load_needles("cards").select(["card-red-7", "card-blue-3"])
    dice = np.random.default_rng(0)
    smooth = dice.integers(0, 256, (34, 4, 4, 3), np.uint8)
    scenes = [Image.fromarray(colors).resize((48, 48)) for colors in smooth]

    def page_of(pictures):
        page = Image.new("RGB", (96, 96))
        for place, shown in enumerate(pictures):
            page.paste(shown, (48 * (place % 2), 48 * (place // 2)))
        return page

    (tmp_path / "pages").mkdir()
    for place in range(8):
        page_of(scenes[4 * place : 4 * place + 4]).save(tmp_path / "pages" / f"{place}.png")
    needles = [
        replace(
            card,
            image=page_of([*scenes[32:34], card.image.resize((48, 48)), scenes[0]]),
            distractors=(),
        )
        for card in cards
    ]
    found = NeedleSet("pages", "pages", tuple(needles))
    haystack = open_haystack(tmp_path / "pages", pages=True)
    scores = []
    for images, size in [("grids", (96, 96)), ("frames", None)]:
        model = vniah.load_model("reference-long", images=images, frame_size=size)
        results = vniah.run_sweep(
            *(model, haystack, found, vniah.Grid.parse("8", "0.5")),
            output=tmp_path / images,
            cache=tmp_path / f"cache-{images}",
            controls="none",
            progress=False,
        )
        scores.append(results.average)
        assert results.axis == "pages"
        assert results.tokens_per_frame == (16 if images == "grids" else 4)
    assert scores == [1.0, 0.0]
