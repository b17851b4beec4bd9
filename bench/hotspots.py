"""Where the instructions and the time go: callgrind, and perf on backends."""

import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import cases
from measure import say
from results import table
from server import ServerError, run

PROFILED = ("create", "create_again")
COUNTED = {"create": "create", "create_again": "create replayed"}
TICKS = os.sysconf("SC_CLK_TCK")

# functions of the server's to be shown beside ours, if they cost that much
SERVER_FUNCTIONS = {
    "jsonb_in", "standard_ExecutorStart", "standard_ExecutorRun", "CommitTransactionCommand", "XLogInsert",
    "index_insert", "index_getnext_slot", "ExecInsertIndexTuples", "ExecOpenIndices", "relation_open",
    "relation_close", "nextval_internal", "pg_strong_random", "hash_search_with_hash_value",
    "JsonbValueToJsonb", "pg_cryptohash_final", "parse_analyze_fixedparams", "GetCachedPlan",
}
SHOWN_SHARE = 0.02              # of a call

# Symbols of a backend in groups; the first that fits counts.
GROUPS = (
    ("libcrypto: random bits, SHA-256", "libcrypto", r""),
    ("order_idempotency.so", "order_idempotency", r""),
    ("vdso: reading the clock", r"\[vdso\]", r""),
    ("protocol: receive, send, wait", "", r"^(__libc_)?(recv|send|epoll)|^__send|^secure_|^pq_|WaitEventSet|PostgresMain|Interrupt"),
    ("jsonb and numeric", "", r"json|numeric|Numeric|compareJsonb"),
    ("WAL", "", r"^XLog|crc32|^WALInsert|^XLOG"),
    ("btree and index", "", r"^_bt_|^bt|^index_|^ExecInsertIndex|IndexInfo|^FormIndexDatum|^Index"),
    ("heap and tuples", "", r"^heap|^Heap|^Relation(Get|Put)|^slot_|^Page|^ExecStore|^toast|fill_tuple|^visibilitymap"),
    ("buffers", "", r"Buffer|^BufTable"),
    ("locks", "", r"^LW|Lock|^lock|^s_lock|^PGSemaphore|futex|pthread_rw"),
    ("hash tables", "", r"^hash_|^string_hash|^tag_hash|^uint32_hash|^oid_hash"),
    ("memory and copying", "", r"^p?alloc|^palloc|^pfree|^repalloc|AllocSet|^MemoryContext|malloc|^_?_?(int_)?free|^_int_|mem(move|cpy|set)|^pstrdup|^cfree"),
    ("strings (libc)", "libc", r"str|memcmp|ctype"),
    ("catalogs and caches", "", r"Cache|^relation_|^Relation|^try_relation|^get_|^SI|CatC"),
    ("transactions and snapshots", "", r"Xact|Transaction|Snapshot|^ProcArray|Commit|^GetNewObject|^Resource"),
    ("executor, plans, functions", "", r"^Exec|^Portal|^Create|^Executor|^FunctionCall|^fmgr|^Plan|^ReScan|^expression|^Check|^qsort|^pg_qsort|Param"),
    ("server, functions without a name (static)", "postgres", r"^0x"),
    ("other", "", r""),
)


def load_instructions(sources):
    """bench/instructions as a module."""
    loader = SourceFileLoader("instructions", str(Path(sources) / "instructions"))
    module = module_from_spec(spec_from_loader("instructions", loader))
    loader.exec_module(module)
    return module


def our_functions():
    """The names of the functions in the extension's library."""
    libdir = run(["pg_config", "--pkglibdir"]).strip()
    printed = run(["nm", "--defined-only", "--format=posix", f"{libdir}/order_idempotency.so"])
    return {line.split()[0] for line in printed.splitlines() if line.split()[1] in "tT"}


def inside(counts, ours):
    """A table of what a call's instructions are spent in, with what is called."""
    whole = counts.statement() * counts.calls
    rows = []
    for name, cost in counts.whole.most_common():
        plain = name.split("'")[0]
        if cost < whole * SHOWN_SHARE or plain != name or cost > whole:
            continue
        if name in ours or name in SERVER_FUNCTIONS:
            rows.append([f"`{name}`" + ("" if name in ours else " (server)"),
                         f"{cost / counts.calls:,.0f}", f"{cost / whole:.0%}"])
    return table(["function, with what it calls", "instructions a call", "of all"], rows)


