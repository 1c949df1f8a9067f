"""Two losses between networks and views: NT-Xent (SimCLR), and the distillation of a teacher into a student."""
import torch
import torch.nn.functional as F
from torch import nn

from common import digits, start, uniform


def nt_xent(a, b, temperature):
    n = len(a)
    z = F.normalize(torch.cat([a, b]), dim=1)
    scores = (z @ z.T / temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    labels = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
    return F.cross_entropy(scores, labels)


def distillation(student, teacher, labels, temperature):
    soft = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    return 0.9 * temperature**2 * soft + 0.1 * F.cross_entropy(student, labels)


def train(model, loss_of, lr):
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), []
    for k in range(6):
        loss = loss_of(slice(64 * k, 64 * k + 64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run():
    x, y = digits()
    noise = 0.1 * uniform(1, 2, len(x), 64)
    encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 16))
    start(encoder, "encoder.")
    losses = train(encoder, lambda rows: nt_xent(encoder(x[rows] + noise[0, rows]), encoder(x[rows] + noise[1, rows]), 0.5), 0.1)

    teacher = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
    start(teacher, "teacher.")
    losses += train(teacher, lambda rows: F.cross_entropy(teacher(x[rows]), y[rows]), 0.1)
    teacher.requires_grad_(False)
    student = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    start(student, "student.")
    return losses + train(student, lambda rows: distillation(student(x[rows]), teacher(x[rows]), y[rows], 3.0), 0.02)
