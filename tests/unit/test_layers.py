"""The direction of imports between packages; the import contracts are in pyproject.toml."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_import_contracts_hold() -> None:
    """A package imports only from packages of lower layers."""
    # The linter reconfigures logging, so it runs in a separate process.
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    process = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stdout
    assert "0 broken" in process.stdout


def find_untyped_signatures(path: Path) -> list[str]:
    """Return the public functions of a module, and its classes with fields, whose annotations have `dict[str, Any]`."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                annotations = [*(argument.annotation for argument in arguments), node.returns]
            case ast.ClassDef(name=name):
                annotations = [field.annotation for field in node.body if isinstance(field, ast.AnnAssign)]
            case _:
                continue
        if any(annotation is not None and "dict[str, Any]" in ast.unparse(annotation) for annotation in annotations):
            names.append(name)
    return names


@pytest.mark.parametrize("package", ["alerting", "content", "domain", "queue", "records", "service", "web"])
def test_no_untyped_dictionary_crosses_a_layer(package: str) -> None:
    """Public signatures use a TypedDict, or JsonObject where applications choose the keys."""
    modules = (ROOT / "gateway" / package).rglob("*.py")
    assert {module.name: names for module in modules if (names := find_untyped_signatures(module))} == {}
