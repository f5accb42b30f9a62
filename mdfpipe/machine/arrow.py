"""Arrow without pandas: a process that shows no DataFrame need not load one."""

from __future__ import annotations

import sys


class _NoPandas:
    """Finds everything but pandas."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raise ModuleNotFoundError for pandas; leave every other name to those that follow."""
        if name == "pandas":
            raise ModuleNotFoundError(name)


def leave_pandas_out() -> None:
    """Let Arrow take it that there is no pandas, for as long as this process lives; `import pandas` still works.

    Arrow imports pandas at the first value that it is given, to recognise a DataFrame: .2 s and some 40 MB of memory
    that every worker has for itself. For processes of the command line alone: a caller from Python may use DataFrames.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.scalar(0)
    finally:
        sys.meta_path.remove(finder)
