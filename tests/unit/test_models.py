from __future__ import annotations

import functools
import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from aplt.common.errors import ConfigError
from aplt.common.models import MODELS, VideoClassifier, build_model
from aplt.common.models.classifier import temporal_shift
from aplt.common.models.tiny import MOTION, STILL, TinyStem
from aplt.common.models.weights import TORCHVISION_FILES

NUM_PARAMETERS = {
    "tiny_tsm": 313_098,
    "tsm_resnet18": 11_181_642,
    "tsn_resnet18": 11_181_642,
    "tsm_resnet50": 23_528_522,
    "tsn_resnet50": 23_528_522,
    "r3d_18": 33_171_402,
    "swin3d_t": 27_858_160,
}
# tsn_resnet50 is tsm_resnet50 without what tsn_resnet18 goes without; its weight file and its size are tested.
KINDS = sorted(set(MODELS) - {"tsn_resnet50"})
ALL = pytest.mark.parametrize("name", KINDS)
OVER_FRAMES = pytest.mark.parametrize("name", sorted(set(KINDS) - {"r3d_18", "swin3d_t"}))
OVER_CLIPS = pytest.mark.parametrize("name", ["r3d_18", "swin3d_t"])
FILES = [(init, name) for init, files in TORCHVISION_FILES.items() for name in sorted(files)]


