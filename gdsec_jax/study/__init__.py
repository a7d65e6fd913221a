"""Words for people: configs, runs, figures and their page, the command line."""
