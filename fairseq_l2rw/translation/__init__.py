"""The fairseq adapter: importing it registers task, criterion, optimizer rules and safe checkpoint globals."""

import sys

from fairseq_l2rw.errors import install_exit_hook
from fairseq_l2rw.translation import checkpoint, criterion, optim, task  # noqa: F401
from fairseq_l2rw.translation.command_line import check_command_line

checkpoint.allow_fairseq_globals()
install_exit_hook()
check_command_line(sys.argv[1:], criterion.check_name)
