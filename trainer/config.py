"""The settings of the methods. Without torch, so that commands that only read a configuration answer at once."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from aplt.common.config import MethodConfig


class APLTConfig(MethodConfig):
    """Settings of APLT. The paper gives neither tau, lambda nor a temperature; see docs/method.md."""

    uses_labels: ClassVar[bool] = True

    name: Literal["aplt"] = "aplt"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.95
    """A prediction of the parametric head at least this confident becomes its pseudo-label (Eq. 2)."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    lambda_margin: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the prototype classifier's losses: lambda of Eq. 9."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the similarities to the prototypes; use 1 with features.normalize: none (the literal equation)."""
    margin_reduction: Literal["batch", "kept"] = "batch"
    """Divide the unlabelled margin loss by the batch (Eq. 7) or by the number of kept clips in it."""


class FixMatchConfig(MethodConfig):
    """Settings of FixMatch; the published ones."""

    name: Literal["fixmatch"] = "fixmatch"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.95
    """A prediction at least this confident becomes a pseudo-label."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0


class SupervisedConfig(MethodConfig):
    """Settings of the labelled-only baseline."""

    name: Literal["supervised"] = "supervised"


AnyMethodConfig = Annotated[
    APLTConfig | FixMatchConfig | SupervisedConfig,
    Field(discriminator="name"),
]
