"""Accumulation of gradients over micro-batches, and an exponential moving average of the weights, which is evaluated."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from common import digits, start


def run():
    x, y = digits()
    loader = DataLoader(TensorDataset(x[:1280], y[:1280]), batch_size=32)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    start(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer, losses, total = torch.optim.Adam(model.parameters(), lr=0.005), [], 0.0
    for k, (features, labels) in enumerate(loader):
        loss = F.cross_entropy(model(features), labels) / 4
        loss.backward()
        total += loss.item()
        if k % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()
            average.update_parameters(model)
            losses.append(total)
            total = 0.0
    with torch.no_grad():
        losses.append(F.cross_entropy(average(x[1280:]), y[1280:]).item())
    return losses
