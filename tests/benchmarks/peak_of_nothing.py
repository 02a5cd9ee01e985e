"""A program that takes no memory, and says what it took at most; for test_apart.py."""

from benchmarks.apart import most_resident

print(most_resident())
