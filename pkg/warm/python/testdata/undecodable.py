import sys
print("é")
