/*-------------------------------------------------------------------------
 *
 * deadline_progress.c
 *		Telling how far the work on payment deadlines has come.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "deadline_progress.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

/* progress is logged when so many were acted upon, and every so many ms */
#define PROGRESS_ROWS 10000
#define PROGRESS_INTERVAL 10000

/* what this process has done since nothing was due */
typedef struct Progress
{
	int64		rows;
	int64		cancelled;
	TimestampTz told_at;
} Progress;

static Progress progress;

/*
 * Say in the log how far we are.
 */
static void
log_progress(void)
{
	StartTransactionCommand();
	ereport(LOG,
			(errmsg("acted on " INT64_FORMAT " payment deadlines of database \"%s\": "
					INT64_FORMAT " orders cancelled",
					progress.rows, get_database_name(MyDatabaseId),
					progress.cancelled)));
	CommitTransactionCommand();
}

/*
 * A look has committed: so many rows are done, and so many orders cancelled.
 */
void
oi_deadline_progress_add(int rows, int cancelled)
{
	if (progress.rows == 0)
		progress.told_at = GetCurrentTimestamp();
	progress.rows += rows;
	progress.cancelled += cancelled;
}

/*
 * Say how far we are, if it takes long.  If nothing is due any more (idle), that
 * is the end, and what is due next begins anew.
 */
void
oi_deadline_progress_tell(bool idle)
{
	TimestampTz now = GetCurrentTimestamp();

	if (progress.rows >= PROGRESS_ROWS &&
		(idle || TimestampDifferenceExceeds(progress.told_at, now, PROGRESS_INTERVAL)))
	{
		log_progress();
		progress.told_at = now;
	}
	if (idle)
		memset(&progress, 0, sizeof(progress));
}
