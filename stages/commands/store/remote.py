"""The shards on a DVC remote: files in its folder `completions/`, beside what `dvc push` writes.

The list of the files is the only index. All access is through the remote's file system as DVC opens it, with its
settings and credentials; so whatever DVC can push to and list (a folder, S3, GCS, Azure, SSH), holds a team's store.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from stages.core.errors import UserError

if TYPE_CHECKING:
    from dvc.fs import FileSystem

FOLDER = "completions"
UNFINISHED = ".unfinished"
NAME = re.compile(r"[0-9a-f]{64}\.parquet")  # anything else, such as an upload under way, is no shard
SECRET = re.compile(r"(?<=://)\S*@|(?<=\?)\S+")  # user and password in an address, and its query


@dataclass(frozen=True)
class Remote:
    """A DVC remote. Each method raises `UserError` if the remote cannot be reached or refuses."""

    name: str
    root: str  # as `fs` takes it
    fs: "FileSystem"

    @property
    def folder(self) -> str:
        """Where the shards lie, as `fs` takes it."""
        return str(self.fs.join(self.root, FOLDER))

    def shards(self) -> set[str]:
        """The names of the shards; none if nobody has pushed any."""
        with remote_errors(self.name):
            try:
                paths = self.fs.ls(self.folder, detail=False)
            except FileNotFoundError:
                return set()
            except NotImplementedError:  # as the file system of HTTP says, which has no way to list files
                raise UserError(f"DVC remote '{self.name}' cannot list its files; use a folder, S3 or SSH") from None
            return {name for name in map(self.fs.name, paths) if NAME.fullmatch(name)}

    def write(self, name: str, content: bytes) -> None:
        """Write a shard; it has its name only when it is whole, also on a file system that shows what is being written
        (SSH)."""
        path = self.fs.join(self.folder, name)
        with remote_errors(self.name):
            self.fs.put_file(BytesIO(content), path + UNFINISHED, size=len(content))
            self.fs.move(path + UNFINISHED, path)

    def read(self, name: str) -> bytes:
        """The content of a shard."""
        with remote_errors(self.name):
            return bytes(self.fs.cat_file(self.fs.join(self.folder, name)))


def open_remote(name: str | None) -> Remote:
    """A remote of this project; by default, the one that `dvc push` uses. Raises `UserError` if there is none, or if
    it needs a package that is not installed."""
    from dvc.config import NoRemoteError, RemoteNotFoundError
    from dvc.repo import Repo

    with remote_errors(name or "by default"), Repo() as repo:
        try:
            remote = repo.cloud.get_remote(name)
        except NoRemoteError:
            raise UserError("there is no default DVC remote; dvc remote add -d NAME URL, see docs/sharing.md") from None
        except RemoteNotFoundError:
            raise UserError(f"there is no DVC remote '{name}'; dvc remote list shows all of them") from None
        return Remote(remote.name, remote.path, remote.fs)


@contextmanager
def remote_errors(name: str) -> Iterator[None]:
    """Report as `UserError` what DVC and the file system of a remote raise; each has errors of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        what = SECRET.sub("", f"{type(error).__name__}: {error}")
        raise UserError(
            f"DVC remote '{name}': {what}; nothing is lost: mend the network, the remote's settings or its disk "
            "(dvc remote list), then run the command again"
        ) from error
