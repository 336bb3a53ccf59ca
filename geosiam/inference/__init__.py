"""Score the blocks of a pair with the network: on this machine's processors, on CUDA devices, or on a Dask cluster."""
