"""Images as grids: the rules on sizes, the order of the rows, and whole pictures by hand."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import CLIP_SIZE, write_checkpoint
from PIL import Image
from transformers import CLIPImageProcessorPil as CLIPImageProcessor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_onevision.modeling_llava_onevision import (
    get_anyres_image_grid_shape,
    unpad_image,
)

from vniah.embeddings.batches import identity_of
from vniah.errors import InputError, ModelError
from vniah.models.llava.grid_rows import GridReader, fit
from vniah.models.llava.grids import GridRule, anyres_rule, read_rule, unires_rule
from vniah.models.llava.model import LlavaModel
from vniah.options import LoadOptions

FOLDER = Path("checkpoint")
CLIP, CLIP_SIDE = 336, 24
SIGLIP, SIGLIP_SIDE = 384, 27

# LongVA lists every a x b of at most 49 grids except the single one.
LONGVA = [
    [columns * CLIP, rows * CLIP]
    for columns in range(1, 50)
    for rows in range(1, 50)
    if 1 < columns * rows <= 49
]
CONFIGS = {
    "LongVA": {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": LONGVA,
        "mm_patch_merge_type": "unires",
    },
    "LLaVA-NeXT": {
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        "mm_patch_merge_type": "spatial_unpad",
    },
    "LLaVA-OneVision": {
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": "(1x1),...,(6x6)",
        "mm_patch_merge_type": "spatial_unpad",
    },
}

# By longva/mm_utils.py, longva/model/llava_arch.py (EvolvingLMMs-Lab/LongVA) and llava/mm_utils.py,
# llava/model/llava_arch.py (LLaVA-VL/LLaVA-NeXT), run with the configurations above: grids, size of
# the picture in them, and tokens, of LongVA; then grids and tokens of the other two.
PUBLISHED = {
    (336, 336): ((1, 2), (336, 336), 288, (1, 2), 1176, (1, 1), 1485),
    (300, 200): ((1, 2), (336, 225), 288, (1, 2), 976, (1, 1), 1261),
    (337, 336): ((2, 1), (337, 336), 288, (2, 1), 1176, (1, 1), 1485),
    (480, 640): ((2, 2), (504, 672), 576, (2, 2), 2352, (2, 2), 2943),
    (640, 480): ((2, 2), (672, 504), 576, (2, 2), 2340, (2, 2), 2929),
    (595, 842): ((2, 3), (672, 951), 864, (2, 2), 2256, (2, 3), 4964),
    (794, 1123): ((3, 4), (951, 1344), 1728, (2, 2), 2256, (3, 3), 5427),
    (816, 1056): ((3, 4), (1008, 1305), 1728, (2, 2), 2448, (3, 3), 5913),
    (1000, 700): ((3, 3), (1008, 706), 1296, (2, 2), 2242, (3, 2), 4941),
    (1280, 720): ((4, 3), (1344, 756), 1728, (2, 2), 1948, (4, 2), 5967),
    (1191, 1684): ((4, 6), (1344, 1901), 3456, (2, 2), 2256, (4, 5), 7353),
    (1654, 2339): ((5, 7), (1664, 2352), 5040, (2, 2), 2256, (5, 6), 7353),
    (1920, 1080): ((6, 4), (2016, 1134), 3456, (2, 2), 1948, (5, 3), 7269),
    (3840, 2160): ((9, 5), (2987, 1680), 6480, (2, 2), 1948, (6, 4), 7317),
    (2480, 3508): ((6, 8), (1901, 2688), 6912, (2, 2), 2256, (5, 6), 7353),
    (8000, 400): ((24, 2), (8064, 404), 6912, (3, 1), 868, (6, 1), 2196),
    (300, 5000): ((1, 15), (303, 5040), 2160, (1, 3), 936, (1, 6), 2349),
    (1, 1): ((1, 2), (336, 336), 288, (1, 2), 1176, (1, 1), 1485),
    (4096, 4096): ((7, 7), (2352, 2352), 7056, (2, 2), 2928, (6, 6), 7371),
    (1023, 767): ((4, 3), (1344, 1008), 1728, (2, 2), 2340, (3, 2), 4725),
    (672, 672): ((2, 2), (672, 672), 576, (2, 2), 2928, (2, 2), 3699),
}


def rule_of(name: str, **changes) -> GridRule:
    sizes = (SIGLIP, SIGLIP_SIDE) if name == "LLaVA-OneVision" else (CLIP, CLIP_SIDE)
    tower_size, side = sizes
    return read_rule({**CONFIGS[name], **changes}, FOLDER, tower_size=tower_size, side=side)


@pytest.mark.parametrize("size", PUBLISHED, ids="{0[0]}x{0[1]}".format)
def test_grids_and_tokens_are_those_of_the_published_code(size):
    unires, anyres, scaled_down = (rule_of(name).layout(size) for name in CONFIGS)
    assert PUBLISHED[size] == (
        *((unires.columns, unires.rows), unires.scaled, unires.num_tokens),
        *((anyres.columns, anyres.rows), anyres.num_tokens),
        *((scaled_down.columns, scaled_down.rows), scaled_down.num_tokens),
    )


def test_grids_are_those_of_transformers():
    rule = rule_of("LLaVA-OneVision")
    dice = random.Random(0)
    sizes = [(dice.randint(20, 4000), dice.randint(20, 4000)) for _ in range(150)]
    # It counts heights before widths, and of equally good resolutions takes the first.
    resolutions = [(height, width) for width, height in rule.resolutions]
    for width, height in [*PUBLISHED, *(size for size in sizes if max(size) < 40 * min(size))]:
        found = rule.layout((width, height))
        expected = get_anyres_image_grid_shape((height, width), resolutions, SIGLIP)
        assert (found.rows, found.columns) == expected
        tall, wide = select_best_resolution((height, width), resolutions)
        assert (found.columns * SIGLIP, found.rows * SIGLIP) == (wide, tall)
        whole = torch.empty(1, found.rows * SIGLIP_SIDE, found.columns * SIGLIP_SIDE)
        assert found.kept == tuple(unpad_image(whole, (height, width)).shape[1:])


def test_most_tokens_are_those_of_the_paper():
    # Table 4 of the paper: AnyRes 4 grids and 2,880 tokens, UniRes 49 grids and 7,056 tokens.
    unires, anyres = unires_rule(CLIP, CLIP_SIDE), rule_of("LLaVA-NeXT")
    assert (unires.most_grids, anyres.most_grids) == (49, 4)
    assert unires.layout((5000, 5000)).num_tokens == 7056
    plain = rule_of("LLaVA-NeXT", mm_patch_merge_type="spatial")
    assert plain.layout((5000, 5000)).num_tokens == 2880
    assert anyres_rule(CLIP, CLIP_SIDE) == anyres


@pytest.mark.parametrize(
    "given",
    ["[(336, 672), (672, 336)]", "[[336,672],[672,336]]", [[336, 672], [672, 336]]],
)
def test_resolutions_are_read_from_lists_and_texts(given):
    rule = rule_of("LLaVA-NeXT", image_grid_pinpoints=given)
    assert rule.resolutions == ((336, 672), (672, 336))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mm_patch_merge_type": None}, ("flat", 576 * 5)),
        ({"mm_patch_merge_type": "spatial"}, ("AnyRes", 576 * 5)),
        ({"mm_patch_merge_type": "spatial_nobase"}, ("AnyRes", 576 * 4)),
        ({"mm_patch_merge_type": "spatial_unpad"}, ("AnyRes", 576 + 48 * 49)),
        ({"mm_patch_merge_type": "spatial_maxpool2x2"}, ("AnyRes", 576 * 2)),
        ({"mm_patch_merge_type": "unires"}, ("UniRes", 576)),
        ({"mm_patch_merge_type": "unires", "image_aspect_ratio": "pad"}, ("UniRes", 576)),
        ({"image_aspect_ratio": "anyres_max_2"}, ("AnyRes", 576 + 33 * 34)),
    ],
)
def test_rule_is_chosen_by_the_configuration(changes, expected):
    rule = rule_of("LLaVA-NeXT", **changes)
    assert (rule.encoding, rule.layout((672, 672)).num_tokens) == expected


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_aspect_ratio": "pad"}, InputError, "image_aspect_ratio = 'pad', so its model"),
        ({"image_aspect_ratio": None}, InputError, "image_aspect_ratio = None"),
        ({"image_aspect_ratio": "anyres_max_0"}, InputError, "'anyres_max_0'"),
        ({"image_aspect_ratio": "highres"}, InputError, "'highres'"),
        ({"image_aspect_ratio": ["anyres"]}, InputError, r"\['anyres'\]"),
        ({"mm_patch_merge_type": "mean"}, ModelError, "mm_patch_merge_type = 'mean'"),
        ({"image_grid_pinpoints": None}, ModelError, "image_grid_pinpoints must be a list, got No"),
        ({"image_grid_pinpoints": []}, ModelError, "image_grid_pinpoints"),
        ({"image_grid_pinpoints": [[336]]}, ModelError, r"image_grid_pinpoints.*\[0\]"),
        ({"image_grid_pinpoints": [[336, 0]]}, ModelError, "image_grid_pinpoints"),
        ({"image_grid_pinpoints": [[336, 500]]}, ModelError, "336 x 500 is not a whole number"),
        ({"image_grid_pinpoints": [[33600, 33600]]}, ModelError, "more than 1,024 grids"),
        ({"image_grid_pinpoints": "(1x1),(2x2)"}, ModelError, "or a range such as"),
        ({"image_grid_pinpoints": "__import__('os')"}, ModelError, "must be a list of pairs"),
        ({"image_grid_pinpoints": "(1x1),...,(999x999)"}, ModelError, "image_grid_pinpoints"),
        ({"image_grid_pinpoints": "(2x2),...,(1x1)"}, ModelError, "image_grid_pinpoints"),
    ],
)
def test_configuration_that_is_not_known_is_refused_in_one_line(changes, error, message):
    with pytest.raises(error, match=message) as caught:
        rule_of("LLaVA-NeXT", **changes)
    assert "\n" not in str(caught.value) and "checkpoint/config.json" in str(caught.value)


@pytest.mark.parametrize("size", [(8192, 1), (1, 8192), (3000, 4)])
def test_picture_of_which_nothing_would_be_left_is_refused(size):
    with pytest.raises(InputError, match="too long and thin"):
        rule_of("LLaVA-NeXT").layout(size)


def numbered(rule: GridRule, size: tuple[int, int]) -> tuple[GridReader, torch.Tensor]:
    """Patches that hold their row and column in the whole picture, as ``[grid, patch, 2]``.

    Those of the whole picture as one grid hold -1.
    """
    reader = GridReader(None, rule, size)
    layout, side = reader.layout, rule.side
    grids = [
        [[row * side + i, column * side + j] for i in range(side) for j in range(side)]
        for row in range(layout.rows)
        for column in range(layout.columns)
    ]
    base = [[[-1, -1]] * side**2] if rule.has_base else []
    return reader, torch.tensor(base + grids, dtype=torch.float32)


def test_unires_reads_grid_by_grid_and_pools_in_each():
    reader, patches = numbered(unires_rule(8, 5), (16, 24))  # the fifth row and column are dropped
    rows = reader.arrange(patches, None)
    expected = [
        [5 * row + 2 * i + 0.5, 5 * column + 2 * j + 0.5]
        for row in range(3)
        for column in range(2)
        for i in range(2)
        for j in range(2)
    ]
    assert (reader.layout.columns, reader.layout.rows) == (2, 3)
    assert rows.tolist() == expected and len(rows) == reader.num_rows


def test_anyres_reads_the_whole_then_rows_across_grids_with_a_newline_after_each():
    reader, patches = numbered(anyres_rule(8, 4), (16, 8 + 4))
    assert (reader.layout.columns, reader.layout.rows) == (2, 2)
    rows = reader.arrange(patches, torch.tensor([-2.0, -2.0]))
    expected = [[-1.0, -1.0]] * 16  # a quarter of the height is padding: one row at both ends
    for row in range(1, 7):
        expected += [[float(row), float(column)] for column in range(8)] + [[-2.0, -2.0]]
    assert rows.tolist() == expected and len(rows) == reader.num_rows


def test_anyres_scales_a_large_map_down():
    rule = GridRule("AnyRes", 8, 4, ((32, 32),), has_newline=True, most=4)
    reader, patches = numbered(rule, (32, 32))
    rows = reader.arrange(patches, torch.zeros(2))
    assert reader.layout.mapped == (8, 8) and len(rows) == reader.num_rows == 16 + 8 * 9
    means = rows[16:].reshape(8, 9, 2)[:, :8]
    assert means[:, 0, 0].tolist() == means[0, :, 1].tolist() == [2.0 * k + 0.5 for k in range(8)]


@pytest.mark.parametrize(("merge", "num_rows"), [("flat", 80), ("spatial_maxpool2x2", 32)])
def test_other_ways_to_merge(merge, num_rows):
    changes = {"mm_patch_merge_type": merge, "image_grid_pinpoints": [[16, 16]]}
    rule = read_rule({**CONFIGS["LLaVA-NeXT"], **changes}, FOLDER, tower_size=8, side=4)
    reader, patches = numbered(rule, (16, 16))
    rows = reader.arrange(patches, None)
    assert len(rows) == reader.num_rows == num_rows
    if merge == "flat":
        assert torch.equal(rows, patches.flatten(0, 1))
    else:  # the largest row and column of each square
        assert rows[16:].tolist() == [[2 * i + 1, 2 * j + 1] for i in range(4) for j in range(4)]


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rows_by_hand(parts, image, newline) -> torch.Tensor:
    """A picture of three by two grids of the tiny CLIP tower, patch by patch."""
    side, processor = CLIP_SIZE, CLIPImageProcessor(size={"shortest_edge": CLIP_SIZE})

    def patches(part):
        pixels = processor(images=[part], return_tensors="pt", do_center_crop=False)
        states = parts["tower"](**pixels, output_hidden_states=True).hidden_states
        return parts["projector"](states[-2][0, 1:])

    rows = list(patches(image.resize((side, side))))
    grids = {
        (i, j): patches(image.crop((j * side, i * side, (j + 1) * side, (i + 1) * side)))
        for i in range(2)
        for j in range(3)
    }
    for row in range(8):
        for column in range(12):
            rows.append(grids[row // 4, column // 4][row % 4 * 4 + column % 4])
        rows.append(newline)
    return torch.stack(rows)


@torch.inference_mode()
def test_whole_picture_is_encoded_as_by_hand(tmp_path):
    grids = [[CLIP_SIZE * wide, CLIP_SIZE * tall] for wide, tall in [(1, 1), (3, 2), (2, 3)]]
    parts = write_checkpoint(
        tmp_path,
        has_newline=True,
        mm_patch_merge_type="spatial_unpad",
        image_aspect_ratio="anyres",
        image_grid_pinpoints=grids,
    )
    size = (3 * CLIP_SIZE, 2 * CLIP_SIZE)
    model = LlavaModel.load(
        tmp_path, name="x", options=LoadOptions(images="grids", frame_size=size)
    )
    shown = [picture(*size), picture(40, 90, seed=1)]
    found = model.encode_frames(shown)
    assert found.shape == (2, *model.frame_shape) == (2, 16 + 8 * 13, 32)
    for rows, frame in zip(found, shown, strict=True):
        image = fit(Image.fromarray(frame), size)
        expected = rows_by_hand(parts, image, model._newline)
        torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)
    # Alone, or beside others: the same to the bit.
    assert torch.equal(model.encode_frames(shown[1:])[0], found[1])
    seen = model.prepared_frames(shown)
    assert np.array_equal(seen[0], shown[0]) and seen[1].shape == (64, 96, 3)
    assert "96x64 px on white, 3x2 grids" in model.encoding["preprocessing"]
    other = LlavaModel.load(
        tmp_path, name="x", options=LoadOptions(images="grids", frame_size=(size[0], size[1] - 1))
    )
    assert other.frame_shape == model.frame_shape  # and yet no cache serves both
    assert identity_of(other, {}) != identity_of(model, {})
    assert model.settings["images"] == "grids" and model.settings["frame_size"] == "96x64"
    assert not any(segment.token_ids == (39,) for segment in model._after_frames)


def test_pictures_are_fitted_into_the_middle_of_white():
    red = Image.new("RGB", (10, 40), (255, 0, 0))
    page = np.asarray(fit(red, (60, 80)))
    assert page.shape == (80, 60, 3)
    assert (page[:, 20:40] == (255, 0, 0)).all()
    assert (page[:, :20] == 255).all() and (page[:, 40:] == 255).all()
    assert fit(red, (10, 40)) is red
    assert fit(Image.new("RGB", (5000, 1)), (50, 50)).size == (50, 50)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "grids"}, "images 'grids' needs a frame_size"),
        ({"frame_size": (64, 64)}, "leave it out, or read pictures as grids"),
        ({"images": "grids", "frame_size": (8000, 1)}, "8000 x 1 pixels is too long and thin"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, options, message):
    write_checkpoint(tmp_path)
    with pytest.raises(InputError, match=message):
        LlavaModel.load(tmp_path, name="x", options=LoadOptions(**options))


def test_checkpoint_without_the_newline_that_its_images_need_is_refused(tmp_path):
    write_checkpoint(
        tmp_path,
        mm_patch_merge_type="spatial_unpad",
        image_aspect_ratio="anyres",
        image_grid_pinpoints=[[32, 64]],
    )
    options = LoadOptions(images="grids", frame_size=(64, 64))
    with pytest.raises(ModelError, match=r"lacks the weight 'model\.image_newline', which mm_p"):
        LlavaModel.load(tmp_path, name="x", options=options)


def test_unknown_way_to_read_images_is_refused():
    with pytest.raises(InputError, match="images must be one of frames, grids, got 'tiles'"):
        LoadOptions(images="tiles")
    assert math.isclose(LoadOptions(images="grids", frame_size=[8, 6]).frame_size[0], 8)
