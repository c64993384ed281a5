"""Time a training step of every method, as a ratio to FixMatch, beside the clips that it forwards.

    python benchmarks/method_steps.py --model tiny_tsm --crop 56

The methods train on ready-made batches in turns, a few steps each, and the ratio is the median over the rounds. The
expected one counts a clip that is forwarded without gradient as a third of one that is trained on; what a method has
above it are its losses, its state and, for Mean Teacher and SVFormer, the update of the teacher.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack

from trainer_loop import bare_epoch, describe, loop_parser, made_up_loop, seconds

from aplt.trainer.methods import METHODS

FORWARDED = {
    "aplt": (4, 0),
    "cmpl": (6, 0),  # half of them by a network with half the channels
    "finessl": (4, 0),
    "fixmatch": (3, 0),
    "flexmatch": (3, 0),
    "freematch": (3, 0),
    "infomatch": (5, 0),
    "ltg": (6, 0),  # three by each of two networks
    "mean_teacher": (2, 1),
    "mixmatch": (3, 2),
    "pseudo_label": (2, 0),
    "softmatch": (3, 0),
    "supervised": (1, 0),
    "svformer": (3, 1),
    "tcl": (2.5, 0),  # the slow clips have half the frames
    "uda": (3, 0),
    "vat": (3, 2),  # one of them for the gradient of a batch with respect to its clips alone
}
"""Method -> batches forwarded in a step with and without gradient."""


def cost(method: str) -> float:
    """Return the expected time of a step, in batches forwarded and trained on."""
    trained, only_forwarded = FORWARDED[method]
    return trained + only_forwarded / 3


def main() -> None:
    """Print the table."""
    parser = loop_parser(__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=sorted(METHODS), help="beside fixmatch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=3, help="of each method in a round")
    args = parser.parse_args()
    methods = [method for method in METHODS if method in {*args.methods, "fixmatch"}]
    with ExitStack() as stack:
        loops = {}
        for method in methods:
            settings = argparse.Namespace(**{**vars(args), "method": method})
            loops[method] = stack.enter_context(made_up_loop(settings))
        device = loops["fixmatch"].state.device
        for loop in loops.values():
            bare_epoch(loop, 2)
        rounds = [
            {method: seconds(lambda loop=loop: bare_epoch(loop, args.steps), device) for method, loop in loops.items()}
            for _ in range(args.rounds)
        ]
    print(describe(argparse.Namespace(**{**vars(args), "method": "all methods"}), device))
    print(f"{'method':14} {'trained':>8} {'forwarded':>10} {'expected':>9} {'measured':>9}  difference")
    for method in methods:
        ratio = statistics.median(times[method] / times["fixmatch"] for times in rounds)
        expected = cost(method) / cost("fixmatch")
        trained, only_forwarded = FORWARDED[method]
        above = 100 * (ratio / expected - 1)
        print(f"{method:14} {trained:7g}B {only_forwarded:9g}B {expected:9.2f} {ratio:9.2f}  {above:+.0f} %")


if __name__ == "__main__":
    main()
