"""One file a revision, named after it: `serve_NNNN_what`."""
