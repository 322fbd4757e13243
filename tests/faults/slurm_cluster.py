"""A Slurm of its own for tests: a controller and two nodes on this machine, in a temporary folder, gone at the end.

Nothing is shared with a Slurm that may run here already: its own configuration, ports and folders. The cores are promised
several times over, so that a handful of small jobs run side by side on a small machine.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "sbatch", "squeue", "srun", "scontrol", "scancel")
CONFIGURATION = """
ClusterName=roadmap_tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
CryptoType=crypto/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=300
MessageTimeout=20
InactiveLimit=0
KillWait=10
CompleteWait=0
MinJobAge=30
OverTimeLimit=0
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=1000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes=n[1-2] Default=YES MaxTime=60 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace}
PartitionName=high Nodes=n[1-2] MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why no cluster can be started here; None where it can."""
    lacking = [name for name in NEEDED if shutil.which(name) is None]
    if lacking:
        return f"needs {', '.join(lacking)}: apt-get install slurmctld slurmd slurm-client slurm-wlm-basic-plugins"
    return None if os.geteuid() == 0 else "slurmd starts jobs as root only"


class Cluster:
    """Two nodes of `cpus` promised cores each; partition `high` takes its place from `low` after `grace` seconds."""

    def __init__(self, folder: Path, cpus: int = 4, grace: int = 20) -> None:
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        self.file = folder / "slurm.conf"
        ports = _free_ports(3)
        self.file.write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=ports, cpus=cpus, grace=grace))
        self.environment = {"SLURM_CONF": str(self.file)}
        self.daemons = [self._start("slurmctld", "-D"), *(self._start("slurmd", "-D", "-N", node) for node in ("n1", "n2"))]
        self.wait(lambda: self.say("sinfo", "-h", "-p", "low", "-o", "%D %T").startswith("2 idle"), 60, "two idle nodes")

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.environment}
        with (self.folder / "daemons.txt").open("ab") as said:
            return subprocess.Popen(command, env=environment, stdout=said, stderr=said, start_new_session=True)

    def say(self, *command: str) -> str:
        """What one of Slurm's commands answers; empty where it fails."""
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60)
        return done.stdout.strip() if done.returncode == 0 else ""

    def jobs(self) -> dict[str, str]:
        """State of every job that the controller knows."""
        lines = self.say("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)  # type: ignore[misc]

    def wait(self, until, seconds: float, what: str) -> None:
        """Wait for a condition; its absence is a failure that shows the queue."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                said = (self.folder / "daemons.txt").read_text()[-2000:]
                raise AssertionError(f"no {what} in {seconds} s\n{self.jobs()}\n{said}")
            time.sleep(0.1)

    def clear(self) -> None:
        """End all jobs, for the next test."""
        self.say("scancel", "-u", "root")
        self.say("scancel", "--signal=KILL", "--full", "-u", "root")
        self.wait(lambda: not self.say("squeue", "-h"), 60, "empty queue")

    def stop(self) -> None:
        """End the jobs and the daemons."""
        with suppress(AssertionError):
            self.clear()
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(15)
            daemon.kill()


def _free_ports(count: int) -> list[int]:
    with_ports = [socket.socket() for _ in range(count)]
    for one in with_ports:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        with closing(one):
            pass
    return ports
