"""Only one launch at a time on a study: who has the lease, and when it is free."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from ablate import clock
from ablate.desk import Desk
from ablate.study import UserError
from db.records import Lease

LEASE_STALE_S, NEVER_S = 60.0, 1e9
"""A lease not renewed for this long is free; that of a living process of this machine never is."""


@contextmanager
def holding_the_lease(desk: Desk) -> Iterator[str]:
    """Only one launch at a time on a study; the second one hears who holds it. Yields who we are."""
    holder = f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
    stale_s = LEASE_STALE_S if _free_a_dead_lease(desk) else NEVER_S
    if desk.store.acquire_lease(holder, clock.utc_now(), stale_s) is None:
        held = desk.store.lease()
        raise UserError(
            f"{held.holder if held else 'somebody'} is launching this study since {held.since if held else '?'}; watch it with "
            "`ablate status --follow`, or stop it first"
        )
    try:
        yield holder
    finally:
        desk.store.release_lease(holder)


def _free_a_dead_lease(desk: Desk) -> bool:
    """A lease of a process of this machine that is gone need not grow stale. False: that process lives, so it never does.

    A launch that was frozen for long still has its ranks.
    """
    held = desk.store.lease()
    if held is None or not _of_this_machine(held):
        return True
    if not gone(held):
        return False
    desk.store.release_lease(held.holder)
    return True


def gone(held: Lease) -> bool:
    """Whether its process was of this machine and is no more; of another machine's process that is not known."""
    if not _of_this_machine(held):
        return False
    pid = int(held.holder.rpartition(":")[2])
    if not psutil.pid_exists(pid):
        return True
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        passed_on = process.create_time() > clock.moment(held.since).timestamp() + 2.0  # its id is another process's by now
        return passed_on or bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def _of_this_machine(held: Lease) -> bool:
    host, _, pid = held.holder.rpartition("@")[2].rpartition(":")
    return host == socket.gethostname() and pid.isdigit()
