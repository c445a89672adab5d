"""Names of npm packages with their versions and hashes go in; the bytes of the files wanted of them come out."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...hub.errors_clipscratch import ClipScratchError


@dataclass(frozen=True, kw_only=True)
class Package:
    """
    Args:
        name, version: of the npm registry.
        sha512: of its archive, in base64, as npm's lock files have it.
    """

    name: str
    version: str
    sha512: str


def read_package(package: Package, members: Sequence[str]) -> list[bytes]:
    """Fetches a package through npm, so with the registry and the proxy that npm is set up for; runs nothing of it.

    Args:
        members: paths inside the package.
    Raises: ClipScratchError if npm is missing or cannot fetch the package, or if the archive is not the one of the
        hash.
    """
    called = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise ClipScratchError(
            f"the page needs {called}, which is fetched by npm, and there is no npm; install Node.js."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", called, "--silent", "--ignore-scripts", "--pack-destination", folder]
        # Called in the temporary folder: npm reads the package.json of the one that it is called in.
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        archives = list(Path(folder).glob("*.tgz"))
        if ended.returncode or len(archives) != 1:
            said = (ended.stderr or ended.stdout).strip().splitlines()
            raise ClipScratchError(
                f"npm cannot fetch {called} ({said[-1] if said else 'it does not say why'}); connect."
            )
        found = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if found != package.sha512:
            raise ClipScratchError(
                f"npm gave an archive of {called} with SHA-512 {found}, not {package.sha512}; it was changed on its "
                "way, so look at the registry that npm is set up for."
            )
        with tarfile.open(archives[0]) as archive:
            return [archive.extractfile(f"package/{member}").read() for member in members]
