"""How tests start commands that are to be stopped by a signal."""

from __future__ import annotations

import signal

from mdfpipe.machine import stopping


def hearing_signals() -> None:
    """Have a new process hear stop signals (as `preexec_fn`): who ran the tests by `nohup ... &` ignores some."""
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping.SIGNALS)
