"""One harness for every comparison: ours and peers, interleaved in one run."""
