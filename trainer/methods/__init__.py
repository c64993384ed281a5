"""The methods, by name. A new one is a file beside these, a line here and its settings in trainer/config.py."""

from __future__ import annotations

from typing import Any

from aplt.trainer.methods.aplt import APLT
from aplt.trainer.methods.base import Batch, Method, StepOutput
from aplt.trainer.methods.cmpl import CMPL
from aplt.trainer.methods.finessl import FineSSL
from aplt.trainer.methods.fixmatch import FixMatch
from aplt.trainer.methods.flexmatch import FlexMatch
from aplt.trainer.methods.freematch import FreeMatch
from aplt.trainer.methods.infomatch import InfoMatch
from aplt.trainer.methods.ltg import LTG
from aplt.trainer.methods.mean_teacher import MeanTeacher
from aplt.trainer.methods.mixmatch import MixMatch
from aplt.trainer.methods.pseudo_label import PseudoLabel
from aplt.trainer.methods.softmatch import SoftMatch
from aplt.trainer.methods.supervised import Supervised
from aplt.trainer.methods.svformer import SVFormer
from aplt.trainer.methods.tcl import TCL
from aplt.trainer.methods.uda import UDA
from aplt.trainer.methods.vat import VAT

METHODS: dict[str, type[Method[Any]]] = {
    "aplt": APLT,
    "cmpl": CMPL,
    "finessl": FineSSL,
    "fixmatch": FixMatch,
    "flexmatch": FlexMatch,
    "freematch": FreeMatch,
    "infomatch": InfoMatch,
    "ltg": LTG,
    "mean_teacher": MeanTeacher,
    "mixmatch": MixMatch,
    "pseudo_label": PseudoLabel,
    "softmatch": SoftMatch,
    "supervised": Supervised,
    "svformer": SVFormer,
    "tcl": TCL,
    "uda": UDA,
    "vat": VAT,
}

__all__ = ["METHODS", "Batch", "Method", "StepOutput"]
