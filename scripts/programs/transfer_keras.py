"""transfer.py in Keras, for the count of its lines."""
import keras
from keras import layers

from common import digits


def backbone():
    return keras.Sequential([
        keras.Input((8, 8, 1)),
        layers.Conv2D(8, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(2),
        layers.Conv2D(16, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU(), layers.MaxPooling2D(2),
        layers.Flatten(),
    ])


def run(folder):
    x, y = digits()
    x = x.reshape(-1, 8, 8, 1)
    backbone().save_weights(f"{folder}/pretrained.weights.h5")
    features = backbone()
    features.load_weights(f"{folder}/pretrained.weights.h5")
    features.trainable = False
    model = keras.Sequential([features, layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    head = model.fit(x[:512], y[:512], batch_size=64, shuffle=False, verbose=0)
    features.trainable = True
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    tuned = model.fit(x[:512], y[:512], batch_size=64, shuffle=False, verbose=0)
    return head.history, tuned.history, model.evaluate(x[512:], y[512:], verbose=0)
