"""Trains a small backbone in stages: to read an open vocabulary in its context, and to copy the right span.

Knows nothing about memory states; an adapter is trained on the result by `adapters`.
"""
