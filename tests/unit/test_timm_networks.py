from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aplt.common.config import NETWORKS, ModelConfig
from aplt.common.errors import ConfigError
from aplt.common.models import MODELS, build_model


def clips_of(num: int = 2, num_frames: int = 3, size: int = 32) -> Tensor:
    return torch.randn(num, num_frames, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_the_configuration_knows_the_networks() -> None:
    assert set(NETWORKS) == set(MODELS)
    assert ModelConfig(name="timm:resnet18.a1_in1k").name == "timm:resnet18.a1_in1k"
    for name in ("timm:", "timm:hf-hub:somebody/network", "tsm_resnet19"):
        with pytest.raises(ValueError, match=r"swin3d_t, timm:<name>"):
            ModelConfig(name=name)


def test_a_missing_library_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm:resnet18 needs the timm library .*pip install 'timm>=1\.0'"):
        build_model("timm:resnet18", num_classes=3)


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext"])
def test_frames_are_seen_alone_and_averaged(architecture: str) -> None:
    timm = pytest.importorskip("timm")
    size = 160 if "vit" in architecture else 32
    theirs = timm.create_model(architecture, num_classes=0).eval()
    model = build_model(f"timm:{architecture}", num_classes=3).channels_last()
    model.backbone.load_state_dict(theirs.state_dict())
    clips = clips_of(size=size)
    with torch.no_grad():
        features, logits = model.eval()(clips)
        expected = torch.stack([theirs(clip).mean(0) for clip in clips])
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, model.head(features))
    torch.autograd.backward(nn.functional.cross_entropy(model.train()(clips)[1], torch.tensor([0, 1])))
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_first_weights_depend_on_the_seed_alone() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (build_model("timm:test_resnet", num_classes=3, seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_weights_of_the_library_are_read(tmp_path: Path, architecture: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(architecture, num_classes=5)
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = build_model(f"timm:{architecture}", num_classes=5, init=str(tmp_path / "w.pth"))
    size = 160 if "vit" in architecture else 32
    with torch.no_grad():
        expected = theirs.eval()(clips_of(1, 1, size)[0])
        torch.testing.assert_close(model.eval()(clips_of(1, 1, size))[1], expected)


def test_what_the_library_cannot_do_is_explained() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=r"timm:resnet_18: timm .* has no such network; did you mean resnet18"):
        build_model("timm:resnet_18", num_classes=3)
    with pytest.raises(ConfigError, match=r"imagenet: there are no such weights for timm:test_resnet"):
        build_model("timm:test_resnet", num_classes=3, init="imagenet")
    with pytest.raises(ConfigError, match=r"timm:test_vit takes frames of 160 x 160 pixels alone, not 32 x 32 pixels"):
        build_model("timm:test_vit", num_classes=3)(clips_of())


@pytest.mark.parametrize("architecture", ["test_resnet", "test_vit", "test_convnext"])
def test_maps_come_with_the_same_features_and_another_network_with_other_weights(architecture: str) -> None:
    pytest.importorskip("timm")
    model = build_model(f"timm:{architecture}", num_classes=3).eval()
    clips = clips_of(size=160 if "vit" in architecture else 32)
    with torch.no_grad():
        features_BD, logits_BK = model(clips)
        found_BD, found_BK, maps = model.stages(clips)
        others_BD = model.narrower().eval()(clips)[0]
    assert torch.allclose(found_BD, features_BD, atol=1e-5)
    assert torch.allclose(found_BK, logits_BK, atol=1e-5)
    assert [values.dim() for values in maps] == [4, 4, 4, 4]
    assert all(len(values) == 6 for values in maps)
    assert others_BD.shape == features_BD.shape
    assert not torch.allclose(others_BD, features_BD)
