"""The recipe of the reference models in small: what a context asks, and what an image is."""

import dataclasses
import random
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from training import align, chains, draw_cards, evaluate, recipe, text
from training.align import Features, sample_albums, tile
from training.contexts import Tokens, ask
from training.draw import Pictures, caption_scenery, card_of, label
from training.network import flatten_across, look_back, make_language_model, pool
from training.recipe import CARDS_DIR, RECIPE, TEXTS, VARIANTS, Text
from training.text import Seen
from training.tokens import IGNORED, OPENING, build_tokenizer, encode, encode_captions, vocabulary
from training.world import (
    CAPTION_WORDS,
    KEYS,
    NOTHING,
    QUESTIONS,
    Card,
    random_card,
    scenery_captions,
)
from vniah.needles import load_needles

ROOT = Path(__file__).resolve().parents[1]

CARDS = [Card("card", "red", "7"), Card("sign", "star", "blue"), Card("place", "house", "47")]


def words(ids):
    return [vocabulary()[token] for token in ids]


def test_every_word_of_a_caption_and_a_question_is_one_known_token():
    unknown = vocabulary().index("<|unk|>")
    rng = np.random.default_rng(0)
    for card in [*CARDS, *(random_card(rng) for _ in range(200))]:
        assert len(card.caption) == CAPTION_WORDS
        assert words(encode_captions([card.caption])[0]) == list(card.caption)
        assert unknown not in encode(card.question)
        assert words(encode(card.question))[-1] == card.key
        assert build_tokenizer().decode(encode(card.answer)) == card.answer


@pytest.mark.parametrize("card", CARDS)
def test_class_numbers_name_the_card_they_were_made_of(card):
    assert card_of(label(card)) == card


def test_scenery_is_described_by_brightness_and_tone():
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    pictures[1] = 255
    pictures[2, ..., 0] = 255
    pictures[3, ..., 2] = 250
    assert scenery_captions(pictures) == [
        ("scene", "dark", "grey", "."),
        ("scene", "pale", "grey", "."),
        ("scene", "dim", "warm", "."),
        ("scene", "dark", "cold", "."),
    ]


def test_questions_are_about_what_is_there_and_else_the_answer_is_nothing():
    rng = np.random.default_rng(1)
    ids, labels = ask(CARDS, rng, questions=200, absent_share=0.3)
    turns = " ".join(words(ids)).split("<|im_start|> user ")
    assert len(turns) == 200
    right = {
        card.question.lower(): " ".join(card.answer if card.kind == "place" else [card.answer])
        for card in CARDS
    }
    known = {QUESTIONS[kind].format(key=key).lower() for kind, key in KEYS}
    answers = []
    for turn in turns:
        question, answer = turn.split(" <|im_end|> <|im_start|> assistant ")
        answer = answer.removesuffix(" <|im_end|> ").removesuffix(" <|im_end|>")
        assert question in known
        assert answer == right.get(question, NOTHING)
        answers.append(answer)
    assert 0.2 < answers.count(NOTHING) / 200 < 0.4
    assert set(right.values()) < set(answers)
    learned = [token for token, wanted in zip(ids, labels, strict=True) if wanted != IGNORED]
    assert words(learned) == " ".join(answers).split()
    assert all(wanted in (IGNORED, token) for token, wanted in zip(ids, labels, strict=True))


def test_questions_of_two_hops_are_those_of_the_task_bridged():
    cards = [*draw_cards.CARDS, *draw_cards.DISTRACTORS]
    rng = np.random.default_rng(2)
    ids, labels = ask(cards, rng, questions=200, absent_share=0.3, two_hops_share=0.5)
    bridges = {
        " ".join(words(encode(needle.bridge.question))): needle.bridge.answer
        for needle in load_needles("cards")
        if needle.bridge is not None
    }
    assert len(bridges) == 3
    asked = 0
    for turn in " ".join(words(ids)).split("<|im_start|> user "):
        question, answer = turn.split(" <|im_end|> <|im_start|> assistant ")
        if question in bridges:
            assert answer.split()[0] == bridges[question]
        asked += "<|unk|> the sign" in question
    assert 70 < asked < 130
    assert all(wanted in (IGNORED, token) for token, wanted in zip(ids, labels, strict=True))