def clips_of(num: int = 2, num_frames: int = 8, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(num, num_frames, 3, size, size, generator=torch.Generator().manual_seed(seed))


@functools.cache
def untrained(name: str) -> VideoClassifier:
    """A network that no test changes."""
    return build_model(name, num_classes=10).eval()


def is_head(key: str) -> bool:
    return key.startswith(("fc.", "head."))


def logits_of(model: nn.Module, clips: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(clips)[1]
    return logits


def test_shift_worked_by_hand() -> None:
    # Two clips of three frames, 8 channels of one pixel; the value is 100 clip + 10 frame + channel.
    frames = torch.tensor([[100.0 * b + 10 * t + c for c in range(8)] for b in (1, 2) for t in (1, 2, 3)])
    shifted = temporal_shift(frames[:, :, None, None], 3)[:, :, 0, 0]
    assert shifted[:, 0].tolist() == [120, 130, 0, 220, 230, 0]  # from the next frame
    assert shifted[:, 1].tolist() == [0, 111, 121, 0, 211, 221]  # from the previous frame
    assert torch.equal(shifted[:, 2:], frames[:, 2:])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_shift_of_folded_frames_agrees_with_whole_clips(memory_format: torch.memory_format, num_frames: int) -> None:
    clips = clips_of(3, num_frames).repeat(1, 1, 6, 1, 1)[:, :, :17]
    expected = clips.clone()
    expected[:, :, :4] = 0
    expected[:, :-1, :2] = clips[:, 1:, :2]
    expected[:, 1:, 2:4] = clips[:, :-1, 2:4]
    folded = clips.flatten(0, 1).contiguous(memory_format=memory_format)
    shifted = temporal_shift(folded, num_frames)
    assert shifted.is_contiguous(memory_format=memory_format)
    assert torch.equal(shifted.view(expected.shape), expected)


def test_shift_has_the_right_gradient() -> None:
    frames = torch.randn(6, 16, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: temporal_shift(x, 3), frames)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = MODELS[name](num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == NUM_PARAMETERS[name]


@ALL
def test_features_and_logits(name: str) -> None:
    model = untrained(name)
    for num_frames, size in ((8, 32), (3, 40)):
        features, logits = model(clips_of(2, num_frames, size))
        assert features.shape == (2, model.feature_dim)
        assert logits.shape == (2, 10)
        torch.testing.assert_close(logits, model.head(features))


@ALL
def test_clips_do_not_see_each_other_in_evaluation(name: str) -> None:
    model = untrained(name)
    clips = clips_of(3, 4)
    torch.testing.assert_close(logits_of(model, clips)[1:2], logits_of(model, clips[1:2]), rtol=1e-4, atol=1e-5)


@OVER_FRAMES
def test_features_are_the_mean_over_frames(name: str) -> None:
    model = untrained(name)
    clips = clips_of()
    with torch.no_grad():
        of_frames = model.backbone(clips.flatten(0, 1), 8)
        torch.testing.assert_close(model(clips)[0], of_frames.view(2, 8, -1).mean(1))


@OVER_CLIPS
def test_torchvisions_network_gives_the_same_from_whole_clips(name: str) -> None:
    theirs = getattr(pytest.importorskip("torchvision.models.video"), name)(weights=None).eval()
    model = build_model(name, num_classes=400)
    model.backbone.load_state_dict({key: value for key, value in theirs.state_dict().items() if not is_head(key)})
    head = theirs.fc if name == "r3d_18" else theirs.head
    model.head.load_state_dict(head.state_dict())
    clips = clips_of(2, 4)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model, clips), theirs(clips.transpose(1, 2)))


@ALL
def test_only_networks_without_time_do_not_see_the_order_of_frames(name: str) -> None:
    model = untrained(name)
    clips = clips_of()
    difference = (logits_of(model, clips) - logits_of(model, clips.flip(1))).abs().max()
    if name.startswith("tsn"):
        assert difference < 1e-5
    else:
        assert difference > 1e-3


@ALL
def test_first_weights_depend_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = build_model(name, num_classes=10, seed=0).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    first = untrained(name).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_another_seed_gives_other_weights() -> None:
    first, other = (build_model("tiny_tsm", num_classes=3, seed=seed).head.weight for seed in (5, 6))
    assert not torch.equal(first, other)


@ALL
def test_channels_last_and_bf16_agree_with_the_plain_network(name: str) -> None:
    model = build_model(name, num_classes=3)
    clips = clips_of()
    plain = logits_of(model, clips)
    model = model.channels_last()
    torch.testing.assert_close(logits_of(model, clips), plain, rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits_of(model, clips)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain, rtol=0.1, atol=0.1 * float(plain.abs().max()))


@pytest.mark.parametrize(("name", "autocast"), [(name, name == "tiny_tsm") for name in KINDS] + [("tiny_tsm", False)])
def test_every_parameter_gets_a_gradient(name: str, autocast: bool) -> None:
    model = build_model(name, num_classes=3).channels_last()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = nn.functional.cross_entropy(model(clips_of(4, 4))[1], torch.tensor([0, 1, 2, 0]))
    torch.autograd.backward(loss)
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_the_tiny_stem_sees_the_frame_and_how_it_differs_from_the_clips_mean() -> None:
    stem, frames = TinyStem(), torch.randn(6, 3, 20, 20)
    clips = frames.view(2, 3, 3, 20, 20)
    difference = (clips - clips.mean(dim=1, keepdim=True)).flatten(0, 1)
    torch.testing.assert_close(stem(frames, 3), stem.still(STILL * frames) + stem.motion(MOTION * difference))


@pytest.mark.parametrize("size", [(20, 24), (17, 23)])
def test_the_tiny_stem_passes_to_pixels_and_kernels_the_gradients_of_its_formula(size: tuple[int, int]) -> None:
    """The gradient to the pixels is computed in blocks, which may reach beyond the frame."""
    stem = TinyStem().double().requires_grad_()
    frames = torch.randn(6, 3, *size, dtype=torch.float64).requires_grad_()
    clips = frames.view(2, 3, 3, *size)
    difference = (clips - clips.mean(dim=1, keepdim=True)).flatten(0, 1)
    wanted = stem.still(STILL * frames) + stem.motion(MOTION * difference)
    probe, inputs = torch.randn_like(wanted), [frames, *stem.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(stem(frames, 3), inputs, probe), torch.autograd.grad(wanted, inputs, probe)
    )


def test_the_tiny_stem_passes_gradients_to_pixels_in_half_precision() -> None:
    stem, frames = TinyStem(), torch.randn(6, 3, 20, 20).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = stem(frames, 3)
    probe = torch.randn_like(seen)
    (gradient,) = torch.autograd.grad(seen, frames, probe)
    (wanted,) = torch.autograd.grad(stem(frames, 3), frames, probe.float())
    assert gradient.dtype == torch.float32
    assert (gradient - wanted).norm() < 0.02 * wanted.norm()


def test_the_tiny_network_learns_the_direction_of_motion() -> None:
    # A bar moves right or left; every single frame is equally likely in both classes.
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(0, 32, (32,), generator=generator)
    labels = torch.arange(32) % 2
    step = (labels * 2 - 1)[:, None] * torch.arange(4)
    columns = (starts[:, None] + 4 * step) % 32
    clips = torch.zeros(32, 4, 3, 32, 32)
    for width in range(4):
        clips.scatter_(4, ((columns + width) % 32)[:, :, None, None, None].expand(-1, -1, 3, 32, 1), 1.0)
    model = build_model("tiny_tsm", num_classes=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    for _ in range(25):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(clips)[1], labels))
        optimizer.step()
    assert (model(clips)[1].argmax(1) == labels).float().mean() > 0.95


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'r50' is unknown; expected one of tiny_tsm, tsm_resnet18, .*swin3d_t"):
        build_model("r50", num_classes=3)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
