"""One file a revision, named after it: `cluster_NNNN_what`."""
