"""What songcast rests on: known vulnerabilities, licences, and a bill of materials.

Looks the locked versions up in PyPI's database of vulnerabilities, and reads the licences of what
is installed. Left behind: ``scratch/licences.md`` and ``scratch/sbom.cdx.json`` (CycloneDX 1.6).
Exit code 1: something is vulnerable, or could not be looked up. Run it with `make audit`.
"""

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

LOCK, PROJECT, OUT = Path("requirements.lock"), Path("pyproject.toml"), Path("scratch")
NOT_STATED, NOT_HERE = "not stated", "not installed here"
# What a wheel says of itself leaves out the libraries and programs of others inside it.
INSIDE = {
    "imageio-ffmpeg": "ffmpeg, GPL-3.0-or-later, a program of its own",
    "soundfile": "libsndfile and LAME, LGPL-2.1-or-later",
}
COPYLEFT = re.compile(r"GPL|MPL|EPL|GNU|Mozilla")


@dataclass(frozen=True, kw_only=True)
class Package:
    """A locked package; ``wanted_by``: those of pyproject.toml that bring it along."""

    name: str
    version: str
    licence: str
    wanted_by: tuple[str, ...]

    @property
    def is_copyleft(self) -> bool:
        """Whether passing it on asks for more than a notice."""
        return self.name in INSIDE or bool(COPYLEFT.search(self.licence))


def main() -> int:
    packages = list(locked(LOCK.read_text()))
    OUT.mkdir(exist_ok=True)
    (OUT / "sbom.cdx.json").write_text(bill_of_materials(packages))
    (OUT / "licences.md").write_text(licence_table(packages))
    print(f"{len(packages)} locked packages: {OUT}/licences.md, {OUT}/sbom.cdx.json")
    print("licences that ask for more than a notice when the package is passed on:")
    for package in packages:
        if package.is_copyleft:
            inside = f"; inside: {INSIDE[package.name]}" if package.name in INSIDE else ""
            by = ", ".join(package.wanted_by)
            print(f"  {package.name}: {package.licence}{inside} (for {by})")
    for unknown in (NOT_STATED, NOT_HERE):
        names = [package.name for package in packages if package.licence == unknown]
        if names:
            print(f"licence {unknown}: {', '.join(names)}")
    with tempfile.TemporaryDirectory() as scratch:
        sound, said = vulnerabilities(look_up(Path(scratch) / "audit.json"))
    print(f"known vulnerabilities: {said}")
    return 0 if sound else 1


def look_up(path: Path) -> str:
    """Return pip-audit's report as JSON, nothing where it could write none."""
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--disable-pip"]
    command += ["--require-hashes", "-r", str(LOCK), "-f", "json", "-o", str(path)]
    subprocess.run(command, capture_output=True, check=False)
    return path.read_text() if path.is_file() else ""


def vulnerabilities(report: str) -> tuple[bool, str]:
    """Whether all packages were looked up and none is vulnerable; and what to say.

    pip-audit itself says "no known vulnerabilities" also where it could ask about none.
    """
    entries = json.loads(report)["dependencies"] if report else []
    asked = [entry for entry in entries if "skip_reason" not in entry]
    if not asked:
        return False, "not looked up: PyPI's database cannot be reached from here"
    found = [
        f"{entry['name']} {entry['version']} has {flaw['id']}"
        for entry in asked
        for flaw in entry["vulns"]
    ]
    left = [entry["name"] for entry in entries if "skip_reason" in entry]
    said = "; ".join(found) or f"none in {len(asked)} packages"
    return not (found or left), said + (f"; not looked up: {', '.join(left)}" if left else "")


def locked(lock: str) -> Iterator[Package]:
    """Yield what ``requirements.lock`` names, in its order."""
    wanted = wanted_by()
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE):
        try:
            licence = licence_of(importlib.metadata.metadata(name))
        except importlib.metadata.PackageNotFoundError:
            licence = NOT_HERE
        by = tuple(wanted.get(canonical(name), ()))
        yield Package(name=canonical(name), version=version, licence=licence, wanted_by=by)


def licence_of(metadata: importlib.metadata.PackageMetadata) -> str:
    """Return the licence in one line: SPDX if stated, else the field, else the classifiers."""
    fields = (*metadata.get_all("License-Expression", ()), *metadata.get_all("License", ()), "")
    said = str(fields[0]).strip()
    if said and "\n" not in said and len(said) < 60:
        return said
    classifiers = metadata.get_all("Classifier", ())
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ")]
    # Some put the whole text into the field.
    return ", ".join(names) or said.partition("\n")[0] or NOT_STATED


def wanted_by() -> dict[str, list[str]]:
    """Return for each installed package those of pyproject.toml that bring it along."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [line for group in (project["dependencies"], *extras) for line in group]
    found: dict[str, list[str]] = {}
    for direct in sorted({canonical(line) for line in lines}):
        queue, seen = [direct], {direct}
        while queue:
            name = queue.pop()
            found.setdefault(name, []).append(direct)
            new = set(requires(name)) - seen
            seen |= new
            queue += new
    return found


def requires(name: str) -> list[str]:
    """Return what the installed package ``name`` asks for by itself."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [canonical(line) for line in lines if "extra ==" not in line]


def canonical(requirement: str) -> str:
    """Return the name in a requirement as PyPI spells it."""
    name = re.match(r"[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", name[0] if name else requirement).lower()


def licence_table(packages: list[Package]) -> str:
    """Return a page of all licences."""
    rows = [
        f"| {p.name} | {p.version} | {p.licence} | {INSIDE.get(p.name, '')} |" for p in packages
    ]
    head = ["| package | version | licence | inside |", "|---|---|---|---|"]
    return "\n".join(["# Licences of the locked packages", "", *head, *rows, ""])


def bill_of_materials(packages: list[Package]) -> str:
    """Return the packages as CycloneDX 1.6 JSON."""
    components = [
        Component(
            type=ComponentType.LIBRARY,
            bom_ref=f"{package.name}=={package.version}",
            name=package.name,
            version=package.version,
            purl=PackageURL("pypi", name=package.name, version=package.version),
            licenses=[DisjunctiveLicense(name=package.licence)]
            if package.licence not in (NOT_STATED, NOT_HERE)
            else [],
        )
        for package in packages
    ]
    bom = Bom(components=components)
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=2)


if __name__ == "__main__":
    sys.exit(main())
