"""The compiled scan: plain C behind ctypes. Imports torch alone; knows nothing about the choice of a backend."""
