"""What can go wrong for a user: every error here is one message that says what happened and what to change."""

from __future__ import annotations

BUG = 70
"""The exit code of what no user can mend."""


class ApltError(Exception):
    """An error that the user can act on. Its one argument is the whole message, so that it survives pickling."""

    exit_code = 1


class ConfigError(ApltError, ValueError):
    """The configuration, or a command line, asks for something that does not exist or does not fit together."""

    exit_code = 2


class DataError(ApltError, ValueError):
    """Clips, labels or a prepared data directory are missing, unreadable or inconsistent."""


class RunError(ApltError):
    """A run name is taken, its configuration differs, or a second service of one role was started."""


class StoreError(ApltError, OSError):
    """The artifact store cannot be reached or holds something unexpected."""


class VersionExistsError(StoreError):
    """A version that was to be published is there already; published versions never change."""


class MissingArtifactError(StoreError, FileNotFoundError):
    """A version that was asked for is not in the store."""


class CorruptArtifactError(StoreError):
    """The bytes of an artifact are not the bytes that its manifest promises."""


class ArtifactTimeoutError(StoreError, TimeoutError):
    """An artifact that was waited for did not come before its deadline."""
