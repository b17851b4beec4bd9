/*-------------------------------------------------------------------------
 *
 * incarnation.c
 *		Which installation this is, and which of its ancestors wrote what.
 *
 * A dump takes the log along, and the restored rows have xids of another
 * cluster, which mean nothing here.  So the first write in an installation
 * looks whether its tables came from elsewhere, and then begins a new
 * incarnation of the log: positions go on in the next multiple of
 * 2^OI_INCARNATION_BITS.  The high bits of a position say which incarnation it
 * belongs to, and the xids of one incarnation all come from one cluster.
 *
 * Sequence "in_use" has the database's OID once that is done.  It is not dumped, so a
 * restored database begins without; pg_upgrade keeps it.  A copy by CREATE DATABASE
 * has its template's.
 *
 * Sequences are not transactional: whoever sees one of these changes may
 * build on it, whatever becomes of the transaction that made it.  A crash
 * keeps the advance if it keeps the mark, since it was logged first; it may
 * keep the advance alone, and then the next write skips one incarnation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/sequence.h"
#include "miscadmin.h"

#include "incarnation.h"
#include "relation.h"
#include "sequence.h"

/* how many values the server draws from a sequence without a word in WAL (SEQ_LOG_VALS) */
#define DRAWN_UNLOGGED 32

/* the sequence in_use that this backend knows to have this database's mark */
static Oid	adopted = InvalidOid;

/*
 * The last position drawn, or where the log's incarnation begins.
 */
int64
oi_log_position(void)
{
	OiSequence	state = oi_sequence_read(oi_relation_oid(OI_REL_OUTBOX_POSITION));

	return state.is_called ? state.last_value : state.last_value - 1;
}

/*
 * Has this installation been written to by our functions?
 */
bool
oi_in_use(void)
{
	Oid			in_use = oi_relation_oid_if_any(OI_REL_IN_USE);

	return OidIsValid(in_use) && oi_sequence_read(in_use).is_called;
}

/*
 * Begin the next incarnation of the log.
 */
static void
advance_log(void)
{
	int64		next = OI_INCARNATION(oi_log_position()) + 1;

	oi_sequence_set(oi_relation_oid(OI_REL_OUTBOX_POSITION),
					OI_INCARNATION_START(next));
}

/*
 * Could any of the log's positions, or of the cursors into it, be from
 * elsewhere?  In an installation that was not in use, all are that there are.
 */
static bool
has_ancestor(void)
{
	return oi_sequence_read(oi_relation_oid(OI_REL_OUTBOX_POSITION)).is_called ||
		oi_sequence_read(oi_relation_oid(OI_REL_SUBSCRIPTION_ID)).is_called;
}

/*
 * Have a sequence write WAL, from here on ahead of what it gives out.  The last of
 * so many values is one that it cannot draw without.
 */
static void
draw_past_unlogged(OiRelation sequence)
{
	for (int i = 0; i <= DRAWN_UNLOGGED; i++)
		(void) nextval_internal(oi_relation_oid(sequence), false);
}

/*
 * Is the installation in use, and marked so in this database?
 */
static bool
is_adopted(Oid in_use)
{
	OiSequence	mark = oi_sequence_read(in_use);

	return mark.is_called && mark.last_value == (int64) MyDatabaseId;
}

/*
 * Mark the installation as in use here, if nobody has.
 *
 * A mark of another database was copied from a template, with the sequences as they
 * stood: what they had logged ahead is in the template's WAL, not in ours, and
 * after a crash they would give out the same values again.
 */
static void
adopt(Oid in_use)
{
	oi_sequence_lock(in_use);
	if (!is_adopted(in_use))
	{
		if (oi_sequence_read(in_use).is_called)
		{
			draw_past_unlogged(OI_REL_OUTBOX_POSITION);
			draw_past_unlogged(OI_REL_SUBSCRIPTION_ID);
		}
		else if (has_ancestor())
			advance_log();
		oi_sequence_set(in_use, (int64) MyDatabaseId);
	}
	oi_sequence_unlock(in_use);
}

/*
 * To be called where a write begins, before a position is drawn, and with no
 * lock held that others must not wait for.  The SQL objects of 1.0 have no
 * such mark, and no incarnations.
 */
void
oi_incarnation_adopt(void)
{
	Oid			in_use = oi_relation_oid_if_any(OI_REL_IN_USE);

	if (in_use == adopted || !OidIsValid(in_use))
		return;
	if (!is_adopted(in_use))
		adopt(in_use);
	adopted = in_use;
}
