"""What is no test: the app that Flower's processes run."""

collect_ignore = ["app"]
