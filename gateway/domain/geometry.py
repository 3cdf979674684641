"""What is wrong with a polygon, in words for whoever drew it.

GEOS finds the fault and says where. It calls by one name a ring that crosses itself and two rings that cross, so each
ring is looked at alone before the fault is said to lie between them.
"""

import re
from collections.abc import Sequence

from shapely import MultiPoint, Polygon
from shapely.validation import explain_validity

VALID = "Valid Geometry"
MESSAGES = {
    "Self-intersection": "has rings that cross each other or share an edge",
    "Hole lies outside shell": "has a hole outside its outer ring",
    "Holes are nested": "has a hole inside a hole",
    "Interior is disconnected": "is cut in two by its holes",
}
"""By the name GEOS has for it."""


def find_polygon_error(rings: Sequence[Sequence[tuple[float, float]]]) -> tuple[int | None, str] | None:
    """What is wrong with an outer ring and its holes, each closed: the ring's number, None for all, and the words.

    None when it is sound (OGC Simple Features 6.1.11.1): holes may touch the outer ring and each other in one point.
    """
    reason = explain_validity(Polygon(rings[0], rings[1:]))
    if reason == VALID:
        return None
    for number, ring in enumerate(rings):
        if MultiPoint(ring).convex_hull.geom_type != "Polygon":
            return number, "encloses nothing: its positions lie on one line"
        alone = explain_validity(Polygon(ring))
        if alone != VALID:
            return number, f"crosses or touches itself{_place(alone)}"
    name = reason.partition("[")[0]
    return None, f"{MESSAGES.get(name, f'is not a valid polygon: {name}')}{_place(reason)}"


def _place(reason: str) -> str:
    """From `Self-intersection[16.5 48]`, where."""
    found = re.search(r"\[(\S+) (\S+)\]", reason)
    return f" at [{float(found[1]):.9g}, {float(found[2]):.9g}]" if found else ""
