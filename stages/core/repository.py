"""The root folder of the git repository."""

import os
import subprocess
from pathlib import Path


def root() -> Path:
    """The project's folder in the main worktree, for what all experiments share. Queued experiments run in a temporary
    copy and others in worktrees of git; both get the same folder. Without git, the project's folder itself."""
    project = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir", "--show-prefix"]
    output = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False).stdout.split("\n")
    return Path(output[0]).parent / output[1] if output[0].endswith("/.git") else project
