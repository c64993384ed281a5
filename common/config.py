"""The sections of the configuration that both services read. Defaults are the paper's unless a comment says otherwise.

`aplt.deploy.config.RunConfig` adds the cluster and the concrete method, and reads and checks the YAML file.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticKnownError

from aplt.common.data.splits import LabeledRule, SplitRules, TestRule
from aplt.common.schedule import Schedule

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StoreConfig(Section):
    """Where checkpoints, features, labels and evaluations go."""

    url: str = "runs"
    """A folder, file:///folder, memory://name or s3://bucket/prefix."""
    options: dict[str, str] = {}
    """Passed to obstore (endpoint, region, ...). Credentials belong in the environment, not here."""
    keep_phases: Positive = 2
    """The checkpoints and features of so many of the newest label versions stay; older ones go once nobody needs them.
    Labels and evaluations always stay."""
    patience_s: Annotated[float, Field(ge=0)] = 1800.0
    """How long a service goes on asking a store that does not answer before it gives up; then it can be resumed."""


class AugmentConfig(Section):
    """Weak view: crop and flip. Strong view: another crop and flip, RandAugment operations and Cutout."""

    crop_scale: tuple[Share, Share] = (0.66, 1.0)
    """Side of the random crop as a share of the clip's side, smallest and largest."""
    flip: bool = True
    """Mirror half of the clips. Refused where two classes differ in left and right alone."""
    num_ops: Annotated[int, Field(ge=0)] = 2
    cutout: Share = 0.5
    """Largest side of the Cutout square as a share of the clip's side."""

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1]:
            raise ValueError(f"crop_scale must be [smallest, largest], both above 0, got {list(self.crop_scale)}")
        return self


class DataConfig(Section):
    """The clips, how they are split, and how they are decoded into the clip cache."""

    root: Path
    """The folder with the clips. Nothing is ever written into it."""
    prepared: Path | str = Path("prepared")
    """Where manifest, splits and clip cache are written: a folder, or s3://bucket/prefix with `local`."""
    local: Path | None = None
    """If `prepared` is in an object store: the folder of each machine that its copy is kept in."""
    adapter: Literal["folder", "csv", "ma52", "imigue", "smg", "ucf101", "hmdb51", "kinetics400"] = "folder"
    """folder: root/<class>/<clip>; csv: a table named by `labels`; else the data set whose files are in `root`."""
    subset: str | None = None
    """Its most frequent classes: ma12, smg5, imigue11, or top:K."""
    options: dict[str, Any] = {}
    """What only this data set has, such as `fold: 2` (ucf101, hmdb51) or `margin: 5` (imigue, smg)."""
    labels: Path | None = None
    group_regex: str | None = None
    """Searched in the file stem; its first group names the subject, for splits without common subjects."""
    split: str | None = None
    """A split that `aplt data split` made, by name; then the next four settings are not used."""
    test: TestRule = TestRule()
    labeled: LabeledRule = LabeledRule()
    unlabeled: Literal["rest", "all"] = "rest"
    """rest: the training clips that do not show their label; all: those that do as well."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Test on this share of the labelled training clips of each class instead, which then train nothing; the test clips
    are left out of everything. For choosing settings."""
    split_seed: int = 0
    num_frames: Positive = 8
    """Segments per clip; one frame of each is shown to the network."""
    frames_per_segment: Positive = 2
    """Frames kept per segment; training picks one at random."""
    clip_size: Positive = 256
    """Side in pixels of the square clips in the cache."""
    crop_size: Positive = 224
    """Side in pixels of what the network sees."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How a clip that is not square fills the square."""
    augment: AugmentConfig = AugmentConfig()
    workers: Positive = 2
    """Decoding processes."""
    timeout_s: Seconds = 60.0
    """A clip that takes longer to decode is quarantined."""
    max_bad_share: Share = 0.05
    """More undecodable clips than this share stop the preparation."""

    @model_validator(mode="after")
    def _fits(self) -> DataConfig:
        if self.crop_size > self.clip_size:
            raise ValueError(f"crop_size ({self.crop_size}) must not exceed clip_size ({self.clip_size})")
        if self.adapter == "csv" and self.labels is None:
            raise ValueError("adapter csv needs `labels`: the path of the table")
        if self.url is not None and self.local is None:
            raise ValueError(f"prepared {self.url} needs `local`: a folder for this machine's copy of it")
        return self

    @property
    def url(self) -> str | None:
        """The object store that the prepared data are in, if they are."""
        return str(self.prepared) if "://" in str(self.prepared) else None

    @property
    def folder(self) -> Path:
        """Where this machine has the prepared data."""
        return Path(self.prepared) if self.url is None or self.local is None else self.local

    @property
    def rules(self) -> SplitRules:
        """What the split is drawn by."""
        return SplitRules(
            test=self.test,
            labeled=self.labeled,
            unlabeled=self.unlabeled,
            validation=self.validation,
            seed=self.split_seed,
        )

    @property
    def split_name(self) -> str:
        """The split of this run."""
        return self.split or self.rules.name


