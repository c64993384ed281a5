from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aplt.common import augment, colour
from aplt.common.augment import FILL, MEAN, OPERATIONS, STD
from aplt.common.draws import uniform

SIZE, CROP = 64, 56
ROWS = np.arange(100, 116, dtype=np.int32)
COMMON: dict[str, Any] = {"seed": 0, "epoch": 1, "view": "v", "crop_size": CROP}
WHOLE: dict[str, Any] = {"scale": (1.0, 1.0), "flip": False}


def clips_of(num: int = 16, num_frames: int = 8, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (num, num_frames, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return coarse.repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)


def pixels(view: Tensor) -> Tensor:
    """Back to 0..255."""
    std, mean = (torch.tensor(values).view(3, 1, 1) for values in (STD, MEAN))
    return (view * std + mean) * 255


def only(monkeypatch: pytest.MonkeyPatch, name: str, magnitude: float) -> None:
    """Let every clip draw the operation `name` with `magnitude`."""
    drawn = np.array([[OPERATIONS.index(name)]]), np.array([[magnitude]])
    monkeypatch.setattr(augment, "_draw_operations", lambda _: drawn)


def test_the_test_view_is_the_centre_crop() -> None:
    clips = clips_of(3, size=SIZE)
    view = augment.test_view(clips, crop_size=CROP)
    assert view.shape == (3, 8, 3, CROP, CROP)
    assert view.dtype == torch.float32
    expected = clips[:, :, 4:60, 4:60].permute(0, 1, 4, 2, 3).float()
    torch.testing.assert_close(pixels(view), expected, rtol=0, atol=1e-3)


def test_a_crop_larger_than_the_clip_is_refused() -> None:
    with pytest.raises(ValueError, match="crop_size 65 does not fit into clips of 64 x 64"):
        augment.test_view(clips_of(1), crop_size=65)


@pytest.mark.parametrize("make", [augment.weak_view, augment.strong_view])
def test_shape_and_range(make: Any) -> None:
    view = make(clips_of(), rows_B=ROWS, **COMMON)
    assert view.shape == (16, 8, 3, CROP, CROP)
    assert view.dtype == torch.float32
    assert view.is_contiguous()
    assert pixels(view).min() > -1e-3
    assert pixels(view).max() < 255 + 1e-3


@pytest.mark.parametrize("make", [augment.weak_view, augment.strong_view])
def test_a_still_clip_stays_still(make: Any) -> None:
    still = clips_of(16, 1).expand(-1, 8, -1, -1, -1)
    for epoch in range(4):
        view = make(still, rows_B=ROWS, **{**COMMON, "epoch": epoch})
        assert torch.equal(view, view[:, :1].expand_as(view))


@pytest.mark.parametrize("make", [augment.weak_view, augment.strong_view])
def test_a_clip_alone_equals_the_clip_in_a_batch_to_the_bit(make: Any) -> None:
    clips = torch.randint(0, 256, (16, 8, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    epochs = np.arange(16) % 5
    batch = make(clips, rows_B=ROWS, **{**COMMON, "epoch": epochs})
    order = np.random.default_rng(0).permutation(16)
    shuffled = make(clips[order], rows_B=ROWS[order], **{**COMMON, "epoch": epochs[order]})
    assert torch.equal(shuffled, batch[order])
    for clip in range(16):
        alone = make(clips[[clip]], rows_B=ROWS[[clip]], **{**COMMON, "epoch": int(epochs[clip])})
        assert torch.equal(alone[0], batch[clip])


@pytest.mark.parametrize("make", [augment.weak_view, augment.strong_view])
def test_the_number_of_threads_changes_nothing(make: Any) -> None:
    clips, threads = clips_of(), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = make(clips, rows_B=ROWS, **COMMON)
        torch.set_num_threads(3)
        three = make(clips, rows_B=ROWS, **COMMON)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)


@pytest.mark.parametrize("make", [augment.weak_view, augment.strong_view])
@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 2}, {"view": "w"}])
def test_seed_epoch_and_view_change_every_clip(make: Any, other: dict[str, Any]) -> None:
    clips = clips_of(1).expand(16, -1, -1, -1, -1)
    first = make(clips, rows_B=ROWS, **COMMON)
    second = make(clips, rows_B=ROWS, **{**COMMON, **other})
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not any(torch.equal(a, first[0]) for a in first[1:])


def test_the_input_is_left_alone() -> None:
    clips = clips_of()
    before = clips.clone()
    augment.strong_view(clips, rows_B=ROWS, **COMMON)
    assert torch.equal(clips, before)


def test_the_whole_clip_comes_back_unscaled() -> None:
    clips = clips_of(16)
    view = augment.weak_view(clips, rows_B=ROWS, **{**COMMON, "crop_size": SIZE}, **WHOLE)
    torch.testing.assert_close(pixels(view), clips.permute(0, 1, 4, 2, 3).float(), rtol=0, atol=0.01)


