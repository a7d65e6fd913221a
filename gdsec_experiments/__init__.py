"""What is run with the package: a module a figure, benches, tables, and examples."""
