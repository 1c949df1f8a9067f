"""Transfer learning: a pretrained backbone, a new head; first the head alone, then all of it with small rates for the backbone."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common import digits, start


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        )
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))


def train(model, loader, optimizer):
    losses = []
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run(pretrained):
    x, y = digits()
    loader = DataLoader(TensorDataset(x[:512].reshape(-1, 1, 8, 8), y[:512]), batch_size=64)
    model = Net(10)
    start(model)
    state = torch.load(pretrained)
    model.load_state_dict({k: v for k, v in state.items() if k.startswith("features.")}, strict=False)
    model.features.requires_grad_(False)
    model.features.eval()
    losses = train(model, loader, torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9))
    model.features.requires_grad_(True)
    groups = [{"params": model.features.parameters(), "lr": 0.01}, {"params": model.head.parameters()}]
    losses += train(model, loader, torch.optim.SGD(groups, lr=0.1, momentum=0.9))
    model.eval()
    with torch.no_grad():
        losses.append(F.cross_entropy(model(x[512:].reshape(-1, 1, 8, 8)), y[512:]).item())
    return losses
