"""Templates: what they say, what they may not do, and that values stay values."""

import json
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.content.sandbox import TIME_LIMIT_S
from gateway.content.templates import CompiledContent, has_markup
from gateway.domain.errors import TemplateFailed, ValidationError

VARIABLES: dict[str, Any] = {
    "user": {"id": "u-42", "attributes": {"first_name": "Ada", "plan": "pro", "age": 31, "tags": ["a", "b"]}},
    "device": {"id": "dev_1", "platform": "android", "locale": "de-AT", "topics": ["weather"]},
    "event": {"amount": 12.5, "link": "https://shop.example/orders/7?x=1"},
    "notification": {"id": "ntf_1", "kind": "direct"},
}


def rendered(text: str, *, field: str = "title", strict: bool = False, **variables: Any) -> str:
    made = CompiledContent({field: text}, strict=strict).render(VARIABLES | variables)
    return str(made.get(field))


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hi {{ user.attributes.first_name }}", "Hi Ada"),
        ("Hi {{ user.attributes.nick | default: 'there' }}", "Hi there"),
        ("{{ user.nothing.of.that }}", ""),
        ("{% if user.attributes.age >= 18 %}adult{% else %}child{% endif %}", "adult"),
        (
            "{% for tag in user.attributes.tags %}{{ tag | upcase }}{% endfor %}",
            "AB",
        ),
        ("{% assign total = event.amount | times: 2 %}{{ total }}", "25.0"),
        ("{% capture who %}{{ user.id }}{% endcapture %}<{{ who }}>", "<u-42>"),
        ("{{ notification.kind }} {{ device.locale | slice: 0, 2 }}", "direct de"),
        ('{{ "a" | append: \'"\' }}', 'a"'),
        ("no markup at all }} {", "no markup at all }} {"),
    ],
)
def test_templates_say_what_liquid_says(template: str, text: str) -> None:
    assert rendered(template) == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ user.", ""),
        ("{% if %}", ""),
        ("{% if user.id %}never ends", ""),
        ("{{ user.id | shout }}", "shout"),
        ("{% include 'secrets' %}", "include"),
        ("{% render 'secrets' %}", "render"),
        ("{% tablerow i in (1..3) %}{% endtablerow %}", "tablerow"),
        ("{{ usr.name }}", "unknown variable 'usr'"),
        ("{% for x in users %}{{ x }}{% endfor %}", "unknown variable 'users'"),
        ("{% if 1 %}" * 50 + "{% endif %}" * 50, "nest"),
    ],
)
def test_what_is_no_template_is_refused_with_the_place_and_the_reason(template: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        CompiledContent(
            {"title": "t", "actions": [{"action": "a", "title": template}]}, strict=False, pointer="/content"
        )
    assert {fault.pointer for fault in refused.value.errors} == {"/content/actions/0/title"}
    assert said in refused.value.errors[0].detail
    assert "\n" not in refused.value.errors[0].detail


def test_all_faults_are_told_at_once_wherever_they_are() -> None:
    content = {
        "title": "{{",
        "data": {"a/b": ["{% x %}"]},
        "locales": {"de": {"url": "/{{ nobody }}"}},
        "actions": [{"action": "{{ user.id }}", "title": "fine"}],
    }
    with pytest.raises(ValidationError) as refused:
        CompiledContent(content, strict=False)
    assert {fault.pointer for fault in refused.value.errors} == {
        "/title",
        "/data/a~1b/0",
        "/locales/de/url",
        "/actions/0/action",
    }


def test_an_undefined_variable_is_nothing_unless_it_was_said_to_be_a_fault() -> None:
    assert rendered("{{ user.attributes.nick }}!") == "!"
    with pytest.raises(TemplateFailed, match=r"title: .*nick"):
        rendered("{{ user.attributes.nick }}", strict=True)
    assert rendered("{{ user.attributes.nick | default: 'you' }}", strict=True) == "you"
    with pytest.raises(TemplateFailed):
        rendered("{{ user.attributes.nick | upcase }}", strict=True)


HOSTILE = [
    "{% for i in (1..100000000) %}{{ i }}{% endfor %}",
    "{% for i in (1..100) %}{% for j in (1..100) %}{% for k in (1..100) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for i in (1..900) %}{% assign x = x | append: 'aaaaaaaaaaaaaaaaaaaaaaaa' %}{% endfor %}{{ x }}",
    "{% assign x = 'aaaaaaaa' %}" + "{% assign x = x | append: x %}" * 60 + "{{ x }}",
    "{{ 'aaaaaaaaaa' " + "| replace: 'a', 'aaaaaaaaaa' " * 20 + "}}",
    "{{ 9 " + "| times: 999999999 " * 50 + "}}",
    "{% assign x = 9 %}{% for i in (1..900) %}{% assign x = x | times: x %}{% endfor %}{{ x }}",
    "{{ (1..100000000) | join: '' }}",
    "{{ (1..100000000) | reverse | size }}",
    "{{ 1 | divided_by: 0 }}",
    "{{ 1 | modulo: 0 }}",
    "{{ 'x' | date: '%1000000000d' }}",
    "{{ 'now' | date: '" + "%1000000d" * 100 + "' }}",
    "{{ user | sort | first }}",
    "{{ user.attributes.tags | sum: 'x' }}",
    "{{ 'x' | slice: 'y' }}",
    "{{ 'x' | truncate: 'many' }}",
    "{{ '///' | base64_decode }}",
    "{{ '%ff%fe' | url_decode }}",
    "{{ 1e400 }}{{ -1e400 | round }}",
    "{{ '" + "<script" * 500 + "' | strip_html }}",
    "{% for i in (1..1000) %}{{ '" + "<script" * 300 + "' | strip_html }}{% endfor %}",
    "{{ user.__class__.__mro__ }}{{ user.attributes.keys }}{{ ''.__class__ }}",
    "{% liquid\nassign x = 'a'\nfor i in (1..1000)\nassign x = x | append: x\nendfor\necho x %}",
    "{% cycle 'a', 'b' %}{% increment n %}{% decrement n %}",
    "{% break %}",
    "{% for i in (1..3) %}{% continue %}{% endfor %}",
    "{% case user.id %}{% when 'u-42' %}x{% endcase %}",
]


@pytest.mark.parametrize("template", HOSTILE)
@pytest.mark.parametrize("field", ["title", "url"])
def test_no_template_takes_long_or_fails_otherwise_than_by_its_own_fault(template: str, field: str) -> None:
    began = time.perf_counter()
    text = ""
    with suppress(TemplateFailed, ValidationError):
        text = rendered(template, field=field)
    assert len(text) <= 8192
    assert "<class" not in text
    assert time.perf_counter() - began < 3


def test_a_template_is_not_to_blame_for_a_processor_that_others_have() -> None:
    class Waiting:
        def __str__(self) -> str:
            time.sleep(2 * TIME_LIMIT_S)
            return "late"

    text = rendered("{{ user.id }}{% assign i = 1 %}{{ i }}", user={"id": Waiting()})
    assert text == "late1"


def test_a_template_sees_nothing_but_its_variables() -> None:
    class Secret:
        key = "sk_1"

    assert rendered("{{ event.key }}{{ event.__dict__ }}{{ event.key.size }}", event=Secret()) == ""


@given(st.text(max_size=60))
def test_a_value_is_text_in_json_whatever_it_holds(value: str) -> None:
    made = CompiledContent({"title": "<{{ event.x }}>", "data": {"q": ["{{ event.x }}"]}}, strict=False)
    shown = json.loads(json.dumps(made.render(VARIABLES | {"event": {"x": value}})))
    lines = value.replace("\r\n", "\n").replace("\r", "\n")
    assert shown == {"title": f"<{lines}>", "data": {"q": [lines]}}


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_a_value_in_a_url_adds_no_parameter_no_path_and_no_fragment(value: str) -> None:
    try:
        url = rendered(
            "https://shop.example/p/{{ event.x }}/find?q={{ event.x }}&page=1", field="url", event={"x": value}
        )
    except TemplateFailed:
        assert len(value) > 2000
        return
    parts = urlsplit(url)
    assert (parts.scheme, parts.hostname, parts.fragment) == ("https", "shop.example", "")
    assert parts.path.count("/") == 3
    assert parts.query.count("&") == 1


@pytest.mark.parametrize(
    ("template", "value", "url"),
    [
        ("{{ event.x }}", "https://shop.example/a?b=c&d=e#f", "https://shop.example/a?b=c&d=e#f"),
        ("{{ event.x }}", "/orders/7 8", "/orders/7%208"),
        ("{{ event.x }}/x", "https://shop.example", "https://shop.example/x"),
        ("/a/{{ event.x }}", "../b", "/a/..%2Fb"),
        ("https://{{ event.x }}/x", "evil.example/y?", None),
        ("{{ event.x }}", "javascript:alert(1)", None),
        ("{{ event.x }}", "//evil.example", None),
        ("{{ event.x }}", "data:text/html,x", None),
        ("{% capture c %}{{ event.x }}{% endcapture %}/q?{{ c }}", "a=b&c", "/q?a%3Db%26c"),
        ("/q?{% echo event.x %}", "a=b&c", "/q?a%3Db%26c"),
        ("/q/\ue000{{ event.x }}\ue001", "a\ue001/b\ue000", "/q/a%2Fb"),
    ],
)
def test_an_address_is_escaped_by_where_the_value_stands(template: str, value: str, url: str | None) -> None:
    if url is None:
        with pytest.raises(TemplateFailed, match="url: must be an absolute"):
            rendered(template, field="url", event={"x": value})
    else:
        assert rendered(template, field="url", event={"x": value}) == url


def test_an_address_that_comes_out_empty_is_left_out() -> None:
    content = {"title": "t", "image": "{{ user.attributes.picture }}", "body": "{{ user.attributes.nick }}"}
    assert CompiledContent(content, strict=False).render(VARIABLES) == {"title": "t", "body": ""}


@pytest.mark.parametrize(
    ("content", "personal"),
    [
        ({"title": "plain"}, False),
        ({"title": "{{ event.name }} {{ notification.id }}"}, False),
        ({"title": "{{ user.id }}"}, True),
        ({"title": "t", "data": {"deep": [{"er": "{% if device.platform == 'ios' %}x{% endif %}"}]}}, True),
        ({"title": "{% assign user = event.name %}{{ event.name }}"}, False),
        ({"title": "{% for t in device.topics %}{{ t }}{% endfor %}"}, True),
        ({"title": "{{ event[user.id] }}"}, True),
    ],
)
def test_content_is_personal_when_it_speaks_of_the_user_or_the_device(content: Any, personal: bool) -> None:
    assert CompiledContent(content, strict=False).personal is personal


def test_markup_is_seen_at_any_depth() -> None:
    assert has_markup({"data": [{"x": "{{ a }}"}]})
    assert has_markup("{% raw %}")
    assert not has_markup({"title": "{ }", "app_badge": 3, "silent": None})


def test_what_the_collector_of_cycles_takes_in_between_fails_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0])
    monkeypatch.setattr("time.thread_time", lambda: next(readings, 10 * TIME_LIMIT_S))
    assert rendered("{{ user.id | upcase }}") == "U-42"
