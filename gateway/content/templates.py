"""Compile content whose texts are Liquid templates over `user`, `device`, `event` and `notification`.

Each text is parsed once and rendered as text, never as JSON, so a value cannot change other fields. A value in a URL is
percent-encoded, so it cannot add a parameter or a path or change the host.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from liquid.exceptions import LiquidError
from liquid.template import BoundTemplate

from gateway.content.localisation import all_layers, localise
from gateway.content.sandbox import (
    BEGIN,
    END,
    MAX_MARKUPS,
    MAX_SOURCE_LENGTH,
    Budget,
    Sandbox,
    TemplateLimitExceeded,
    TimeLimitExceeded,
    strip_markers,
)
from gateway.domain import urls
from gateway.domain.errors import FieldError, TemplateFailed, ValidationError, pointer_step
from gateway.domain.json_object import JsonObject

VARIABLES = ("user", "device", "event", "notification")
PERSONAL_VARIABLES = frozenset({"user", "device"})

URL_FIELDS = frozenset({"url", "icon", "image", "badge"})
ACTION_FIELDS = frozenset({"title", *URL_FIELDS})
# The characters that are not encoded in a value at the beginning of a URL, because that value may be a whole URL.
URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=~-._"

# Of all different texts of one notification, in every language and variant.
MAX_TEMPLATES_LENGTH = 8 * MAX_SOURCE_LENGTH
MAX_TEMPLATES_MARKUPS = 2 * MAX_MARKUPS

_TEXTS = {strict: Sandbox(strict=strict) for strict in (False, True)}
_URLS = {strict: Sandbox(strict=strict, urls=True) for strict in (False, True)}


# Renders one text for the given variables, within what is left of the budget.
RenderText = Callable[[JsonObject, Budget], str]
# A tag or an output up to the next one, with a name of personal data anywhere in it.
_PERSONAL_MARKUP = re.compile(r"\{[{%][^{]*?\b(?:user|attributes)\b")


def has_markup(value: object) -> bool:
    """Return whether a value contains a template at any depth."""
    match value:
        case str():
            return "{{" in value or "{%" in value
        case Mapping():
            return any(map(has_markup, value.values()))
        case list():
            return any(map(has_markup, value))
    return False


def uses_personal_data(content: Mapping[str, Any]) -> bool:
    """Whether a template in the content may use the user or the attributes of the device. Nothing is compiled."""
    return _PERSONAL_MARKUP.search(json.dumps(content, ensure_ascii=False)) is not None


class ParsedTexts:
    """The parsed texts of one notification: texts that languages and variants have in common are parsed once.

    Their total length and number of tags are bounded, since parsing takes time.
    """

    def __init__(self) -> None:
        """Begin with no texts."""
        self._templates: dict[tuple[Sandbox, str], BoundTemplate | LiquidError] = {}
        self._length = self._markups = 0

    def parse(self, sandbox: Sandbox, text: str) -> BoundTemplate:
        """Return the template of a text.

        Raises:
            LiquidError: the text is not a template, or there are too many.
        """
        if (template := self._templates.get((sandbox, text))) is None:
            template = self._templates[sandbox, text] = self._parse_new(sandbox, text)
        if isinstance(template, LiquidError):
            raise template
        return template

    def _parse_new(self, sandbox: Sandbox, text: str) -> BoundTemplate | LiquidError:
        self._length += len(text)
        self._markups += text.count("{{") + text.count("{%")
        if self._length > MAX_TEMPLATES_LENGTH or self._markups > MAX_TEMPLATES_MARKUPS:
            return TemplateLimitExceeded(
                f"the templates of the notification have more than {MAX_TEMPLATES_LENGTH} characters or "
                f"{MAX_TEMPLATES_MARKUPS} tags and outputs",
                token=None,
            )
        try:
            return sandbox.parse_within_limits(text)
        except LiquidError as error:
            return error


class CompiledContent:
    """Content in one language, ready to be rendered.

    `personal` is whether it uses variables of the user or device, so that it is rendered for each device.
    """

    def __init__(
        self, content: Mapping[str, Any], *, strict: bool, pointer: str = "", parsed: ParsedTexts | None = None
    ) -> None:
        """Compile every text.

        Args:
            content: the content, without `locales`.
            strict: whether an unknown variable fails the rendering.
            pointer: the JSON pointer of the content in a request.
            parsed: the texts that are parsed already, for content in several languages.

        Raises:
            ValidationError: lists all templates that cannot be parsed.
        """
        self._errors: list[FieldError] = []
        self._strict = strict
        self._parsed = ParsedTexts() if parsed is None else parsed
        self._names: set[str] = set()
        self._content = dict(content)
        self._templates: dict[str, RenderText] = dict(self._compile(content, pointer))
        self._pointer = pointer
        if self._errors:
            raise ValidationError(self._errors)
        self.personal = bool(self._names & PERSONAL_VARIABLES)

    def render(self, variables: JsonObject) -> JsonObject:
        """Render the content for the given variables. A URL field that renders empty is left out.

        Raises:
            TemplateFailed: a template fails, or a URL field does not render to a URL.
        """
        try:
            return self._render(variables)
        except TemplateFailed as failure:
            if not failure.timed_out:
                raise
        # A garbage collection may have taken the time, so try once more.
        return self._render(variables)

    def _render(self, variables: JsonObject) -> JsonObject:
        rendered, budget = {}, Budget()
        for name, value in self._content.items():
            result = self._render_value(value, self._pointer + pointer_step(name), variables, budget)
            if result != "" or name not in URL_FIELDS:
                rendered[name] = result
        return rendered

    def _render_value(self, value: Any, pointer: str, variables: JsonObject, budget: Budget) -> Any:
        match value:
            case str():
                return self._templates[pointer](variables, budget) if pointer in self._templates else value
            case dict():
                return {
                    name: self._render_value(inner, pointer + pointer_step(name), variables, budget)
                    for name, inner in value.items()
                }
            case list():
                return [
                    self._render_value(inner, f"{pointer}/{index}", variables, budget)
                    for index, inner in enumerate(value)
                ]
        return value

    def _compile(self, value: Any, pointer: str) -> Iterator[tuple[str, RenderText]]:
        match value:
            case str() if has_markup(value):
                name = pointer.rpartition("/")[2]
                if name == "action" and "/data/" not in pointer:
                    self._errors.append(FieldError(pointer, "must be plain text: it identifies the action"))
                elif (template := self._parse(value, pointer, name)) is not None:
                    yield pointer, template
            case dict():
                for name, inner in value.items():
                    yield from self._compile(inner, pointer + pointer_step(name))
            case list():
                for index, inner in enumerate(value):
                    yield from self._compile(inner, f"{pointer}/{index}")

    def _parse(self, text: str, pointer: str, name: str) -> RenderText | None:
        url = name in URL_FIELDS and "/data/" not in pointer
        sandbox = (_URLS if url else _TEXTS)[self._strict]
        try:
            template = self._parsed.parse(sandbox, strip_markers(text))
            names = set(template.global_variables())
        except (LiquidError, RecursionError, ValueError) as error:
            self._errors.append(FieldError(pointer, f"is not a template: {_first_line(error)}"))
            return None
        for unknown in sorted(set(template.filter_names()) - sandbox.filters.keys()):
            self._errors.append(FieldError(pointer, f"unknown filter {unknown!r}"))
        for unknown in sorted(names - set(VARIABLES)):
            self._errors.append(
                FieldError(pointer, f"unknown variable {unknown!r}; the variables are {', '.join(VARIABLES)}")
            )
        self._names |= names

        def render(variables: JsonObject, budget: Budget) -> str:
            try:
                rendered = sandbox.render_within_limits(template, variables, budget)
            except LiquidError as error:
                timed_out = isinstance(error, TimeLimitExceeded)
                raise TemplateFailed(f"{pointer.lstrip('/')}: {_first_line(error)}", timed_out=timed_out) from None
            return _encode_values(rendered, pointer) if url else rendered

        return render


def check_templates(content: JsonObject, pointer: str = "/content", parsed: ParsedTexts | None = None) -> None:
    """Compile every template in the content, in every language; `parsed` has those of other variants.

    Raises:
        ValidationError: a template is malformed; the error lists each of them.
    """
    errors: dict[FieldError, None] = {}
    parsed = ParsedTexts() if parsed is None else parsed
    for layers in all_layers(content):
        try:
            CompiledContent(localise(content, layers), strict=False, pointer=pointer, parsed=parsed)
        except ValidationError as error:
            prefix = f"{pointer}/locales{pointer_step(layers[-1])}" if layers else pointer
            errors |= dict.fromkeys(
                field if not layers else FieldError(field.pointer.replace(pointer, prefix, 1), field.detail)
                for field in error.errors
            )
    if errors:
        raise ValidationError(list(errors))


def render_content(content: JsonObject, strict: bool, variables: JsonObject) -> JsonObject:
    """Compile and render content of one language once.

    Raises:
        ValidationError: a template is malformed.
        TemplateFailed: a template fails.
    """
    return CompiledContent(content, strict=strict).render(variables)


def _encode_values(marked: str, pointer: str) -> str:
    """Percent-encode the marked values of a rendered URL. Raises TemplateFailed when the result is not a URL."""
    url = ""
    for number, part in enumerate(marked.replace(END, BEGIN).split(BEGIN)):
        is_value = number % 2 == 1
        url += quote(part, safe="" if url else URL_CHARACTERS) if is_value else part
    error = urls.find_url_error(url) if url else None
    if error is not None:
        raise TemplateFailed(f"{pointer.lstrip('/')}: {error}")
    return url


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip() or type(error).__name__