def instructions(sources):
    """All cases counted, and what the creation of an order is made of."""
    module = load_instructions(sources)
    with tempfile.TemporaryDirectory() as keep:
        say("counting instructions")
        printed = run([Path(sources) / "instructions", "--pg-config", "pg_config", "--keep", keep])
        rows = []
        for line in printed.splitlines()[1:]:
            found = re.match(r"(.*?)\s{2,}([-\d,]+)\s+([-\d,]+)\s+([-\d,]+)$", line)
            if found is None:
                raise ServerError(f"cannot read \"{line}\"")
            rows.append(list(found.groups()))
        words = [table(["a call", "all", "less `SELECT 1`", "execution"], rows)]
        ours = our_functions()
        for name in PROFILED:
            case = next(c for c in module.CASES if c.name == COUNTED[name])
            counts = module.Counts(Path(keep) / f"{case.prepared}.callgrind", module.CALLS)
            words.append(f"{cases.CASES[name].title}:\n\n" + inside(counts, ours))
    return "\n".join(words), f"{module.CALLS} calls of each, one run."


def cpu_ticks(pids):
    """User and system ticks of processes."""
    user = system = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        user += int(fields[11])
        system += int(fields[12])
    return user, system


def group_of(library, symbol):
    """The group that a symbol belongs to."""
    return next(title for title, where, what in GROUPS
                if re.search(where, library) and re.search(what, symbol))


def sample(postgres, client, case, seconds):
    """Run a case and sample its backends; (calls/s, share of kernel, groups, symbols)."""
    words = [str(word) for word in client.command(case, postgres.conninfo("bench"), seconds + 3)]
    data = client.workdir / "perf.data"
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        find = "SELECT pid FROM pg_stat_activity WHERE datname = 'bench'"
        pids = []
        while len(pids) < case.clients and running.poll() is None:
            pids = postgres.psql(find).split()
        time.sleep(1)           # the first calls fill caches
        before = cpu_ticks(pids)
        run(["perf", "record", "-q", "-o", data, "-e", "cpu-clock:u", "-F", "1999", "-p", ",".join(pids),
             "--", "sleep", str(seconds)])
        after = cpu_ticks(pids)
        done = running.communicate()[0].split()
    if running.returncode != 0:
        raise ServerError("the clients failed")
    user, system = after[0] - before[0], after[1] - before[1]
    symbols = Counter()
    printed = run(["perf", "report", "-i", data, "--stdio", "--sort", "dso,symbol", "-F",
                   "overhead,dso,symbol"])
    for line in printed.splitlines():
        found = re.match(r"\s*([\d.]+)%\s+(\S+)\s+\[\S\]\s+(\S+)", line)
        if found:
            symbols[found.group(2), found.group(3)] += float(found.group(1)) / 100
    return int(done[0]) / float(done[1]), system / max(1, user + system), symbols


def may_profile():
    """Why perf cannot be used here, or None."""
    try:
        run(["perf", "record", "-q", "-o", "/dev/null", "-e", "cpu-clock:u", "--", "true"])
    except (ServerError, OSError) as error:
        paranoid = Path("/proc/sys/kernel/perf_event_paranoid")
        level = paranoid.read_text(encoding="utf-8").strip() if paranoid.exists() else "unknown"
        return f"perf could not be used (kernel.perf_event_paranoid is {level}): {str(error)[:200]}"
    return None


def profile(postgres, client, seconds):
    """Where a backend's time goes."""
    obstacle = may_profile()
    if obstacle:
        return obstacle + "\n", "Not measured."
    words = []
    for name in PROFILED:
        case = cases.CASES[name]
        say(f"sampling {case.title}")
        postgres.psql("CHECKPOINT")
        rate, kernel, symbols = sample(postgres, client, case, seconds)
        groups = Counter()
        for (library, symbol), share in symbols.items():
            groups[group_of(library, symbol)] += share * (1 - kernel)
        rows = [["kernel", f"{kernel:.1%}"]]
        rows += [[title, f"{share:.1%}"] for title, share in groups.most_common()]
        named = [(key, share) for key, share in symbols.most_common() if not key[1].startswith("0x")]
        tops = [[f"`{symbol}` ({library})", f"{share * (1 - kernel):.1%}"]
                for (library, symbol), share in named[:15]]
        words.append(f"{case.title}, {rate:,.0f} a second:\n\n"
                     + table(["where a backend's CPU time goes", "share"], rows)
                     + "\n" + table(["the most expensive functions with a name", "share"], tops))
    return "\n".join(words), f"{case.clients} clients, `fsync = off`, {seconds:g} s of samples of each."
