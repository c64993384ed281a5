"""Time a training step of every network, as a ratio to TSM-ResNet-18.

    python benchmarks/networks.py --crop 56

The networks train on ready-made batches in turns, and the ratio is that of their fastest rounds.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from trainer_loop import bare_epoch, describe, loop_parser, made_up_loop, seconds

from aplt.common.models import MODELS


def main() -> None:
    """Print the table."""
    parser = loop_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="of each network in a round")
    args = parser.parse_args()
    with ExitStack() as stack:
        loops = {
            name: stack.enter_context(made_up_loop(argparse.Namespace(**{**vars(args), "model": name})))
            for name in MODELS
        }
        device = loops["tsm_resnet18"].state.device
        for loop in loops.values():
            bare_epoch(loop, 1)
        rounds = [
            {name: seconds(lambda loop=loop: bare_epoch(loop, args.steps), device) for name, loop in loops.items()}
            for _ in range(args.rounds)
        ]
    print(describe(argparse.Namespace(**{**vars(args), "model": "all networks"}), device))
    print(f"{'network':14} {'parameters':>11} {'seconds':>8} {'ratio':>6}")
    reference = min(times["tsm_resnet18"] for times in rounds) / args.steps
    for name, loop in loops.items():
        parameters = sum(parameter.numel() for parameter in loop.state.model.parameters())
        step = min(times[name] for times in rounds) / args.steps
        print(f"{name:14} {parameters / 1e6:9.1f} M {step:8.3f} {step / reference:6.2f}")


if __name__ == "__main__":
    main()