def test_weights_come_back_from_a_file(tmp_path: Path, ending: str) -> None:
    trained = build_model("tiny_tsm", num_classes=3, seed=1)
    path = tmp_path / f"weights{ending}"
    save_file(trained.state_dict(), path) if ending == ".safetensors" else torch.save(trained.state_dict(), path)
    loaded = build_model("tiny_tsm", num_classes=3, init=str(path))
    assert torch.equal(logits_of(loaded, clips_of()), logits_of(trained, clips_of()))


def test_weights_come_back_from_a_published_checkpoint(tmp_path: Path) -> None:
    trained = build_model("tiny_tsm", num_classes=3, seed=1)
    (tmp_path / "a1").mkdir()
    save_file(trained.state_dict(), tmp_path / "a1" / "weights.safetensors")
    (tmp_path / "manifest.json").write_text(json.dumps({"attempt": "a1"}))
    loaded = build_model("tiny_tsm", num_classes=3, init=str(tmp_path))
    assert torch.equal(loaded.head.weight, trained.head.weight)


def test_a_head_of_other_classes_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = build_model("tiny_tsm", num_classes=5, seed=1)
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    with caplog.at_level(logging.INFO):
        loaded = build_model("tiny_tsm", num_classes=3, init=str(tmp_path / "w.pth"))
    assert loaded.head.weight.shape == (3, 128)
    assert torch.equal(
        loaded.state_dict()["backbone.stem.still.weight"], trained.state_dict()["backbone.stem.still.weight"]
    )
    assert "the head starts from scratch" in caplog.text


@pytest.mark.parametrize(("init", "name"), FILES)
def test_torchvisions_weights_are_read_from_a_local_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, init: str, name: str
) -> None:
    torchvision_models = pytest.importorskip("torchvision.models")
    theirs = torchvision_models.get_model(name.removeprefix("tsm_").removeprefix("tsn_"), weights=None)
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / TORCHVISION_FILES[init][name])
    with caplog.at_level(logging.INFO):
        model = build_model(name, num_classes=3, init=init, weights_dir=tmp_path)
    ours = model.state_dict()
    assert all(torch.equal(ours[f"backbone.{key}"], value) for key, value in state.items() if not is_head(key))
    assert caplog.text.count("the head starts from scratch") == 1
    if name.startswith("tsn"):
        theirs.fc = nn.Identity()
        with torch.no_grad():
            expected = theirs.eval()(clips_of(1, 1)[0])
            torch.testing.assert_close(model.eval()(clips_of(1, 1))[0], expected)


def test_the_files_are_called_as_torchvision_calls_them() -> None:
    torchvision_models = pytest.importorskip("torchvision.models")
    for init, name in FILES:
        weights = torchvision_models.get_model_weights(name.removeprefix("tsm_").removeprefix("tsn_"))
        assert TORCHVISION_FILES[init][name] in [weight.url.rsplit("/", 1)[1] for weight in weights]


