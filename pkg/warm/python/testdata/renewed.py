# What no two starts have in common.
import multiprocessing.process
import os
import random
import secrets
import sys
import tempfile
import uuid
print(random.random(), random.SystemRandom().random(), secrets.token_hex(), uuid.uuid4())
print(next(tempfile._get_candidate_names()), bytes(multiprocessing.process.current_process().authkey).hex(), os.getpid())
if "numpy" in sys.argv:
    import numpy
    print(numpy.random.random(), numpy.random.default_rng().random())
import ssl
print(ssl.RAND_bytes(8).hex())
