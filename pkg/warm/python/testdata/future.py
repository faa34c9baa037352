from __future__ import annotations
a: nosuch = 1
print(__annotations__)
x: int = 5
assert False, "not reached with -O"
