"""The feed ranker: features, Keras model, baseline and export.

`export`, `features` and `trained` load no TensorFlow; `model` and `predict` do.
"""
