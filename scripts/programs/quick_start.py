"""Keras's quick start: a classifier, four callbacks, an evaluation."""
import keras
from keras import layers
from keras.callbacks import CSVLogger, EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

from common import digits, start


def run(folder):
    x, y = digits()
    model = keras.Sequential([keras.Input((64,)), layers.Dense(48, activation="relu"), layers.Dense(10)])
    model.compile(
        optimizer=keras.optimizers.SGD(0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    start(model)
    callbacks = [
        EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True),
        ModelCheckpoint(f"{folder}/best.keras", monitor="val_loss", save_best_only=True),
        ReduceLROnPlateau(monitor="val_loss", factor=0.2, patience=1, min_delta=0.05),
        CSVLogger(f"{folder}/log.csv"),
    ]
    history = model.fit(
        x[:400], y[:400],
        batch_size=40, epochs=12, validation_data=(x[400:600], y[400:600]), shuffle=False, callbacks=callbacks, verbose=0,
    )
    return history.history, model.evaluate(x[600:], y[600:], verbose=0)
