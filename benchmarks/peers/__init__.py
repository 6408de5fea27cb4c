"""What we compare with, each as its own users would write it."""
