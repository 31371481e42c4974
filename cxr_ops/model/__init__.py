"""The network, its training, its package and its heat maps. The one place that imports torch when it is loaded."""
