"""Ask an advisory service (osv.dev) whether anything that is locked has a known vulnerability: one question for all.

A check that needs somebody else's server must not fail for want of it: when it cannot be reached that is said in one
line, and no more. What is known and does not concern us stands in ACCEPTED, with the reason.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from typing import Any

from ops.locked import Locked, locked

SERVICE = "https://api.osv.dev/v1/querybatch"
PATIENCE_S = 5.0
ACCEPTED: dict[str, str] = {}
"""An advisory's id, and why it does not concern us."""

Finding = tuple[Locked, str]


class Unreachable(Exception):
    """The service did not answer, or not with what it promises."""


def ask(packages: list[Locked], service: str = SERVICE) -> list[Finding]:
    """What is known of these versions and not accepted. Raises Unreachable."""
    queries = [{"package": {"name": p.name, "ecosystem": "PyPI"}, "version": p.version} for p in packages]
    request = urllib.request.Request(  # noqa: S310 - https, or what a test says
        service, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            results: list[dict[str, Any]] = json.load(answer)["results"]
            return [
                (package, advisory["id"])
                for package, result in zip(packages, results, strict=True)
                for advisory in result.get("vulns", ())
                if advisory["id"] not in ACCEPTED
            ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(str(getattr(error, "reason", None) or error).partition("\n")[0]) from None


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for known vulnerabilities in what is locked.")
    parser.add_argument("--service", default=SERVICE, help="where to ask")
    packages = locked()
    try:
        found = ask(packages, parser.parse_args().service)
    except Unreachable as error:
        print(f"audit: not done, the advisory service cannot be reached ({error})", file=sys.stderr)
        return 0
    for package, advisory in found:
        print(f"audit: {package.name} {package.version} has {advisory}: https://osv.dev/{advisory}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
