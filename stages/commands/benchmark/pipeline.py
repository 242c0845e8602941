"""What the pipeline costs beside its work: `dvc repro` with nothing to do, and the start of a stage."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from stages.commands.benchmark.measurement import Measurement, at_most, best_of, within
from stages.core.errors import UserError

WHOLE = ("check", "prepare")  # stages that are fast enough to be timed from start to end
START = ("filter", "select", "report")


def pipeline(base: Path) -> Iterator[Measurement]:
    """On a copy of the project with the default's parameters."""
    with TemporaryDirectory() as work:
        project, empty = Path(work, "project"), Path(work, "empty")
        copy_project(project)
        python(project, "-m", "stages.commands.lance", "preset", "micro")
        write_placeholders(project)
        python(project, "-m", "dvc", "commit", "-f", "-q")
        empty_pipeline(empty)
        ours, nothing = (best_of(3, partial(python, folder, "-m", "dvc", "repro")) for folder in (project, empty))
        what, against = "dvc repro with nothing to do, 3 iterations", f"an empty pipeline ({nothing:.2f} s)"
        yield at_most(what, against, ours, nothing, 3)
        python(project, "-m", "stages.benchmark")  # its items are an input of prepare
        for stage in WHOLE:
            seconds = best_of(3, partial(python, project, "-m", f"stages.{stage}"))
            yield within(f"stage {stage}, start to end", seconds, 1)
        for stage in START:
            code = f"import stages.{stage}; from stages.core.params import read_params; read_params('{stage}')"
            yield within(f"stage {stage}, start-up", best_of(3, partial(python, project, "-c", code)), 1)


def python(folder: Path, *arguments: str) -> None:
    """Run Python in a folder; raises `CalledProcessError` if it fails."""
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def copy_project(folder: Path) -> None:
    """Copy the files of the current directory that git tracks, as they are now, into a git repository of its own.

    Raises `UserError` where there is no git repository.
    """
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=False)
    if listed.returncode:
        raise UserError(f"{Path.cwd()} is not in a git repository; run this in a clone of the project")
    for name in filter(None, listed.stdout.split("\0")):
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, folder / name)
    git(folder, "init", "-q")
    git(folder, "add", "-A")


def write_placeholders(folder: Path) -> None:
    """Put a file where each out of the pipeline belongs; dvc only looks at hashes."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        for out in repo.index.outs:
            path = Path(out.fs_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(f"{out.def_path}\n", encoding="utf-8")


def empty_pipeline(folder: Path) -> None:
    """A git and dvc repository whose dvc.yaml has no stages."""
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
    git(folder, "init", "-q")
    python(folder, "-m", "dvc", "init", "-q")
