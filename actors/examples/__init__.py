"""Programs that show how work moves between machines."""
