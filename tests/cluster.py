"""A Slurm cluster of one node, this machine, on the loopback: Debian's slurm-wlm and munge."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun")
PATH = f"{os.environ['PATH']}:/usr/sbin"
CONFIG = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


def missing() -> list[str]:
    """The programs of a cluster that are not installed."""
    return [program for program in PROGRAMS if not shutil.which(program, path=PATH)]


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start the cluster with its files in a folder; yields the environment in which srun and the others find it."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    controller, node = free_ports(2)
    config, host = folder / "slurm.conf", socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(host=host, controller=controller, node=node, user=getpass.getuser(), folder=folder))
    munge = [f"--key-file={key}", *(f"--{name}-file={folder}/munge/{name}" for name in ("log", "pid", "seed"))]
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(config)}
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *munge],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    )
    daemons = []
    with (folder / "output").open("w") as output:
        for command in commands:
            daemons.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            while command[0] == "munged" and not (folder / "munge/socket").exists():
                assert daemons[0].poll() is None, (folder / "output").read_text()
                time.sleep(0.05)
        try:
            wait_until_idle(environment, folder)
            yield environment
        finally:
            subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, check=False)
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def wait_until_idle(environment: dict[str, str], folder: Path, seconds: float = 60) -> None:
    """Wait until the node takes jobs."""
    end = time.monotonic() + seconds
    while "idle" not in subprocess.run(
        ["sinfo", "--noheader", "--format=%t"], env=environment, capture_output=True, text=True, check=False
    ).stdout:  # fmt: skip
        if time.monotonic() > end:
            raise TimeoutError("\n".join(path.read_text() for path in folder.glob("*.log")))
        time.sleep(0.2)
