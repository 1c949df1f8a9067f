"""Losses of gradients: WGAN-GP, whose critic is held to slopes of 1, and a PINN that solves u'' = -pi^2 sin(pi x), u(-1) = u(1) = 0."""
import math

import torch
from torch import nn

from common import digits, start, uniform


def wgan_gp():
    images, _ = digits()
    generator = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
    critic = nn.Sequential(nn.Linear(64, 32), nn.SiLU(), nn.Linear(32, 1))
    start(generator, "g.")
    start(critic, "c.")
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.9))
    optimizer_c = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.0, 0.9))
    losses = []
    for k in range(9):
        real, z, mix = images[64 * k:64 * k + 64], uniform(k, 64, 16), uniform(100 + k, 64, 1) / 2 + 0.5
        fake = generator(z).detach()
        between = (mix * real + (1 - mix) * fake).requires_grad_(True)
        slope, = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        loss_c = critic(fake).mean() - critic(real).mean() + 10 * penalty
        optimizer_c.zero_grad()
        loss_c.backward()
        optimizer_c.step()
        losses.append(loss_c.item())
        if k % 3 == 2:
            loss_g = -critic(generator(z)).mean()
            optimizer_g.zero_grad()
            loss_g.backward()
            optimizer_g.step()
            losses.append(loss_g.item())
    return losses


def pinn():
    net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    start(net)
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    edges = torch.tensor([[-1.0], [1.0]])
    for k in range(10):
        x = uniform(k, 32, 1).requires_grad_(True)
        u = net(x)
        slope, = torch.autograd.grad(u.sum(), x, create_graph=True)
        curve, = torch.autograd.grad(slope.sum(), x, create_graph=True)
        residual = curve + math.pi**2 * torch.sin(math.pi * x)
        loss = residual.square().mean() + 10 * net(edges).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run():
    return wgan_gp() + pinn()
