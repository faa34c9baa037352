# The signal handlers that a program starts with.
import signal
for n in range(1, 65):
    try:
        handler = signal.getsignal(n)
    except ValueError:
        continue
    print(n, handler)
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
print([line for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn", "SigCgt"))])
