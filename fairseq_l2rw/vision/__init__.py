"""Image classification with noisy labels on :mod:`fairseq_l2rw.meta`, without fairseq.

Nothing is imported here, so that the console command stays quick: take what you need from the modules.
"""
