"""What JupyterLab reads when `make lab` starts it (`--config`).

JupyterLab writes the exact version of Python into every notebook that it saves. The lessons name
only "3": to open and save one then changes nothing that git sees, whatever Python the reader has.
"""


def short_version(model: dict, path: str, **_: object) -> None:
    """Shorten the version of Python in a lesson that is about to be saved."""
    if model["type"] == "notebook" and path.startswith("notebooks/"):
        language = model["content"]["metadata"].get("language_info", {})
        language["version"] = language.get("version", "3").partition(".")[0]


c.FileContentsManager.pre_save_hook = short_version  # noqa: F821  (Jupyter defines c)
