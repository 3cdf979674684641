"""The direction of the imports; pyproject.toml has the contracts."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_package_imports_only_from_those_below_it() -> None:
    # In a process of its own, for it takes over the logging of the one it runs in.
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    checked = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert "0 broken" in checked.stdout
