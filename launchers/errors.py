"""What can go wrong between a command line and a running job."""

from armd_dist.errors import ArmdError


class LaunchError(ArmdError):
    """A job that cannot be started as asked; the message says what would work."""
