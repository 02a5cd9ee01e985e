"""One HTML page about a training: what was won, whether the weights separate, curves, pairs, options.

It reads what the other commands leave in a run's folder and needs neither torch nor fairseq.
"""
