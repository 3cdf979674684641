"""Validation of polygons, with messages for the person who drew them.

GEOS reports one error and its position. It uses the same name for a ring that crosses itself and for two rings that
cross each other. So each ring is first checked alone. If all rings are valid, the error is between two rings.
"""

import re
from collections.abc import Sequence

from shapely import MultiPoint, Polygon
from shapely.validation import explain_validity

# The text that GEOS reports for a valid polygon.
VALID = "Valid Geometry"
# Messages for errors between two rings, by the name of the error that GEOS reports.
MESSAGES = {
    "Self-intersection": "has rings that cross each other or share an edge",
    "Hole lies outside shell": "has a hole outside its outer ring",
    "Holes are nested": "has a hole inside a hole",
    "Interior is disconnected": "is cut in two by its holes",
}


def find_polygon_error(rings: Sequence[Sequence[tuple[float, float]]]) -> tuple[int | None, str] | None:
    """Check a polygon, given as its outer ring and its holes, each closed (OGC Simple Features 6.1.11.1).

    Holes may touch the outer ring and each other in one point.

    Returns:
        None for a valid polygon, or else the index of the invalid ring (None for an error between rings) and a message.
    """
    reason = explain_validity(Polygon(rings[0], rings[1:]))
    if reason == VALID:
        return None
    for index, ring in enumerate(rings):
        if MultiPoint(ring).convex_hull.geom_type != "Polygon":
            return index, "encloses no area: its positions lie on one line"
        ring_reason = explain_validity(Polygon(ring))
        if ring_reason != VALID:
            return index, f"crosses or touches itself{_format_position(ring_reason)}"
    name = reason.partition("[")[0]
    return None, f"{MESSAGES.get(name, f'is not a valid polygon: {name}')}{_format_position(reason)}"


def _format_position(reason: str) -> str:
    """Return the position in a reason such as `Self-intersection[16.5 48]`, as the end of a message."""
    match = re.search(r"\[(\S+) (\S+)\]", reason)
    return f" at [{float(match[1]):.9g}, {float(match[2]):.9g}]" if match else ""
