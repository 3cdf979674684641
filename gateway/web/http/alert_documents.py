"""Parse the alert documents of request bodies."""

from gateway.alerting import nws
from gateway.alerting.text import RefusedAlert
from gateway.domain.alert import AlertMessage
from gateway.web.http.parsing import read_json


def read_geojson(raw: bytes) -> list[AlertMessage | RefusedAlert]:
    """Read every alert in a GeoJSON document of api.weather.gov, oldest first.

    Raises:
        MalformedBody: the document is not GeoJSON of api.weather.gov.
        ValidationError: the document contains values that cannot be stored.
    """
    return nws.read(read_json(raw))