def test_without_a_pair_no_question_is_of_two_hops():
    ids, _ = ask(
        [Card("card", "red", "7"), Card("sign", "star", "blue")],
        np.random.default_rng(0),
        questions=50,
        absent_share=0.0,
        two_hops_share=1.0,
    )
    assert "<|unk|>" not in words(ids)


def test_signs_of_a_text_with_two_hops_lead_to_its_cards():
    start, leading, signs = len(encode(OPENING)), 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        ids, _ = text.sample_text(rng, sentences=20, num_cards=8, questions=1, two_hops_share=1.0)
        said = np.array(ids[start : start + CAPTION_WORDS * 20]).reshape(-1, CAPTION_WORDS)
        told = [words(row) for row in said]
        colors = {key for kind, key, *_ in told if kind == "card"}
        values = [value for kind, _, value, _ in told if kind == "sign" and colors]
        signs += len(values)
        leading += sum(value in colors for value in values)
    assert signs > 50
    assert leading / signs > RECIPE.leading_share


def test_without_cards_every_answer_is_nothing():
    ids, labels = ask([], np.random.default_rng(0), questions=5, absent_share=0.0)
    assert words([wanted for wanted in labels if wanted != IGNORED]) == [NOTHING] * 5
    assert len(ids) == len(labels)


@pytest.mark.parametrize("seed", range(20))
def test_a_value_in_a_text_is_learned_where_it_is_said_again(seed):
    rng = np.random.default_rng(seed)
    sentences = int(rng.integers(1, 40))
    ids, labels = text.sample_text(
        rng, sentences=sentences, num_cards=6, questions=2, repeats=0.7, absent_share=0.2
    )
    start = len(encode(OPENING))
    body = slice(start, start + CAPTION_WORDS * sentences)
    assert tuple(ids[:start]) == encode(OPENING)
    said = [words(row) for row in np.array(ids[body]).reshape(-1, CAPTION_WORDS)]
    wanted = np.array(labels[body]).reshape(-1, CAPTION_WORDS) != IGNORED
    seen = set()
    for sentence, learned in zip(said, wanted.tolist(), strict=True):
        kind, key, _, last = sentence
        repeated = kind != "scene" and (kind, key) in seen
        assert learned == [False, False, repeated, repeated and last != "."]
        seen.add((kind, key))
    shown = {tuple(sentence) for sentence in said if sentence[0] != "scene"}
    assert len(shown) == min(6, sentences) == len({sentence[:2] for sentence in shown})


def test_rows_are_padded_with_nothing_to_learn():
    tokens = Tokens.stack([([5, 6, 7], [IGNORED, 6, 7]), ([8], [8])])
    assert tokens.ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert tokens.labels.tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]


def looks_back(model):
    """The least attention that the heads of the first layer pay to the tokens 1 to 4 back."""
    model.set_attn_implementation("eager")
    ids = torch.randint(0, len(vocabulary()), (2, 300))
    with torch.no_grad():
        first = model.model(input_ids=ids, output_attentions=True).attentions[0]
    return min(
        float(first[:, head].diagonal(-1 - head, 1, 2)[:, 5:].min())
        for head in range(RECIPE.num_heads)
    )


@pytest.mark.parametrize("name", ["long", "short"])
def test_a_new_language_model_looks_at_the_last_four_tokens(name):
    torch.manual_seed(0)
    assert looks_back(make_language_model(TEXTS[name].rope_theta)) > 0.9


@pytest.mark.parametrize("raised", [1, 5, 20])
def test_a_fork_looks_at_the_same_tokens_when_its_base_is_raised(raised):
    torch.manual_seed(0)
    theta = TEXTS["short"].rope_theta
    fork, later = make_language_model(theta), make_language_model(theta * raised)
    look_back(
        fork,
        strength=RECIPE.new_base_look_back_strength,
        steepness=RECIPE.new_base_look_back_steepness,
    )
    later.load_state_dict(fork.state_dict())
    assert looks_back(later) > 0.9


def test_pooling_averages_squares_of_patches():
    patches = torch.arange(16.0)[None, :, None]
    assert pool(patches).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2)])
