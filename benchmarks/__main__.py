"""All benchmarks in order, then the tables: `python -m benchmarks`, or `make bench`. Arguments are
passed on.

Each runs in a process of its own. One that fails does not cost the others, but the exit status is
1.
"""

import subprocess
import sys
import time

from benchmarks.common import ORDER

if __name__ == "__main__":
    failed, begin = [], time.perf_counter()
    for name in (*ORDER, "tables"):
        start = time.perf_counter()
        print(name, flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]).returncode:
            failed.append(name)
        print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    print(f"all: {(time.perf_counter() - begin) / 60:.1f} minutes")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
