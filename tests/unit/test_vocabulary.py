"""The code uses the standard words of its field, and not the private words that it used before.

The glossary of the architecture page has the words in use. A name below is allowed only with a reason in EXCEPTIONS.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("gateway", "tests", "ops") for path in (ROOT / folder).rglob("*.py"))

CLASSES = """
    Office Elsewhere Crew Parcel Letter Lanes _Stop Run Load Sign Courier Post Sent _Trust Composer Messages
    Composed Cargo Target Verdict Held Settled Settlement Steering Task Words Part Travel When Door Caller Taken
    Desk Reception Lobby Asked New Met _Past _Starter Rounds Mailroom Watch Vault Standing Front Call Medium Crowd
    Room Buckets Addresses Spoken Worded Steered Redraft Recurrent Saved Landing Waiter Place Claimed Sender
    Obstacle Fault Invalid InternalFault Unfit Unreadable Observed Reach OlderClient
"""
FUNCTIONS = """
    take keep hold look _look show one newest listed told only ended faulted _judge give_back put_back put_off postpone
    park withdraw cut halve apply_rest held_as take_from make_way hungry alarms words hear say said proceed stopped
    telling withdrawing supposed filled hand_over let_go settle_foreign are_asked_for lately admit _admit for_one
    _settle_in _keeping_house beside patiently tell
"""
VARIABLES = """
    said found one held told asked shown made kept known ours home bell place most several whole aside _aside
    _fruitless _eased _crowded _turns _deaf _left_behind _lately _pace _usual judged greedy tracks passes
"""
MODULES = """
    office lanes hosts load tally upkeep mailroom rounds vault drafts control pacing loading messages wording forgetting
    follow reports cargo happening keeping soundness steering reference internet address happenings contacts targets
    people saved sealed signals timekeeping crowd addresses protection reading shapes importing device_lines pins
    examination reach operating watching post answers bodies
"""
CONSTANTS = re.compile(r"_?(MOST|LONGEST|LARGEST|DEEPEST|FARTHEST|SHORTEST|OLDEST|PATIENCE|LOOK_S|AT_ONCE)(_\w+)?$")

# Files whose classes may have the name of a domain type: JSON forms, and the client and simulator, which are separate.
WIRE_FORMS = ("gateway/service/views.py", "gateway/web/", "gateway/client/", "gateway/sim/")

# (path, name) -> the reason why the word is right in that file.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("gateway/sim/control.py", "control"): "the control API of the simulator",
    ("gateway/sim/messages.py", "messages"): "the messages that the simulator received",
    ("ops/bench/hosts.py", "hosts"): "a benchmark of push-service hosts",
    ("ops/bench/send.py", "Sender"): "the library under comparison that sends messages",
    ("tests/faults/links.py", "cut"): "cuts a network link",
    ("tests/faults/plan.py", "Fault"): "a fault that the harness injects",
    ("tests/integration/sim_sender.py", "Sender"): "an application server that sends to the simulator",
    ("ops/bench/lanes.py", "lanes"): "a benchmark of lanes: urgent beside bulk",
}


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of every definition or binding in the tree that uses a private word."""
    classes, functions, variables = set(CLASSES.split()), set(FUNCTIONS.split()), set(VARIABLES.split())
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) if name in classes:
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name in functions | variables:
                yield node.lineno, name
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()) if (
                name in variables or CONSTANTS.match(name)
            ):
                yield node.lineno, name
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) if (
                name in variables
            ):
                yield node.lineno, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_uses_no_private_word(path: Path) -> None:
    """No class, function, variable or module of a file has one of the private names above."""
    relative = str(path.relative_to(ROOT))
    violations = [
        f"{relative}:{line} {name}"
        for line, name in private_names(ast.parse(path.read_text("utf-8")))
        if (relative, name) not in EXCEPTIONS
    ]
    assert not violations
    assert path.stem not in MODULES.split() or (relative, path.stem) in EXCEPTIONS


def test_server_classes_have_distinct_names() -> None:
    """No two classes of the server share a name, except in WIRE_FORMS."""
    paths_by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in FILES:
        relative = path.relative_to(ROOT)
        if relative.parts[0] == "gateway" and not str(relative).startswith(WIRE_FORMS):
            for node in ast.parse(path.read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    paths_by_name[node.name].append(str(relative))
    assert {name: paths for name, paths in paths_by_name.items() if len(paths) > 1} == {}


def test_test_names_fit_on_a_line() -> None:
    """The name of a test has at most 60 characters."""
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] == "tests"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > 60
    ]
    assert not too_long
