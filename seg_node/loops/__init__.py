"""Loops over pixels on the host, compiled by Numba where it is installed."""
