"""The learned router in the running system: views of it, its decision log, its promotion."""
