"""Weights the examples of an ordinary torch model: handwritten digits, 40 % of the labels drawn anew, 100 trusted ones."""

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn

from fairseq_l2rw.meta import FeatureLayout, MetaConfig, MetaTrainer, RandomState


class Digits:
    """The student, as the method sees it: losses, the loss of a trusted batch, and how to spoil that batch."""
    def __init__(self):
        self.hidden = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
        self.module = nn.Sequential(self.hidden, nn.Linear(128, 10))

    def losses(self, batch):
        return nn.functional.cross_entropy(self.module(batch[0]), batch[1], reduction="none"), torch.ones(len(batch[1]))

    def dev_loss(self, batch):
        return self.losses(batch)[0].mean()

    def corrupt(self, batch, kind, seed):  # there is one kind: the labels of other images
        return batch[0], batch[1].roll(1)


def main(updates=360, seed=1, start=40):
    """Trains, and returns test accuracy and the area under the ROC curve of the weights as a detector of wrong labels."""
    torch.manual_seed(seed)
    images, truth = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    order = torch.randperm(len(truth))
    trusted, train, test = order.split([100, 1200, len(order) - 1300])
    labels = torch.where(torch.rand(len(truth)) < 0.4, torch.randint(0, 10, truth.shape), truth)
    student = Digits()
    optimizer = torch.optim.SGD(student.module.parameters(), lr=0.1, momentum=0.9)
    config = MetaConfig(contrast={"mislabelled": 0.5}, prior=0.9, start=start)  # plain training until `start`
    meta = MetaTrainer(student, FeatureLayout((128,)), config, teacher="loss")
    meta.attach(optimizer)
    weights = torch.ones(len(truth))
    for update in range(updates):
        rows = train[torch.randperm(len(train))[:100]]
        meta.begin_update(update)
        state, batch = RandomState.capture(), (images[rows], labels[rows])
        losses, ones = student.losses(batch)
        features, w = meta.weigh(losses, ones, ones, [student.hidden(batch[0])])
        meta.record(batch, features, w, losses, ones, ones, state)
        optimizer.zero_grad()
        (w * losses).mean().backward()
        meta.before_step()
        optimizer.step()
        meta.after_step(lambda: (images[trusted], truth[trusted]))
        weights[rows] = w
    right = student.module(images[test]).argmax(1) == truth[test]
    return right.float().mean().item(), roc_auc_score((labels != truth)[train], -weights[train])


if __name__ == "__main__":
    print("test accuracy {:.3f}, AUC of the weights {:.3f}".format(*main()))
