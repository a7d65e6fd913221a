"""What is run with the package: a module a figure, the benches, and examples."""
