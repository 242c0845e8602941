"""The repository's root, which a queued experiment's temporary copy and every worktree of git share."""

import os
import subprocess
from pathlib import Path


def root() -> Path:
    """Where what outlives an experiment lies; the project's folder where there is no git."""
    project = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    asked = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir", "--show-prefix"]
    told = subprocess.run(asked, cwd=project, capture_output=True, text=True, check=False).stdout.split("\n")
    return Path(told[0]).parent / told[1] if told[0].endswith("/.git") else project
