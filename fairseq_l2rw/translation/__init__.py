"""The fairseq adapter: importing it registers task, criterion, optimizer rules and safe checkpoint globals."""

from fairseq_l2rw.errors import install_exit_hook
from fairseq_l2rw.translation import checkpoint, criterion, optim, task  # noqa: F401

checkpoint.allow_fairseq_globals()
install_exit_hook()
