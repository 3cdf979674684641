"""Check format, lint rules and line width of the JavaScript and CSS that browsers load.

`python -m ops.check_static --write` formats the files and applies the safe fixes. Biome reads its rules from
ops/biome.json; a machine without a Biome binary skips that part, as the other linters do.
"""

import subprocess
import sys

from ops import linters

STATIC = linters.ROOT / "gateway" / "static"
SUFFIXES = {".js", ".ts", ".css"}
MAX_COLUMNS = 120


def main(options: list[str]) -> int:
    """Check all files; return the exit status."""
    failed = False
    linters.main(["biome"])
    biome = linters.find_linter("biome")
    if biome is None:
        print("check: JavaScript and CSS are not linted: Biome is not available on this platform", file=sys.stderr)
    else:
        command = [biome, "check", "--config-path=ops", "--error-on-warnings", "--colors=off", *options, STATIC]
        failed = subprocess.run(command, check=False, cwd=linters.ROOT).returncode != 0
    # The formatter leaves comments and strings as long as they are.
    for path in sorted(path for path in STATIC.rglob("*") if path.suffix in SUFFIXES):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if len(line) > MAX_COLUMNS:
                print(f"{path.relative_to(linters.ROOT)}:{number}: line is {len(line)} columns long", file=sys.stderr)
                failed = True
    if failed and "--write" not in options:
        print(
            "check: to format and apply safe fixes, run .venv/bin/python -m ops.check_static --write", file=sys.stderr
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