def test_flipped_clips_are_mirrored_and_about_half_are() -> None:
    rows = np.arange(400, dtype=np.int32)
    clips = clips_of(1, 1, 16).expand(400, -1, -1, -1, -1)
    options = {**COMMON, "crop_size": 16, "scale": (1.0, 1.0)}
    plain = augment.weak_view(clips, rows_B=rows, **options, flip=False)
    mixed = augment.weak_view(clips, rows_B=rows, **options, flip=True)
    same = (mixed - plain).abs().amax((1, 2, 3, 4)) < 1e-3
    mirrored = (mixed - plain.flip(-1)).abs().amax((1, 2, 3, 4)) < 1e-3
    assert (same ^ mirrored).all()
    assert 160 < int(mirrored.sum()) < 240
    assert torch.equal(plain, plain[:1].expand_as(plain))


def test_crops_show_what_their_scale_says() -> None:
    # Values are positions, so the view says which part of the clip it shows.
    ramp = torch.arange(SIZE, dtype=torch.uint8).view(1, 1, 1, SIZE, 1).expand(200, 1, SIZE, SIZE, 3)
    rows = np.arange(200, dtype=np.int32)
    view = pixels(augment.weak_view(ramp, rows_B=rows, **COMMON, scale=(0.5, 0.8), flip=False))[:, 0, 0, 0]
    side = (view[:, -2] - view[:, 1]) * CROP / (CROP - 3)
    assert 0.495 * SIZE < side.min() < 0.53 * SIZE
    assert 0.77 * SIZE < side.max() < 0.805 * SIZE
    assert view[:, 0].min() < 2  # crops reach both edges
    assert view[:, -1].max() > SIZE - 3


def test_every_operation_is_drawn_equally_often_with_magnitudes_of_its_range() -> None:
    draws = uniform(np.arange(14_000), 4, seed=0, epoch=0, view="v/operations")
    chosen, magnitude = augment._draw_operations(draws)
    assert len(OPERATIONS) == 14
    assert np.abs(np.bincount(chosen.ravel(), minlength=14) - 2000).max() < 180
    for number, (low, high) in enumerate(augment.RANGES.values()):
        of_one = magnitude[chosen == number]
        np.testing.assert_allclose([of_one.min(), of_one.max()], [low, high], atol=0.01 * (high - low))
    assert np.abs(np.corrcoef(chosen.T) - np.eye(2)).max() < 0.035


@pytest.mark.parametrize(
    ("name", "magnitude", "filled"),
    [
        ("translate_x", 0.25, (slice(None), slice(12, None))),
        ("translate_x", -0.25, (slice(None), slice(0, 4))),
        ("translate_y", 0.25, (slice(12, None), slice(None))),
        ("translate_y", -0.25, (slice(0, 4), slice(None))),
    ],
)
def test_translation_moves_and_fills(
    monkeypatch: pytest.MonkeyPatch, name: str, magnitude: float, filled: tuple[slice, slice]
) -> None:
    only(monkeypatch, name, magnitude)
    clips = clips_of(1, 2, 16)
    view = pixels(
        augment.strong_view(clips, rows_B=ROWS[:1], **{**COMMON, "crop_size": 16}, **WHOLE, num_ops=1, cutout=0.0)
    )
    axis = -1 if name == "translate_x" else -2
    expected = clips.permute(0, 1, 4, 2, 3).float().roll(int(-16 * magnitude), axis)
    expected[..., filled[0], filled[1]] = torch.tensor(FILL).view(3, 1, 1)
    torch.testing.assert_close(view, expected, rtol=0, atol=0.01)


