"""Show where the time of one labelling goes on this machine, as a table and a picture.

    python benchmarks/profile_labeling.py --out docs/pictures/profile-labeling.png

The labeler's parts run one after the other, as it runs them: load a checkpoint and the features of many clips, extract
the strong view of the labelled ones, cluster, set thresholds, average prototypes, publish. The features are made up,
the clips are random pixels. Times are processor seconds, the median of some rounds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import torch
from clustering import make_features
from publishing import PROVENANCE, make_labels
from torch import nn
from trainer_loop import configuration, loop_parser, made_up_data

from aplt.common.artifacts import Checkpoint, FeatureSnapshot
from aplt.common.device import pick_device, use_threads
from aplt.common.features import forward_rows, normalized
from aplt.common.models import build_model
from aplt.common.store import ArtifactStore
from aplt.common.views import Augmentation, ViewReader
from aplt.labeler.clustering import semi_supervised_kmeans
from aplt.labeler.prototypes import build_prototypes
from aplt.labeler.thresholds import self_adaptive_thresholds

matplotlib.use("agg")
from matplotlib import pyplot as plt

CLASSES, FEATURES = 12, 512


class Costs:
    """Processor seconds by part, one number for each round."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Measure what is done inside."""
        start = time.process_time()
        yield
        self.seconds[part].append(time.process_time() - start)


def label_once(store: ArtifactStore, reader: ViewReader, model: nn.Module, version: int, costs: Costs) -> None:
    """Make and publish one label version, as `aplt.labeler.service.publish_labels` does."""
    with costs.of("load checkpoint"):
        checkpoint = store.checkpoints.load(1)
        model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in checkpoint.weights.items()})
    with costs.of("load features"):
        snapshot = store.features.load(1)
    rows = reader.data.labeled_rows_M
    with costs.of("extract: read and augment"):
        views = [reader.labeled_augmentation(rows[start : start + 32], epoch=1) for start in range(0, len(rows), 32)]
    with costs.of("extract: network"):
        augmented, _ = forward_rows(
            model, np.arange(len(views), dtype=np.int32), lambda batch: views[int(batch[0])], batch_size=1
        )
    with costs.of("normalise features"):
        labels_M = torch.from_numpy(snapshot.labels_N[snapshot.labels_N >= 0].astype(np.int64))
        given_ND = torch.from_numpy(snapshot.features_ND)
        features_ND = normalized(torch.cat([given_ND[: len(labels_M)], given_ND[len(labels_M) :]]), "l2")
        labeled_MD, unlabeled_ND = features_ND[: len(labels_M)], features_ND[len(labels_M) :]
        anchors_MD = torch.cat([labeled_MD, normalized(torch.from_numpy(augmented), "l2")])
        anchor_labels_M = torch.cat([labels_M, labels_M[: len(augmented)]])
    with costs.of("cluster"):
        found = semi_supervised_kmeans(unlabeled_ND, anchors_MD, anchor_labels_M, num_classes=CLASSES)
    with costs.of("thresholds"):
        thresholds = self_adaptive_thresholds(found.distances_N, found.assignments_N, num_classes=CLASSES)
        kept_N = thresholds.keep(found.distances_N, found.assignments_N)
    with costs.of("prototypes"):
        build_prototypes(
            features_ND,
            torch.cat([labels_M, found.assignments_N]),
            num_classes=CLASSES,
            keep_N=torch.cat([torch.ones_like(labels_M, dtype=torch.bool), kept_N]),
        )
    with costs.of("publish"):
        labels = make_labels(len(unlabeled_ND), FEATURES, CLASSES, version=version)
        store.labels.publish(labels, version=version, provenance=PROVENANCE)


def draw(milliseconds: dict[str, float], title: str, path: Path) -> None:
    """Draw the parts as a bar chart, in the order in which they run."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    names = list(milliseconds)[::-1]
    bars = axes.barh(names, [milliseconds[name] for name in names], color="#0072b2")
    axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds of processor time, on a logarithmic scale")
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Print the table and draw the picture."""
    parser = loop_parser(__doc__)
    parser.set_defaults(clips=3000, model="tsm_resnet18", method="aplt", device="cpu")
    parser.add_argument(
        "--features", type=int, default=20_000, help="clips to cluster; a tenth of --clips is extracted"
    )
    parser.add_argument("--spread", type=float, default=8.0, help="noise around a class, in units of its direction")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("profile-labeling.png"), help="the picture")
    args = parser.parse_args()
    use_threads(args.threads)
    costs = Costs()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configuration(args, folder)
        data = made_up_data(folder, config, args.clips)
        augmentation = Augmentation.of(config.data, seed=0)
        reader = ViewReader(data=data, augmentation=augmentation, device=pick_device(args.device))
        store = ArtifactStore(config.store.url, config.run)
        model = build_model(args.model, num_classes=CLASSES, init="scratch", seed=0)
        model.channels_last()
        weights = {name: value.numpy() for name, value in model.state_dict().items()}
        store.checkpoints.publish(Checkpoint(epoch=1, weights=weights, state={}), version=1, provenance=PROVENANCE)
        features_ND, _, _ = make_features(args.features, FEATURES, CLASSES, spread=args.spread)
        labels_N = (np.arange(args.features) % CLASSES).astype(np.int16)
        labels_N[args.features // 10 :] = -1
        store.features.publish(
            FeatureSnapshot(
                epoch=1,
                rows_N=np.arange(args.features, dtype=np.int32),
                features_ND=features_ND.numpy(),
                labels_N=labels_N,
            ),
            version=1,
            provenance=PROVENANCE,
        )
        for version in range(args.rounds):
            label_once(store, reader, model, version, costs)
    milliseconds = {part: 1e3 * statistics.median(seconds) for part, seconds in costs.seconds.items()}
    title = (
        f"one labelling: {args.features} clips of {FEATURES} features, K={CLASSES}; {len(data.labeled_rows_M)} clips "
        f"of {args.frames} x {args.crop} x {args.crop}\nthrough {args.model}; {args.threads} thread(s), "
        f"torch {torch.__version__}"
    )
    print(title)
    for part, each in milliseconds.items():
        print(f"{part:30}{each:9.1f} ms")
    print(f"{'all':30}{sum(milliseconds.values()):9.1f} ms")
    draw(milliseconds, title, args.out)


if __name__ == "__main__":
    main()
