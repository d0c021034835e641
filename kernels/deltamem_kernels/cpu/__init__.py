"""The compiled scan: plain C behind ctypes. Imports only torch; knows nothing about the choice of a backend."""
