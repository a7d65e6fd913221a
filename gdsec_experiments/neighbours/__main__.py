"""Makes the tables of docs/neighbours.md anew: all of them, or those that are named."""

import argparse

from gdsec_experiments import neighbours


def main(arguments: list[str] | None = None) -> None:
    """Write them into the page, each as soon as it is made."""
    parser = argparse.ArgumentParser("gdsec_experiments.neighbours", None, __doc__)
    parser.add_argument("name", nargs="*", choices=neighbours.TABLES)
    for name in parser.parse_args(arguments).name or neighbours.TABLES:
        try:
            text = neighbours.made(name)
        except neighbours.Skipped as reason:
            print(f"{name}: {reason}; the page keeps what it has")
            continue
        page = neighbours.PAGE.read_text("utf-8")
        neighbours.PAGE.write_text(neighbours.written(page, name, text), "utf-8")
        print(f"{name}: written")


if __name__ == "__main__":
    main()
