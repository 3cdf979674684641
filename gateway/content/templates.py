"""Content whose texts are Liquid templates over `user`, `device`, `event` and `notification`.

Every text is parsed once and rendered as text, never as JSON: what a value holds cannot break out of its field. In an
address a value is percent-encoded by where it stands, so that it adds no parameter, no path and no other host.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from liquid.exceptions import LiquidError, ResourceLimitError
from liquid.template import BoundTemplate

from gateway.content.sandbox import BEGIN, END, Sandbox, unmarked
from gateway.domain import urls
from gateway.domain.errors import FieldError, TemplateFailed, ValidationError, step

VARIABLES = ("user", "device", "event", "notification")
PERSONAL = frozenset({"user", "device"})

ADDRESSES = frozenset({"url", "icon", "image", "badge"})
OF_ACTIONS = frozenset({"title", *ADDRESSES})
# Everything that a URL may hold: a value at its very beginning may be a whole address.
LEGAL = "%/:?#[]@!$&'()*+,;=~-._"

_TEXTS = {strict: Sandbox(strict=strict) for strict in (False, True)}
_URLS = {strict: Sandbox(strict=strict, urls=True) for strict in (False, True)}


def has_markup(value: object) -> bool:
    """Whether there is a template anywhere in it."""
    match value:
        case str():
            return "{{" in value or "{%" in value
        case Mapping():
            return any(map(has_markup, value.values()))
        case list():
            return any(map(has_markup, value))
    return False


class Compiled:
    """Content of one language, ready to be rendered. `personal`: it differs from device to device."""

    def __init__(self, content: Mapping[str, Any], *, strict: bool, pointer: str = "") -> None:
        """Raises Invalid with the fault of every template that cannot be understood."""
        self._faults: list[FieldError] = []
        self._strict = strict
        self._names: set[str] = set()
        self._content = dict(content)
        self._templates: dict[str, Callable[[dict[str, Any]], str]] = dict(self._compiled(content, pointer))
        self._pointer = pointer
        if self._faults:
            raise ValidationError(self._faults)
        self.personal = bool(self._names & PERSONAL)

    def render(self, variables: dict[str, Any]) -> dict[str, Any]:
        """The content in words. An address that comes out empty is left out. Raises TemplateFailed."""
        rendered = {}
        for name, value in self._content.items():
            made = self._rendered(value, self._pointer + step(name), variables)
            if made != "" or name not in ADDRESSES:
                rendered[name] = made
        return rendered

    def _rendered(self, value: Any, at: str, variables: dict[str, Any]) -> Any:
        match value:
            case str():
                return self._templates[at](variables) if at in self._templates else value
            case dict():
                return {name: self._rendered(inner, at + step(name), variables) for name, inner in value.items()}
            case list():
                return [self._rendered(inner, f"{at}/{index}", variables) for index, inner in enumerate(value)]
        return value

    def _compiled(self, value: Any, at: str) -> Iterator[tuple[str, Callable[[dict[str, Any]], str]]]:
        match value:
            case str() if has_markup(value):
                name = at.rpartition("/")[2]
                if name == "action" and "/data/" not in at:
                    self._faults.append(FieldError(at, "must be plain text: it names the action"))
                elif (template := self._parsed(value, at, name)) is not None:
                    yield at, template
            case dict():
                for name, inner in value.items():
                    yield from self._compiled(inner, at + step(name))
            case list():
                for index, inner in enumerate(value):
                    yield from self._compiled(inner, f"{at}/{index}")

    def _parsed(self, text: str, at: str, name: str) -> Callable[[dict[str, Any]], str] | None:
        url = name in ADDRESSES and "/data/" not in at
        sandbox = (_URLS if url else _TEXTS)[self._strict]
        try:
            template: BoundTemplate = sandbox.from_string(unmarked(text))
            names = set(template.global_variables())
        except (LiquidError, RecursionError, ValueError) as error:
            self._faults.append(FieldError(at, f"is not a template: {_said(error)}"))
            return None
        for unknown in sorted(set(template.filter_names()) - sandbox.filters.keys()):
            self._faults.append(FieldError(at, f"knows no filter {unknown!r}"))
        for unknown in sorted(names - set(VARIABLES)):
            self._faults.append(FieldError(at, f"knows no variable {unknown!r}; there are {', '.join(VARIABLES)}"))
        self._names |= names

        def render(variables: dict[str, Any]) -> str:
            try:
                rendered = sandbox.render_within_limits(template, variables)
            except LiquidError as error:
                greedy = isinstance(error, ResourceLimitError)
                raise TemplateFailed(f"{at.lstrip('/')}: {_said(error)}", greedy=greedy) from None
            return _address(rendered, at) if url else rendered

        return render


def _address(marked: str, at: str) -> str:
    """Raises TemplateFailed when what came out is no address."""
    made = ""
    for number, part in enumerate(marked.replace(END, BEGIN).split(BEGIN)):
        is_value = number % 2 == 1
        made += quote(part, safe="" if made else LEGAL) if is_value else part
    fault = urls.fault_of(made) if made else None
    if fault is not None:
        raise TemplateFailed(f"{at.lstrip('/')}: {fault}")
    return made


def _said(error: Exception) -> str:
    """One line for its author."""
    return str(error).partition("\n")[0].strip() or type(error).__name__
