"""The settings of the methods. Without torch, so that commands that only read a configuration answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from aplt.common.config import Head, MethodConfig

PAPER: Mapping[str, Any] = {
    # Eqs. 6 and 7 print the plain dot product, without a temperature.
    "features.normalize": "none",
    "method.temperature": 1.0,
    # Labels are made between two epochs, from the network as it is then.
    "schedule.lead_epochs": 0,
    "features.source": "trainer",
    # Section 4.1.
    "schedule.warmup_epochs": 15,
    "schedule.epochs": 40,
    "schedule.phase_epochs": 10,
    "trainer.lr": 0.002,
    "trainer.momentum": 0.9,
    "trainer.weight_decay": 5e-4,
    # Section 3: what the full method is made of.
    "labeler.strategy": "sskm",
    "labeler.labeled_augmentation": True,
    "labeler.threshold": "adaptive",
    "labeler.sat_scale": 1.0,
    "labeler.sat_min_count": 1,
    "labeler.sat_squared": False,
    "labeler.filtered_prototypes": True,
    "labeler.augmented_prototypes": False,
    "method.pseudo_labels": "offline",
    "method.classifier": "prototypes",
    "method.margin_view": "strong",
    "method.margin_reduction": "batch",
}
"""What the APLT paper prints, whatever the defaults are: the defaults of runs with `method.preset: paper`."""


class APLTConfig(MethodConfig):
    """Settings of APLT. The paper gives neither tau, lambda nor a temperature; see docs/aplt.md."""

    name: Literal["aplt"] = "aplt"
    preset: Literal["recommended", "paper"] = "recommended"
    """paper: what the paper prints, as the defaults of settings in all sections (PAPER); a setting that the file or
    the command line gives stays as given."""
    tau: Annotated[float, Field(ge=0, le=1)] = 0.95
    """A prediction of the parametric head at least this confident becomes its pseudo-label (Eq. 2)."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    lambda_margin: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the prototype classifier's losses: lambda of Eq. 9."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Divides the similarities to the prototypes; use 1 with features.normalize: none (the literal equation)."""
    margin_reduction: Literal["batch", "kept"] = "batch"
    """Divide the unlabelled margin loss by the batch (Eq. 7) or by the number of kept clips in it."""
    margin_view: Literal["strong", "weak"] = "strong"
    """The view of labelled and unlabelled clips that the pseudo-labels train ((S) and (W) in Table 3)."""
    pseudo_labels: Literal["offline", "online"] = "offline"
    """offline: those of the label version (ASY in Table 4); online: what the prototypes predict for the weak view in
    the same step, where it lies closer to the prototype than the threshold of the label version (SYN)."""
    classifier: Literal["prototypes", "parametric"] = "prototypes"
    """What the offline labels train and what is tested; parametric is Variant I in Table 5: the parametric head learns
    them beside those of FixMatch, with weight lambda_margin, and prototypes play no part."""

    @property
    def uses_labels(self) -> bool:
        """It does."""
        return True

    @property
    def tested_head(self) -> Head:
        """The prototypes, but for Variant I."""
        return "head" if self.classifier == "parametric" else "prototypes"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.classifier == "parametric" and self.pseudo_labels == "online":
            raise ValueError("classifier: parametric trains with offline labels alone; pseudo_labels is online")
        return self


class CMPLConfig(MethodConfig):
    """Settings of CMPL. Its constants are not published with code; see docs/methods.md."""

    name: Literal["cmpl"] = "cmpl"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.8
    """A prediction of one network at least this confident becomes a pseudo-label of the other."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0


class FineSSLConfig(MethodConfig):
    """Settings of FineSSL; the published ones."""

    cosine_head: ClassVar[bool] = True

    name: Literal["finessl"] = "finessl"
    lambda_u: Annotated[float, Field(ge=0)] = 3.0
    lambda_auxiliary: Annotated[float, Field(ge=0)] = 1.0
    """Weight of both losses of the auxiliary head, which train nothing else."""
    tau: Annotated[float, Field(ge=0, le=1)] = 0.7
    """A prediction at least this confident counts as learnt, and teaches the auxiliary head."""
    alpha: Annotated[float, Field(ge=0)] = 8.0
    """Scale of the margins, which are larger for classes that are learnt less."""
    smoothing: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the auxiliary head's unlabelled targets that goes to the other classes."""


