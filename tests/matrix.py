"""``make matrix``: the tests of all that lies between Seaway and a nats-server, on several of them.

Prints the table of docs/reference/servers.md. Fails where a test does, or a server cannot be
fetched; Debian's is left out, and said so, where there is no apt.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from servers import OLDER, VERSIONS, binary

HERE = Path(__file__).parent
TESTS = (
    "conformance/test_broker_conformance.py",
    "integration/test_whole_way.py",
    "integration/test_topology_apply.py",
    "integration/test_relay_server.py",
    "integration/test_jetstream_broker.py",
    "integration/test_jetstream_publish.py",
    "integration/test_jetstream_pull.py",
    "integration/test_consumer_server.py",
    "integration/test_dead_letters.py",
    "integration/test_sweeper.py",
)
AT_ONCE = os.cpu_count() or 1
"""Versions at a time: the tests wait more than they work."""
_LEFT_OUT = re.compile(r"^left out, since this nats-server lacks (.*): (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """All tests on one server."""

    version: str
    passed: int
    failed: int
    lacks: tuple[str, ...]
    said: str

    @property
    def row(self) -> str:
        """A line of the table."""
        outcome = f"{self.passed} passed" + (f", {self.failed} failed" if self.failed else "")
        return f"| {self.version} | {outcome} | {'; '.join(self.lacks) or 'nothing'} |"


def run(program: Path) -> Run:
    """Run them, with ``program`` for the environment's server."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    version = said.stdout.rpartition("v")[2].strip()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"),
                *("-k", f"not Memory and not {OLDER}"),
                *(str(HERE / test) for test in TESTS),
            ],
            env=os.environ | {"SEAWAY_NATS_SERVER": str(program)},
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            raise SystemExit(f"{version}: {done.stdout}{done.stderr}")
        suite = ElementTree.parse(report).getroot()[0]
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    return Run(
        version,
        count["tests"] - failed - count["skipped"],
        failed + count["skipped"],
        tuple(what for what, _ in _LEFT_OUT.findall(done.stdout)),
        done.stdout,
    )


def main() -> int:
    """0 where all tests passed on all servers."""
    programs = {version: binary(version) for version in sys.argv[1:] or VERSIONS}
    for version in [version for version, program in programs.items() if program is None]:
        print(f"{version}: left out, since it comes by apt, which is not there", file=sys.stderr)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = list(pool.map(run, [one for one in programs.values() if one is not None]))
    print("| nats-server | tests | lacks |\n| --- | --- | --- |")
    for one in runs:
        print(one.row)
    failed = [one for one in runs if one.failed]
    for one in failed:
        print(f"\n---- {one.version}\n{one.said}", file=sys.stderr)
    return len(failed) > 0


if __name__ == "__main__":
    sys.exit(main())
