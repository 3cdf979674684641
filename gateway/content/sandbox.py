"""Liquid with nothing in reach: no files, no other templates, and bounds on time, output and everything between.

Templates come from marketers, and their values from browsers. python-liquid bounds loops and what is written; what a
single filter makes of its input is bounded here, as `replace` and `append` can double a text many times in one line.
"""

import time
from collections.abc import Callable
from functools import wraps
from io import StringIO
from typing import Any, TextIO

from liquid import Environment, Mode, RenderContext, StrictDefaultUndefined, Undefined
from liquid.ast import Node
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.echo_tag import EchoNode, EchoTag
from liquid.exceptions import LiquidError, ResourceLimitError
from liquid.stringify import to_liquid_string
from liquid.template import BoundTemplate

MAX_TEXT_LENGTH = 8192
MAX_ITEMS = 1000
MAX_NUMBER = 10**15
# Of the processor: that somebody else had it meanwhile is not the template's fault.
TIME_LIMIT_S = 0.05

REFUSED_TAGS = ("include", "render", "tablerow", "ifchanged", "doc")

BEGIN, END = "\ue000", "\ue001"
"""Around every value in a URL, until it is known where it stands. From Unicode's private use area."""


class TooMuch(ResourceLimitError):
    """A template wants more time or room than it has."""


class _TooSlow(TooMuch):
    """More time, that is; or the collector of cycles came in between."""


class _Context(RenderContext):
    def assign(self, key: str, val: Any) -> None:
        _check_time(self.env)
        super().assign(key, val)

    def get_buffer(self, buf: TextIO | None = None) -> StringIO:
        _check_time(self.env)
        return super().get_buffer(buf)


class _Template(BoundTemplate):
    context_class = _Context


class Sandbox(Environment):
    template_class = _Template
    loop_iteration_limit = MAX_ITEMS
    output_stream_limit = MAX_TEXT_LENGTH
    local_namespace_limit = 4 * MAX_TEXT_LENGTH
    block_nesting_limit = 20
    context_depth_limit = 20

    def __init__(self, *, strict: bool, urls: bool = False) -> None:
        self.deadline = float("inf")
        super().__init__(tolerance=Mode.STRICT, undefined=StrictDefaultUndefined if strict else Undefined)
        for tag in REFUSED_TAGS:
            del self.tags[tag]
        if urls:
            self.add_tag(_MarkedOutput)
            self.add_tag(_MarkedEcho)

    def add_filter(self, name: str, func: Callable[..., Any]) -> None:
        super().add_filter(name, self._bounded(func))

    def _bounded(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(func)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            _check_time(self)
            for value in args:
                _check_size(value)
            made = func(*args, **kwargs)
            _check_size(made)
            return made

        return bounded

    def render_within_limits(self, template: BoundTemplate, variables: dict[str, Any]) -> str:
        """Raises LiquidError for everything that can go wrong. What took too long has one more try."""
        try:
            return self._rendered(template, variables)
        except _TooSlow:
            return self._rendered(template, variables)

    def _rendered(self, template: BoundTemplate, variables: dict[str, Any]) -> str:
        self.deadline = time.thread_time() + TIME_LIMIT_S
        try:
            return template.render(variables)
        except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            # Filters are made for sound input; what others do to them is the template's fault.
            raise LiquidError(f"{type(error).__name__} in a filter", token=None) from error


def _check_time(env: Environment) -> None:
    if isinstance(env, Sandbox) and time.thread_time() > env.deadline:
        raise _TooSlow(f"takes longer than {TIME_LIMIT_S} s", token=None)


def _check_size(value: Any) -> None:
    # By its type alone: what is undefined takes every other question for being used.
    kind = type(value)
    if issubclass(kind, str | list | tuple | range):
        if len(value) > (MAX_TEXT_LENGTH if issubclass(kind, str) else MAX_ITEMS):
            raise TooMuch(f"a filter may take and make {MAX_TEXT_LENGTH} characters or {MAX_ITEMS} items", token=None)
    elif issubclass(kind, int | float) and not abs(value) <= MAX_NUMBER:
        raise TooMuch(f"a number is larger than {MAX_NUMBER:.0e}", token=None)


def _marked(node: Node, context: RenderContext, buffer: TextIO) -> int:
    [expression] = node.expressions()
    value = to_liquid_string(expression.evaluate(context), False)
    return buffer.write(f"{BEGIN}{unmarked(value)}{END}")


def unmarked(text: str) -> str:
    return text.replace(BEGIN, "").replace(END, "")


class _MarkedOutputNode(OutputNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _marked(self, context, buffer)


class _MarkedEchoNode(EchoNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _marked(self, context, buffer)


class _MarkedOutput(Output):
    node_class = _MarkedOutputNode


class _MarkedEcho(EchoTag):
    node_class = _MarkedEchoNode
