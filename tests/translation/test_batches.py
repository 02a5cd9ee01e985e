"""The training batches of an epoch do not depend on the epoch in which the process began: a resume must see the same ones."""

import pytest
from fairseq.tasks.translation import TranslationTask

from fairseq_l2rw.translation.config import L2RWTranslationConfig
from fairseq_l2rw.translation.task import L2RWTranslationTask
from tests.translation.harness import dataset_of, dictionary, pairs

SENTENCES = pairs([3] * 40, [4] * 40)  # of one length: only chance decides which of them stand together


def batches(kind, epoch, first_epoch, **options):
    """The batches of `epoch`, in a process that begins in `first_epoch`."""
    task = kind(L2RWTranslationConfig(), dictionary(), dictionary())
    iterator = task.get_batch_iterator(dataset_of(SENTENCES), max_sentences=4, seed=7, epoch=first_epoch, **options)
    for _ in range(first_epoch, epoch):
        list(iterator.next_epoch_itr())
    return [batch["id"].sort().values.tolist() for batch in iterator.next_epoch_itr(fix_batches_to_gpus=False)]


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_resumed_epoch_has_the_same_batches_in_the_same_order(epoch):
    assert batches(L2RWTranslationTask, epoch, epoch) == batches(L2RWTranslationTask, epoch, 1)


def test_fairseqs_own_differ():
    """Negative control, and the reason."""
    assert batches(TranslationTask, 2, 2) != batches(TranslationTask, 2, 1)


def test_a_training_that_is_not_cut_off_has_fairseqs_batches():
    for epoch in (1, 2):
        assert batches(L2RWTranslationTask, epoch, 1) == batches(TranslationTask, epoch, 1)


def test_the_order_changes_from_epoch_to_epoch():
    assert batches(L2RWTranslationTask, 2, 2) != batches(L2RWTranslationTask, 1, 1)


def test_batches_that_are_made_anew_in_every_epoch_stay_fairseqs():
    options = {"update_epoch_batch_itr": True}
    assert batches(L2RWTranslationTask, 2, 2, **options) == batches(TranslationTask, 2, 2, **options)
