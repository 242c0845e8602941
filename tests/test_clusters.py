"""The loop on a Slurm cluster, of one node on this machine: jobs that are cancelled, interrupted and requeued lose
nothing, leave nothing behind, and the results are those of a run without."""

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import time
from contextlib import closing

import psutil
import pytest
import yaml
from cluster import missing, running
from conftest import SMALL, Project, command_line, ran

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing()), reason=f"Slurm is not installed: no {', '.join(missing())}; apt-get install slurm-wlm munge"
    ),
]
SRUN = {"generate": "srun --ntasks=1 --quiet", "train": "srun --ntasks=1 --cpus-per-task=2"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with running(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def looping(tmp_path):
    return Project(tmp_path / "project", SMALL | {"runtime": {"launch": SRUN, "checkpoint_minutes": 0}})


class Run:
    """`dvc repro` in the background, its output in a file."""

    def __init__(self, project, environment):
        self.output = project.folder.parent / "output.txt"
        with self.output.open("w") as stream:
            self.process = subprocess.Popen(
                command_line("dvc", "repro", forks=False), cwd=project.folder, env=environment, stdout=stream,
                stderr=stream, start_new_session=True,
            )  # fmt: skip

    def text(self):
        return self.output.read_text()

    def end(self):
        """What it printed, once it has ended."""
        status = self.process.wait()
        return status, self.text()


def wait_for(condition, run=None, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert run is None or run.process.poll() is None, run.text()
        assert time.monotonic() < end, run and run.text()
        time.sleep(0.1)


def jobs(environment):
    """{id: name} of the jobs in the queue."""
    command = ["squeue", "--noheader", "--format=%A %j"]
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(line.split() for line in lines)


def stages_in(folder):
    """The processes of stages whose working directory is this folder."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] == str(folder) and any(word.startswith("stages.") for word in process.info["cmdline"]):
            found.append(process)
    return found


def results(project):
    """{out: hash} of all stages, but of what varies: costs, and the report on them."""
    locked = yaml.safe_load(project.read("dvc.lock"))["stages"]
    outs = {out["path"]: out["md5"] for stage in locked.values() for out in stage["outs"]}
    return {path: md5 for path, md5 in outs.items() if not re.match("costs|report|best|dataset", path)}


def completions(project):
    """How many the store holds."""
    uri = f"file:{project.folder}/.dvc/completions.sqlite?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as store:
        return store.execute("SELECT count(*) FROM calls").fetchone()[0]


def test_a_loop_whose_jobs_are_interrupted_cancelled_and_requeued_ends_in_the_same_bytes(slurm, looping, looped):
    folder = looping.folder

    run = Run(looping, slurm)  # ctrl-C while it trains
    wait_for(lambda: list(folder.glob(".dvc/checkpoints/*/checkpoint-*/trainer_state.json")), run)
    assert "sft.sh" in jobs(slurm).values()
    os.killpg(run.process.pid, signal.SIGINT)
    status, output = run.end()
    assert status != 0
    assert output.count("error: interrupted; run again to go on") == 1
    assert "Traceback" not in output
    assert not stages_in(folder)
    wait_for(lambda: not jobs(slurm))

    run = Run(looping, slurm)  # cancelled while it generates
    wait_for(lambda: "generate.sh" in jobs(slurm).values(), run)
    before = completions(looping)
    wait_for(lambda: completions(looping) > before, run)
    (number,) = jobs(slurm)
    subprocess.run(["scancel", number], env=slurm, check=True)
    status, output = run.end()
    assert status != 0
    assert "resumes after step" in output
    assert "error: generate: runtime.launch.generate 'srun --ntasks=1 --quiet' ended with status" in output
    assert "run again: finished completions and checkpoints are kept" in output
    assert "Traceback" not in output
    wait_for(lambda: not jobs(slurm) and not stages_in(folder))

    script, log = folder / "job.sh", folder / "job.txt"  # the rest as one job, requeued as if it were preempted
    script.write_text(f"#!/bin/sh\nexec {shlex.join(command_line('dvc', 'repro', forks=False))}\n")
    submit = ["sbatch", "--parsable", "--requeue", "--open-mode=append", "--cpus-per-task=2", f"--output={log}"]
    number = subprocess.run(
        [*submit, str(script)], cwd=folder, env=slurm, capture_output=True, text=True, check=True
    ).stdout.strip()
    wait_for(lambda: log.exists() and "Running stage 'evaluate@1'" in log.read_text())
    subprocess.run(["scontrol", "requeue", number], env=slurm, check=True)
    wait_for(lambda: not jobs(slurm))
    output = log.read_text()
    assert re.search("generate@1 .*: [0-9]+ of [0-9]+ completions were in the store", output)
    assert ran(output).count("evaluate@1") == 2
    assert ran(output).count("dpo@1") == 1
    assert results(looping) == results(looped)
    assert "Data and pipelines are up to date" in looping.run("dvc", "repro", env=slurm).stdout


def test_ctrl_c_takes_back_a_job_that_still_waits_for_its_turn(slurm, looping):
    looping.change({"runtime": {"launch": {"train": "srun --ntasks=1 --begin=now+1hour"}}})
    (looping.folder / "rows.jsonl").touch()
    command = ("stages.sft", "--model", "iterations/0/base", "--rows", "rows.jsonl", "--out", "iterations/0/model")
    stage = subprocess.Popen(
        command_line("python", "-m", *command, forks=False), cwd=looping.folder, env=slurm, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    wait_for(lambda: "sft.sh" in jobs(slurm).values())
    stage.send_signal(signal.SIGINT)
    _, stderr = stage.communicate()
    assert stage.returncode == 130
    assert stderr.endswith("error: interrupted; run again to go on: finished completions and checkpoints are kept\n")
    wait_for(lambda: not jobs(slurm))


def test_a_wrong_partition_is_one_line_behind_sruns_own(slurm, looping):
    looping.change({"runtime": {"launch": {"train": "srun --partition=gpus"}}})
    (looping.folder / "rows.jsonl").touch()
    command = ("stages.sft", "--model", "iterations/0/base", "--rows", "rows.jsonl", "--out", "iterations/0/model")
    result = looping.attempt("python", "-m", *command, env=slurm, fresh=True)
    assert result.returncode == 1
    assert "srun: error: invalid partition specified: gpus" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        "error: sft: runtime.launch.train 'srun --partition=gpus' ended with status 1 and did not run the stage"
    )
