"""Look up known vulnerabilities of all locked dependencies with one request to an advisory service (osv.dev).

The check must not fail because an external server is down: when the service cannot be reached, print one line and
succeed. Advisories that do not affect the gateway are listed in ACCEPTED, with the reason.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from typing import Any

from ops.locked import LockedPackage, read_lock

SERVICE = "https://api.osv.dev/v1/querybatch"
TIMEOUT_S = 5.0
# Advisory id -> why it does not affect the gateway.
ACCEPTED: dict[str, str] = {}

Finding = tuple[LockedPackage, str]


class Unreachable(Exception):
    """The service did not respond, or its response is not valid."""


def find_advisories(packages: list[LockedPackage], service: str = SERVICE) -> list[Finding]:
    """Return the advisories of these versions that are not in ACCEPTED. Raise Unreachable."""
    queries = [
        {"package": {"name": package.name, "ecosystem": "PyPI"}, "version": package.version} for package in packages
    ]
    request = urllib.request.Request(  # noqa: S310 - https, or the URL of a test
        service, json.dumps({"queries": queries}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            results: list[dict[str, Any]] = json.load(response)["results"]
            return [
                (package, advisory["id"])
                for package, result in zip(packages, results, strict=True)
                for advisory in result.get("vulns", ())
                if advisory["id"] not in ACCEPTED
            ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreachable(str(getattr(error, "reason", None) or error).partition("\n")[0]) from None


def main() -> int:
    """Print the advisories; return the exit status."""
    parser = argparse.ArgumentParser(description="Look up known vulnerabilities of the locked dependencies.")
    parser.add_argument("--service", default=SERVICE, help="URL of the advisory service (%(default)s)")
    packages = read_lock()
    try:
        findings = find_advisories(packages, parser.parse_args().service)
    except Unreachable as error:
        print(f"audit: not done, the advisory service cannot be reached ({error})", file=sys.stderr)
        return 0
    for package, advisory in findings:
        print(f"audit: {package.name} {package.version} has {advisory}: https://osv.dev/{advisory}", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
