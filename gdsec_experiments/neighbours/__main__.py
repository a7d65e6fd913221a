"""python -m gdsec_experiments.neighbours [NAME ...]: all tables, or some, made anew."""

import sys

from gdsec_experiments import neighbours


def main(names: list[str]) -> None:
    """Write them into the page, each as soon as it is made."""
    for name in names or neighbours.TABLES:
        try:
            text = neighbours.made(name)
        except neighbours.Skipped as reason:
            print(f"{name}: {reason}; the page keeps what it has")
            continue
        page = neighbours.PAGE.read_text("utf-8")
        neighbours.PAGE.write_text(neighbours.written(page, name, text), "utf-8")
        print(f"{name}: written")


if __name__ == "__main__":
    main(sys.argv[1:])
