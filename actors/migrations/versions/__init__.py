"""One file a revision, named after it: `actors_NNNN_what`."""
