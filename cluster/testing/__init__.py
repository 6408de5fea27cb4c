"""A test bed without a cloud: a Compute Engine and a metadata server that answer as Google's do.

`FakeCompute` is a real HTTP server before a `World`, which holds the state and knows the time;
`FakeMetadata` is the metadata server of one VM; `ProcessVms` and `NamespaceVms` boot the world's
VMs on this machine; a list of faults says what goes wrong, and when. Nothing here leaves the
machine, and no production module imports it.
"""
