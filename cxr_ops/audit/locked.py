"""The packages of a run's lock file, as the image that runs stages has them."""

from __future__ import annotations

import re
from typing import Final

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName

_PINNED: Final = re.compile(
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)[ \t]*(?:;[ \t]*([^\\\n]*?))?[ \t]*(?:\\.*)?$",
    re.MULTILINE,
)
# Whoever reads a lock file again may do so on another machine: conditions are those of the image that runs stages.
_IMAGE: Final = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def pinned(lock: bytes) -> list[tuple[str, str]]:
    r"""Name and version of each package of a lock file, in the order of their names, as the image has them.

    >>> pinned(b"torch==2.13.0 ; sys_platform == 'linux' \\\n    --hash=sha256:00\npywin32==3 ; os_name == 'nt'\n")
    [('torch', '2.13.0')]
    """
    found = _PINNED.findall(lock.decode(errors="replace"))
    return sorted({(name, version) for name, version, marker in found if _holds(marker)})


def _holds(marker: str) -> bool:
    """Whether a package is installed in the image; one whose condition is not understood is listed."""
    try:
        return not marker or Marker(marker).evaluate(_IMAGE)
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName):
        return True
