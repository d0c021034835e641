"""Trains an adapter for any supported backbone, on Transformers' Trainer. May import engine, memory and core."""
