"""ResNeXt and ResNet image classifiers in JAX and Flax NNX."""
