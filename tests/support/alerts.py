"""Real alert documents as their issuers published them, with their times moved to the present, and hostile ones."""

import math
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

FILES = Path(__file__).parents[1] / "data" / "alerts"
CAP, GEOJSON = "application/cap+xml", "application/geo+json"

_TIMESTAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d:\d\d|Z)")
_SENT = re.compile(rb'(?:<(?:\w+:)?sent>|"sent":\s*")\s*(' + _TIMESTAMP.pattern + rb")")


def list_files() -> list[str]:
    """Return the names of the alert documents, relative to FILES."""
    return sorted(str(path.relative_to(FILES)) for path in FILES.rglob("*") if path.suffix in (".xml", ".json"))


def media_type(name: str) -> str:
    """Return the media type of an alert document by its name."""
    return CAP if name.endswith(".xml") else GEOJSON


def read(name: str) -> bytes:
    """Return the content of an alert document as it was published."""
    return (FILES / name).read_bytes()


def move_to_now(name: str, *, age: timedelta = timedelta(minutes=1), like: str | None = None) -> bytes:
    """Return an alert document with all its times moved by one offset, so that its newest alert was sent `age` ago.

    With `like`, the offset is that of the file `like`, so that the times of both files keep their distance.
    """
    sent_times = [datetime.fromisoformat(time.decode()) for time in _SENT.findall(read(like or name))]
    if not sent_times:
        return read(name)
    offset = datetime.now(UTC) - age - max(sent_times)

    def move(match: re.Match[bytes]) -> bytes:
        moved_time = datetime.fromisoformat(match[0].decode()) + offset
        return moved_time.isoformat(timespec="seconds").encode()

    return _TIMESTAMP.sub(move, read(name))


def star(corners: int) -> str:
    """Return a CAP polygon in the form of a star, whose edges cross each other."""
    angles = [2 * math.pi * (corner * (corners // 2 - 1) % corners) / corners for corner in range(corners)]
    points = [f"{45 + 5 * math.sin(angle):.3f},{15 + 5 * math.cos(angle):.3f}" for angle in angles]
    return " ".join([*points, points[0]])


def star_document(polygons: int, corners: int) -> bytes:
    """Return a CAP alert with star polygons, whose area is costly to compute."""
    areas = "".join(f"<polygon>{star(corners)}</polygon>" for _ in range(polygons))
    return (
        '<alert xmlns="urn:oasis:names:tc:emergency:cap:1.2"><identifier>star</identifier><sender>x</sender>'
        f"<sent>{datetime.now(UTC).isoformat()}</sent><status>Actual</status><msgType>Alert</msgType><scope>Public</scope>"
        "<info><category>Met</category><event>Storm</event><urgency>Immediate</urgency><severity>Extreme</severity>"
        f"<certainty>Observed</certainty><area><areaDesc>x</areaDesc>{areas}</area></info></alert>"
    ).encode()
