"""Slurm's way to write a time limit."""

import re

FORMS = (
    re.compile(r"(?P<days>\d+)-(?P<hours>\d{1,2})(?::(?P<minutes>\d{2})(?::(?P<seconds>\d{2}))?)?"),
    re.compile(r"(?P<hours>\d+):(?P<minutes>\d{2}):(?P<seconds>\d{2})"),
)


def minutes_of(text: str) -> int:
    """Whole minutes, rounded up, of D-HH, D-HH:MM, D-HH:MM:SS or HH:MM:SS.

    Slurm's short forms are refused: it reads 2:00 as two minutes, which few people mean. Raises ValueError.
    """
    found = next((match for form in FORMS if (match := form.fullmatch(text.strip()))), None)
    if found is None:
        raise ValueError("is not a time limit: write D-HH:MM:SS or HH:MM:SS, as in 2-00:00:00 or 12:00:00")
    parts = {name: int(value or 0) for name, value in found.groupdict().items()}
    days, hours, minutes, seconds = (parts.get(name, 0) for name in ("days", "hours", "minutes", "seconds"))
    if minutes > 59 or seconds > 59 or ("days" in parts and hours > 23):
        raise ValueError("has more than 59 minutes or seconds, or more than 23 hours beside its days")
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total == 0:
        raise ValueError("leaves no time to run")
    return -(-total // 60)
