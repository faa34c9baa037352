# The environment, of python, of C and of children.
import os
import subprocess
import sys
import time
print(sorted(os.environ.items()), type(os.environ), os.environ is os.environ)
print(os.getenv("TZ"), time.tzname, os.environb.get(b"A"), os.get_exec_path())
os.environ["NEW"] = "1"
os.environ.pop("A", None)
sys.stdout.flush()
subprocess.run(["/usr/bin/env"])
os.system("echo $NEW")
