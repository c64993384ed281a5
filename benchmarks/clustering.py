"""Time k-means against a broadcast formulation, scikit-learn and faiss, all from the same centres.

    python benchmarks/clustering.py --n 20000 200000 --iterations 10
    python benchmarks/clustering.py --n 20000 --spread 4 --iterations 0

All make the same number of iterations; 0 stands for as many as aplt needs to converge. The contenders take turns, and a
ratio is the median of those of the rounds. On one thread it is of processor time, which other work on the machine
disturbs least. The broadcast formulation is that of published code for category discovery: differences N x K x D in one
expression, here in slices where it exceeds a gigabyte. scikit-learn and faiss are timed if they can be imported.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from aplt.labeler.clustering import kmeans, semi_supervised_kmeans

SLICE_ELEMENTS = 2**28


class Took(NamedTuple):
    """Seconds per iteration."""

    wall: float
    processor: float


class Contender(NamedTuple):
    """Something to time, and how many iterations it makes."""

    run: Callable[[], object]
    iterations: int


def make_features(n: int, d: int, k: int, *, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit features [N, D] around K directions, one labelled sample per class [K, D] and their labels."""
    generator = torch.Generator().manual_seed(0)
    directions_KD = F.normalize(torch.randn(k, d, generator=generator))
    features_ND = torch.empty(n, d)
    for part_BD in features_ND.split(6000 * k):
        part_BD.normal_(generator=generator).mul_(spread / d**0.5)
        part_BD += directions_KD[torch.arange(len(part_BD)) % k]
        part_BD /= part_BD.norm(dim=1, keepdim=True)
    noise_KD = torch.randn(k, d, generator=generator).mul_(spread / d**0.5)
    return features_ND, F.normalize(directions_KD + noise_KD), torch.arange(k)


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


def libraries(
    features_ND: Tensor, centroids_KD: Tensor, iterations: int, threads: int, *, no_copy: bool
) -> dict[str, Contender]:
    """Return what scikit-learn and faiss have to offer, as far as they are installed."""
    found: dict[str, Contender] = {}
    features, centroids = features_ND.numpy(), centroids_KD.numpy()
    try:
        from sklearn.cluster import KMeans  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from threadpoolctl import threadpool_limits  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        print("scikit-learn is not installed")
    else:

        def fit(copy_x: bool) -> None:
            model = KMeans(len(centroids), init=centroids, n_init=1, max_iter=iterations, tol=0, copy_x=copy_x)
            with threadpool_limits(threads), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it stopped before convergence
                model.fit(features)

        if not no_copy:
            found["scikit-learn KMeans"] = Contender(lambda: fit(True), iterations)
        found["  writing to its input"] = Contender(lambda: fit(False), iterations)
    try:
        import faiss  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        print("faiss is not installed")
    else:
        faiss.omp_set_num_threads(threads)

        def train() -> None:
            model = faiss.Kmeans(features.shape[1], len(centroids), niter=iterations, max_points_per_centroid=2**31 - 1)
            model.train(features, init_centroids=centroids)

        found["faiss Kmeans"] = Contender(train, iterations)
    return found


def peak_mb() -> float:
    """Return the largest resident memory since `reset_peak` (Linux)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def reset_peak() -> None:
    """Forget the largest resident memory so far."""
    Path("/proc/self/clear_refs").write_text("5")


def take_turns(contenders: dict[str, Contender], *, rounds: int) -> dict[str, list[Took]]:
    """Return what each contender took per iteration, in each round."""
    took: dict[str, list[Took]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, (run, iterations) in contenders.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            took[name].append(
                Took((time.perf_counter() - wall) / iterations, (time.process_time() - processor) / iterations)
            )
    return took


def compare(n: int, args: argparse.Namespace) -> None:
    """Print the table for `n` samples."""
    d, k, threads = args.features, args.classes, args.threads
    features_ND, labeled_KD, labels_K = make_features(n, d, k, spread=args.spread)
    limit, tolerance = (args.iterations, 0.0) if args.iterations else (300, 1e-4)

    def anchored(limit: int, tolerance: float = 0.0) -> int:
        found = semi_supervised_kmeans(
            features_ND, labeled_KD, labels_K, num_classes=k, max_iterations=limit, tolerance=tolerance
        )
        return found.num_iterations

    reset_peak()
    before = peak_mb()
    iterations = anchored(limit, tolerance)
    extra = peak_mb() - before
    slow = 1 if n > 50_000 else iterations
    contenders = {
        "aplt, plain": Contender(
            lambda: kmeans(features_ND, labeled_KD, max_iterations=iterations, tolerance=0), iterations
        ),
        "aplt, anchored": Contender(lambda: anchored(iterations), iterations),
        **libraries(features_ND, labeled_KD, iterations, threads, no_copy=args.no_copy),
    }
    took = take_turns(contenders, rounds=args.repeats)
    if not args.no_broadcast:
        name = "broadcast N x K x D" + (", sliced" if n * k * d > SLICE_ELEMENTS else "")
        took |= take_turns({name: Contender(lambda: broadcast_lloyd(features_ND, labeled_KD, slow), slow)}, rounds=1)

    print(f"N={n} D={d} K={k} spread {args.spread}, {iterations} iterations, {threads} thread(s)")
    print(f"{'per iteration':26}{'wall ms':>10}{'processor ms':>14}{'ns a sample':>13}{'times aplt':>12}")
    for name, each in took.items():
        wall, processor = min(t.wall for t in each), min(t.processor for t in each)
        which = 1 if threads == 1 else 0
        ratios = [t[which] / base[which] for t, base in zip(each, took["aplt, plain"], strict=False)]
        nanoseconds = 1e9 * (processor if threads == 1 else wall) / n
        print(f"{name:26}{1e3 * wall:10.1f}{1e3 * processor:14.1f}{nanoseconds:13.0f}{statistics.median(ratios):12.2f}")
    print(f"aplt's memory above its inputs: {extra:.0f} MB")
    if n <= 100_000:
        wanted = exact_lloyd(features_ND, labeled_KD, iterations)
        for name, found_KD in {
            "aplt": kmeans(features_ND, labeled_KD, max_iterations=iterations, tolerance=0).centroids_KD,
            "broadcast": broadcast_lloyd(features_ND, labeled_KD, iterations),
        }.items():
            print(f"largest error of a centre against float64, {name}: {float((found_KD - wanted).abs().max()):.1e}")
    print(flush=True)


def main() -> None:
    """Print a table for each number of samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[20_000, 200_000], help="samples")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--spread", type=float, default=12.0, help="noise around a class, in units of its direction")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--no-copy", action="store_true", help="leave out scikit-learn's default, which copies its input"
    )
    parser.add_argument("--no-broadcast", action="store_true", help="leave out the slowest")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for n in args.n:
        compare(n, args)


if __name__ == "__main__":
    main()
