"""wide_deep.py in Keras, for the count of its lines."""
import keras
from keras import layers

from common import indices, uniform


def run():
    n = 300
    x = {"wide": uniform(1, n, 12), "numbers": uniform(2, n, 5), "kinds": indices(3, 20, n, 3)}
    y = {"income": indices(4, 2, n), "hours": uniform(5, n, 1)}
    wide, numbers, kinds = keras.Input((12,), name="wide"), keras.Input((5,), name="numbers"), keras.Input((3,), name="kinds")
    deep = layers.Concatenate()([numbers, layers.Flatten()(layers.Embedding(20, 4)(kinds))])
    deep = layers.Dense(16, activation="relu")(layers.Dense(32, activation="relu")(deep))
    both = layers.Concatenate()([wide, deep])
    outputs = {"income": layers.Dense(2, name="income")(both), "hours": layers.Dense(1, name="hours")(both)}
    model = keras.Model({"wide": wide, "numbers": numbers, "kinds": kinds}, outputs)
    model.compile(
        optimizer=keras.optimizers.AdamW(0.01, weight_decay=0.01),
        loss={"income": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "hours": "mse"},
        loss_weights={"income": 1.0, "hours": 0.3},
        metrics={"income": "accuracy", "hours": "mae"},
    )
    history = model.fit(x, y, epochs=2, batch_size=64, shuffle=False, verbose=0)
    return history.history, model.evaluate(x, y, verbose=0)
