"""A team in a browser: its C policies as WebAssembly, and a page to explore an episode of theirs in."""