class FixMatchConfig(MethodConfig):
    """Settings of FixMatch; the published ones."""

    name: Literal["fixmatch"] = "fixmatch"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.95
    """A prediction at least this confident becomes a pseudo-label."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    offline_labels: bool = False
    """After the warm-up train with the labels of the label version in the place of what the head predicts in the same
    step: ASY in Table 4 of the APLT paper, with labeler.strategy: parametric."""

    @property
    def uses_labels(self) -> bool:
        """With offline labels."""
        return self.offline_labels

    @property
    def tau_offline(self) -> float:
        """As sure as of one that it gives online."""
        return self.tau


class FlexMatchConfig(MethodConfig):
    """Settings of FlexMatch; the published ones."""

    name: Literal["flexmatch"] = "flexmatch"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.95
    """The threshold of a class that is learnt well; others have lower ones."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    threshold_warmup: bool = True
    """Keep thresholds low while most clips have never reached tau."""


class FreeMatchConfig(MethodConfig):
    """Settings of FreeMatch; the published ones."""

    name: Literal["freematch"] = "freematch"
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    lambda_fairness: Annotated[float, Field(ge=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the moving averages that thresholds come from: about 1 / (1 - momentum) steps are remembered."""


class InfoMatchConfig(MethodConfig):
    """Settings of InfoMatch; the published ones."""

    name: Literal["infomatch"] = "infomatch"
    lambda_u: Annotated[float, Field(ge=0)] = 2.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the moving averages that thresholds come from: about 1 / (1 - momentum) steps are remembered."""


class LTGConfig(MethodConfig):
    """Settings of LTG; the published ones, its epochs as shares of the training."""

    name: Literal["ltg"] = "ltg"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.3
    """A mean prediction of both networks at least this confident becomes a pseudo-label."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    warmup: Annotated[float, Field(ge=0, le=1)] = 1 / 6
    """Pseudo-labels are used after this share of the training."""
    lambda_align: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distance between the networks' maps, which is a sum over four stages."""
    lambda_contrast: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 0.5
    """Divides the cosine similarities of the contrast between the networks' features."""


class MeanTeacherConfig(MethodConfig):
    """Settings of Mean Teacher; the published ones."""

    name: Literal["mean_teacher"] = "mean_teacher"
    lambda_u: Annotated[float, Field(ge=0)] = 50.0
    """Weight of the squared difference of probabilities, which is a mean over the classes."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.4
    """lambda_u is reached after this share of the training, linearly from 0."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the teacher's weights, at most: it is less in the first 1 / (1 - decay) steps."""


class MixMatchConfig(MethodConfig):
    """Settings of MixMatch as comparisons use them."""

    name: Literal["mixmatch"] = "mixmatch"
    lambda_u: Annotated[float, Field(ge=0)] = 100.0
    """Weight of the squared difference of probabilities, which is a mean over the classes."""
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.4
    """lambda_u is reached after this share of the training, linearly from 0."""
    sharpening: Annotated[float, Field(gt=0)] = 0.5
    """Temperature T of the guessed labels."""
    alpha: Annotated[float, Field(ge=0)] = 0.5
    """Mixtures are drawn from Beta(alpha, alpha); 0 mixes nothing."""


class PseudoLabelConfig(MethodConfig):
    """Settings of Pseudo-Label as comparisons use it today: with a threshold, which Lee (2013) does not have."""

    name: Literal["pseudo_label"] = "pseudo_label"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.95
    """A prediction at least this confident becomes a pseudo-label."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.4
    """lambda_u is reached after this share of the training, linearly from 0."""


class SoftMatchConfig(MethodConfig):
    """Settings of SoftMatch; the published ones."""

    name: Literal["softmatch"] = "softmatch"
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    n_sigma: Annotated[float, Field(gt=0)] = 2.0
    """The Gaussian's standard deviation is that of the confidences over this."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the moving averages: about 1 / (1 - momentum) steps are remembered."""
    align_to: Literal["uniform", "labeled"] = "uniform"
    """Confidences are judged as if predictions were spread evenly over the classes, or as the labelled clips are."""


class SupervisedConfig(MethodConfig):
    """Settings of the labelled-only baseline."""

    name: Literal["supervised"] = "supervised"


class SVFormerConfig(MethodConfig):
    """Settings of SVFormer; those that the published code leaves undefined are the paper's, see docs/methods.md."""

    name: Literal["svformer"] = "svformer"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.3
    """A prediction of the teacher at least this confident becomes a pseudo-label."""
    lambda_u: Annotated[float, Field(ge=0)] = 2.0
    lambda_mix: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the squared difference of probabilities for mixed clips, which is a mean over the classes."""
    mix_on_logits: bool = False
    """Take that difference from the logits, as the published code does."""
    alpha: Annotated[float, Field(gt=0)] = 10.0
    """The share of a clip in a mixture is drawn from Beta(alpha, alpha)."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Of the teacher's weights in each step."""
    tested: Literal["student", "teacher"] = "student"
    """Which network predicts."""


class TCLConfig(MethodConfig):
    """Settings of TCL; those of the published command, its epochs as shares of the training."""

    name: Literal["tcl"] = "tcl"
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.125
    """Labels alone train for this share of the training."""
    finetune: Annotated[float, Field(ge=0, le=1)] = 0.875
    """From this share of the training on, pseudo-labels take the place of the contrastive losses."""
    lambda_instance: Annotated[float, Field(ge=0)] = 9.0
    """Weight of the contrast between clips: gamma."""
    lambda_group: Annotated[float, Field(ge=0)] = 1.0
    temperature: Annotated[float, Field(gt=0)] = 0.5
    """Divides the cosine similarities of the contrastive losses."""
    tau: Annotated[float, Field(ge=0, le=1)] = 0.8
    """A prediction at least this confident becomes a pseudo-label in the last stage."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0


class UDAConfig(MethodConfig):
    """Settings of UDA; the published ones."""

    name: Literal["uda"] = "uda"
    tau: Annotated[float, Field(ge=0, le=1)] = 0.8
    """A prediction at least this confident, before it is sharpened, teaches the strong view."""
    sharpening: Annotated[float, Field(gt=0)] = 0.4
    """Temperature T of the targets: the weak view's logits are divided by it."""
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    tsa: Literal["none", "linear", "exp", "log"] = "none"
    """Training signal annealing: how the probability rises above which a labelled clip is left out."""


class VATConfig(MethodConfig):
    """Settings of VAT as comparisons use it; the lengths are for clips, see docs/methods.md."""

    name: Literal["vat"] = "vat"
    lambda_u: Annotated[float, Field(ge=0)] = 1.0
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.4
    """lambda_u is reached after this share of the training, linearly from 0."""
    lambda_entropy: Annotated[float, Field(ge=0)] = 0.06
    eps: Annotated[float, Field(gt=0)] = 0.027
    """Size of the perturbation: root mean square over the values of a clip, which themselves have about 1."""
    xi: Annotated[float, Field(gt=0)] = 1.0
    """Length, over all values of a clip, of the step that the direction of the perturbation is looked for with."""
    iterations: Annotated[int, Field(ge=1)] = 1
    """Of the power method that looks for it."""


AnyMethodConfig = Annotated[
    APLTConfig
    | CMPLConfig
    | FineSSLConfig
    | FixMatchConfig
    | FlexMatchConfig
    | FreeMatchConfig
    | InfoMatchConfig
    | LTGConfig
    | MeanTeacherConfig
    | MixMatchConfig
    | PseudoLabelConfig
    | SoftMatchConfig
    | SupervisedConfig
    | SVFormerConfig
    | TCLConfig
    | UDAConfig
    | VATConfig,
    Field(discriminator="name"),
]
