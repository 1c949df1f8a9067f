"""Which half of Genesis a verse is from: verses of several lengths, by attention and by an LSTM, both without the padding."""
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

from common import genesis, start

LONGEST = 24


def data():
    verses = [line.lower().split()[:LONGEST] for line in genesis().splitlines()]
    words = {word: i + 1 for i, word in enumerate(dict.fromkeys(word for verse in verses for word in verse))}
    tokens = torch.tensor([[words[word] for word in verse] + [0] * (LONGEST - len(verse)) for verse in verses])
    lengths = torch.tensor([len(verse) for verse in verses])
    labels = torch.tensor([int(i >= len(verses) // 2) for i in range(len(verses))])
    order = [k * 619 % len(verses) for k in range(640)]
    return TensorDataset(tokens[order], lengths[order], labels[order]), len(words) + 1


class Attention(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.embed, self.pos = nn.Embedding(words, 16), nn.Embedding(LONGEST, 16)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(16, 2)

    def forward(self, tokens, lengths):
        valid = torch.arange(LONGEST) < lengths[:, None]
        x = self.block(self.embed(tokens) + self.pos.weight, src_key_padding_mask=~valid)
        mean = (x * valid[:, :, None]).sum(1) / lengths[:, None]
        return self.out(mean)


class Lstm(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.embed, self.lstm, self.out = nn.Embedding(words, 16), nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 2)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.out(h[-1])


def train(model, data):
    start(model)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for tokens, lengths, labels in DataLoader(data, batch_size=64):
        loss = F.cross_entropy(model(tokens, lengths), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def run():
    verses, words = data()
    return train(Attention(words), verses) + train(Lstm(words), verses)
