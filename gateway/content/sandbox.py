"""Render untrusted Liquid templates with limits of time, output and memory, and without access to files.

Templates come from the users of an application, and the values in them from browsers. python-liquid bounds nesting, and
the product of nested loops. The rest is bounded here, so that the cost of a template follows from the size of its
source and of its values:

- The lexer of python-liquid takes quadratic time for markup that does not end. `check_source` refuses such a source,
  and bounds what remains, in linear time.
- The iterations of a loop are charged with the length of the loop's body, all loops of a rendering together.
- The length of a range is checked when the range is created: `offset`, `reversed` and `contains` iterate over all of
  it.
- Each filter has bounded input and output, because `replace` and `append` can double a text many times in one line.
- CPU time is checked between all of these.
"""

import re
import time
from collections.abc import Callable, Iterator
from functools import wraps
from io import StringIO
from typing import Any, TextIO

from liquid import Environment, Mode, RenderContext, StrictDefaultUndefined, Token, Undefined
from liquid.ast import BlockNode, Node
from liquid.builtin.expressions import LoopExpression
from liquid.builtin.expressions.primitive import RangeLiteral
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.echo_tag import EchoNode, EchoTag
from liquid.builtin.tags.for_tag import ForNode, ForTag
from liquid.exceptions import LiquidError, LiquidSyntaxError, ResourceLimitError
from liquid.stringify import to_liquid_string
from liquid.template import BoundTemplate

from gateway.domain.json_object import JsonObject

# Of one source. A push message has at most 3,993 octets.
MAX_SOURCE_LENGTH = 8192
# Tags and outputs of one source; each takes about 20 us to compile.
MAX_MARKUPS = 500
# `(` and `[` in one tag or output: the lexer may search the rest of it for the end of each.
MAX_BRACKETS = 50
# Consecutive white space inside a tag or output.
MAX_BLANKS = 100

MAX_TEXT_LENGTH = 8192
MAX_ITEMS = 1000
# Of the filter `uniq`, which compares each item with all others.
MAX_UNIQ_ITEMS = 100
MAX_NUMBER = 10**15
# Length of loop bodies times iterations, for the texts of one content together.
MAX_LOOP_WORK = 100_000
# Limit of the CPU time of the thread, for the texts of one content together. Wall-clock time would let a template fail
# because the machine is busy.
TIME_LIMIT_S = 0.01
# Variables that are read between two checks of the time limit.
READS_PER_CHECK = 16

# The tags `include` and `render` load other templates; content has no use for the others.
REFUSED_TAGS = ("include", "render", "tablerow", "ifchanged", "doc")

# Markers around every value in a rendered URL, from Unicode's private use area. How a value is percent-encoded depends
# on its position in the URL, which is known only after rendering.
BEGIN, END = "\ue000", "\ue001"

_OPENING = re.compile(r"\{\{|\{%")
_RAW = re.compile(r"\{%-?\s*raw\s*-?%\}")
_END_OF_RAW = re.compile(r"\{%-?\s*endraw\s*-?%\}")
_BLANKS = re.compile(rf"\s{{{MAX_BLANKS + 1}}}")
_BRACKET = re.compile(r"[(\[]")
_DOC = re.compile(r"\{%-?\s*doc\b")


class TemplateLimitExceeded(ResourceLimitError):
    """A template exceeded its time or size limit."""


class TimeLimitExceeded(TemplateLimitExceeded):
    """A template exceeded its time limit. The reason may be a garbage collection, so it is rendered once more."""


