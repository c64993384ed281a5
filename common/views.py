"""The views of a clip that a run asks for: frames picked, then augmented, always the same for the same draw.

Letters: B batch, F stored frames, T shown frames, S side of a stored clip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aplt.common import augment
from aplt.common.config import DataConfig
from aplt.common.data.prepared import PreparedData
from aplt.common.draws import centre_frames, sample_frames


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Weak, strong and test views of stored clips [B, F, S, S, 3] uint8 as network input [B, T, 3, H, W].

    A draw depends on the seed, the view's name, the clip's manifest row and its round (how often it came up before),
    never on the batch or the worker that makes it.
    """

    seed: int
    num_segments: int
    frames_per_segment: int
    crop_size: int
    crop_scale: tuple[float, float]
    flip: bool
    num_ops: int
    cutout: float

    @classmethod
    def of(cls, data: DataConfig, *, seed: int) -> Augmentation:
        """Return the augmentation that the settings ask for."""
        return cls(
            seed=seed,
            num_segments=data.num_frames,
            frames_per_segment=data.frames_per_segment,
            crop_size=data.crop_size,
            **data.augment.model_dump(),
        )

    def weak(
        self,
        clips: Tensor,
        rows_B: NDArray[np.int32],
        *,
        round_B: NDArray[np.int64],
        view: str,
        gradients: bool = False,
    ) -> Tensor:
        """Random frames, or with `gradients` their temporal gradients; one random crop and flip per clip."""
        return augment.weak_view(
            self._shown(clips, rows_B, round_B, view, gradients),
            rows_B=rows_B,
            seed=self.seed,
            epoch=round_B,
            view=view,
            crop_size=self.crop_size,
            scale=self.crop_scale,
            flip=self.flip,
        )

    def strong(
        self,
        clips: Tensor,
        rows_B: NDArray[np.int32],
        *,
        round_B: NDArray[np.int64],
        view: str,
        gradients: bool = False,
    ) -> Tensor:
        """Another weak view, then RandAugment operations and Cutout, one draw per clip."""
        return augment.strong_view(
            self._shown(clips, rows_B, round_B, view, gradients),
            rows_B=rows_B,
            seed=self.seed,
            epoch=round_B,
            view=view,
            crop_size=self.crop_size,
            scale=self.crop_scale,
            flip=self.flip,
            num_ops=self.num_ops,
            cutout=self.cutout,
        )

    def test(self, clips: Tensor) -> Tensor:
        """The middle frame of each segment, centre crop."""
        frames_BT = centre_frames(
            len(clips), num_segments=self.num_segments, frames_per_segment=self.frames_per_segment
        )
        return augment.test_view(_pick(clips, frames_BT), crop_size=self.crop_size)

    def _shown(
        self, clips: Tensor, rows_B: NDArray[np.int32], round_B: NDArray[np.int64], view: str, gradients: bool
    ) -> Tensor:
        frames_BT = sample_frames(
            rows_B,
            num_segments=self.num_segments,
            frames_per_segment=self.frames_per_segment,
            seed=self.seed,
            epoch=round_B,
            view=view,
        )
        if not gradients:
            return _pick(clips, frames_BT)
        # To the frame that is stored next; the last one is compared with the one before.
        last = clips.shape[1] - 1
        frames_BT = np.minimum(frames_BT, max(0, last - 1))
        return augment.temporal_gradient(_pick(clips, frames_BT), _pick(clips, np.minimum(frames_BT + 1, last)))


@dataclass(frozen=True, kw_only=True)
class ViewReader:
    """Reads clips from the cache and shows them to a network on `device`."""

    data: PreparedData
    augmentation: Augmentation
    device: torch.device

    def test(self, rows_B: NDArray[np.int32]) -> Tensor:
        """The test view of the clips in these manifest rows."""
        return self.augmentation.test(self._clips(rows_B))

    def labeled_augmentation(self, rows_B: NDArray[np.int32], *, epoch: int) -> Tensor:
        """The strong view that joins the clustering after `epoch` (paper, section 3.3, labelled augmentation)."""
        round_B = np.full(len(rows_B), epoch)
        return self.augmentation.strong(self._clips(rows_B), rows_B, round_B=round_B, view="labeled augmentation")

    def _clips(self, rows_B: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(self.data.clips.read(rows_B)).to(self.device)


def _pick(clips: Tensor, frames_BT: NDArray[np.int64]) -> Tensor:
    index_BT = torch.from_numpy(frames_BT).to(clips.device)
    return clips[torch.arange(len(clips), device=clips.device)[:, None], index_BT]
