"""Results as Markdown."""

import datetime
import os
import platform
import re
from pathlib import Path

from cases import CASES
from server import memory


def cpu_model():
    """The name that the machine's processors give themselves."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    return found.group(1) if found else platform.machine()


def heading(postgres_version, commit, conditions):
    """When, where and of what; conditions says how."""
    today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    return (f"{today}; {os.cpu_count()} cores of {cpu_model()}, {memory() / 2**30:.0f} GB, "
            f"Linux {platform.release()}; PostgreSQL {postgres_version}; commit {commit}. {conditions}\n")


def table(columns, rows):
    """A Markdown table; the first column is text, the others are figures."""
    rule = ["---"] + ["---:"] * (len(columns) - 1)
    return "".join("| " + " | ".join(str(cell) for cell in row) + " |\n" for row in [columns, rule, *rows])


def compare(section, comparisons):
    """The tables of a section: rates, then ratios with what is aimed at."""
    words = []
    with_redis = any(CASES[name].redis for name in section.cases())
    for fsync in section.fsync:
        title = "Durable commits (`fsync = on`)" if fsync == "on" else "`fsync = off`"
        rates = []
        for name in section.cases():
            row = [CASES[name].title, comparisons.rates(fsync, name).show(",.0f")]
            if with_redis:
                row.append(comparisons.client_cost(fsync, name).show(".1f"))
            rates.append(row)
        columns = ["", "calls a second"] + (["client's CPU, µs a call"] if with_redis else [])
        ratios = []
        for comparison in section.comparisons:
            ratio = comparisons.ratio(fsync, comparison)
            target = comparison.target(fsync)
            verdict = "" if target is None else "reached" if ratio.median >= target else "missed"
            ratios.append([CASES[comparison.ours].title, CASES[comparison.peer].title,
                           ratio.show(".2f"), "" if target is None else f"{target:.2f}", verdict])
        words += [f"{title}:\n", table(columns, rates),
                  table(["", "to", "ratio", "aim", ""], ratios)]
    return "\n".join(words)
