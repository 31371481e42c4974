"""The change-control plans that ship with the package, to be copied, edited and owned.

In a checkout they are in the project's folder; a wheel carries them in `cxr_ops/templates/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cxr_ops.errors import SettingsError, StorageError
from cxr_ops.labels import nearest

# Name of each plan, as the plan says it -> its file.
FILES: Final = {
    "nih-production": "pccp.yaml",
    "demonstration": "pccp.demo.yaml",
    "nih-sample-demo": "pccp.nih-sample-demo.yaml",
    "pneumonia-demo": "pccp.pneumonia-demo.yaml",
}
_PACKAGE: Final = Path(__file__).parent


def path(name: str) -> Path:
    """Where the template of a name stands.

    Raises:
        SettingsError: no template has the name; the nearest one is named.
        StorageError: the file is gone, or was never there: an image holds the code alone.
    """
    if name not in FILES:
        guess = nearest(name, FILES)
        raise SettingsError(
            f"{name!r} is no template" + (f"; did you mean {guess!r}?" if guess else ""),
            where="plan template",
            fix=f"name one of {', '.join(FILES)}",
        )
    places = (_PACKAGE / "templates" / FILES[name], _PACKAGE.parent / FILES[name])
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise StorageError(
            f"the template {name} did not come with this installation",
            where=places[0],
            fix=f"install the package from its wheel, or take {FILES[name]} from the project's repository",
        )
    return found


def read(name: str) -> str:
    """The text of a template.

    Raises:
        SettingsError, StorageError: as `path`; or the file is empty, since a shell that writes to it emptied it.
    """
    place = path(name)
    text = place.read_text(encoding="utf-8")
    if not text.strip():
        raise StorageError(
            "the template is empty: what writes to this very file empties it first",
            where=place,
            fix=f"git checkout {place.name}, then write the template to another file",
        )
    return text


def purpose(name: str) -> str:
    """What a template is for: the first sentence of its first comment."""
    lines = read(name).splitlines()
    comment = [line.removeprefix("#").strip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")]]
    return " ".join(comment).partition(". ")[0].rstrip(".") + "."
