"""Raw bitext tools. They know text files, neither torch nor fairseq, and read line by line.

A *line* ends at ``\\n`` and nowhere else, as in sentencepiece, sacrebleu and ``wc -l``; the *id* of a sentence pair is
its 0-based line number in the raw files.
"""
