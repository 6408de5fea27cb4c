"""One module a theme, each with `run(options) -> ThemeResult`."""
