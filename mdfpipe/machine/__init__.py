"""The machine below: processes, threads and signals of the operating system."""
