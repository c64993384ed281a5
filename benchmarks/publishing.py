"""Time publishing and loading a label version of many clips against writing and reading the same bytes as plain files.

    python benchmarks/publishing.py --clips 1000000

Publishing writes and flushes the arrays and then the manifest; loading verifies every byte. The plain files are as many
and as large, each flushed too, without folders, digests or a manifest. Both take turns; the medians are printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from aplt.common.artifacts import LabelVersion
from aplt.common.manifest import Provenance
from aplt.common.store import ArtifactStore

PROVENANCE = Provenance(
    role="labeler",
    host="localhost",
    pid=0,
    config_digest="",
    code_version="",
    created_at="2026-01-01T00:00:00+00:00",
)


def make_labels(n: int, d: int, k: int, *, version: int) -> LabelVersion:
    """Return version `version` of made-up labels of N clips, with centres and prototypes [K, D]."""
    random = np.random.default_rng(0)
    return LabelVersion(
        version=version,
        epoch=version,
        rows_N=np.arange(n, dtype=np.int32),
        labels_N=random.integers(0, k, n).astype(np.int16),
        distances_N=random.random(n, dtype=np.float32),
        kept_N=random.random(n) < 0.5,
        centroids_KD=random.random((k, d), dtype=np.float32),
        prototypes_KD=random.random((k, d), dtype=np.float32),
        support_K=np.full(k, n // k),
        local_K=random.random(k, dtype=np.float32),
        adaptive_K=random.random(k, dtype=np.float32),
        global_threshold=0.5,
        ratio=0.9,
        num_iterations=10,
        converged=True,
    )


def write_plain(folder: Path, contents: list[bytes]) -> None:
    """Write each of `contents` to a file of its own that outlives a power cut."""
    folder.mkdir()
    for number, content in enumerate(contents):
        with (folder / str(number)).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of `work`."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, help="where to write, on the disk that matters (default: temporary)")
    args = parser.parse_args()
    labels = make_labels(args.clips, args.features, args.classes, version=0)
    contents = list(labels.encode().values())
    took: dict[str, list[float]] = {name: [] for name in ("publish", "write and flush", "load", "read")}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        store = ArtifactStore(str(folder / "store"), "run")
        for version in range(args.rounds):
            plain, made = folder / f"plain{version}", replace(labels, version=version)
            took["publish"].append(
                seconds(lambda v=version, made=made: store.labels.publish(made, version=v, provenance=PROVENANCE))
            )
            took["write and flush"].append(seconds(lambda plain=plain: write_plain(plain, contents)))
            took["load"].append(seconds(lambda v=version: store.labels.load(v)))
            took["read"].append(seconds(lambda plain=plain: [path.read_bytes() for path in plain.iterdir()]))
    megabytes = sum(map(len, contents)) / 2**20
    print(f"label version of {args.clips} clips, K={args.classes} D={args.features}: {megabytes:.1f} MB, ", end="")
    print(f"{len(contents)} objects; {args.rounds} rounds")
    print(f"{'':20}{'median ms':>12}{'longest ms':>12}{'times plain':>13}")
    for ours, plain_name in (("publish", "write and flush"), ("load", "read")):
        for name in (ours, plain_name):
            median, longest = statistics.median(took[name]), max(took[name])
            ratio = statistics.median(a / b for a, b in zip(took[name], took[plain_name], strict=True))
            print(f"{name:20}{1e3 * median:12.1f}{1e3 * longest:12.1f}{ratio:13.2f}")
    both = [a + b for a, b in zip(took["publish"], took["load"], strict=True)]
    print(f"publish and load together: {1e3 * statistics.median(both):.0f} ms, longest {1e3 * max(both):.0f} ms")


if __name__ == "__main__":
    main()
