"""The type of JSON objects whose members the gateway does not define."""

from typing import Any

# Members that an application chooses, such as the attributes of a device, the data of an event, the texts and the data
# of a content; or members that another standard defines, such as those of GeoJSON (RFC 7946) and OpenAPI.
JsonObject = dict[str, Any]
