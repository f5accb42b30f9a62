"""The tests, in an environment that does not depend on who started them."""

import os

_FOREIGN = ("SLURM_", "OMPI_", "PMI_", "JSM_", "LSB_", "PBS_", "LT_", "TORCHELASTIC_", "MDFPIPE_", "YOLO_")
_FOREIGN_NAMES = {
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE"),
    *("PYTHONWARNINGS", "PYTHONUNBUFFERED", "PYTHONOPTIMIZE", "_TYPER_STANDARD_TRACEBACK"),
}
for _name in list(os.environ):  # here, before any library reads them
    if (_name.startswith(_FOREIGN) or _name in _FOREIGN_NAMES) and _name != "MDFPIPE_TEST_ASSETS":
        del os.environ[_name]
os.environ["TERM"] = "dumb"
# A thread that waits must not spin: two workers of pytest on two cores, with two threads of torch each, would take
# several times the processor time. It moves no bit, and is what the runner gives its own workers.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
