"""Being here puts this folder on the path: `stub_methods` is for all tests below it."""
