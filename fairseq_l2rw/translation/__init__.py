"""The fairseq adapter: importing it registers task, criterion and optimizer rules, and makes reading and writing checkpoints safe."""

import sys

from fairseq_l2rw.errors import install_exit_hook
from fairseq_l2rw.translation import checkpoint, criterion, optim, task  # noqa: F401
from fairseq_l2rw.translation.atomic_copy import mend_copy
from fairseq_l2rw.translation.command_line import check_command_line, guard_parsing
from fairseq_l2rw.translation.fairseq_errors import explain

checkpoint.allow_fairseq_globals()
checkpoint.guard_reading()
mend_copy()
guard_parsing()
install_exit_hook(explain)
check_command_line(sys.argv[1:], criterion.check_name)
