"""How JupyterLab saves lessons where `hmq-lab lab` or `make lab` opens them.

JupyterLab writes the exact version of Python into every notebook that it saves. The lessons name
only "3": to open and save one then changes nothing, whatever Python the reader has.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from hmq_lab.commands.grade import lesson_of


def shorten(model: dict[str, Any], path: str) -> None:
    """Shorten the version of Python in a lesson that is about to be saved.

    >>> kernel = {"name": "python", "version": "3.12.4"}
    >>> notebook = {"type": "notebook", "content": {"metadata": {"language_info": kernel}}}
    >>> shorten(notebook, "mine/00_start_here.ipynb")
    >>> kernel["version"]
    '3'

    Args:
        model: what JupyterLab saves; only a notebook with the name of a lesson is changed.
        path: where to.
    """
    if model.get("type") != "notebook" or lesson_of(PurePosixPath(path)) is None:
        return
    language = model["content"]["metadata"].get("language_info", {})
    language["version"] = language.get("version", "3").partition(".")[0]


class LessonFiles(AsyncLargeFileManager):
    """The files of JupyterLab, with lessons that stay as they are."""

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Save a file and return what JupyterLab shows of it."""
        shorten(model, path)
        return await super().save(model, path)