def test_operations_act_in_the_order_drawn() -> None:
    # Rotating by 90 degrees and then translating moves along another axis than translating and then rotating.
    rotate, translate = OPERATIONS.index("rotate"), OPERATIONS.index("translate_x")
    chosen = np.array([[rotate, translate], [translate, rotate]])
    maps, moved = augment._operation_maps(chosen, np.array([[90.0, 0.25], [0.25, 90.0]]))
    assert moved.all()
    start = np.array([0.0, 0.0, 1.0])
    # The last operation is undone first. (0, 0) -> translate: (0.5, 0) -> rotate: (0, 0.5).
    np.testing.assert_allclose(maps[0] @ start, [0.0, 0.5, 1.0], atol=1e-12)
    # (0, 0) -> rotate: (0, 0) -> translate: (0.5, 0).
    np.testing.assert_allclose(maps[1] @ start, [0.5, 0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize(("name", "at"), [("shear_x", (0, 1)), ("shear_y", (1, 0))])
def test_shear_matrices(name: str, at: tuple[int, int]) -> None:
    maps, _ = augment._operation_maps(np.array([[OPERATIONS.index(name)]]), np.array([[0.3]]))
    expected = np.eye(3)
    expected[at] = 0.3
    np.testing.assert_allclose(maps[0], expected)


def test_cutout_paints_one_square_of_the_right_size() -> None:
    rows = np.arange(300, dtype=np.int32)
    black = torch.zeros(300, 2, SIZE, SIZE, 3, dtype=torch.uint8)
    view = pixels(augment.strong_view(black, rows_B=rows, **{**COMMON, "crop_size": SIZE}, num_ops=0, cutout=0.5))
    painted = view[:, :, 0] > 60
    torch.testing.assert_close(view.amax((0, 1, 3, 4)), torch.tensor(FILL), rtol=0, atol=0.01)
    assert torch.equal(painted[:, 0], painted[:, 1])
    heights, widths = painted[:, 0].any(2).sum(1), painted[:, 0].any(1).sum(1)
    assert torch.equal(heights * widths, painted[:, 0].sum((1, 2)))
    assert heights.max() in (31, 32, 33)
    assert heights.float().mean() < 16  # U(0, 32), less what hangs over the edge
    none = augment.strong_view(black, rows_B=rows, **COMMON, num_ops=0, cutout=0.0)
    assert pixels(none).abs().max() < 1e-3


def test_without_operations_and_cutout_a_strong_view_is_a_weak_view() -> None:
    clips = clips_of()
    strong = augment.strong_view(clips, rows_B=ROWS, **COMMON, num_ops=0, cutout=0.0)
    assert torch.equal(strong, augment.weak_view(clips, rows_B=ROWS, **COMMON))


def test_colour_operations_worked_by_hand() -> None:
    def of(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1).repeat(1, 3, 1, 1)

    cases: list[tuple[str, float, list[float], list[float]]] = [
        ("autocontrast", 0, [50, 100, 150], [0, 127.5, 255]),
        ("autocontrast", 0, [50, 50, 50], [50, 50, 50]),
        ("brightness", 0.5, [50, 100, 200], [25, 50, 100]),
        ("color", 0.3, [50, 100, 150], [50, 100, 150]),  # grey has no colour to lose
        ("contrast", 0.5, [50, 100, 150], [75, 100, 125]),
        ("posterize", 4.9, [15, 16, 255], [0, 16, 240]),
        ("posterize", 8.0, [15, 16, 255], [15, 16, 255]),
        ("solarize", 128, [127, 128, 255], [127, 127, 0]),
        ("solarize", 256, [127, 128, 255], [127, 128, 255]),
        ("equalize", 0, [7, 7, 7], [7, 7, 7]),
    ]
    for name, magnitude, before, after in cases:
        frames = of(before)
        colour.OPERATIONS[name](frames, magnitude)
        torch.testing.assert_close(frames, of(after), rtol=0, atol=1e-4, msg=f"{name} {magnitude} of {before}")


def test_color_blends_with_luma() -> None:
    frames = torch.tensor([100.0, 50.0, 200.0]).view(1, 3, 1, 1)
    colour.color(frames, 0.5)
    grey = 0.299 * 100 + 0.587 * 50 + 0.114 * 200
    torch.testing.assert_close(frames.flatten(), (torch.tensor([100.0, 50.0, 200.0]) + grey) / 2)


@pytest.mark.parametrize(
    "name", ["autocontrast", "brightness", "color", "contrast", "equalize", "posterize", "sharpness", "solarize"]
)
def test_colour_operations_agree_with_pillow(name: str) -> None:
    ops, enhance, image = (pytest.importorskip(f"PIL.{m}") for m in ("ImageOps", "ImageEnhance", "Image"))
    array = np.random.default_rng(0).integers(20, 220, (40, 40, 3), dtype=np.uint8)
    magnitude = {"posterize": 5.0, "solarize": 100.0}.get(name, 0.4)
    picture = image.fromarray(array)
    if name in ("posterize", "solarize"):
        expected = getattr(ops, name)(picture, int(magnitude))
    elif name in ("autocontrast", "equalize"):
        expected = getattr(ops, name)(picture)
    else:
        expected = getattr(enhance, name.capitalize())(picture).enhance(magnitude)
    frames = torch.from_numpy(array).permute(2, 0, 1)[None].float()
    colour.OPERATIONS[name](frames, magnitude)
    difference = frames[0].permute(1, 2, 0).numpy() - np.asarray(expected, dtype=np.float32)
    assert np.abs(difference).max() < 1.5  # Pillow rounds every step to whole values


@pytest.mark.parametrize("name", sorted(colour.OPERATIONS))
def test_statistics_are_those_of_the_whole_clip(name: str) -> None:
    # A dark and a bright frame: the same value must map to the same value in both.
    frames = torch.cat([torch.arange(0.0, 64).view(1, 1, 8, 8), torch.arange(40.0, 104).view(1, 1, 8, 8)])
    frames = frames.repeat(1, 3, 1, 1)
    before = frames.clone()
    colour.OPERATIONS[name](frames, 5.0 if name == "posterize" else 0.5)
    if name != "sharpness":  # depends on neighbours as well
        shared = [(frames[0][before[0] == value][0], frames[1][before[1] == value][0]) for value in range(40, 64)]
        assert all(first == second for first, second in shared)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")
def test_a_gpu_gives_the_same_views() -> None:
    clips = clips_of()
    here = augment.strong_view(clips, rows_B=ROWS, **COMMON)
    there = augment.strong_view(clips.cuda(), rows_B=ROWS, **COMMON).cpu()
    # Rounding differs in the last bits, which posterize, solarize and equalize can turn into a step of a few values.
    assert ((here - there).abs() > 1e-3).float().mean() < 0.01
