"""Score blocks of a pair with the network: on this processor, on CUDA devices, or on a Dask cluster."""
