# Children of a program: processes.py WHAT.
import multiprocessing
import os
import subprocess
import sys


def square(x):
    return x * x


if __name__ == "__main__":
    what = sys.argv[1]
    if what in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(what)
        with context.Pool(2) as pool:
            print(pool.map(square, range(5)))
    elif what == "executable":
        print(subprocess.run([sys.executable, "-c", "import sys; print(sys.argv)", "x"], stdout=-1).stdout)
    elif what == "child":
        pid = os.fork()
        if pid == 0:
            print("child", os.getppid() != 0)
            raise SystemExit(3)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    elif what == "executor":
        from concurrent.futures import ProcessPoolExecutor
        with ProcessPoolExecutor(2) as pool:
            print(list(pool.map(square, range(5))))