def test_missing_imagenet_weights_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"resnet18-f37072fd\.pth is not there and nothing is downloaded") as caught:
        build_model("tsm_resnet18", num_classes=3, init="imagenet", weights_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(ConfigError, match=r"hub/checkpoints/resnet18-f37072fd\.pth.*model\.weights_dir"):
        build_model("tsn_resnet18", num_classes=3, init="imagenet")
    with pytest.raises(ConfigError, match=r"imagenet: there are no such weights for tiny_tsm"):
        build_model("tiny_tsm", num_classes=3, init="imagenet")
    with pytest.raises(ConfigError, match=r"imagenet: there are no such weights for r3d_18; .*tsm_resnet50"):
        build_model("r3d_18", num_classes=3, init="imagenet")
    with pytest.raises(ConfigError, match=r"r3d_18-b3b3357e\.pth is not there and nothing is downloaded"):
        build_model("r3d_18", num_classes=3, init="kinetics", weights_dir=tmp_path)


def test_weights_that_do_not_fit_are_one_clear_error(tmp_path: Path) -> None:
    state = build_model("tiny_tsm", num_classes=3).state_dict()
    path = tmp_path / "w.pth"

    def refused() -> str:
        torch.save(state, path)
        with pytest.raises(ConfigError) as caught:
            build_model("tiny_tsm", num_classes=3, init=str(path))
        assert len(caught.value.args) == 1
        return str(caught.value)

    kernel = state.pop("backbone.stem.still.weight")
    assert "do not fit this network: backbone.stem.still.weight is missing. Set model.name" in refused()
    state["backbone.stem.still.weight"] = kernel[:, :1]
    assert "backbone.stem.still.weight has shape (16, 1, 7, 7) instead of (16, 3, 7, 7)" in refused()
    state["backbone.stem.still.weight"] = kernel
    state["backbone.extra"] = kernel
    assert "backbone.extra is unknown" in refused()
    torch.save(build_model("tsn_resnet18", num_classes=3).state_dict(), path)
    with pytest.raises(ConfigError, match=r"and \d+ more"):
        build_model("tiny_tsm", num_classes=3, init=str(path))


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    def refused(name: str) -> str:
        with pytest.raises(ConfigError) as caught:
            build_model("tiny_tsm", num_classes=3, init=str(tmp_path / name))
        return str(caught.value)

    assert "is not there; expected scratch, imagenet, kinetics or the path" in refused("nothing.pth")
    (tmp_path / "w.txt").write_text("")
    assert "unknown ending" in refused("w.txt")
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(b"not weights at all")
        assert "cannot be read as weights" in refused(name)
    torch.save({"epoch": 3}, tmp_path / "n.pth")
    assert "no plain table of tensors" in refused("n.pth")
    torch.save(Path("pickled"), tmp_path / "p.pth")
    assert "cannot be read as weights" in refused("p.pth")


@ALL
def test_the_maps_of_four_stages_come_with_the_same_features_and_logits(name: str) -> None:
    model, clips = untrained(name), clips_of(num=1, num_frames=2)
    with torch.no_grad():
        features_BD, logits_BK = model(clips)
        found_BD, found_BK, maps = model.stages(clips)
    assert torch.equal(found_BD, features_BD)
    assert torch.equal(found_BK, logits_BK)
    assert len(maps) == 4
    sizes = [values.shape[-1] for values in maps]
    assert sizes == sorted(sizes, reverse=True)
    channels = [values.shape[1] for values in maps]
    assert channels == sorted(channels)
    assert channels[-1] == model.feature_dim


@pytest.mark.parametrize("name", ["tiny_tsm", "tsm_resnet18", "r3d_18", "swin3d_t"])
def test_a_narrower_network_has_half_the_channels_and_first_weights_of_its_own(name: str) -> None:
    model = untrained(name)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        narrow = model.narrower()
    clips = clips_of(num=1, num_frames=2)
    features_BD, logits_BK = narrow(clips)
    assert features_BD.shape == (1, model.feature_dim // 2)
    assert logits_BK.shape == (1, 10)
    logits_BK.sum().backward()
    assert all(parameter.grad is not None for parameter in narrow.parameters())
    wide = model.state_dict()
    for key, value in narrow.state_dict().items():
        if key.endswith("weight") and value.dim() > 1 and not key.startswith("head"):
            assert value.shape[0] == wide[key].shape[0] // 2, key
            assert not torch.equal(value, wide[key][tuple(slice(size) for size in value.shape)])
    spread = features_BD.detach().std() / model(clips)[0].detach().std()
    assert 0.2 < spread < 5