NETWORKS = ("tiny_tsm", "tsm_resnet18", "tsn_resnet18", "tsm_resnet50", "tsn_resnet50", "r3d_18", "swin3d_t")
NAMED_INITS = ("scratch", "imagenet", "kinetics")
"""What model.init may be besides a path."""


class ModelConfig(Section):
    """The network."""

    name: str = "tsm_resnet18"
    """One of NETWORKS, or timm:<name> for an image network of the timm library."""
    init: str = "scratch"
    """scratch, imagenet or kinetics (a local torchvision weight file), or the path of a weight file."""
    weights_dir: Path | None = None
    """Where torchvision's weight files lie; torch's hub cache if not given."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS and not re.fullmatch(r"timm:[\w.]+", name):
            raise PydanticKnownError("literal_error", {"expected": ", ".join([*NETWORKS, "timm:<name>"])})
        return name


Head = Literal["head", "prototypes"]
"""The parametric head, or the prototypes of the newest label version, as evaluations call them."""


class MethodConfig(Section):
    """What every method's own configuration has; see aplt.trainer.config."""

    cosine_head: ClassVar[bool] = False
    """Whether the parametric head looks at the direction of the features alone."""

    name: str

    @property
    def uses_labels(self) -> bool:
        """Whether it trains with label versions, that is, whether the schedule has offline phases."""
        return False

    @property
    def tested_head(self) -> Head:
        """What classifies test clips: the accuracy by it, `<head>/accuracy` in an evaluation, is the method's."""
        return "head"

    @property
    def tau_offline(self) -> float:
        """How sure the parametric head must be of a label that it gives offline (labeler.strategy: parametric)."""
        return 0.0


class ScheduleConfig(Section):
    """Epochs of the warm-up and of the alternating phases."""

    warmup_epochs: Annotated[int, Field(ge=0)] = 15
    epochs: Annotated[int, Field(ge=0)] = 40
    phase_epochs: Positive = 10
    lead_epochs: Literal[0, 1] = 1
    """0: the trainer waits for labels at each boundary (the paper). 1: labels come from one epoch before it."""


class FeaturesConfig(Section):
    """The features that are clustered and that the prototypes classify."""

    source: Literal["trainer", "bank", "labeler"] = "trainer"
    """trainer: a pass over the training clips; bank: what the epoch computed anyway; labeler: from the checkpoint."""
    normalize: Literal["l2", "none"] = "l2"
    """l2 makes nearest centre and largest dot product agree; none is the paper's literal equation."""


