"""Steps of training: schedule, gradients in a fixed order, optimizer, log."""
