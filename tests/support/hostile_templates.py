"""Templates whose compilation or rendering takes long with python-liquid, without the gateway's limits."""

from typing import Any

from gateway.content.sandbox import MAX_SOURCE_LENGTH as LONG

# The value of the variable `event` when HOSTILE_RENDERINGS are rendered.
EVENT: dict[str, Any] = {
    "n": 500_000_000,
    "text": "a" * 8000,
    "html": "<script" * 1100,
    "numbers": list(range(1000)),
    "nested": [[[1]] * 20 for _ in range(100)],
    "objects": [{"a": n} for n in range(1000)],
}
# Sources that take long to compile, by a name for the cause.
HOSTILE_SOURCES = {
    "unclosed outputs": "{{" * (LONG // 2),
    "unclosed tags": "{%" * (LONG // 2),
    "unclosed outputs with blanks": "{{ " * (LONG // 3),
    "blanks in an output": "{{" + " " * (LONG - 4) + "}}",
    "blanks in a tag": "{% if" + " " * (LONG - 7) + "%}",
    "unclosed raw": "{% raw %}" * (LONG // 9),
    "unclosed doc": "{% doc %}" * (LONG // 9),
    "unclosed comments": "{% comment %}" * (LONG // 13),
    "opening parentheses": "{{ " + "(" * (LONG - 6) + " }}",
    "opening brackets": "{{ a" + "['" * (LONG // 2 - 6) + " }}",
    "many outputs": "{{a}}" * (LONG // 5),
    "long path": "{{ event" + ".a" * (LONG // 2 - 10) + " }}",
    "long condition": "{% if event.n" + " or event.n" * 700 + " %}{% endif %}",
    "liquid tag of brackets": "{% liquid\n" + "echo (1..(1..\n" * 500 + "%}",
    "digits": "{{ " + "9" * (LONG - 6) + " }}",
}
# Templates that compile and take long to render, by a name for the cause.
HOSTILE_RENDERINGS = {
    "range contains": "{% if (1..500000000) contains 5 %}x{% endif %}",
    "range from data contains": "{% if (1..event.n) contains 'x' %}x{% endif %}",
    "assigned range contains": "{% assign r = (1..event.n) %}{% if r contains 'x' %}x{% endif %}",
    "range reversed": "{% for i in (1..500000000) reversed limit: 1 %}{{ i }}{% endfor %}",
    "range with an offset": "{% for i in (1..500000000) limit: 1 offset: 499999990 %}{{ i }}{% endfor %}",
    "loops one after another": "{% for i in (1..1000) %}{% if true %}{% endif %}{% endfor %}" * 120,
    "loop with a long body": "{% for i in (1..1000) %}" + "{{ '' }}" * 480 + "{% endfor %}",
    "loop of long paths": "{% for i in event.numbers %}{{ event" + ".a" * 3900 + " }}{% endfor %}",
    "comparisons of lists": "{% for i in event.numbers %}{% if event.nested == event.objects %}{% endif %}{% endfor %}",
    "many comparisons": "{% if event.numbers contains 'x' %}{% endif %}" * 170,
    "uniq of a nested list": "{{ event.nested | uniq | size }}",
    "uniq of objects": "{{ event.objects | uniq: 'a' | size }}",
    "replace that multiplies": "{{ event.text | replace: 'a', event.text | size }}",
    "html": "{{ event.html | strip_html }}" * 100,
    "dates": "{{ event.text | date: '%Y' }}" * 200,
    "date formats": "{{ 'now' | date: '" + "%99999d" * 200 + "' }}",
    "captures": "{% capture c %}{{ event.text }}{% endcapture %}" * 150,
    "assignments": "".join(f"{{% assign a{n} = event.text %}}" for n in range(240)),
}
