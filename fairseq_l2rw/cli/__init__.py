"""The console command ``fairseq-l2rw``: ``main`` and one module per sub-command; the library does the work."""
