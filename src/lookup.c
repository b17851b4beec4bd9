/*-------------------------------------------------------------------------
 *
 * lookup.c
 *		Finding a key at every isolation level.
 *
 * READ COMMITTED looks with a dirty snapshot, so that an insertion in progress
 * is waited for instead of missed.  The other levels first look with the
 * transaction's own snapshot.  What that finds is the answer, and the look
 * takes the predicate locks by which SERIALIZABLE finds write skew.  If it
 * finds nothing and the dirty snapshot finds something committed, somebody
 * else was faster: 40001, never a silent miss.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/snapmgr.h"

#include "lookup.h"

/* Looks in each table with one MVCC snapshot. */
static bool
find_in_any(OiTable *tables, const Datum *keys, int n, Snapshot snapshot,
			int *which)
{
	bool		found = false;

	snapshot = RegisterSnapshot(snapshot);
	for (int i = 0; i < n; i++)
	{
		/* at SERIALIZABLE each table has to be looked at, for its locks */
		if (oi_find(&tables[i], keys[i], snapshot) && !found)
		{
			found = true;
			*which = i;
		}
		if (found && !IsolationIsSerializable())
			break;
	}
	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * Looks for a key, as each table has it, in tables that are searched as one,
 * oldest first.  A row moves only to a later table, so that it cannot be missed
 * on its way.  If it is present, *which says in which table's row it is, and busy->quiet that
 * nobody is changing it.
 */
OiProbe
oi_lookup(OiTable *tables, const Datum *keys, int n, int flags, int *which,
		  OiBusy *busy)
{
	OiProbe		result = OI_PROBE_ABSENT;

	memset(busy, 0, sizeof(OiBusy));
	if (IsolationUsesXactSnapshot() &&
		find_in_any(tables, keys, n, GetTransactionSnapshot(), which))
		return OI_PROBE_PRESENT;

	for (int i = 0; i < n && result == OI_PROBE_ABSENT; i++)
	{
		result = oi_probe_dirty(&tables[i], keys[i],
								(flags & OI_LOOKUP_MIND_UPDATERS) != 0, busy);
		*which = i;
	}
	if (result == OI_PROBE_ABSENT && (flags & OI_LOOKUP_CONFIRM) != 0 &&
		find_in_any(tables, keys, n, GetLatestSnapshot(), which))
		result = OI_PROBE_PRESENT;
	if (result == OI_PROBE_PRESENT && IsolationUsesXactSnapshot())
		oi_serialization_failure("update");
	return result;
}