def test_anyres_reads_rows_across_grids(rows, columns):
    grids = torch.arange(2 * rows * columns * 4.0).reshape(2, rows * columns, 4, 1)
    image = torch.zeros(2, 2 * rows, 2 * columns)
    for row in range(rows):
        for column in range(columns):
            grid = grids[:, row * columns + column, :, 0].reshape(2, 2, 2)
            image[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = grid
    assert torch.equal(flatten_across(grids, columns=columns)[..., 0], image.flatten(1))


@pytest.fixture
def pictures() -> Pictures:
    """Cards and scenery whose pixels say their numbers: card i is i, scenery i is 100 + i."""
    rng = np.random.default_rng(0)
    labels = np.array([label(random_card(rng)) for _ in range(100)])
    numbers = np.arange(200, dtype=np.uint8)[:, None, None, None]
    pixels = np.broadcast_to(numbers, (200, 8, 8, 3)).copy()
    return Pictures(pixels[100:].reshape(4, 25, 8, 8, 3), pixels[:100], labels)


@pytest.fixture
def features(pictures: Pictures) -> Features:
    """As if the tower gave every patch the number of its picture."""
    return Features(
        cards=torch.from_numpy(pictures.cards[:, :4, :4, 0]).reshape(100, 16, 1).half(),
        card_captions=torch.from_numpy(pictures.card_captions),
        scenery=torch.from_numpy(pictures.haystack[..., :4, :4, 0]).reshape(100, 16, 1).half(),
        scenery_captions=torch.from_numpy(caption_scenery(pictures.haystack.reshape(-1, 8, 8, 3))),
        labels=pictures.labels,
        by_key=tuple(np.flatnonzero(pictures.labels[:, 0] == key) for key in range(len(KEYS))),
    )


def test_an_album_asks_about_what_its_pictures_show(pictures, features):
    albums = sample_albums(
        features, np.random.default_rng(2), count=40, pictures=4, questions=3, absent_share=0.2
    )
    shown, captions = albums.features(features), albums.captions(features)
    assert shown.shape == (40, 4, 16, 1)
    assert np.array_equal(shown[..., 0, 0], pictures.pick(albums.chosen)[..., 0, 0, 0])
    answers = set()
    for row, album in enumerate(captions.tolist()):
        told = {(words(caption)[0], words(caption)[1]): words(caption) for caption in album}
        end = int((albums.tokens.labels[row] != IGNORED).nonzero().max()) + 1
        turns = " ".join(words(albums.tokens.ids[row, :end].tolist()))
        for turn in turns.split(" <|im_end|> <|im_start|> user "):
            question, answer = turn.split(" <|im_end|> <|im_start|> assistant ")
            (asked,) = [
                key for key in KEYS if QUESTIONS[key[0]].format(key=key[1]).lower() == question
            ]
            caption = told.get(asked)
            right = (NOTHING,) if caption is None else tuple(w for w in caption[2:] if w != ".")
            assert tuple(answer.split()) == right
            answers.add(right)
    assert (NOTHING,) in answers
    assert len(answers) > 10


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_small_image_shows_all_pictures_in_their_places(count):
    side = RECIPE.image_side
    levels = np.arange(40, 40 + 50 * count, 50, dtype=np.uint8)
    pictures = np.broadcast_to(levels[:, None, None, None], (count, side, side, 3))[None].copy()
    (small,) = tile(pictures)
    assert small.shape == (side, side, 3)
    assert small.dtype == np.uint8
    middle = side // 4
    centers = {
        1: [(side // 2, side // 2)],
        2: [(side // 2, middle), (side // 2, side - middle)],
        4: [(y, x) for y in (middle, side - middle) for x in (middle, side - middle)],
    }[count]
    assert [int(small[y, x, 0]) for y, x in centers] == levels.tolist()
    assert (small[0, 0, 0] == 0) == (count == 2)  # padded to a square


def test_a_restarted_text_stage_ends_where_an_unbroken_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "WORK_DIR", tmp_path)
    monkeypatch.setattr(text, "score", lambda *_, **__: 0.0)
    monkeypatch.setitem(text.TEXTS, "trunk", Text(1e9, 2, 256, (4, 6), questions=2))
    monkeypatch.setitem(text.TEXTS, "long", Text(1e9, 4, 256, (8,), questions=1, trunk="trunk"))

    def weights(name):
        return torch.load(tmp_path / f"text-{name}.pt", weights_only=True)["model"]

    text.train("trunk")
    text.train("long")
    whole = weights("long")
    (tmp_path / "text-long.pt").unlink()

    class Stopped(Exception):
        pass

    save = text.Checkpoint.save_when_due

    def stop_after_two(checkpoint, step):
        if step == 2:
            checkpoint.save(step)
            raise Stopped
        save(checkpoint, step)

    monkeypatch.setattr(text.Checkpoint, "save_when_due", stop_after_two)
    with pytest.raises(Stopped):
        text.train("long")
    monkeypatch.setattr(text.Checkpoint, "save_when_due", save)
    text.train("long")
    restarted = weights("long")
    assert all(torch.equal(whole[name], restarted[name]) for name in whole)
    start = weights("trunk")
    assert not any(torch.equal(whole[name], start[name]) for name in whole if "weight" in name)


def test_a_fork_starts_at_the_end_of_its_trunk(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "WORK_DIR", tmp_path)
    monkeypatch.setattr(text, "score", lambda *_, **__: 0.0)
    monkeypatch.setitem(text.TEXTS, "trunk", Text(1e9, 2, 256, (4, 6), questions=2))
    text.train("trunk")
    for name, theta in (("long", 1e9), ("short", 200.0)):
        still = Text(theta, 1, 256, (8,), questions=1, trunk="trunk", learning_rate=0.0)
        monkeypatch.setitem(text.TEXTS, name, still)
        text.train(name)
    trunk, long, short = (
        torch.load(tmp_path / f"text-{name}.pt", weights_only=True)["model"]
        for name in ("trunk", "long", "short")
    )
    assert [name for name in trunk if not torch.equal(trunk[name], long[name])] == []
    changed = [name for name in trunk if not torch.equal(trunk[name], short[name])]
    assert changed == [f"model.layers.0.self_attn.{name}_proj.bias" for name in "qk"]


def test_frozen_words_stay_while_all_else_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "WORK_DIR", tmp_path)
    monkeypatch.setattr(text, "score", lambda *_, **__: 0.0)
    monkeypatch.setitem(text.TEXTS, "trunk", Text(1e9, 1, 256, (4, 6), questions=2))
    monkeypatch.setitem(text.TEXTS, "long", Text(1e9, 1, 256, (8,), questions=1, trunk="trunk"))
    small = dataclasses.replace(TEXTS["two-hops"], steps=2, tokens_per_step=256, sentences=(8,))
    monkeypatch.setitem(text.TEXTS, "two-hops", small)
    for name in ("trunk", "long", "two-hops"):
        text.train(name)
    long, fork = (
        torch.load(tmp_path / f"text-{name}.pt", weights_only=True)["model"]
        for name in ("long", "two-hops")
    )
    same = {name for name in long if torch.equal(long[name], fork[name])}
    assert same == {"model.embed_tokens.weight", "lm_head.weight"}


def test_a_model_takes_the_projector_of_one_whose_words_and_tower_it_shares():
    taking = {name: one for name, one in VARIANTS.items() if one.projector is not None}
    assert set(align.ALIGNED) == set(VARIANTS) - set(taking)
    for variant in taking.values():
        giving, fork = VARIANTS[variant.projector], TEXTS[variant.text]
        assert giving.projector is None
        assert giving.encoding == variant.encoding
        assert fork.trunk == giving.text
        assert fork.frozen_words


def test_a_fork_of_an_unfinished_trunk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "WORK_DIR", tmp_path)
    monkeypatch.setattr(text, "score", lambda *_, **__: 0.0)
    monkeypatch.setitem(text.TEXTS, "trunk", Text(1e9, 2, 256, (4, 6), questions=2))
    with pytest.raises(SystemExit, match=r"text-trunk\.pt is missing: run the stage before"):
        text.train("short")
    text.train("trunk")
    monkeypatch.setitem(text.TEXTS, "trunk", Text(1e9, 3, 256, (4, 6), questions=2))
    with pytest.raises(SystemExit, match=r"text-trunk\.pt is at step 2 of 3"):
        text.train("short")
    assert not (tmp_path / "text-short.pt").exists()


def test_every_text_serves_a_variant_and_forks_from_one_before_it():
    forks = {variant.text for variant in VARIANTS.values()}
    trunks = {TEXTS[name].trunk for name in forks}
    assert forks | trunks == set(TEXTS)
    names = list(TEXTS)
    for name, part in TEXTS.items():
        assert part.trunk is None or names.index(part.trunk) < names.index(name)


def test_the_control_differs_from_the_short_twin_in_the_base_only():
    long, short, control = (TEXTS[name] for name in ("long", "short", "short-large-base"))
    assert dataclasses.replace(control, rope_theta=short.rope_theta) == short
    assert (control.rope_theta, control.steps) == (long.rope_theta, long.steps)
    differing = {
        field.name
        for field in dataclasses.fields(Text)
        if getattr(control, field.name) != getattr(long, field.name)
    }
    assert differing == {"tokens_per_step", "sentences", "questions"}


def expected(part):
    """Mean tokens and questions of a step, over the lengths that a context may have."""
    rng = np.random.default_rng(0)
    tokens = questions = 0.0
    for sentences in part.sentences:
        draws = [
            len(
                text.sample_text(
                    rng,
                    sentences=sentences,
                    num_cards=8,
                    questions=part.questions,
                    same_kind_share=RECIPE.same_kind_share,
                    absent_share=RECIPE.absent_share,
                )[0]
            )
            for _ in range(60)
        ]
        contexts = text.contexts_in_step(part, sentences=sentences)
        tokens += contexts * sum(draws) / len(draws) / len(part.sentences)
        questions += contexts * part.questions / len(part.sentences)
    return tokens, questions


def test_forks_see_equally_many_tokens_and_nearly_as_many_questions():
    tokens, questions = expected(TEXTS["long"])
    for name in ("short", "short-large-base"):
        assert expected(TEXTS[name]) == (
            pytest.approx(tokens, rel=0.03),
            pytest.approx(questions, rel=0.1),
        )
    twice = dataclasses.replace(TEXTS["short"], tokens_per_step=8192)
    assert expected(twice)[0] > 1.2 * tokens


def test_what_was_seen_is_counted_without_padding():
    part = Text(1e9, 7, 400, (4, 9), questions=2)
    steps = [text.sample_step(part, step) for step in range(7)]
    seen = Seen.count(part)
    assert seen.tokens == sum(len(ids) for rows in steps for ids, _ in rows)
    asked = vocabulary().index("assistant")  # once more in the opening
    assert seen.questions == sum(ids.count(asked) - 1 for rows in steps for ids, _ in rows)
    assert seen.longest == max(len(ids) for rows in steps for ids, _ in rows)
    assert {len(rows) for rows in steps} == {
        text.contexts_in_step(part, sentences=sentences) for sentences in part.sentences
    }


def test_new_evaluation_needles_have_every_key():
    needles, cards = evaluate.draw_needles(RECIPE.evaluation_new_needles)
    new = cards[len(draw_cards.CARDS) :]
    assert sorted((card.kind, card.key) for card in new) == sorted(KEYS)
    assert [needle.answer for needle in needles] == [card.answer for card in cards]
    assert len({needle.needle_id for needle in needles}) == len(cards)


def test_the_default_needles_are_as_their_stage_writes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(draw_cards, "CARDS_DIR", tmp_path)
    draw_cards.main()
    for path in tmp_path.iterdir():
        kept = CARDS_DIR / path.name
        if path.suffix == ".png":  # compressed as the library at hand does it
            with Image.open(path) as drawn, Image.open(kept) as there:
                assert np.array_equal(np.asarray(drawn), np.asarray(there))
        else:
            assert path.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("command", [text, align, evaluate])
def test_an_unknown_name_is_one_line(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["training", "bogus"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(command.__file__, run_name="__main__")
    assert stop.value.code == 2
    assert "no 'bogus'; there are " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("seed", ["abc", "-1", "99999999999"])
def test_a_seed_that_is_none_is_one_line(seed, monkeypatch):
    monkeypatch.setenv("SEED", seed)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(recipe.__file__)
    assert stop.value.code == f"SEED is {seed!r}: give a whole number below 2**31"


def test_the_model_of_chains_is_trained_by_its_script_and_answers_texts_that_it_has_not_seen(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(chains, "STEPS", 2)
    monkeypatch.setattr(chains, "_TOKENS", 200)
    chains.main([str(tmp_path / "chains.safetensors")])
    kept = ROOT / chains.WEIGHTS
    assert kept.stat().st_size == (tmp_path / "chains.safetensors").stat().st_size < 300_000
    decoder, source = chains.ChainReader.load(kept).decoder, random.Random(7)
    texts = [chains.write_text(source, 40) for _ in range(50)]
    rows = [
        chains.read([chains.OPENING, *sentences, chains.CLOSING, chains.asks(asked[0][0])])
        for sentences, asked in texts
    ]
    with torch.inference_mode():
        found = decoder(input_ids=torch.tensor(rows)).logits[:, -1].argmax(-1).tolist()
    assert found == [chains.VOCABULARY[asked[0][1]] for _, asked in texts]
