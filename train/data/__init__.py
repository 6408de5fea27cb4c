"""From files of conversations to tokens, masks and the order they are trained in."""
