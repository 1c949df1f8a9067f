"""accumulation_ema.py in Keras, for the count of its lines."""
import keras
from keras import layers

from common import digits, start


def run():
    x, y = digits()
    model = keras.Sequential([keras.Input((64,)), layers.Dense(48, activation="relu"), layers.Dense(10)])
    optimizer = keras.optimizers.Adam(0.005, gradient_accumulation_steps=4, use_ema=True, ema_momentum=0.9)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    start(model)
    history = model.fit(x[:1280], y[:1280], batch_size=32, shuffle=False, verbose=0)   # its end sets the weights to their averages
    return history.history, model.evaluate(x[1280:], y[1280:], verbose=0)
