"""Writes the README's table of inputs from the families' tables.

python -m client.readme             # write it
python -m client.readme --check     # say whether it differs
"""

import argparse

from videosdgx.families import FAMILIES
from videosdgx.families.spec import inputs_by_name
from videosdgx.home import CHECKOUT

COMMAND = "python -m client.readme"
README = CHECKOUT / "README.md"
BEGIN, END = f"<!-- inputs: written by {COMMAND} -->", "<!-- end of inputs -->"


def inputs_table() -> str:
    """Every input of every family as a table in Markdown; one that families have in different forms has a row for each."""
    rows = [("input", "type", "limits", "meaning", "families"), ("---",) * 5]
    for name, forms in inputs_by_name(FAMILIES.values()).items():
        for one, families in forms.items():
            who = "all" if len(families) == len(FAMILIES) else ", ".join(f"`{family}`" for family in families)
            datatype = f"{one.datatype}, any number of them" if one.is_list else one.datatype
            rows.append((f"`{name}`", datatype, one.allowed, one.meaning, who))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(text: str) -> str:
    """The README's `text` with the table between its two marks.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{README.name} must have the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{inputs_table()}\n{END}{after}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write the README's table of inputs from the families' tables.")
    parser.add_argument("--check", action="store_true", help="write nothing, say whether it differs")
    check = parser.parse_args().check
    text = README.read_text()
    wanted = with_table(text)
    if check and text != wanted:
        parser.exit(1, f"the table of inputs in {README.name} is not as the families say, write it anew: {COMMAND}\n")
    if not check:
        README.write_text(wanted)


if __name__ == "__main__":
    main()
