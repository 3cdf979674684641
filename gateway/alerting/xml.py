"""XML from strangers.

Document types, and with them all entities, are refused, nothing external is ever fetched, and what is built is
bounded. Names are compared without their namespaces: issuers write CAP with prefixes, without, and inside of feeds.
"""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from gateway.domain.errors import MalformedBody

MAX_DEPTH = 64
MAX_ELEMENTS = 400_000


class _Bounded(TreeBuilder):
    def __init__(self) -> None:
        super().__init__()
        self._depth = self._elements = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_DEPTH or self._elements > MAX_ELEMENTS:
            raise MalformedBody(f"the document has more than {MAX_ELEMENTS} elements, or more than {MAX_DEPTH} levels")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> Element:
        self._depth -= 1
        return super().end(tag)


def parsed(raw: bytes) -> Element:
    """The root element. Raises MalformedBody."""
    parser = DefusedXMLParser(target=_Bounded(), forbid_dtd=True)
    try:
        parser.feed(raw)
        root: Element = parser.close()
    except DefusedXmlException:
        raise MalformedBody("the document has a document type or entities, which are refused") from None
    except (ParseError, LookupError, ValueError) as error:
        raise MalformedBody(f"the document is not XML: {str(error)[:200]}") from None
    return root


def split(element: Element) -> tuple[str, str]:
    """(namespace, name)"""
    namespace, _, name = element.tag.rpartition("}")
    return namespace.lstrip("{"), name


def local(element: Element) -> str:
    return split(element)[1]


def children(element: Element, name: str) -> Iterator[Element]:
    return (child for child in element if local(child) == name)


def whole(element: Element) -> str:
    return (element.text or "").strip()


def text_of(element: Element, name: str) -> str:
    """The text of the first child of that name; empty when there is none."""
    child = next(children(element, name), None)
    return "" if child is None else "".join(child.itertext()).strip()
