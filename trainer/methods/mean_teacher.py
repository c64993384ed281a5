"""Mean Teacher: the student's predictions follow those of a moving average of its own weights."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aplt.trainer.config import MeanTeacherConfig
from aplt.trainer.losses import cross_entropy, ramp_up
from aplt.trainer.methods.base import Batch, Method, StepOutput, forward_views


class MeanTeacher(Method[MeanTeacherConfig]):
    """Mean Teacher (Tarvainen and Valpola, NeurIPS 2017); the teacher predicts, with the parametric head.

    State: `teacher`, a network like the student, and `updates`, how often it followed it. The teacher's weights are
    averages; its batch norm has running statistics of its own, from its own forwards, which fit those weights.
    """

    uses_unlabeled_strong: ClassVar[bool] = False
    uses_unlabeled_weak_2: ClassVar[bool] = True

    def __init__(self, config: MeanTeacherConfig, **sizes: Any) -> None:
        super().__init__(config, **sizes)
        self.teacher: nn.Module
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def begin(self, model: nn.Module) -> None:
        """The teacher starts as a copy of the student."""
        self.teacher = copy.deepcopy(model).requires_grad_(False)

    def loss(self, model: nn.Module, batch: Batch) -> StepOutput:
        """L = L_s + a(t) lambda_u L_cons: the student sees one weak view of a clip, the teacher another."""
        with torch.no_grad():
            ((_, logits_t),) = forward_views(self.teacher, batch.unlabeled_weak)
        (features_x, logits_x), (features_u, logits_u) = forward_views(
            model, batch.labeled_weak, batch.unlabeled_weak_2
        )
        sup_logits = cross_entropy(logits_x, batch.labels_B)
        consistency = consistency_loss(logits_u, logits_t)
        return StepOutput(
            loss=sup_logits + ramp_up(batch.progress, self.config.ramp) * self.config.lambda_u * consistency,
            parts={"sup_logits": sup_logits.detach(), "consistency": consistency.detach()},
            labeled_features_BD=features_x.detach(),
            unlabeled_features_BD=features_u.detach(),
            online_labels_B=logits_t.argmax(dim=1),
        )

    def after_step(self, model: nn.Module) -> None:
        """The teacher follows the student's new weights."""
        follow(self.teacher, model, decay=teacher_decay(self.updates, limit=self.config.decay))
        self.updates += 1

    def tested(self, model: nn.Module) -> nn.Module:
        """The teacher."""
        return self.teacher


def consistency_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Return the squared difference of the probabilities of two sets of logits, its mean over clips and classes.

    Gradients flow to the student alone.
    """
    return F.mse_loss(student_BK.softmax(dim=1), teacher_BK.detach().softmax(dim=1))


def teacher_decay(updates: Tensor, *, limit: float) -> Tensor:
    """Return min(1 - 1 / (t + 1), limit) after t updates: a plain mean of the first weights, which are far off."""
    return (1 - 1 / (updates + 1)).clamp_max(limit)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, *, decay: Tensor) -> None:
    """Make each parameter of the teacher decay * its own + (1 - decay) * the student's."""
    for averaged, value in zip(teacher.parameters(), student.parameters(), strict=True):
        averaged.lerp_(value, 1 - decay)
