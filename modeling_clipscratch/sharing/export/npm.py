"""Fetch files of npm packages, checked by the hash of their archive."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...hub.errors_clipscratch import ClipScratchError


def read_package(package: str, sha512: str, members: Sequence[str]) -> list[bytes]:
    """Fetch a package through npm, from the registry that npm is set up for, and run nothing of it.

    Args:
        package: `name@version`.
        sha512: Of its archive, in base64, as in npm's lock files.
        members: Paths inside the package.

    Raises:
        ClipScratchError: If npm is missing or cannot fetch the package, or the archive has another hash.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ClipScratchError(f"the page needs {package}, which npm fetches, and npm is missing; install Node.js.")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--silent", "--ignore-scripts", "--pack-destination", folder]
        # In the temporary folder, since npm reads the package.json of the current one.
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        archives = list(Path(folder).glob("*.tgz"))
        if ended.returncode or len(archives) != 1:
            lines = (ended.stderr or ended.stdout).strip().splitlines() or ["without a reason"]
            raise ClipScratchError(f"npm cannot fetch {package} ({lines[-1]}); check the connection.")
        digest = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if digest != sha512:
            raise ClipScratchError(
                f"npm fetched an archive of {package} with SHA-512 {digest}, not {sha512}; check npm's registry."
            )
        with tarfile.open(archives[0]) as archive:
            return [archive.extractfile(f"package/{member}").read() for member in members]
