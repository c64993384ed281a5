"""`aplt evaluate`: accuracies of a run, measured again on this machine."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from aplt.deploy.commands.options import AsJson, Epoch, Run

TOLERANCE = 0.005
"""Other hardware rounds differently: a few clips in a thousand may change sides."""


def evaluate(
    run: Run,
    epoch: Epoch = None,
    split: Annotated[
        Literal["test", "unlabeled"], typer.Option(help="Test clips, or the training clips without labels.")
    ] = "test",
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint again on this machine: accuracy of prototypes and head, overall and by class."""
    from aplt.deploy.display import make_table, output, percent, print_json
    from aplt.deploy.inference import evaluate_split, load_classifier
    from aplt.deploy.runs import find_run
    from aplt.deploy.versions import evaluated

    store, config = find_run(run)
    classifier = load_classifier(store, config, epoch=epoch)
    scalars = evaluate_split(classifier, split=split)
    recorded = evaluated(store, classifier.epoch) if split == "test" else {}
    if as_json:
        about = {"run": store.run, "epoch": classifier.epoch, "labels_version": classifier.labels_version}
        about["tested_head"] = classifier.head
        print_json(about | {"split": split, "classes": classifier.names, "scalars": scalars, "recorded": recorded})
        return
    heads = [name for name in ("prototypes", "head") if f"{name}/accuracy" in scalars]
    heads.sort(key=lambda name: name != classifier.head)
    rows = [
        (title, *(percent(scalars.get(f"{head}/{key}")) for head in heads))
        for title, key in [
            ("all clips", "accuracy"),
            ("mean over classes", "macro"),
            *((name, f"class_{c}") for c, name in enumerate(classifier.names)),
        ]
    ]
    console = output()
    state = f"{store.run} after epoch {classifier.epoch}, {classifier.decided_by}"
    console.print(make_table(f"{state}: {scalars['clips']:.0f} {split} clips", ["accuracy", *heads], rows))
    if scalars["known"] < scalars["clips"]:
        console.print(f"{scalars['known']:.0f} of {scalars['clips']:.0f} clips have a known class")
    for name in (f"{head}/accuracy" for head in heads):
        if name in recorded and abs(recorded[name] - scalars[name]) > TOLERANCE:
            console.print(
                f"{name}: the labeler recorded {percent(recorded[name])} for this checkpoint. "
                "The code, the clips or the machine differ from then"
            )
