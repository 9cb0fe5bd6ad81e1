"""Measured configurations of kernels: the record, its log, and which configuration the records speak for."""
