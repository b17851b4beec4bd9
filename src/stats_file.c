/*-------------------------------------------------------------------------
 *
 * stats_file.c
 *		Statistics over a clean restart.
 *
 * The postmaster writes the file when it ends, after all others, and removes
 * it when it starts, after it was read.
 *
 * What is read must be whole: length and checksum say so, and the layout is
 * of this very library.  And the server must have been shut down cleanly, as
 * its control file has it: an immediate shutdown ends the postmaster as if
 * nothing was wrong, and a power cut may bring back a file that was removed.
 * Otherwise the statistics begin anew.  Nothing of this may keep a server from
 * starting or ending.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "stats_shmem.h"
#include "storage/fd.h"

#define STATS_FILE PGSTAT_STAT_PERMANENT_DIRECTORY "/order_idempotency.stat"

/* to be changed with what any number means */
#define STATS_FORMAT 1

typedef struct StatsHeader
{
	char		magic[8];
	uint32		server;			/* PG_VERSION_NUM */
	uint32		format;
	uint64		length;			/* of what follows */
	pg_crc32c	crc;			/* over that */
} StatsHeader;

/* The header that goes with what is in memory. */
static void
make_header(StatsHeader *header)
{
	memset(header, 0, sizeof(StatsHeader));
	memcpy(header->magic, "OI stats", sizeof(header->magic));
	header->server = PG_VERSION_NUM;
	header->format = STATS_FORMAT;
	header->length = sizeof(oi_stats->databases);
	INIT_CRC32C(header->crc);
	COMP_CRC32C(header->crc, oi_stats->databases, sizeof(oi_stats->databases));
	FIN_CRC32C(header->crc);
}

/* Reads the file into memory.  False: it is not what it should be. */
static bool
read_file(FILE *file)
{
	StatsHeader found;
	StatsHeader expected;

	if (fread(&found, sizeof(found), 1, file) != 1 ||
		fread(oi_stats->databases, sizeof(oi_stats->databases), 1, file) != 1 ||
		fgetc(file) != EOF)
		return false;
	make_header(&expected);
	return memcmp(&found, &expected, sizeof(StatsHeader)) == 0;
}

/* Was the server shut down cleanly, when it last was? */
static bool
was_shut_down(void)
{
	bool		good;
	ControlFileData *control = get_controlfile(DataDir, &good);

	good = good && (control->state == DB_SHUTDOWNED ||
					control->state == DB_SHUTDOWNED_IN_RECOVERY);
	pfree(control);
	return good;
}

/* Called by the postmaster when it starts: takes over what the last one left. */
void
oi_stats_load(void)
{
	FILE	   *file = AllocateFile(STATS_FILE, PG_BINARY_R);

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", STATS_FILE)));
		return;
	}
	if (was_shut_down() && !read_file(file))
	{
		memset(oi_stats->databases, 0, sizeof(oi_stats->databases));
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ignoring invalid statistics in file \"%s\"", STATS_FILE)));
	}
	FreeFile(file);
	(void) durable_unlink(STATS_FILE, LOG);
}

/* Writes the file under a name that nobody reads.  False: errno says why. */
static bool
write_file(const char *name)
{
	FILE	   *file = AllocateFile(name, PG_BINARY_W);
	StatsHeader header;
	bool		good;

	if (file == NULL)
		return false;
	make_header(&header);
	good = fwrite(&header, sizeof(header), 1, file) == 1 &&
		fwrite(oi_stats->databases, sizeof(oi_stats->databases), 1, file) == 1;
	return FreeFile(file) == 0 && good;
}

/* Called by the postmaster when it ends. */
void
oi_stats_save(void)
{
	static const char *const name = STATS_FILE ".tmp";

	oi_stats_settle_sessions();
	if (write_file(name))
	{
		(void) durable_rename(name, STATS_FILE, LOG);
		return;
	}
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("could not write file \"%s\": %m", name)));
	unlink(name);
}