class Budget:
    """The work that the rendering of one content may take, for all of its texts together."""

    __slots__ = ("_deadline", "_loop_work", "_reads")

    def __init__(self) -> None:
        """Begin now, on the clock of this thread's CPU time."""
        self._deadline = time.thread_time() + TIME_LIMIT_S
        self._loop_work = 0
        self._reads = 0

    def check_time(self) -> None:
        """Raise TemplateLimitExceeded when the CPU time is used up."""
        if time.thread_time() > self._deadline:
            raise TimeLimitExceeded(f"takes longer than {TIME_LIMIT_S} s", token=None)

    def charge_loop(self, work: int) -> None:
        """Charge a loop before its first iteration; raises TemplateLimitExceeded."""
        self._loop_work += work
        if self._loop_work > MAX_LOOP_WORK:
            raise TemplateLimitExceeded("has loops that are too long", token=None)
        self.check_time()

    def charge_read(self) -> None:
        """Charge the reading of a variable; raises TemplateLimitExceeded."""
        self._reads += 1
        if self._reads % READS_PER_CHECK == 0:
            self.check_time()


class _Context(RenderContext):
    """A render context that charges the budget."""

    env: "Sandbox"

    def get(self, path: list[object], **options: Any) -> object:
        self.env.budget.charge_read()
        return super().get(path, **options)

    def assign(self, key: str, val: Any) -> None:
        self.env.budget.check_time()
        super().assign(key, val)

    def get_buffer(self, buf: TextIO | None = None) -> StringIO:
        self.env.budget.check_time()
        return super().get_buffer(buf)


class _LoopExpression(LoopExpression):
    """A loop expression that charges its iterations."""

    body_length: int

    def evaluate(self, context: RenderContext) -> tuple[Iterator[object], int]:
        iterator, length = super().evaluate(context)
        _budget(context.env).charge_loop(length * self.body_length)
        return iterator, length


class _ForNode(ForNode):
    """A loop that knows the length of its body's source."""

    def __init__(self, token: Token, expression: LoopExpression, block: BlockNode, default: BlockNode | None = None):
        loop = _LoopExpression(
            expression.token,
            expression.identifier,
            expression.iterable,
            limit=expression.limit,
            offset=expression.offset,
            reversed_=expression.reversed,
            cols=expression.cols,
        )
        # The block's token is the tag that ends it.
        loop.body_length = max(1, block.token.start_index - token.start_index)
        super().__init__(token, loop, block, default)


