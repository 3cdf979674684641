"""Limits on the cost of templates: hostile sources and values take bounded CPU time."""

import time
from contextlib import suppress
from typing import Any

import pytest

from gateway.content.sandbox import (
    MAX_BLANKS,
    MAX_BRACKETS,
    MAX_ITEMS,
    MAX_MARKUPS,
    MAX_SOURCE_LENGTH,
    MAX_UNIQ_ITEMS,
    TemplateLimitExceeded,
    check_source,
)
from gateway.content.templates import MAX_TEMPLATES_LENGTH, CompiledContent, ParsedTexts
from gateway.domain.errors import TemplateFailed, ValidationError
from tests.support.hostile_templates import EVENT, HOSTILE_RENDERINGS, HOSTILE_SOURCES

# The CPU time allowed for compiling or rendering, many times the time that the largest allowed template needs.
MAX_CPU_S = 0.5


@pytest.mark.parametrize("source", HOSTILE_SOURCES.values(), ids=HOSTILE_SOURCES)
def test_hostile_source_compiles_in_bounded_time(source: str) -> None:
    """A hostile source is refused or compiled within MAX_CPU_S."""
    assert len(source) <= MAX_SOURCE_LENGTH
    began = time.thread_time()
    with suppress(ValidationError):
        CompiledContent({"title": source}, strict=False)
    assert time.thread_time() - began < MAX_CPU_S


@pytest.mark.parametrize("source", HOSTILE_RENDERINGS.values(), ids=HOSTILE_RENDERINGS)
def test_hostile_template_renders_in_bounded_time(source: str) -> None:
    """The rendering of a hostile template ends or is refused within MAX_CPU_S."""
    content = CompiledContent({"title": source}, strict=False)
    began = time.thread_time()
    with suppress(TemplateFailed):
        content.render({"user": {}, "device": {}, "event": EVENT, "notification": {}})
    assert time.thread_time() - began < MAX_CPU_S


def test_texts_of_a_content_share_one_budget() -> None:
    """A hundred expensive texts of one content exceed the time limit together, within MAX_CPU_S."""
    loop = "{% for i in event.numbers %}{% for j in (1..1) %}{{ j | times: i }}{% endfor %}{% endfor %}"
    content = CompiledContent({"title": "t", "data": [f"{n}{loop}" for n in range(100)]}, strict=False)
    began = time.thread_time()
    with pytest.raises(TemplateFailed) as failure:
        content.render({"user": {}, "device": {}, "event": EVENT, "notification": {}})
    assert failure.value.timed_out
    assert time.thread_time() - began < MAX_CPU_S


def test_languages_share_parsed_texts_and_their_limit() -> None:
    """A text that occurs in a hundred contents counts once; different texts count towards MAX_TEMPLATES_LENGTH."""
    text = "{{ event.n }}" + "x" * (MAX_SOURCE_LENGTH - 20)
    parsed = ParsedTexts()
    for _ in range(100):
        CompiledContent({"title": text}, strict=False, parsed=parsed)
    different = [f"{number}{text}" for number in range(MAX_TEMPLATES_LENGTH // MAX_SOURCE_LENGTH + 1)]
    with pytest.raises(ValidationError, match="characters"):
        CompiledContent({"title": "t", "data": different}, strict=False, parsed=parsed)


@pytest.mark.parametrize(
    "source",
    [
        "x" * (MAX_SOURCE_LENGTH + 1),
        "{{ a }}" * (MAX_MARKUPS + 1),
        "{{" + " " * (MAX_BLANKS + 1) + "a }}",
        "{{ a" + "[" * (MAX_BRACKETS + 1) + " }}",
    ],
)
def test_source_beyond_a_limit_is_refused(source: str) -> None:
    """Length, number of tags, blanks in a tag and brackets in a tag are limited."""
    with pytest.raises(TemplateLimitExceeded, match="more than"):
        check_source(source)


def test_source_within_the_limits_is_accepted() -> None:
    """Only the length of text outside of tags is limited, and text in a raw block may contain anything."""
    assert check_source("a {{ b }} ((([[[" + " " * 500 + "{% raw %}{{ {% {{{% endraw %}{% if c %}{% endif %}") == 4


@pytest.mark.parametrize(
    ("source", "limit"),
    [("{{ event.numbers | size }}", MAX_ITEMS), ("{{ event.numbers | uniq | size }}", MAX_UNIQ_ITEMS)],
)
def test_lists_up_to_the_limit_are_filtered(source: str, limit: int) -> None:
    """A list with as many items as the limit is filtered; a list with one more item is refused."""
    content = CompiledContent({"title": source}, strict=False)
    variables: dict[str, Any] = {"user": {}, "device": {}, "notification": {}}
    assert content.render(variables | {"event": {"numbers": list(range(limit))}}) == {"title": str(limit)}
    with pytest.raises(TemplateFailed, match="items"):
        content.render(variables | {"event": {"numbers": list(range(limit + 1))}})
