"""A Keras model with TensorFlow's fake-quant ops, trained on handwritten digits and converted by
tf2onnx.

    python -m venv keras && keras/bin/pip install -r requirements.txt
    keras/bin/python make.py digits_qat.onnx

What the TensorFlow QAT toolkits leave: FakeQuantWithMinMaxVars on activations, per channel on
weights, in the graph with constant ranges. Weights and ranges are trained together, as in QAT; the
ranges of two layers are then made far too wide, as a bad calibration does. TensorFlow is needed
here only: neither the tool nor its tests import it.
"""

from __future__ import annotations

import sys

import tensorflow as tf
import tf2onnx
from data import parts

EPOCHS, BATCH, RATE = 30, 50, 3e-3
TOO_WIDE = {"conv2": 60.0, "dense": 25.0}
"""Activation -> how many times too wide its range is made."""


class FakeQuant(tf.keras.layers.Layer):
    """uint8 fake quantization with a trained range."""

    def __init__(self, name: str) -> None:
        super().__init__(name=f"{name}_range")
        self.low = self.add_weight(shape=(), initializer=tf.constant_initializer(-1.0), name="low")
        self.high = self.add_weight(shape=(), initializer=tf.constant_initializer(6.0), name="high")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.quantization.fake_quant_with_min_max_vars(x, self.low, self.high, num_bits=8)


class Digits(tf.keras.Model):
    """Two convolutions with a residual Add, a pool and a linear layer, each after a FakeQuant."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = {
            name: FakeQuant(name) for name in ("image", "conv2", "skip", "pool", "dense")
        }
        self.conv1 = tf.keras.layers.Conv2D(16, 3, padding="same", name="conv1")
        self.conv2 = tf.keras.layers.Conv2D(16, 3, padding="same", name="conv2")
        self.dense = tf.keras.layers.Dense(10, name="dense")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        def weighted(layer: tf.keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
            if not layer.built:
                layer.build(x.shape)
            axes = list(range(len(layer.kernel.shape) - 1))
            most = tf.stop_gradient(tf.reduce_max(tf.abs(layer.kernel), axis=axes))
            kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(
                layer.kernel, -most, most, num_bits=8, narrow_range=True
            )
            product = tf.nn.conv2d(x, kernel, 1, "SAME") if len(axes) == 3 else tf.matmul(x, kernel)
            return product + layer.bias

        x = tf.nn.relu(weighted(self.conv1, self.ranges["image"](x)))
        x = self.ranges["conv2"](x)
        x = tf.nn.relu(self.ranges["skip"](weighted(self.conv2, x)) + x)
        x = tf.nn.max_pool2d(self.ranges["pool"](x), 2, 2, "VALID")
        return weighted(self.dense, self.ranges["dense"](tf.reshape(x, [-1, 4 * 4 * 16])))


def main(path: str) -> None:
    tf.keras.utils.set_random_seed(0)
    (images, labels), rest = parts()
    model = Digits()
    model(images[:1])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(RATE), loss, metrics=["accuracy"])
    model.fit(images, labels, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    print("accuracy as trained:", round(model.evaluate(*rest, verbose=0)[1], 4))
    for name, factor in TOO_WIDE.items():
        for end in (model.ranges[name].low, model.ranges[name].high):
            end.assign(end * factor)
    print("accuracy with the wide ranges:", round(model.evaluate(*rest, verbose=0)[1], 4))
    signature = [tf.TensorSpec([None, 8, 8, 1], tf.float32, name="image")]
    function = tf.function(
        lambda image: tf.identity(model(image), name="scores"), input_signature=signature
    )
    tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=path)


if __name__ == "__main__":
    main(sys.argv[1])
