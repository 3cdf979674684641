"""Render untrusted Liquid templates with limits of time, output and memory, and without access to files.

Templates come from the users of an application, and the values in them from browsers. python-liquid limits loops and
output. This module also limits the result of each filter, because `replace` and `append` can double a text many times
in one line.
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

from gateway.domain.json_object import JsonObject

MAX_TEXT_LENGTH = 8192
MAX_ITEMS = 1000
MAX_NUMBER = 10**15
# Limit of the CPU time of the thread. Wall-clock time would let a template fail because the machine is busy.
TIME_LIMIT_S = 0.05

# The tags `include` and `render` load other templates; content has no use for the others.
REFUSED_TAGS = ("include", "render", "tablerow", "ifchanged", "doc")

# Markers around every value in a rendered URL, from Unicode's private use area. How a value is percent-encoded depends
# on its position in the URL, which is known only after rendering.
BEGIN, END = "\ue000", "\ue001"


class TemplateLimitExceeded(ResourceLimitError):
    """A template exceeded its time or size limit."""


class TimeLimitExceeded(TemplateLimitExceeded):
    """A template exceeded its time limit. The reason may be a garbage collection, so it is rendered once more."""


class _Context(RenderContext):
    """A render context that checks the time limit."""

    def assign(self, key: str, val: Any) -> None:
        _check_time(self.env)
        super().assign(key, val)

    def get_buffer(self, buf: TextIO | None = None) -> StringIO:
        _check_time(self.env)
        return super().get_buffer(buf)


class _Template(BoundTemplate):
    """A template that renders in a `_Context`."""

    context_class = _Context


class Sandbox(Environment):
    """A Liquid environment with limits.

    With `strict` a template that uses an undefined variable fails. With `urls` the output has markers around the values
    that were inserted.
    """

    template_class = _Template
    loop_iteration_limit = MAX_ITEMS
    output_stream_limit = MAX_TEXT_LENGTH
    local_namespace_limit = 4 * MAX_TEXT_LENGTH
    block_nesting_limit = 20
    context_depth_limit = 20

    def __init__(self, *, strict: bool, urls: bool = False) -> None:
        """Create the environment without REFUSED_TAGS."""
        self.deadline = float("inf")
        super().__init__(tolerance=Mode.STRICT, undefined=StrictDefaultUndefined if strict else Undefined)
        for tag in REFUSED_TAGS:
            del self.tags[tag]
        if urls:
            self.add_tag(_MarkedOutput)
            self.add_tag(_MarkedEcho)

    def add_filter(self, name: str, func: Callable[..., Any]) -> None:
        """Register a filter with bounded input, result and time."""
        super().add_filter(name, self._bounded(func))

    def _bounded(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(func)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            _check_time(self)
            for value in args:
                _check_size(value)
            result = func(*args, **kwargs)
            _check_size(result)
            return result

        return bounded

    def render_within_limits(self, template: BoundTemplate, variables: JsonObject) -> str:
        """Render a template; one that exceeds the time limit is tried once more.

        Raises:
            LiquidError: the template fails for any reason.
        """
        try:
            return self._render(template, variables)
        except TimeLimitExceeded:
            return self._render(template, variables)

    def _render(self, template: BoundTemplate, variables: JsonObject) -> str:
        self.deadline = time.thread_time() + TIME_LIMIT_S
        try:
            return template.render(variables)
        except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            # A filter raises these for input that it cannot handle; that is an error of the template.
            raise LiquidError(f"{type(error).__name__} in a filter", token=None) from error


def _check_time(env: Environment) -> None:
    if isinstance(env, Sandbox) and time.thread_time() > env.deadline:
        raise TimeLimitExceeded(f"takes longer than {TIME_LIMIT_S} s", token=None)


def _check_size(value: Any) -> None:
    # Look only at the type: in strict mode any other access to an undefined value raises an exception.
    kind = type(value)
    if issubclass(kind, str | list | tuple | range):
        if len(value) > (MAX_TEXT_LENGTH if issubclass(kind, str) else MAX_ITEMS):
            detail = f"input and result of a filter may have {MAX_TEXT_LENGTH} characters or {MAX_ITEMS} items"
            raise TemplateLimitExceeded(detail, token=None)
    elif issubclass(kind, int | float) and not abs(value) <= MAX_NUMBER:
        raise TemplateLimitExceeded(f"a number is larger than {MAX_NUMBER:.0e}", token=None)


def _write_marked(node: Node, context: RenderContext, buffer: TextIO) -> int:
    [expression] = node.expressions()
    value = to_liquid_string(expression.evaluate(context), False)
    return buffer.write(f"{BEGIN}{strip_markers(value)}{END}")


def strip_markers(text: str) -> str:
    """Remove the characters that are used as markers from a text."""
    return text.replace(BEGIN, "").replace(END, "")


class _MarkedOutputNode(OutputNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _write_marked(self, context, buffer)


class _MarkedEchoNode(EchoNode):
    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return _write_marked(self, context, buffer)


class _MarkedOutput(Output):
    node_class = _MarkedOutputNode


class _MarkedEcho(EchoTag):
    node_class = _MarkedEchoNode
