"""A GAN: two networks, two losses, two optimizers."""
import torch
import torch.nn.functional as F
from torch import nn

from common import digits, start, uniform


def run():
    images, _ = digits()
    generator = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
    judge = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    start(generator, "g.")
    start(judge, "d.")
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(judge.parameters(), lr=2e-3, betas=(0.5, 0.999))
    losses, ones, zeros = [], torch.ones(64, 1), torch.zeros(64, 1)
    for k in range(10):
        real, z = images[64 * k:64 * k + 64], uniform(k, 64, 16)
        fake = generator(z)
        loss_d = F.binary_cross_entropy_with_logits(judge(real), ones)
        loss_d = loss_d + F.binary_cross_entropy_with_logits(judge(fake.detach()), zeros)
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()
        loss_g = F.binary_cross_entropy_with_logits(judge(fake), ones)
        optimizer_g.zero_grad()
        loss_g.backward()
        optimizer_g.step()
        losses += [loss_d.item(), loss_g.item()]
    return losses