class TrainerConfig(Section):
    """Optimisation (SGD, one cosine over all epochs) and the machine it runs on."""

    batch_size: Positive = 16
    mu: Positive = 1
    """Unlabelled clips per labelled clip in a batch."""
    lr: Annotated[float, Field(gt=0)] = 0.002
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    ranks: Positive = 1
    """Processes on one machine that train together, each with a GPU of its own or with `threads` of the CPU. Each takes
    an equal part of every batch; results are those of one rank but for rounding."""
    threads: Positive | None = None
    """CPU threads of each rank; all cores if not given, or each rank's part of them. Results are identical to the bit
    only for equal numbers of threads and ranks."""
    wait_timeout_s: Seconds = 7200.0
    """How long to wait for labels without a sign of progress from the labeler."""
    keep_checkpoints: Literal["needed", "all"] = "needed"
    """needed: the last two, those that something is still to be made from, and what the newest labels were made from
    (see store.keep_phases); all: nothing is ever removed, features neither."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.batch_size % self.ranks:
            raise ValueError(f"batch_size ({self.batch_size}) must be a multiple of ranks ({self.ranks})")
        if self.ranks > 1 and ":" in self.device:
            raise ValueError(f"device must be auto, cpu or cuda with several ranks, got {self.device!r}")
        return self


class LabelerConfig(Section):
    """Clustering, thresholds, prototypes and evaluation."""

    strategy: Literal["sskm", "kmeans", "parametric"] = "sskm"
    """Where labels come from. sskm: clusters around labelled clips, which never move; kmeans: plain k-means from the
    means of the labelled clips, which may move; parametric: what the parametric head predicts (FixMatch ASY)."""
    labeled_augmentation: bool = True
    """Cluster strongly augmented copies of the labelled clips too."""
    max_iterations: Positive = 100
    tolerance: Annotated[float, Field(gt=0)] = 1e-4
    threshold: Literal["adaptive", "none"] = "adaptive"
    """adaptive: keep what lies closer to its centre than the self-adaptive threshold of its class (Eq. 4), or with
    strategy parametric what is at least as sure as method.tau; none: keep all."""
    sat_scale: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the self-adaptive thresholds."""
    sat_min_count: Positive = 1
    """Classes with fewer clips do not count for the largest local threshold, which lowers the thresholds of all."""
    sat_squared: bool = False
    """Average squared distances in Eq. 4; thresholds are the roots of it, and so still distances."""
    filtered_prototypes: bool = True
    """Average only kept clips (the abstract and Figure 3); false: all assigned clips."""
    augmented_prototypes: bool = False
    """Average the augmented copies of the labelled clips too."""
    evaluate_every: Annotated[int, Field(ge=0)] = 1
    """Evaluate every n-th checkpoint; those that labels come from and the last always. 0: only those."""
    batch_size: Positive = 32
    device: str = "auto"
    threads: Positive | None = None
    wait_timeout_s: Seconds = 7200.0
    """How long to wait for a checkpoint without a sign of progress from the trainer."""

    @model_validator(mode="after")
    def _consistent(self) -> LabelerConfig:
        if self.augmented_prototypes and not self.labeled_augmentation:
            raise ValueError("augmented_prototypes: true needs labeled_augmentation: true, which makes the copies")
        if self.strategy == "parametric" and self.augmented_prototypes:
            raise ValueError("augmented_prototypes: true needs a clustering, and strategy: parametric has none")
        return self


class BaseRunConfig(Section):
    """A whole run, as the two services see it."""

    run: str
    seed: int = 0
    store: StoreConfig = StoreConfig()
    data: DataConfig
    model: ModelConfig = ModelConfig()
    method: MethodConfig
    schedule: ScheduleConfig = ScheduleConfig()
    features: FeaturesConfig = FeaturesConfig()
    trainer: TrainerConfig = TrainerConfig()
    labeler: LabelerConfig = LabelerConfig()

    def plan(self) -> Schedule:
        """The schedule of this run."""
        return Schedule(**self.schedule.model_dump(), uses_labels=self.method.uses_labels)


# What may differ when a run is resumed: where and how fast it runs, not what it computes.
MAY_CHANGE = (
    "cluster",
    "store",
    "data.root",
    "data.prepared",
    "data.local",
    "data.labels",
    "data.workers",
    "data.timeout_s",
    "data.max_bad_share",
    "model.weights_dir",
    "trainer.device",
    "trainer.ranks",
    "trainer.threads",
    "trainer.wait_timeout_s",
    "trainer.keep_checkpoints",
    "labeler.device",
    "labeler.threads",
    "labeler.batch_size",
    "labeler.evaluate_every",
    "labeler.wait_timeout_s",
)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings (as JSON, flattened) that decide what a run computes."""
    return {
        path: value
        for path, value in flatten(config).items()
        if not any(path == free or path.startswith(f"{free}.") for free in MAY_CHANGE)
    }


def config_digest(config: dict[str, Any]) -> str:
    """Return the digest of `identity(config)`."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
