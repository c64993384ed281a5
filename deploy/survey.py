"""A look at a folder of clips: what `aplt init` needs to know to propose settings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

# How people write the subject into file names, most specific first.
GROUP_PATTERNS = (
    r"_g(\d+)_c\d+$",
    r"(?i)(?:^|[_-])((?:subject|subj|person|speaker|actor)[_-]?\d+)",
    r"^([A-Za-z]{1,4}\d{1,4})[_-]",
    r"^(\d{1,6})[_-]",
    r"^([A-Za-z]+)[_-]\d",
)
MIN_GROUPS = 3
MIN_CLIPS_PER_GROUP = 2


def find_group_regex(class_of_stem: Sequence[tuple[str, str]]) -> str | None:
    """Return a pattern whose first group names the subject of every file stem, or None if names show no subject.

    Args:
        class_of_stem: (file stem, class) of each clip; the class is empty if it is not known.
    """
    return next((pattern for pattern in GROUP_PATTERNS if _names_subjects(pattern, class_of_stem)), None)


def groups_of(stems: Sequence[str], pattern: str) -> Mapping[str, int]:
    """Return how many of the stems each subject has; stems without a subject are left out."""
    counts: dict[str, int] = defaultdict(int)
    for stem in stems:
        if match := re.search(pattern, stem):
            counts[match[1]] += 1
    return dict(sorted(counts.items()))


def _names_subjects(pattern: str, class_of_stem: Sequence[tuple[str, str]]) -> bool:
    """Whether the pattern fits all stems, finds several groups of several clips, and does not just repeat the class."""
    classes_of: dict[str, set[str]] = defaultdict(set)
    for stem, class_name in class_of_stem:
        match = re.search(pattern, stem)
        if match is None:
            return False
        classes_of[match[1]].add(class_name)
    if len(classes_of) < MIN_GROUPS or len(class_of_stem) < MIN_CLIPS_PER_GROUP * len(classes_of):
        return False
    has_classes = len(set().union(*classes_of.values())) > 1
    return not has_classes or sum(len(found) > 1 for found in classes_of.values()) > len(classes_of) / 2
