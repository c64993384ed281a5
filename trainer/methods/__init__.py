"""The methods, by name. A new one is a file beside these and a line in each of the two tables."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from aplt.trainer.methods.aplt import APLT, APLTConfig
from aplt.trainer.methods.base import Batch, Method, StepOutput
from aplt.trainer.methods.fixmatch import FixMatch, FixMatchConfig
from aplt.trainer.methods.supervised import Supervised, SupervisedConfig

METHODS: dict[str, type[Method[Any]]] = {
    "aplt": APLT,
    "fixmatch": FixMatch,
    "supervised": Supervised,
}

AnyMethodConfig = Annotated[
    APLTConfig | FixMatchConfig | SupervisedConfig,
    Field(discriminator="name"),
]

__all__ = ["METHODS", "AnyMethodConfig", "Batch", "Method", "StepOutput"]