class _ForTag(ForTag):
    node_class = _ForNode


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
        self.budget = Budget()
        super().__init__(tolerance=Mode.STRICT, undefined=StrictDefaultUndefined if strict else Undefined)
        for tag in REFUSED_TAGS:
            del self.tags[tag]
        self.add_tag(_ForTag)
        if urls:
            self.add_tag(_MarkedOutput)
            self.add_tag(_MarkedEcho)

    def add_filter(self, name: str, func: Callable[..., Any]) -> None:
        """Register a filter with bounded input, result and time."""
        super().add_filter(name, self._bounded(name, _replace_within_limits if name == "replace" else func))

    def _bounded(self, name: str, func: Callable[..., Any]) -> Callable[..., Any]:
        max_items = MAX_UNIQ_ITEMS if name == "uniq" else MAX_ITEMS

        @wraps(func)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.budget.check_time()
            for value in args:
                _check_size(value, max_items)
            result = func(*args, **kwargs)
            _check_size(result, MAX_ITEMS)
            return result

        return bounded

    def parse_within_limits(self, source: str) -> BoundTemplate:
        """Parse a template.

        Raises:
            LiquidError: the source is too long or is not a template.
        """
        check_source(source)
        return self.from_string(source)

    def render_within_limits(self, template: BoundTemplate, variables: JsonObject, budget: Budget) -> str:
        """Render a template within what is left of a budget.

        Raises:
            LiquidError: the template fails for any reason.
        """
        self.budget = budget
        try:
            return template.render(variables)
        except (ArithmeticError, TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            # A filter raises these for input that it cannot handle; that is an error of the template.
            raise LiquidError(f"{type(error).__name__} in a filter", token=None) from error


def check_source(source: str) -> int:
    """Check in linear time that the lexer needs linear time for a source.

    Returns:
        The number of tags and outputs.

    Raises:
        LiquidSyntaxError: a tag or an output does not end.
        TemplateLimitExceeded: the source is too long or too tangled.
    """
    if len(source) > MAX_SOURCE_LENGTH:
        raise TemplateLimitExceeded(f"has more than {MAX_SOURCE_LENGTH} characters", token=None)
    markups, at = 0, 0
    while (opening := _OPENING.search(source, at)) is not None:
        markups += 1
        if markups > MAX_MARKUPS:
            raise TemplateLimitExceeded(f"has more than {MAX_MARKUPS} tags and outputs", token=None)
        if (raw := _RAW.match(source, opening.start())) is not None:
            if (end_of_raw := _END_OF_RAW.search(source, raw.end())) is None:
                raise LiquidSyntaxError("the tag 'raw' is not closed", token=None)
            at = end_of_raw.end()
            continue
        if _DOC.match(source, opening.start()) is not None:
            raise LiquidSyntaxError("unexpected tag 'doc'", token=None)
        closing = "}}" if opening[0] == "{{" else "%}"
        end = source.find(closing, opening.end())
        if end < 0:
            raise LiquidSyntaxError(f"expected {closing!r}, found end of file", token=None)
        _check_markup(source[opening.end() : end])
        at = end + len(closing)
    return markups


def _check_markup(markup: str) -> None:
    if _BLANKS.search(markup) is not None:
        raise TemplateLimitExceeded(f"has more than {MAX_BLANKS} blanks in a row", token=None)
    if len(_BRACKET.findall(markup)) > MAX_BRACKETS:
        raise TemplateLimitExceeded(f"has more than {MAX_BRACKETS} brackets in a tag", token=None)


def _budget(env: Environment) -> Budget:
    assert isinstance(env, Sandbox)  # noqa: S101 - every template is parsed by a Sandbox
    return env.budget


def _make_range(self: RangeLiteral, start: Any, stop: Any) -> range:
    """Return the range of a range literal. Raises TemplateLimitExceeded if the range is too long."""
    result = _make_unbounded_range(self, start, stop)
    if result.stop - result.start > MAX_ITEMS:
        raise TemplateLimitExceeded(f"a range has more than {MAX_ITEMS} items", token=None)
    return result


# python-liquid has no setting for it, and the parser makes range literals in many places.
_make_unbounded_range = RangeLiteral._make_range
RangeLiteral._make_range = _make_range  # type: ignore[method-assign]


def _replace_within_limits(value: object, sequence: object, substitute: object = "") -> str:
    """Liquid's `replace`, refused before it makes a text that is too long."""
    text, old, new = (to_liquid_string(part, False) for part in (value, sequence, substitute))
    if len(text) + text.count(old) * (len(new) - len(old)) > MAX_TEXT_LENGTH:
        raise TemplateLimitExceeded(f"a text has more than {MAX_TEXT_LENGTH} characters", token=None)
    return text.replace(old, new)


def _check_size(value: Any, max_items: int) -> None:
    # Look only at the type: in strict mode any other access to an undefined value raises an exception.
    kind = type(value)
    if issubclass(kind, str):
        if len(value) > MAX_TEXT_LENGTH:
            raise TemplateLimitExceeded(f"a text has more than {MAX_TEXT_LENGTH} characters", token=None)
    elif issubclass(kind, list | tuple | range):
        if _count_items(value, max_items) > max_items:
            raise TemplateLimitExceeded(f"a list has more than {max_items} items", token=None)
    elif issubclass(kind, int | float) and not abs(value) <= MAX_NUMBER:
        raise TemplateLimitExceeded(f"a number is larger than {MAX_NUMBER:.0e}", token=None)


def _count_items(value: Any, enough: int) -> int:
    """Return the number of items of a list and of the lists in it, or any larger number than `enough`."""
    count = len(value)
    if count <= enough and not isinstance(value, range):
        for item in value:
            if isinstance(item, list | tuple) and count <= enough:
                count += _count_items(item, enough - count)
    return count


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
