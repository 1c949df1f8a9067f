"""Uncertainty: a network that tells mean and variance (Gaussian NLL), trained at the rate that a finder suggests."""
import copy

import torch
import torch.nn.functional as F
from torch import nn

from common import start, uniform


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(1, 32), nn.Linear(32, 32)
        self.mean, self.var = nn.Linear(32, 1), nn.Linear(32, 1)

    def forward(self, x):
        h = torch.tanh(self.fc2(torch.tanh(self.fc1(x))))
        return self.mean(h), F.softplus(self.var(h))


def train_step(model, optimizer, x, y):
    mean, var = model(x)
    loss = F.gaussian_nll_loss(mean, y, var)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def find_lr(model, x, y, min_lr, max_lr, num_training):
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=min_lr)
    average, best, rates, losses = 0.0, float("inf"), [], []
    for k in range(num_training):
        rate = min_lr * (max_lr / min_lr) ** (k / (num_training - 1))
        optimizer.param_groups[0]["lr"] = rate
        average = 0.98 * average + 0.02 * train_step(model, optimizer, x, y)
        smooth = average / (1 - 0.98 ** (k + 1))
        if k > 0 and smooth > 4 * best:
            break
        best = min(best, smooth)
        rates.append(rate)
        losses.append(smooth)
    slopes = [losses[i + 1] - losses[i - 1] for i in range(10, len(losses) - 1)]
    return losses, rates[10 + slopes.index(min(slopes))]


def run():
    x = uniform(1, 64, 1)
    y = torch.sin(3 * x) + 0.3 * x.abs() * uniform(2, 64, 1)
    model = Net()
    start(model)
    curve, lr = find_lr(model, x, y, 1e-3, 1.0, 40)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = [train_step(model, optimizer, x, y) for _ in range(10)]
    with torch.no_grad():
        mean, var = model(x)
    return curve + [lr] + losses + [(y - mean).abs().lt(2 * var.sqrt()).double().mean().item()]
