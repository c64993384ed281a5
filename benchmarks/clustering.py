"""Time semi-supervised k-means against a broadcast formulation and scikit-learn, on one thread unless told otherwise.

    python benchmarks/clustering.py --n 100000 --features 512 --classes 12

All start from the same centres and make the same number of iterations. The broadcast formulation is the one that
published code for category discovery uses: an N x K x D tensor of differences, here in slices that fit into memory.
scikit-learn is timed if it can be imported.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from aplt.labeler.clustering import kmeans, semi_supervised_kmeans

SLICE_ELEMENTS = 2**26


def make_features(n: int, d: int, k: int, *, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit features [N, D] around K directions, one labelled sample per class [K, D] and their labels."""
    generator = torch.Generator().manual_seed(0)
    directions_KD = F.normalize(torch.randn(k, d, generator=generator))
    features_ND = torch.randn(n, d, generator=generator).mul_(spread / d**0.5)
    for start in range(0, n, k):
        features_ND[start : start + k] += directions_KD[: n - start]
    noise_KD = torch.randn(k, d, generator=generator).mul_(spread / d**0.5)
    return F.normalize(features_ND), F.normalize(directions_KD + noise_KD), torch.arange(k)


def broadcast_lloyd(features_ND: Tensor, centroids_KD: Tensor, iterations: int) -> Tensor:
    """Return the centres after `iterations` rounds of pairwise differences by broadcasting."""
    k, d = centroids_KD.shape
    rows = max(1, SLICE_ELEMENTS // (k * d))
    for _ in range(iterations):
        assignments_N = torch.cat(
            [((part[:, None] - centroids_KD[None]) ** 2).sum(-1).argmin(1) for part in torch.split(features_ND, rows)]
        )
        centroids_KD = torch.stack([features_ND[assignments_N == c].mean(0) for c in range(k)])
    return centroids_KD


def exact_lloyd(features_ND: Tensor, centroids_KD: Tensor, iterations: int) -> Tensor:
    """Return the centres after `iterations` rounds in float64."""
    features_ND, centroids_KD = features_ND.double(), centroids_KD.double()
    for _ in range(iterations):
        assignments_N = (centroids_KD.square().sum(1) - 2 * features_ND @ centroids_KD.T).argmin(1)
        centroids_KD = torch.stack([features_ND[assignments_N == c].mean(0) for c in range(len(centroids_KD))])
    return centroids_KD


def peak_mb() -> float:
    """Return the largest resident memory since `reset_peak` (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def reset_peak() -> None:
    """Forget the largest resident memory so far."""
    Path("/proc/self/clear_refs").write_text("5")


def seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Return the shortest time that `work` took."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="samples")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--spread", type=float, default=12.0, help="noise around a class, in units of its direction")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n, d, k, iterations = args.n, args.features, args.classes, args.iterations
    features_ND, labeled_KD, labels_K = make_features(n, d, k, spread=args.spread)

    runs: dict[str, float] = {}
    reset_peak()
    before = peak_mb()
    ours = semi_supervised_kmeans(
        features_ND, labeled_KD, labels_K, num_classes=k, max_iterations=iterations, tolerance=0
    )
    extra, rounds = peak_mb() - before, ours.num_iterations
    runs["aplt, anchored"] = seconds(
        lambda: semi_supervised_kmeans(
            features_ND, labeled_KD, labels_K, num_classes=k, max_iterations=rounds, tolerance=0
        ),
        repeats=args.repeats,
    )
    runs["aplt, plain"] = seconds(
        lambda: kmeans(features_ND, labeled_KD, max_iterations=rounds, tolerance=0), repeats=args.repeats
    )
    runs["broadcast N x K x D"] = seconds(lambda: broadcast_lloyd(features_ND, labeled_KD, rounds), repeats=1)
    try:
        from sklearn.cluster import KMeans  # type: ignore[import-not-found, unused-ignore]
        from threadpoolctl import threadpool_limits  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        note = "scikit-learn is not installed"
    else:
        import sklearn  # type: ignore[import-not-found, unused-ignore]

        note = f"scikit-learn {sklearn.__version__}"
        model = KMeans(k, init=labeled_KD.numpy(), n_init=1, max_iter=rounds, tol=0, algorithm="lloyd")
        with threadpool_limits(args.threads), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it stopped before convergence
            runs["scikit-learn KMeans"] = seconds(lambda: model.fit(features_ND.numpy()), repeats=args.repeats)

    wanted = exact_lloyd(features_ND, labeled_KD, rounds)
    errors = {
        "aplt": kmeans(features_ND, labeled_KD, max_iterations=rounds, tolerance=0).centroids_KD,
        "broadcast": broadcast_lloyd(features_ND, labeled_KD, rounds),
    }
    print(f"N={n} D={d} K={k}, {rounds} iterations, {args.threads} thread(s), torch {torch.__version__}, {note}")
    print(f"{'':24}{'seconds':>10}{'ms/iteration':>14}{'times aplt':>12}")
    for name, took in runs.items():
        print(f"{name:24}{took:10.3f}{1e3 * took / rounds:14.1f}{took / runs['aplt, plain']:12.2f}")
    print(f"memory above the inputs: {extra:.0f} MB")
    for name, centroids_KD in errors.items():
        print(f"largest error of a centre against float64, {name}: {float((centroids_KD - wanted).abs().max()):.1e}")


if __name__ == "__main__":
    main()
