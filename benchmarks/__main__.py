"""All benchmarks, in order of worth, then the tables: `python -m benchmarks`, or `make bench`.

Each runs in a process of its own; one that fails does not cost the others, but the exit status is 1.
"""

import subprocess
import sys
import time

from benchmarks.tables import ORDER

if __name__ == "__main__":
    failed = []
    for name in (*ORDER, "tables"):
        began = time.perf_counter()
        print(name, flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]).returncode:
            failed.append(name)
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
