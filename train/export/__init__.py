"""What training has made, for others: merged models, GGUF files, repositories of the Hub."""
