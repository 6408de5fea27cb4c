"""C++ torch operators for the hot paths."""
