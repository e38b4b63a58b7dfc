"""`eexp rollout --on alone`: one process on this machine, whatever -j says."""

from eexp.workers.supervisor import Supervisor


def alone(**arguments):
    """Return an executor with one worker (eexp.workers.base.Executor)."""
    return Supervisor(**{**arguments, "size": 1})
