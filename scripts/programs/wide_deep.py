"""Wide and deep: numbers and categories in, a class and a value out, a weighted sum of two losses."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from common import indices, start, uniform


class WideDeep(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.fc1, self.fc2 = nn.Linear(17, 32), nn.Linear(32, 16)
        self.income, self.hours = nn.Linear(28, 2), nn.Linear(28, 1)

    def forward(self, wide, numbers, kinds):
        deep = torch.cat([numbers, self.embed(kinds).flatten(1)], 1)
        deep = F.relu(self.fc2(F.relu(self.fc1(deep))))
        both = torch.cat([wide, deep], 1)
        return self.income(both), self.hours(both)


def run():
    n = 300
    columns = [uniform(1, n, 12), uniform(2, n, 5), indices(3, 20, n, 3), indices(4, 2, n), uniform(5, n, 1)]
    data = TensorDataset(*columns)
    model = WideDeep()
    start(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    losses = []
    for epoch in range(2):
        for wide, numbers, kinds, income, hours in DataLoader(data, batch_size=64):
            scores, value = model(wide, numbers, kinds)
            loss_income, loss_hours = F.cross_entropy(scores, income), F.mse_loss(value, hours)
            loss = loss_income + 0.3 * loss_hours
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += [loss.item(), loss_income.item(), loss_hours.item()]
    with torch.no_grad():
        scores, value = model(*columns[:3])
    return losses + [(scores.argmax(1) == columns[3]).double().mean().item(), F.l1_loss(value, columns[4]).item()]
