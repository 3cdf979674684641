"""Parse untrusted XML.

Document types and entities are refused, nothing external is fetched, and the size of the tree is bounded. Element names
are compared without their namespaces, because CAP occurs with and without prefixes and inside other documents.
"""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from gateway.domain.errors import MalformedBody

MAX_DEPTH = 64
MAX_ELEMENTS = 400_000


class _BoundedTreeBuilder(TreeBuilder):
    """Builds a tree of bounded depth and size."""

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


def parse(raw: bytes) -> Element:
    """Parse a document and return its root element.

    Raises:
        MalformedBody: the document is not XML, has a document type, or is too large.
    """
    parser = DefusedXMLParser(target=_BoundedTreeBuilder(), forbid_dtd=True)
    try:
        parser.feed(raw)
        root: Element = parser.close()
    except DefusedXmlException:
        raise MalformedBody("the document has a document type or entities, which are refused") from None
    except (ParseError, LookupError, ValueError) as error:
        raise MalformedBody(f"the document is not XML: {str(error)[:200]}") from None
    return root


def split_name(element: Element) -> tuple[str, str]:
    """Return (namespace, name) of an element."""
    namespace, _, name = element.tag.rpartition("}")
    return namespace.lstrip("{"), name


def local_name(element: Element) -> str:
    """Return an element's name without its namespace."""
    return split_name(element)[1]


def children(element: Element, name: str) -> Iterator[Element]:
    """Return the child elements with this name."""
    return (child for child in element if local_name(child) == name)


def own_text(element: Element) -> str:
    """Return the text directly inside an element, stripped."""
    return (element.text or "").strip()


def child_text(element: Element, name: str) -> str:
    """Return the text of the first child element with this name, empty when there is none."""
    child = next(children(element, name), None)
    return "" if child is None else "".join(child.itertext()).strip()
